"""REINFORCE (Williams 1992) with a learned baseline: A2C's policy gradient on whole returns instead of n-step ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlab.agents.a2c import A2C, A2CConfig
from rlab.errors import UsageError
from rlab.learning.common_config import Unread
from rlab.learning.contract import Batch
from rlab.learning.per_member import over
from rlab.learning.policy_gradient import completed, returns_to_go
from rlab.networks.spaces import Space
from rlab.search_ranges import searched, unsearched


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(A2CConfig):
    """Settings of REINFORCE. Steps are env steps of one member, summed over its envs."""

    baseline: bool = True  # subtract a learned value, which also stands in for what a cut episode would have returned
    rollout_steps: int = searched(32, 16, 256, "powers")  # vector steps
    gae_lambda: float = unsearched(1.0)  # whole returns are what REINFORCE is; only 1 is taken
    learning_rate: float = searched(5e-3, 1e-4, 2e-2, "log")  # Adam; fewer and larger steps than the other agents take
    normalize_advantage: bool = True  # over the rollout

    def unread(self, action_space: Space) -> Unread:
        """Also what only the baseline has."""
        found = super().unread(action_space)
        return found if self.baseline else {**found, "value_weight": "there is no baseline to learn"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gae_lambda != 1.0:
            raise UsageError(f"gae_lambda {self.gae_lambda}: reinforce takes whole returns; a2c takes n-step ones.")


class Reinforce(A2C):
    """REINFORCE: one gradient step on the returns of each rollout, against a learned baseline."""

    Config: ClassVar[type] = ReinforceConfig
    per_member: ClassVar[tuple[str, ...]] = tuple(name for name in A2C.per_member if name != "gae_lambda")
    config: ReinforceConfig

    @property
    def needs_endings(self) -> str | None:
        """Without a baseline nothing says what a cut episode would have returned: time limits are refused."""
        return None if self.config.baseline else "That is for --no-baseline; leave the baseline on."

    @property
    def value_weight(self) -> float:
        return self.config.value_weight if self.config.baseline else 0.0

    def advantage(
        self, reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns-to-go `[S, N, T]`, less the baseline where there is one; cut episodes bootstrap from it."""
        gamma = over(self.config.gamma, reward)
        if self.config.baseline:
            returns = returns_to_go(reward, next_value, terminated, truncated, gamma)
            return returns - value, returns
        returns = returns_to_go(reward, torch.zeros_like(value), terminated, truncated, gamma)
        return returns, returns

    def weight(self, batch: Batch) -> Tensor:
        """Without a baseline only episodes that ended within the rollout count, which favours short ones."""
        if self.config.baseline:
            return batch["valid"]
        return batch["valid"] & completed(batch["terminated"], batch["truncated"])

    def learning_members(self, weight: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Without a baseline a member of which no episode ended within the rollout stands still."""
        if self.config.baseline:
            return None, {}
        learned = weight.mean(dim=1)
        return learned > 0, {"train/rows_learned_fraction": learned}
