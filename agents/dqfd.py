"""Deep Q-learning from demonstrations (Hester et al. 2018), its pretraining phase: double DQN on a dataset, with a loss
that makes the demonstrated action the best by a margin. Online fine-tuning continues with `double_dqn`."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlab.agents.double_dqn import DoubleDQN
from rlab.learning.choices import DemonstrationLoss
from rlab.learning.contract import Batch, Updated
from rlab.learning.q_learning import QLearningConfig
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class DQfDConfig(QLearningConfig):
    """Settings of DQfD's pretraining. The clock counts updates."""

    n_step: int = 10  # transitions per return; Hester et al. 2018 add this loss to the one-step loss
    weight_decay: float = 1e-5  # the paper's weight of its L2 loss
    demonstration_loss: DemonstrationLoss = "margin"  # beside the TD loss, of rows that come from demonstrations
    demonstration_weight: float = 1.0  # of that loss beside the TD loss; Hester et al. 2018, Experimental Setup


class FromDataset(DoubleDQN):
    """Double DQN whose every transition is a demonstration, and whose clock counts updates: no env is stepped."""

    Config: ClassVar[type] = QLearningConfig
    data: ClassVar[str] = "dataset"

    def fit_statistics(self, obs: Tensor, valid: Tensor) -> None:
        """Fold all observations of the data `[S, R, *obs]` into the running statistics, where `valid [S, R]`."""
        self.preprocess.observe(obs, valid)

    def prepare(self, batch: Batch) -> Batch:
        """As DQN, every row a demonstration."""
        return super().prepare({**batch, "demonstration": torch.ones_like(batch["terminated"])})

    def update(self, batch: Batch, clock: Clock) -> Updated:
        """One gradient step on prepared transitions `[S, B]`; the target network follows."""
        updated = super().update(batch, clock)
        self.follow_target(clock.env_steps - 1, clock.env_steps)
        return updated

    def metrics(self, clock: Clock) -> dict[str, float]:
        """The learning rate; nothing is explored."""
        return {"optimizer/learning_rate": super().metrics(clock)["optimizer/learning_rate"]}


class DQfD(FromDataset):
    """Deep Q-learning from demonstrations: demonstrated actions become the best, and are worth what they earned."""

    Config: ClassVar[type] = DQfDConfig
