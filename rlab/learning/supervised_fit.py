"""Fit a network to labelled arrays: the data, the learner and the loop put together in one call."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.experience.examples import EpochSampler, Examples
from rlab.learning.base_loop import Periods
from rlab.learning.contract import LoopListener
from rlab.learning.dataset_loop import VALIDATED_ROWS, DatasetLoop, validation_metrics
from rlab.learning.early_stopping import EarlyStopping
from rlab.learning.runtime import own_surroundings
from rlab.learning.supervised import StackOfOne, Supervised, SupervisedSettings, as_input, like_outputs
from rlab.learning.supervised_losses import balanced_weights, check_class_weights, check_labels
from rlab.networks.spec import NetworkSpec, build
from rlab.networks.torch_defaults import with_usual_torch

NEVER = 2**62  # updates; longer than any run

Row = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A network that was fitted, and how it went."""

    network: nn.Module  # as it was given, or the stack of a spec; in evaluation mode
    seeds: tuple[int, ...]
    updates: int  # per member; with early stopping those of the last member to stop
    finished: bool  # false where `should_stop` ended the fit
    best_update: np.ndarray  # [S] when the weights in `network` were reached
    history: tuple[Row, ...]  # the metrics after every epoch; `updates` is the time
    validation: dict[str, np.ndarray]  # `validation/loss` and so on, [S], of the weights in `network`; or empty
    learner: Supervised = field(repr=False)

    @with_usual_torch
    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """Every member's outputs for `inputs [R, ...]`: `[S, R, ...]`."""
        shared = torch.from_numpy(np.asarray(inputs)).unsqueeze(0)
        return self._outputs(shared.expand(len(self.seeds), *shared.shape[1:]))

    @with_usual_torch
    def outputs_of(self, examples: Examples) -> np.ndarray:
        """Every member's outputs for its own rows, `[S, R, ...]`; outputs after a member's last row are padding."""
        return self._outputs(examples.rows()["input"])

    @with_usual_torch
    def judge(self, examples: Examples) -> dict[str, np.ndarray]:
        """The loss and the score `[S]` of every member on its rows, as `validation` has them."""
        return validation_metrics(self.learner, examples.rows())

    @torch.no_grad()
    def _outputs(self, inputs: Tensor) -> np.ndarray:
        network, device = self.learner.network, self.learner.device
        parts = [as_input(part.to(device)) for part in inputs.split(VALIDATED_ROWS, dim=1)]
        found: np.ndarray = torch.cat([network(part).cpu() for part in parts], dim=1).numpy()
        return found


class History:
    """A listener that keeps every row."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        self.rows.append({"updates": np.array(env_steps), **metrics})

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None: ...

    def on_save(self, env_steps: int) -> None: ...


def fit(
    network: NetworkSpec | nn.Module,
    inputs: np.ndarray,
    targets: np.ndarray,
    settings: SupervisedSettings | None = None,
    seeds: Sequence[int] = (0,),
    listeners: Sequence[LoopListener] = (),
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Fit a network to labelled arrays.

    Args:
        network: a spec, from which every seed gets its own network, in one stack; or a stack with one member for
            each seed, or any plain module (one seed), which are trained in place.
        inputs: `[R, ...]` in the form that the network takes after the batch axis; images as `[R, C, H, W]`.
        targets: class labels `[R]` counted from 0, or numbers `[R, outputs]`, or `[R]` for a single output.
        settings: None takes the defaults.
        listeners: hear a row of metrics after every epoch, the clock in updates.
        validation: held-out inputs and targets, instead of `settings.validation_fraction`.
        should_stop: called after every update; true ends the fit.

    Raises:
        UsageError: data, network, settings and seeds do not fit each other.
        RlabError: a number became NaN or infinite.
    """
    examples = Examples(seeds, inputs, targets)
    held_out = None if validation is None else Examples(seeds, *validation)
    return fit_examples(network, examples, settings, listeners, held_out, should_stop, device)


def fit_examples(
    network: NetworkSpec | nn.Module,
    examples: Examples,
    settings: SupervisedSettings | None = None,
    listeners: Sequence[LoopListener] = (),
    validation: Examples | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    device: torch.device | str = "cpu",
) -> Fitted:
    """As `fit`, with examples that may differ between members."""
    with own_surroundings(None, int(examples.seeds[0])):
        history = History()
        loop = make_loop(network, examples, settings, [history, *listeners], validation, should_stop, device)
        finished = loop.run()
        learner: Any = loop.agent
        stopping = loop.early_stopping
        with torch.no_grad():
            for parameter in learner.network.parameters():
                parameter.data = parameter.data.clone()  # no view of the optimizer's: safetensors refuses those
        own = learner.network
        return Fitted(
            network=own.module if isinstance(own, StackOfOne) else own,
            seeds=examples.seeds,
            updates=loop.updates,
            finished=finished,
            best_update=(
                stopping.best.reached_at.copy()
                if stopping is not None and finished
                else np.full(len(examples.seeds), loop.updates)
            ),
            history=tuple(history.rows),
            validation={} if loop.validation is None else loop.validate(),
            learner=learner,
        )


@with_usual_torch
def make_loop(
    network: NetworkSpec | nn.Module,
    examples: Examples,
    settings: SupervisedSettings | None = None,
    listeners: Sequence[LoopListener] = (),
    validation: Examples | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    device: torch.device | str = "cpu",
) -> DatasetLoop:
    """The loop that `fit` runs; with its `state` and `load_state` a fit can be interrupted and resumed."""
    settings, seeds = settings or SupervisedSettings(), examples.seeds
    if validation is None and settings.validation_fraction:
        examples, validation = examples.split(settings.validation_fraction)
    rows = int(examples.sizes.max())
    settings = replace(settings, batch_size=min(settings.batch_size, rows))
    module = build(network, seeds, "supervised") if isinstance(network, NetworkSpec) else network
    learner = Supervised(module.to(device), settings, seeds)
    outputs = _first_outputs(learner, examples)
    for part in (examples, validation):
        if part is not None:
            _check_targets(settings.loss, part, outputs)
    learner.class_weights = _class_weights(settings, examples, outputs.shape[-1], learner.device)
    agent: Any = learner  # it has what the loop needs of an agent, but does not act
    updates = math.ceil(settings.epochs * rows / settings.batch_size)
    stops = validation is not None or settings.patience is not None
    return DatasetLoop(
        agent,
        seeds,
        EpochSampler(examples, DatasetLoop.stream_use, learner.device),
        updates,
        Periods(math.ceil(rows / settings.batch_size), NEVER, NEVER),
        listeners=listeners,
        should_stop=should_stop,
        validation=None if validation is None else validation.rows(),
        early_stopping=EarlyStopping(len(seeds), settings.patience) if stops else None,
    )


@torch.no_grad()
def _first_outputs(learner: Supervised, examples: Examples) -> Tensor:
    """The network's outputs for one row, `[S, 1, ...]`, which also checks that it can read the inputs."""
    rows = examples.rows(limit=1)
    try:
        outputs: Tensor = learner.network(as_input(rows["input"].to(learner.device)))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"the network cannot read inputs of shape {list(examples.input_shape)}: {reason}") from error
    if outputs.dim() < 3 or outputs.shape[:2] != (len(learner.seeds), 1):
        raise UsageError(f"the network must give outputs [S, B, ...], not {list(outputs.shape)} for a single row.")
    return outputs


def _check_targets(loss: str, examples: Examples, outputs: Tensor) -> None:
    targets = examples.member_targets(0)
    if loss == "cross_entropy":
        for member in range(len(examples.seeds)):
            check_labels(examples.member_targets(member), outputs.shape[-1])
        fits = targets.shape[1:] == outputs.shape[2:-1]
    else:
        row = torch.from_numpy(targets[:1]).unsqueeze(0)
        fits = like_outputs(row, outputs).shape[2:] == outputs.shape[2:]
    if not fits:
        raise UsageError(
            f"targets of shape {list(targets.shape[1:])} do not fit a network with outputs "
            f"{list(outputs.shape[2:])} under the loss {loss}."
        )


def _class_weights(
    settings: SupervisedSettings, examples: Examples, classes: int, device: torch.device
) -> Tensor | None:
    """`[S, C]`: balanced over each member's own rows, or as they are given."""
    members = len(examples.seeds)
    if settings.class_weights is None:
        return None
    if settings.class_weights == "balanced":
        weights = np.stack([balanced_weights(examples.member_targets(i), classes) for i in range(members)])
        return torch.from_numpy(weights).float().to(device)
    given = tuple(float(weight) for weight in settings.class_weights)
    check_class_weights(given, classes)
    return torch.tensor(given, device=device).expand(members, classes)
