"""Deep Q-learning from demonstrations (Hester et al. 2018), its pretraining phase: double DQN on a dataset, with a loss
that makes the demonstrated action the best by a margin. Online fine-tuning continues with `double_dqn`."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlab.agents.double_dqn import DoubleDQN
from rlab.experience.env_contract import Acted
from rlab.learning.choices import DemonstrationLoss
from rlab.learning.contract import Batch, Now, Scheduled, Updated
from rlab.learning.q_learning import QLearningConfig
from rlab.learning.targets import follow
from rlab.networks.memory import State
from rlab.search_ranges import searched
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class DQfDConfig(QLearningConfig):
    """Settings of DQfD's pretraining. The clock counts updates."""

    # transitions per return; Hester et al. 2018 add this loss to the one-step loss
    n_step: int = searched(10, 1, 10, source="Hester et al. 2018")
    weight_decay: float = 1e-5  # the paper's weight of its L2 loss
    demonstration_loss: DemonstrationLoss = "margin"  # beside the TD loss, of rows that come from demonstrations
    demonstration_weight: float = 1.0  # of that loss beside the TD loss; Hester et al. 2018, Experimental Setup


class FromDataset(DoubleDQN):
    """Double DQN whose every transition is a demonstration, and whose clock counts updates: no env is stepped."""

    Config: ClassVar[type] = QLearningConfig
    data: ClassVar[str] = "dataset"
    learns_with_memory: ClassVar[bool] = False

    def fit_statistics(self, obs: Tensor, valid: Tensor) -> None:
        """Fold all observations of the data `[S, R, *obs]` into the running statistics, where `valid [S, R]`."""
        self.preprocess.observe(obs, valid)

    def prepare(self, batch: Batch) -> Batch:
        """As DQN, every row a demonstration."""
        return super().prepare({**batch, "demonstration": torch.ones_like(batch["terminated"])})

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on prepared transitions `[S, B]`; the target network follows."""
        updated = super().update(batch, now)
        follow(self.target_network, self.q_network, now["target share"])
        return updated

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        """Greedy actions `[S, N]`: nothing is explored."""
        with torch.no_grad():
            outputs, following = self._policy.step(obs, state)
            return Acted(self.head.act(outputs, self.preprocess.mask(obs)), state=following)

    def scheduled(self, clock: Clock) -> Scheduled:
        """As DQN; nothing is explored."""
        found = dict(super().scheduled(clock))
        del found["explore/epsilon"]
        return found


class DQfD(FromDataset):
    """Deep Q-learning from demonstrations: demonstrated actions become the best, and are worth what they earned."""

    Config: ClassVar[type] = DQfDConfig
