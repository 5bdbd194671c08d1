"""Supervised learning: any network, any labelled arrays, in the loop and with the optimizers that agents learn with.

`Supervised` is what the loop trains; `rlab.learning.supervised_fit` puts the two together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.errors import UsageError, unknown
from rlab.learning.augmentation import augmentation
from rlab.learning.common_config import OptimizerConfig
from rlab.learning.contract import Batch, Now, Scheduled, Updated
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.supervised_losses import LOSSES, correct, cross_entropy
from rlab.networks.layers import StackedDropout
from rlab.networks.own import seeded_torch
from rlab.networks.spec import StackedNetwork, draw_states, draws_of_layer, load_draw_states
from rlab.randomness import torch_stream
from rlab.ranges import check_counts, check_shares_below_one
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class SupervisedSettings(OptimizerConfig):
    """How a network is fitted to labelled examples.

    Raises:
        UsageError: a name is unknown, a number is out of range, or a setting does not apply to the loss.
    """

    loss: str = "cross_entropy"  # cross_entropy for labels; squared or huber for numbers
    epochs: int = 30  # passes over each member's rows
    batch_size: int = 64  # rows per update and member; all of them where there are fewer
    learning_rate: float = 1e-3  # Kingma and Ba 2015, Adam's own
    label_smoothing: float = 0.0  # share of a label spread over all classes; Szegedy et al. 2016 have 0.1
    class_weights: str | tuple[float, ...] | None = None  # balanced, or one weight per class; None: equal weights
    validation_fraction: float = 0.0  # of the rows, held out; the weights that do best on them are kept
    patience: int | None = None  # validations (epochs) without a lower loss until a member stops; None: never
    augmentation: str = "none"  # of the inputs in updates, such as shift:2,flip; see `augmentation.AUGMENTATIONS`

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)


class StackOfOne(nn.Module):
    """A plain module as a stack with one member: `[1, B, ...]` in and out, and tensors `[1, ...]` by name.

    A plain module draws its noise, such as dropout's, from torch's global stream. In training that stream is seeded
    from the member's own numbers for the time of the call, and then restored.
    """

    def __init__(self, module: nn.Module, draws: Draws) -> None:
        super().__init__()
        self.module, self.draws = module, draws

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._apply_to(x)
        with seeded_torch(self.draws.words(2)[0].tolist(), x.device):
            return self._apply_to(x)

    def _apply_to(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x.squeeze(0))
        return y.unsqueeze(0)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return {name: tensor.unsqueeze(0) for name, tensor in self.module.state_dict().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.module.load_state_dict({name: tensor.squeeze(0) for name, tensor in state_dict.items()}, strict)


class Supervised:
    """Learns labels or numbers with any network; `DatasetLoop` trains it like an agent.

    Args:
        network: a stack as `build` and `stack` give it, `[S, B, ...]` in and out, or any plain module, which is one
            member. It is on its device already, and is trained in place.
        settings: of the updates; those of the data are read by `supervised_fit`.
        seeds: one training seed per member, from which noise in training is drawn.
        class_weights: `[S, C]`; None: equal weights.
    """

    Config: ClassVar[type] = SupervisedSettings
    data: ClassVar[str] = "dataset"

    def __init__(
        self,
        network: nn.Module,
        settings: SupervisedSettings,
        seeds: Sequence[int],
        class_weights: Tensor | None = None,
    ) -> None:
        self.config, self.seeds = settings, tuple(seeds)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not parameters:
            raise UsageError("the network has no trainable parameter.")
        self.device = parameters[0].device
        self.network = _as_stack(network, self.seeds)
        self.class_weights = None if class_weights is None else class_weights.float().to(self.device)
        self.optimizer = StackedOptimizer(OptimizerSettings.of(settings), parameters, members=len(self.seeds))
        self._augment = augmentation(settings.augmentation)
        self._augmenting = [torch_stream(seed, "augmentation") for seed in seeds]
        self.network.eval()

    @property
    def optimizers(self) -> dict[str, StackedOptimizer]:
        return {"all": self.optimizer}

    def prepare(self, batch: Batch) -> Batch:
        """`input` and `target` as networks and losses take them: pixels and other numbers as float32, `bool` and
        `uint8` among them; other integers, which are labels and tokens, as int64."""
        target = batch["target"]
        target = target.long() if self.config.loss == "cross_entropy" else target.float()
        return {"input": as_input(batch["input"]), "target": target}

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on prepared rows `[S, B, ...]`."""
        inputs = batch["input"] if self._augment is None else self._augment(batch["input"], self._augmenting)
        self.network.train()
        outputs = self.network(inputs)
        self.network.eval()
        loss = self._losses(outputs, batch["target"]).mean(dim=1)
        name, score = self._score(outputs.detach(), batch["target"])
        metrics = {f"loss/{self.config.loss}": loss.detach(), f"train/{name}": score.mean(dim=1)}
        metrics["grad/norm"] = self.optimizer.step(loss, now)
        return Updated(metrics)

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Means `[S]` over prepared rows by their `weight [S, R]`: the loss that updates minimise, and the score."""
        outputs, weight = self.network(batch["input"]), batch["weight"]
        name, score = self._score(outputs, batch["target"])
        rows = {"loss": self._losses(outputs, batch["target"]), name: score}
        return {f"validation/{tag}": (row * weight).sum(dim=1) / weight.sum(dim=1) for tag, row in rows.items()}

    def _losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """One loss for every row, `[S, B]`."""
        if self.config.loss == "cross_entropy":
            weights = self.class_weights
            if weights is not None:
                weights = weights.view(len(weights), *[1] * (outputs.dim() - 2), -1)
            return _per_row(cross_entropy(outputs, target, self.config.label_smoothing, weights))
        return _per_row(LOSSES[self.config.loss](outputs, like_outputs(target, outputs)))

    def _score(self, outputs: Tensor, target: Tensor) -> tuple[str, Tensor]:
        """The name and the values `[S, B]` of the score: the share of right labels, or the absolute error."""
        if self.config.loss == "cross_entropy":
            return "accuracy", _per_row(correct(outputs, target))
        return "absolute_error", _per_row((outputs - like_outputs(target, outputs)).abs())

    def scheduled(self, clock: Clock) -> Scheduled:
        """The learning rate and, to be logged, the epoch."""
        return {**self.optimizer.scheduled(clock), "train/epoch": clock.progress * self.config.epochs}

    def policy(self) -> nn.Module:
        """The network that learns; its tensors are `[S, ...]`."""
        return self.network

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with other weights: those of `policy().state_dict()` that `tensors` names."""
        self.network.load_state_dict(tensors, strict=False)

    def state(self) -> dict[str, Any]:
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state(),
            "dropout": draw_states(self.network),
            "augmentation": [generator.get_state() for generator in self._augmenting],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state(state["optimizer"])
        load_draw_states(self.network, state["dropout"])
        for generator, saved in zip(self._augmenting, state["augmentation"], strict=True):
            generator.set_state(saved)


def as_input(values: Tensor) -> Tensor:
    """What a network takes: numbers as float32, `bool` and `uint8` among them; other integers as int64."""
    whole = not (values.is_floating_point() or values.dtype in (torch.bool, torch.uint8))
    return values.long() if whole else values.float()


def like_outputs(target: Tensor, outputs: Tensor) -> Tensor:
    """Targets `[S, B]` for a network with one output, `[S, B, 1]`, as those; others as they are."""
    return target.unsqueeze(-1) if target.dim() == outputs.dim() - 1 and outputs.shape[-1] == 1 else target


def _per_row(values: Tensor) -> Tensor:
    """The mean over the axes after the rows: `[S, B, ...]` to `[S, B]`."""
    return values if values.dim() == 2 else values.flatten(2).mean(dim=2)


def _as_stack(network: nn.Module, seeds: Sequence[int]) -> nn.Module:
    if not isinstance(network, StackedNetwork):
        if len(seeds) != 1:
            raise UsageError(
                f"a plain module is one member and there are {len(seeds)} seeds. Give a NetworkSpec, or call it once "
                "for each seed."
            )
        return StackOfOne(network, Draws(seeds, "dropout/plain", "cpu", ahead=16))
    members = next(network.parameters()).shape[0]
    if members != len(seeds):
        raise UsageError(f"a stack of {members} networks does not fit {len(seeds)} seeds.")
    for index, module in enumerate(network.modules()):
        if isinstance(module, StackedDropout) and module.draws is None:  # as it comes from plain modules
            module.draws = draws_of_layer([(seed, "supervised") for seed in seeds], index)
    return network


def _check(settings: SupervisedSettings) -> None:
    if settings.loss not in LOSSES:
        raise unknown("loss", settings.loss, LOSSES)
    check_counts(settings, "epochs", "batch_size")
    check_shares_below_one(settings, "label_smoothing", "validation_fraction")
    if settings.patience is not None and settings.patience < 1:
        raise UsageError(f"patience {settings.patience} must be 1 validation or more; None never stops.")
    weights = settings.class_weights
    if isinstance(weights, str) and weights != "balanced":
        raise unknown("class_weights", weights, ["balanced"])
    if isinstance(weights, tuple) and not all(0.0 <= weight < math.inf for weight in weights):
        raise UsageError(f"class weights {weights} must be 0 or more.")
    if settings.loss != "cross_entropy" and (settings.label_smoothing or weights is not None):
        raise UsageError(f"label_smoothing and class_weights are for loss cross_entropy, not {settings.loss}.")
    augmentation(settings.augmentation)
