"""Soft actor-critic (Haarnoja et al. 2018b) with twin critics and a temperature that keeps the policy's entropy at a
target; for choices in its discrete form (Christodoulou 2019). Read from top to bottom."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlab.errors import UsageError, unknown
from rlab.learning.action_values import soft_value, temperature_loss
from rlab.learning.choices import Noise
from rlab.learning.common_config import Unread
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.exploration import ActionNoise
from rlab.learning.exploration_noise import NOISES, ExplorationNoise
from rlab.learning.off_policy import OffPolicy, OffPolicyConfig
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.networks.distributions import only
from rlab.networks.heads import stochastic_head_json
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Box, Discrete, Space
from rlab.networks.spec import load_members
from rlab.ranges import check_positive, check_shares


@dataclass(frozen=True, kw_only=True)
class SACConfig(OffPolicyConfig):
    """Settings of SAC."""

    temperature: float | None = None  # weight of the entropy; None: the one that keeps it at its target
    target_entropy: float | None = None  # nats, of a Box in half ranges; None: -1 per number, Haarnoja et al. 2018b
    entropy_share: float = 0.98  # Discrete alone: the target, of the largest entropy; Christodoulou 2019, section 5
    exploration_noise: Noise = "normal"  # Box alone: how the noise of one step resembles that of those before

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exploration_noise not in NOISES:
            raise unknown("exploration_noise", self.exploration_noise, NOISES)
        check_positive(self, "temperature")
        check_shares(self, "entropy_share")

    def unread(self, action_space: Space) -> Unread:
        """Also what belongs to other actions, and the target of an entropy whose weight is fixed."""
        found = super().unread(action_space)
        if isinstance(action_space, Box):
            found["entropy_share"] = f"it is for Discrete actions, and these are {action_space}"
        else:
            found["exploration_noise"] = f"it is for Box actions, and these are {action_space}"
        if self.target_entropy is not None:
            found["entropy_share"] = "target_entropy says what the entropy should be"
        if self.temperature is not None:
            found |= dict.fromkeys(("target_entropy", "entropy_share"), "the temperature is fixed")
        return found


class SAC(OffPolicy):
    """Soft actor-critic: off-policy, and as random as a target entropy says; for continuous actions and choices."""

    Config: ClassVar[type] = SACConfig
    action_spaces: ClassVar[tuple[type, ...]] = (Box, Discrete)
    heads: ClassVar[tuple[str, ...]] = ("squashed_gaussian", "categorical")
    per_member: ClassVar[tuple[str, ...]] = (*OffPolicy.per_member, "entropy_share")
    config: SACConfig

    def __init__(
        self,
        config: SACConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        super().__init__(config, obs_space, action_space, seeds, device, start)
        self._choices = isinstance(action_space, Discrete)
        self._check_target()
        first = torch.full((len(seeds), 1), config.temperature or 1.0).log()
        self._log_temperature = nn.Parameter(first.to(device))
        if config.temperature is None:
            self.networks["temperature"] = nn.ParameterList([self._log_temperature])
            settings = OptimizerSettings.of(config)
            self.optimizers["temperature"] = StackedOptimizer(settings, [self._log_temperature], name="temperature")
        width = self.head.noise_width
        kind = config.exploration_noise
        self._noise: Any = (
            ActionNoise("gumbel", width, seeds, device)
            if self._choices
            else ExplorationNoise(kind, width, seeds, device)
        )
        self._samples = ActionNoise("normal", width, seeds, device, "sampled actions")  # for updates

    def _check_target(self) -> None:
        """Refuse a target that no policy of this space can have: the temperature would rise or fall without end."""
        target = self.config.target_entropy
        if target is None:
            return
        # A uniform policy has the most: of n choices, or of k numbers within [-1, 1].
        most = math.log(self.head.width) if self._choices else self.head.size * math.log(2)
        least = 0.0 if self._choices else -math.inf
        if not (least <= target <= most and math.isfinite(target)):
            within = f"0 to {most:.4g} nats" if self._choices else f"{most:.4g} nats or less"
            raise UsageError(
                f"target_entropy {target:g} is out of reach: a policy for {self._action_space} has an entropy of "
                f"{within}. Leave it out for the default."
            )

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        return stochastic_head_json(action_space, squash=True)

    def explore(self, outputs: Tensor, allowed: Tensor | None) -> Tensor:
        """Actions from the policy's distribution."""
        action: Tensor = self.head.act(outputs, allowed, noise=self._noise.next(outputs.shape[1]))
        return action

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step of critics, policy and temperature on prepared rows `[S, B]`."""
        alpha = self._log_temperature.detach().exp()  # [S, 1]
        metrics, errors = self.learn_critics(batch, alpha, now)
        if self.moves_policy():
            outputs = self.learning_actor(batch["obs"])
            value, entropy = self.value(self.critics, batch["obs"], outputs, batch.get("mask"), alpha)
            metrics |= self.step_actor(-value.mean(dim=-1), outputs, batch, now)
            metrics |= self.step_temperature(entropy.detach(), batch, now)
        self.follow_targets()
        return Updated(metrics, feedback=errors)

    def learn_critics(self, batch: Batch, alpha: Tensor, now: Now) -> tuple[dict[str, Tensor], Tensor]:
        """A step of the critics towards the soft value of what comes next; what `step_critics` gives."""
        with torch.no_grad():
            obs = batch["next_obs"]
            next_value, _ = self.value(self.target_critics, obs, self.actor(obs), batch.get("next_mask"), alpha)
        return self.step_critics(self.taken(batch), batch, next_value, now)

    def taken(self, batch: Batch) -> Tensor:
        """What each critic says of the rows' actions, `[S, C, B]`."""
        if not self._choices:
            return self.q_values(self.critics, batch["obs"], batch["action"])
        q = self.q_values(self.critics, batch["obs"])  # [S, C, B, A]
        return q.gather(-1, batch["action"][:, None, :, None].expand(*q.shape[:-1], 1)).squeeze(-1)

    def value(
        self, critics: nn.Module, obs: Tensor, outputs: Tensor, allowed: Tensor | None, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What observations are worth to the policy, as the critics agree and with the entropy's weight `alpha
        [S, 1]`; and the policy's entropy. `[S, B]` each: of choices exactly, of a Box from one sample that the gradient
        flows through.

        Args:
            outputs: of the policy's network for these observations.
            allowed: a mask of choices, `[S, B, A]`.
        """
        if self._choices:
            log_prob = only(outputs, allowed).log_softmax(dim=-1)
            q = self.agreed(critics, self.q_values(critics, obs))  # [S, B, A]
            return soft_value(q, log_prob, alpha), soft_value(torch.zeros_like(q), log_prob, torch.ones_like(alpha))
        action, log_density = self.head.sample_with_density(outputs, self._samples.next(outputs.shape[1]))
        return self.agreed(critics, self.q_values(critics, obs, action)) - alpha * log_density, -log_density

    def agreed(self, critics: nn.Module, q: Tensor) -> Tensor:
        """What counts of the values `q [S, C, B, ...]` by a member's critics, `[S, B, ...]`: the smallest."""
        return q.amin(dim=1)

    def step_temperature(self, entropy: Tensor, batch: Batch, now: Now) -> dict[str, Tensor]:
        """A step of the temperature, unless it is fixed: it rises where the `entropy [S, B]` is below its target."""
        temperature = self._log_temperature.detach()[:, 0].exp()
        if self.config.temperature is None:
            loss = temperature_loss(self._log_temperature, entropy, self.target_entropy(batch)).mean(dim=-1)
            temperature = temperature + 0.0 * self.optimizers["temperature"].step(loss, now)  # NaN where that is
        return {"policy/entropy": entropy.mean(dim=-1), "policy/temperature": temperature}

    def target_entropy(self, batch: Batch) -> Tensor | float:
        """What the entropy should be: a number, or for each row where a mask allows it fewer choices, `[S, B]`."""
        if self.config.target_entropy is not None:
            return self.config.target_entropy
        if not self._choices:
            return -float(self.head.size)
        if "mask" not in batch:
            return self.config.entropy_share * math.log(self.head.width)
        return self.config.entropy_share * batch["mask"].sum(dim=-1).clamp(min=1).log()

    def load_critic(self, state: Mapping[str, Any], members: Sequence[int]) -> str | None:
        """Begin with the critics of another agent's `state()`, and with its temperature where it has one."""
        reason = super().load_critic(state, members)
        if reason is None and "temperature" in self.networks:
            load_members(self.networks["temperature"], state.get("temperature", {}), members)
        return reason

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "exploration noise": self._noise, "sampled actions": self._samples}
