"""Twin delayed DDPG (Fujimoto et al. 2018): a deterministic policy, two critics of which the smaller value counts,
smoothed target actions, and a policy that moves in every other update. Read from top to bottom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlab.errors import unknown
from rlab.learning.action_values import smoothed
from rlab.learning.choices import Noise
from rlab.learning.common_config import Unread
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.exploration import ActionNoise
from rlab.learning.exploration_noise import NOISES, ExplorationNoise
from rlab.learning.off_policy import OffPolicy, OffPolicyConfig
from rlab.learning.per_member import over
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Space
from rlab.ranges import check_not_negative
from rlab.search_ranges import searched


@dataclass(frozen=True, kw_only=True)
class TD3Config(OffPolicyConfig):
    """Settings of TD3. Noise is in half ranges of the actions."""

    policy_delay: int | None = 2  # updates of the critics for each of the policy and the targets; Fujimoto et al. 2018
    exploration_noise: Noise = "normal"  # how the noise of one step resembles that of those before
    # standard deviation of that noise; Fujimoto et al. 2018, section 6.1
    exploration_scale: float = searched(0.1, 0.0, 1.0)
    target_noise: float = 0.2  # standard deviation of the noise of target actions; Fujimoto et al. 2018, section 6.1
    noise_clip: float = 0.5  # the most that this noise may be; Fujimoto et al. 2018, section 6.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exploration_noise not in NOISES:
            raise unknown("exploration_noise", self.exploration_noise, NOISES)
        check_not_negative(self, "exploration_scale", "target_noise", "noise_clip")

    def unread(self, action_space: Space) -> Unread:
        """Also the kind and the bound of noise that is off."""
        found = super().unread(action_space)
        if self.target_noise == 0.0:
            found["noise_clip"] = "target_noise is 0"
        if self.exploration_scale == 0.0:
            found["exploration_noise"] = "exploration_scale is 0"
        return found


class TD3(OffPolicy):
    """Twin delayed DDPG: a deterministic policy for continuous actions that follows the first of two critics."""

    Config: ClassVar[type] = TD3Config
    heads: ClassVar[tuple[str, ...]] = ("deterministic",)
    per_member: ClassVar[tuple[str, ...]] = (
        *OffPolicy.per_member,
        *("exploration_scale", "target_noise", "noise_clip"),
    )
    config: TD3Config

    def __init__(
        self,
        config: TD3Config,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        super().__init__(config, obs_space, action_space, seeds, device, start)
        self.target_actor = build_policy(self._policy.spec, seeds, trust=True).network.to(device).requires_grad_(False)
        self._noise = ExplorationNoise(config.exploration_noise, self.head.size, seeds, device)
        self._target_noise = ActionNoise("normal", self.head.size, seeds, device, "target actions")

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        return {"kind": "deterministic", "noise": config.exploration_scale}

    @property
    def targets(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        return {**super().targets, "target_actor": (self.target_actor, self.actor)}

    def explore(self, outputs: Tensor, allowed: Tensor | None) -> Tensor:
        """The policy's actions with noise, clipped to the bounds."""
        noise = over(self.config.exploration_scale, outputs) * self._noise.next(outputs.shape[1])
        action: Tensor = self.head.denormalised(outputs.tanh() + noise)
        return action

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step of the critics on prepared rows `[S, B]`; every other time one of the policy too."""
        with torch.no_grad():
            next_value = self.q_values(self.target_critics, batch["next_obs"], self.target_actions(batch)).amin(dim=1)
        q = self.q_values(self.critics, batch["obs"], batch["action"])
        metrics, errors = self.step_critics(q, batch, next_value, now)
        if self.moves_policy():
            outputs = self.actor(batch["obs"])
            first = self.critics[0](batch["obs"], outputs.tanh()).squeeze(-1)  # [S, B]
            metrics |= self.step_actor(-first.mean(dim=-1), outputs, batch, now)
            self.follow_targets()
        return Updated(metrics, feedback=errors)

    def target_actions(self, batch: Batch) -> Tensor:
        """What the target policy does next, with clipped noise, `[S, B, d]`."""
        config = self.config
        action = self.target_actor(batch["next_obs"]).tanh()
        scale, clip = over(config.target_noise, action), over(config.noise_clip, action)
        return smoothed(action, self._target_noise.next(action.shape[1]), scale, clip)

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "exploration noise": self._noise, "target noise": self._target_noise}
