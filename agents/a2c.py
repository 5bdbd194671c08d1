"""Advantage actor-critic, the synchronous form of A3C (Mnih et al. 2016). Read from top to bottom; what it shares with
the other policy-gradient agents is in `rlab.learning.actor_critic`."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlab.learning.actor_critic import ActorCritic, ActorCriticConfig
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.per_member import over
from rlab.learning.policy_gradient import mean, normalised, value_loss
from rlab.search_ranges import searched


@dataclass(frozen=True, kw_only=True)
class A2CConfig(ActorCriticConfig):
    """Settings of A2C. Steps are env steps of one member, summed over its envs."""

    rollout_steps: int = searched(8, 4, 256, "powers")  # vector steps; Mnih et al. 2016 have 5
    gae_lambda: float = 1.0  # 1 is the n-step advantage of the paper, n up to rollout_steps
    learning_rate: float = searched(1e-3, 1e-5, 1e-2, "log")  # differs from the paper: Adam instead of RMSProp


class A2C(ActorCritic):
    """Advantage actor-critic: one gradient step on each short rollout."""

    Config: ClassVar[type] = A2CConfig
    config: A2CConfig

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on a rollout."""
        batch = self.rows(batch)
        loss, outputs, metrics = self.loss(batch, now)
        loss, more = self.terms.add_to(loss, outputs, batch, now)
        members, share = self.learning_members(batch["weight"])
        norm = self.optimizer.step(loss, now, members=members)
        return self.learned({**metrics, **more, **share, "grad/norm": norm})

    def loss(self, batch: Batch, now: Now) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The policy gradient, the value's loss and the entropy bonus (section 4 of the paper), per member `[S]`; the
        policy's outputs `[S, B, width]`; metrics."""
        config, weight, mask = self.config, batch["weight"], batch.get("mask")
        outputs, value = self.forward(batch)
        advantage = normalised(batch["advantage"], weight) if config.normalize_advantage else batch["advantage"]
        policy_loss = mean(-advantage * self.head.log_prob(outputs, batch["action"], mask), weight)
        of_value = mean(value_loss(value, batch["target"]), weight)
        entropy = mean(self.head.entropy(outputs, mask), weight)
        loss = policy_loss + over(self.value_weight, of_value) * of_value
        loss = loss - over(now["entropy weight"], entropy) * entropy
        return loss, outputs, {"loss/policy": policy_loss, "loss/value": of_value, "policy/entropy": entropy}

    def learning_members(self, weight: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Who takes the step, bool `[S]` (None: all), by the weight of the rows `[S, B]`, and what to report of it."""
        return None, {}

    @property
    def value_weight(self) -> float:
        """The weight of the value's loss."""
        return self.config.value_weight
