"""DQN whose targets follow a softmax over values in place of the best one (Song et al. 2019), in a few lines.

rlab train soft_dqn:SoftDQN CartPole-v1 --seeds 5 --softness 0.2
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlab.agents.dqn import DQN, DQNConfig
from rlab.learning.contract import Batch
from rlab.ranges import check_positive


@dataclass(frozen=True, kw_only=True)
class SoftDQNConfig(DQNConfig):
    softness: float = 0.1  # what values are divided by before the softmax

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "softness")


class SoftDQN(DQN):
    """DQN that overestimates less: what is done next need not be the best."""

    Config: ClassVar[type] = SoftDQNConfig

    def next_policy(self, next_q: Tensor, batch: Batch) -> Tensor:
        return (next_q / self.config.softness).softmax(dim=-1)
