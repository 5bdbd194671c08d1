"""Pretraining of a policy's body on what a dataset shows of the world. The policy that comes out has a fresh last
layer: it acts at random, and fine-tuning trains on from the layers below. Read from top to bottom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.errors import UsageError, unknown
from rlab.learning.choices import EncoderObjective
from rlab.learning.cloning import (
    Cloner,
    CloningConfig,
    action_accuracy,
    action_features,
    action_width,
    negative_log_likelihood,
    squared_distance,
)
from rlab.learning.common_config import HeldOutConfig, Unread
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.policy_gradient import mean
from rlab.learning.targets import follow
from rlab.networks.bodies import BodySettings, mlp_spec
from rlab.networks.continuous_heads import GaussianHead
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Space
from rlab.networks.spec import NetworkSpec, copy_parameters
from rlab.ranges import check_positive_shares, check_shares

# objective -> the models that it trains on top of the body
OBJECTIVES: Mapping[str, tuple[str, ...]] = {
    "inverse": ("inverse",),
    "forward": ("forward",),
    "dynamics": ("inverse", "forward"),
    "classification": ("classifier",),
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(HeldOutConfig, CloningConfig):
    """Settings of a body's pretraining. The clock counts updates."""

    objective: EncoderObjective = "dynamics"  # dynamics: inverse and forward; classification: of the data's action
    forward_weight: float = 0.2  # of dynamics: share of the forward loss; beta of Pathak et al. 2017, section 3.3
    model_hidden: tuple[int, ...] = (256,)  # widths of inverse and forward model; Pathak et al. 2017, section 4.1
    target_tau: float = 0.01  # share of the body that its target takes over in every update; Grill et al. 2020: 0.004

    def unread(self, action_space: Space) -> Unread:
        """Also settings that the objective does not use."""
        found = super().unread(action_space)
        if self.objective != "dynamics":
            found["forward_weight"] = f"it is for the objective dynamics, not {self.objective}"
        if self.objective == "classification":
            found["model_hidden"] = "the objective classification has no model"
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            raise unknown("objective", self.objective, OBJECTIVES)
        check_shares(self, "forward_weight")
        if any(width < 1 for width in self.model_hidden):
            raise UsageError(f"model_hidden {self.model_hidden} must all be 1 or more.")
        check_positive_shares(self, "target_tau")


class Encoder(Cloner):
    """Pretrains a policy's body: features that tell actions apart and make what follows predictable."""

    Config: ClassVar[type] = EncoderConfig
    config: EncoderConfig

    def __init__(
        self,
        config: EncoderConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        super().__init__(config, obs_space, action_space, seeds, device, start)
        layers = self._policy.spec.network.layers
        top = 2 if layers[-1].kind == "log_std" else 1  # layers above the body
        self.actor[-top:].requires_grad_(False)  # the head, which nothing trains
        self.body = self.actor[:-top]  # a view of the actor
        if not list(self.body.parameters()):
            raise UsageError(f"hidden {config.hidden} leaves no body to train; give it a layer, such as --hidden 64.")
        self.target_body = self._fresh(NetworkSpec(layers[:-top]), "actor").requires_grad_(False)
        self.load_weights({})
        specs = self._model_specs(layers[-top].args["in_features"])
        self.models = {name: self._fresh(specs[name], name) for name in OBJECTIVES[config.objective]}
        self.optimizer = self._optimizer_of([self.body, *self.models.values()])

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, **self.models}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin from other weights: those of `policy().state_dict()` that `tensors` names. The target body follows."""
        super().load_weights(tensors)
        copy_parameters(self.body, self.target_body)

    def prepare(self, batch: Batch) -> Batch:
        """What the body sees before and after the action; the action as the forward model reads it."""
        rows = {**self._features(batch), "next_obs": self.preprocess(batch["next_obs"])}
        rows["action_features"] = action_features(self.head, self._action_space, batch["action"])
        return rows

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step of the body and the models on prepared rows `[S, B]`; the target body follows."""
        features = self._in_training(self.body, batch["obs"])
        losses, scores = self.losses(batch, features, training=True)
        norm = self.optimizer.step(self._total({name: loss.mean(dim=-1) for name, loss in losses.items()}), now)
        follow(self.target_body, self.body, self.config.target_tau)
        return Updated(
            {
                **{f"loss/{name}": loss.detach().mean(dim=-1) for name, loss in losses.items()},
                **_tagged("train", {name: value.detach().mean(dim=-1) for name, value in scores.items()}),
                "features/deviation": features.detach().std(dim=1, correction=0).mean(dim=-1),
                "grad/norm": norm,
            }
        )

    def losses(self, batch: Batch, features: Tensor, training: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of the objective's models, and their scores, one value per row `[S, B]`.

        `features [S, B, F]` are the body's of `obs`.
        """
        losses: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        if "inverse" in self.models:  # Pathak et al. 2017, equations 2 and 3
            after = self._in_training(self.body, batch["next_obs"]) if training else self.body(batch["next_obs"])
            outputs = self.models["inverse"](torch.cat([features, after], dim=-1))
            losses["inverse"], scores = self._of_action(outputs, batch)
        if "classifier" in self.models:
            losses["classifier"], scores = self._of_action(self.models["classifier"](features), batch)
        if "forward" in self.models:
            losses["forward"], change = self._of_next(features, batch)
            scores = {**scores, "forward_error": losses["forward"], "no_change": change}
        return losses, scores

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and the scores on held-out rows `[S, R]`, means `[S]` over those with a `weight`."""
        losses, scores = self.losses(batch, self.body(batch["obs"]), training=False)
        weight = batch["weight"]
        total = self._total({name: mean(loss, weight) for name, loss in losses.items()})
        scores = _tagged("validation", {name: mean(value, weight) for name, value in scores.items()})
        return {"validation/loss": total, **scores}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "target_body": self.target_body.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.target_body.load_state_dict(state["target_body"])

    def _of_action(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """How far a prediction of the action is from it, `[S, B]`, and how often or how closely it is right."""
        action, mask = batch["action"], batch.get("mask")
        name, agreed = action_accuracy(self.head, outputs, action, mask)
        if isinstance(self.head, GaussianHead):
            return squared_distance(self.head, outputs, action), {name: agreed}
        return negative_log_likelihood(self.head, outputs, action, mask), {name: agreed}

    def _of_next(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """How far the predicted next features are from what a slow copy of the body makes of the next observation, and
        how far from that the features of the observation itself are, `[S, B]` each.

        Both are directions: squared distances of vectors of length 1. So little as the copy moves, and with directions
        alone, features that are all alike do not minimise it (Grill et al. 2020, equation 2; Schwarzer et al. 2021).
        Differs from Pathak et al. (2017), equation 5, whose inverse model alone keeps the features apart.
        """
        predicted = self.models["forward"](torch.cat([features, batch["action_features"]], dim=-1))
        with torch.no_grad():
            goal = F.normalize(self.target_body(batch["next_obs"]), dim=-1)
            before = F.normalize(self.target_body(batch["obs"]), dim=-1)
        error = (F.normalize(predicted, dim=-1) - goal).square().sum(dim=-1)
        return error, (before - goal).square().sum(dim=-1)

    def _total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The losses `[S]` as one."""
        if self.config.objective != "dynamics":
            return next(iter(losses.values()))
        share = self.config.forward_weight
        return (1.0 - share) * losses["inverse"] + share * losses["forward"]

    def _model_specs(self, features: int) -> dict[str, NetworkSpec]:
        """The models by name; `features` is the width of the body."""
        config, action = self.config, action_width(self._action_space)
        outputs = action if isinstance(self.head, GaussianHead) else self.head.width
        model = BodySettings(config.model_hidden, config.activation)
        return {
            "inverse": mlp_spec(2 * features, outputs, model),
            "forward": mlp_spec(features + action, features, model),
            "classifier": mlp_spec(features, outputs, BodySettings(hidden=())),
        }


def _tagged(where: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Metrics by tag; the forward error as a share of the error of predicting no change."""
    scores = dict(values)
    if "no_change" in scores:
        scores["forward_error"] = scores["forward_error"] / scores.pop("no_change").clamp(min=1e-8)
    return {f"{where}/{name}": value for name, value in scores.items()}
