"""Proximal policy optimisation (Schulman et al. 2017) with the core and continuous details of "The 37 Implementation
Details of Proximal Policy Optimization" (Huang et al. 2022), each a setting. Read from top to bottom; what it shares
with the other policy-gradient agents is in `rlab.learning.actor_critic`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.learning.actor_critic import ActorCritic, ActorCriticConfig
from rlab.learning.contract import Batch, Now, Scheduled, Updated
from rlab.learning.per_member import over, per_member
from rlab.learning.policy_gradient import clipped_surrogate, kl_estimate, mean, normalised, value_loss
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Space
from rlab.ranges import check_positive
from rlab.search_ranges import searched
from rlab.types import Clock

KL_SLACK = 1.5  # times target_kl; openai/spinningup's ppo and Stable-Baselines3


@dataclass(frozen=True, kw_only=True)
class PPOConfig(ActorCriticConfig):
    """Settings of PPO. Steps are env steps of one member, summed over its envs."""

    rollout_steps: int = 128  # vector steps; Schulman et al. 2017, table 5 (Atari)
    epochs: int = searched(10, 1, 20, "log")  # passes over each rollout; Schulman et al. 2017, table 3
    minibatches: int = searched(4, 1, 32, "powers")  # how many parts each pass is cut into; a count, not a size
    clip: float = searched(0.2, 0.1, 0.4)  # how far an action's probability ratio may move and still pay; table 3
    clip_final: float = 1.0  # factor of clip at the end of the budget, reached linearly
    clip_value: float | None = None  # how far a value may move in a rollout; Huang et al. 2022, detail 9. None: any
    normalize_advantage: bool = True  # within each minibatch; Huang et al. 2022, detail 7
    target_kl: float | None = None  # nats; a seed whose policy moved 1.5 times as far skips the rest of its rollout
    # entropy_weight, value_weight, max_grad_norm: details 10 and 11

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "clip", "clip_value", "target_kl")
        if not 0.0 <= self.clip_final < float("inf"):
            raise UsageError(f"clip_final {self.clip_final} must be 0 or more; it is a factor of clip.")


class PPO(ActorCritic):
    """Proximal policy optimisation: several epochs on each rollout, no further than a clipped ratio pays."""

    Config: ClassVar[type] = PPOConfig
    per_member: ClassVar[tuple[str, ...]] = (*ActorCritic.per_member, "clip", "clip_final", "clip_value", "target_kl")
    config: PPOConfig

    def __init__(
        self,
        config: PPOConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        super().__init__(config, obs_space, action_space, seeds, device, start)
        self._going = torch.ones(len(seeds), dtype=torch.bool, device=device)  # members that learn on in this rollout

    def prepare(self, batch: Batch) -> Batch:
        """The rows of a rollout, with the probability that each action was chosen with."""
        rows = super().prepare(batch)
        self._going.fill_(True)
        with torch.no_grad():
            flat = self.rows(rows)
            log_prob = self.head.log_prob(self.outputs(rows), flat["action"], flat.get("mask"))
        return {**rows, "log_prob": log_prob.reshape(rows["weight"].shape)}

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on a minibatch `[S, B]` of the rollout; with memory, of whole sequences."""
        batch = self.rows(batch)
        loss, outputs, metrics = self.loss(batch, now)
        loss, more = self.terms.add_to(loss, outputs, batch, now)
        members = self._still_going(metrics["policy/kl"])
        norm = self.optimizer.step(loss, now, members=members)
        return self.learned({**metrics, **more, "grad/norm": norm})

    def loss(self, batch: Batch, now: Now) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The clipped surrogate, the value's loss and the entropy bonus (equation 9), per member `[S]`; the policy's
        outputs `[S, B, width]`; metrics."""
        config, weight, mask = self.config, batch["weight"], batch.get("mask")
        outputs, value = self.forward(batch)
        log_ratio = self.head.log_prob(outputs, batch["action"], mask) - batch["log_prob"]
        advantage = normalised(batch["advantage"], weight) if config.normalize_advantage else batch["advantage"]
        clip = now["policy/clip_range"]
        ratio = log_ratio.exp()
        policy_loss = mean(clipped_surrogate(ratio, advantage, clip), weight)
        of_value = mean(value_loss(value, batch["target"], batch["value"], config.clip_value), weight)
        entropy = mean(self.head.entropy(outputs, mask), weight)
        loss = policy_loss + over(config.value_weight, of_value) * of_value
        loss = loss - over(now["entropy weight"], entropy) * entropy
        with torch.no_grad():
            kl = mean(kl_estimate(log_ratio), weight)
            clipped = mean(((ratio - 1.0).abs() > clip).to(weight.dtype), weight)
        metrics = {
            "loss/policy": policy_loss,
            "loss/value": of_value,
            "policy/entropy": entropy,
            "policy/kl": kl,
            "policy/clip_fraction": clipped,
        }
        return loss, outputs, metrics

    def scheduled(self, clock: Clock) -> Scheduled:
        """Also the clipping range."""
        found = super().scheduled(clock)
        began = float(found["rollout began"])
        clip = per_member(self.config, lambda each: each.clip * (1.0 + (each.clip_final - 1.0) * began))
        return {**found, "policy/clip_range": clip}

    def _still_going(self, kl: Tensor) -> Tensor | None:
        """Which members take this step: not those whose policy has moved too far since the rollout was collected."""
        if self.config.target_kl is None:
            return None
        self._going &= kl <= KL_SLACK * over(self.config.target_kl, kl)
        return self._going
