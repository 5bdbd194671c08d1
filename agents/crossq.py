"""CrossQ (Bhatt et al. 2024): SAC without target networks. Batch renormalisation steadies the critics instead, which
see both ends of each transition in one batch. Read from top to bottom."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlab.agents.sac import SAC, SACConfig
from rlab.learning.common_config import Unread
from rlab.learning.contract import Batch, Now
from rlab.learning.off_policy import OffPolicy
from rlab.learning.optimizer_settings import ADAMS, OptimizerSettings
from rlab.networks.bodies import BodySettings
from rlab.networks.spaces import Box, Space
from rlab.networks.spec import in_training


@dataclass(frozen=True, kw_only=True)
class CrossQConfig(SACConfig):
    """Settings of CrossQ. The paper's critics are 2048 2048: 64 times the products of 256 256."""

    learning_rate: float = 1e-3  # of all networks; Bhatt et al. 2024, appendix A.1
    beta1: float = 0.5  # share of the past in Adam's mean gradient, not of the temperature's; appendix A.1
    policy_delay: int | None = 3  # updates of the critics for each of the policy; appendix A.1

    def __post_init__(self) -> None:
        super().__post_init__()
        CrossQ.optimizer_settings(self)

    def unread(self, action_space: Space) -> Unread:
        """Also what belongs to target networks and other optimizers."""
        found = {**super().unread(action_space), "target_tau": "crossq has no target networks"}
        if self.optimizer not in ADAMS:
            found["beta1"] = f"it is for {', '.join(ADAMS)}, and the optimizer is {self.optimizer}"
        return found


class CrossQ(SAC):
    """Soft actor-critic with batch renormalisation in the place of target networks, for continuous actions."""

    Config: ClassVar[type] = CrossQConfig
    action_spaces: ClassVar[tuple[type, ...]] = (Box,)
    heads: ClassVar[tuple[str, ...]] = ("squashed_gaussian",)
    slow_copies: ClassVar[bool] = False
    per_member: ClassVar[tuple[str, ...]] = tuple(n for n in OffPolicy.per_member if n != "target_tau")

    @staticmethod
    def optimizer_settings(config: Any) -> OptimizerSettings:
        return replace(OptimizerSettings.of(config), beta1=config.beta1)

    @staticmethod
    def actor_body(config: Any) -> BodySettings:
        return replace(OffPolicy.actor_body(config), batch_renorm=True)

    @staticmethod
    def critic_body(config: Any) -> BodySettings:
        return replace(OffPolicy.critic_body(config), batch_renorm=True)

    def learn_critics(self, batch: Batch, alpha: Tensor, now: Now) -> tuple[dict[str, Tensor], Tensor]:
        """A step of the critics, which value the rows' actions and the policy's next ones in one forward pass: the
        statistics are those of both together (Bhatt et al. 2024, section 3.2)."""
        with torch.no_grad():  # the policy in evaluation mode, by its running statistics
            outputs = self.actor(batch["next_obs"])
            next_action, log_density = self.head.sample_with_density(outputs, self._samples.next(outputs.shape[1]))
        obs = torch.cat([batch["obs"], batch["next_obs"]], dim=1)  # [S, 2B, ...]
        action = torch.cat([batch["action"], next_action], dim=1)
        q, next_q = self.q_values(in_training(self.critics), obs, action).chunk(2, dim=-1)  # [S, C, B] each
        next_value = self.agreed(self.critics, next_q.detach()) - alpha * log_density
        return self.step_critics(q, batch, next_value, now)
