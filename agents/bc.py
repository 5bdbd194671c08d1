"""Behavioural cloning (Pomerleau 1989; Bain and Sammut 1999): supervised learning of the action from the observation.
A value of the demonstrator's returns can be learned beside it, so that PPO begins with a critic that fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.errors import UsageError, unknown
from rlab.learning.choices import CloningLoss
from rlab.learning.cloning import (
    Cloner,
    CloningConfig,
    action_accuracy,
    negative_log_likelihood,
    squared_distance,
)
from rlab.learning.common_config import HeldOutConfig, Unread
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.policy_gradient import mean, value_loss
from rlab.learning.returns import continuation, n_step_return
from rlab.networks.bodies import critic_like
from rlab.networks.continuous_heads import GaussianHead
from rlab.networks.heads import CategoricalHead
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Space
from rlab.ranges import check_counts, check_not_negative, check_shares, check_shares_below_one

LOSSES = ("likelihood", "squared")


@dataclass(frozen=True, kw_only=True)
class BCConfig(HeldOutConfig, CloningConfig):
    """Settings of behavioural cloning. The clock counts updates."""

    loss: CloningLoss = "likelihood"  # squared: Box actions alone, the distance of the mean
    label_smoothing: float = 0.0  # Discrete actions alone: share of the target spread over all; Szegedy et al. 2016
    # balanced: every Discrete action counts alike, however rare; None: every row does
    class_weights: Literal["balanced"] | None = None
    obs_noise: float = 0.0  # deviation of noise on vectors in updates, in units of what the network sees
    value_weight: float = 0.5  # of the value's loss beside the policy's; 0: no value is learned
    gamma: float = 0.99  # discount of the value per env step
    n_step: int = 20  # transitions of a return of the value before it bootstraps

    def unread(self, action_space: Space) -> Unread:
        """Also what the squared loss does not have, and what only a value needs."""
        found = super().unread(action_space)
        if self.loss == "squared":
            found |= dict.fromkeys(("label_smoothing", "class_weights"), "loss is squared")
        if self.value_weight == 0.0:
            found |= dict.fromkeys(("gamma", "n_step"), "value_weight is 0, so that no value is learned")
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        check_shares_below_one(self, "label_smoothing")
        if self.class_weights not in (None, "balanced"):
            raise UsageError(f"class_weights {self.class_weights!r} must be 'balanced' or None.")
        check_shares(self, "gamma")
        check_not_negative(self, "obs_noise", "value_weight")
        check_counts(self, "n_step")


class BC(Cloner):
    """Behavioural cloning: do what the demonstrator did."""

    Config: ClassVar[type] = BCConfig
    config: BCConfig

    def __init__(
        self,
        config: BCConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        super().__init__(config, obs_space, action_space, seeds, device, start)
        self._check()
        # The name and the shape are those of the policy-gradient agents' value.
        has_value = config.value_weight > 0.0
        self.critic = self._fresh(critic_like(self._policy.spec.network), "critic") if has_value else None
        self.optimizer = self._optimizer_of(self.networks.values())
        self._noise = Draws(seeds, "observation noise", device, ahead=16)
        self._seen = torch.zeros(len(seeds), self.head.width, device=device)  # how often each action was learned from

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"actor": self.actor} if self.critic is None else {"actor": self.actor, "critic": self.critic}

    def prepare(self, batch: Batch) -> Batch:
        """What the networks see, and what the value should be: n-step returns, bootstrapped from the value itself.

        No other network is needed as a target: the demonstrator's policy stands still, so that the target is a
        contraction of the value (Sutton and Barto 2018, section 7.1).
        """
        rows = self._features(batch)
        if self.critic is not None:
            with torch.no_grad():
                next_value = self.critic(self.preprocess(batch["next_obs"])).squeeze(-1)
                discount = continuation(batch["terminated"], self.config.gamma, batch["steps"])
                rows["target"] = n_step_return(batch["reward"], self.config.gamma) + discount * next_value
        return rows

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on prepared rows `[S, B]`."""
        features = batch["obs"]
        if self.config.obs_noise:
            features = features + self.config.obs_noise * self._noise.normal(*features.shape[1:])
        outputs = self._in_training(self.actor, features)
        if self.config.class_weights:
            self._seen += F.one_hot(batch["action"], self.head.width).sum(dim=1)
        loss = self.cloning_loss(outputs, batch).mean(dim=-1)
        name, agreed = action_accuracy(self.head, outputs.detach(), batch["action"], batch.get("mask"))
        metrics = {"loss/policy": loss.detach(), f"train/{name}": agreed.mean(dim=-1)}
        if self.critic is not None:
            of_value = value_loss(self.critic(batch["obs"]).squeeze(-1), batch["target"]).mean(dim=-1)
            loss = loss + self.config.value_weight * of_value
            metrics["loss/value"] = of_value.detach()
        metrics["grad/norm"] = self.optimizer.step(loss, now)
        return Updated(metrics)

    def cloning_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """How far the policy's `outputs [S, B, width]` are from the data's actions, `[S, B]`."""
        if self.config.loss == "squared":
            assert isinstance(self.head, GaussianHead)  # as _check says
            return squared_distance(self.head, outputs, batch["action"])
        smoothing = self.config.label_smoothing
        loss = negative_log_likelihood(self.head, outputs, batch["action"], batch.get("mask"), smoothing)
        if self.config.class_weights is None:
            return loss
        return loss * self.class_weights().gather(1, batch["action"])

    def class_weights(self) -> Tensor:
        """The weight `[S, A]` of each action, one over how often it was seen so far; the mean over what was seen is 1.

        King and Zeng (2001); scikit-learn's "balanced".
        """
        occurs = (self._seen > 0).sum(dim=1, keepdim=True)
        return self._seen.sum(dim=1, keepdim=True) / (occurs * self._seen).clamp(min=1.0)

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and the agreement on held-out rows `[S, R]`, means `[S]` over those with a `weight`."""
        outputs, weight = self.actor(batch["obs"]), batch["weight"]
        name, agreed = action_accuracy(self.head, outputs, batch["action"], batch.get("mask"))
        loss = mean(self.cloning_loss(outputs, batch), weight)
        return {"validation/loss": loss, f"validation/{name}": mean(agreed, weight)}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "noise": self._noise.state(), "seen": self._seen.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._noise.load_state(state["noise"])
        self._seen.copy_(state["seen"])

    def _check(self) -> None:
        """Settings that not all actions and observations have."""
        config = self.config
        for name, used in (("label_smoothing", config.label_smoothing), ("class_weights", config.class_weights)):
            if used and not isinstance(self.head, CategoricalHead):
                raise UsageError(f"{name} is for Discrete actions, not {self._action_space}.")
        if config.loss == "squared" and not isinstance(self.head, GaussianHead):
            raise UsageError(f"loss squared is for Box actions, not {self._action_space}; likelihood is for all.")
        if config.obs_noise and len(self.preprocess.feature_shape) != 1:
            raise UsageError(f"obs_noise {config.obs_noise} is for vectors; observations are {self._obs_space}.")
