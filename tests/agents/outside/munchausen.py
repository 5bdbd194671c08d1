"""Munchausen DQN (Vieillard et al. 2020): rewards grow by the log probability of what was done, values are soft."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlab.agents.dqn import DQN, DQNConfig
from rlab.learning.contract import Batch
from rlab.networks.distributions import choice_log_prob, only


@dataclass(frozen=True, kw_only=True)
class MunchausenConfig(DQNConfig):
    temperature: float = 0.03  # of the softmax policy; the paper's tau
    alpha: float = 0.9  # share of the scaled log probability in the reward
    lowest: float = -1.0  # it is clipped below; the paper's l0


class Munchausen(DQN):
    """DQN whose targets are those of equation 2; of a window of n steps the first reward alone grows."""

    Config: ClassVar[type] = MunchausenConfig

    def prepare(self, batch: Batch) -> Batch:
        prepared, tau = super().prepare(batch), self.config.temperature
        with torch.no_grad():
            q = only(self.head.values(self.target_network(prepared["obs"])), self.preprocess.mask(batch["obs"]))
            bonus = tau * choice_log_prob(q / tau, batch["action"])
        return {**prepared, "reward": prepared["reward"] + self.config.alpha * bonus.clamp(self.config.lowest, 0.0)}

    def next_value(self, next_q: Tensor, next_obs: Tensor) -> Tensor:
        """The mean of q - tau log pi over the softmax policy pi: `[S, B, A]` to `[S, B]`."""
        return self.config.temperature * (next_q / self.config.temperature).logsumexp(dim=-1)
