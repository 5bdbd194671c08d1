"""Cross-validation: every row is held out exactly once, and all folds and seeds are fitted at once as one stack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from rlab.errors import UsageError
from rlab.experience.examples import Examples, stratified_order
from rlab.learning.runtime import own_surroundings
from rlab.learning.supervised import SupervisedSettings
from rlab.learning.supervised_fit import Fitted, fit_examples
from rlab.networks.spec import NetworkSpec
from rlab.randomness import stream


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Outputs of networks for the rows that they did not learn from. K seeds, F folds, R rows."""

    seeds: tuple[int, ...]
    fold: np.ndarray  # [K, R] the fold in which each row was held out
    outputs: np.ndarray  # [K, R, ...] each row's from the network that did not learn from it
    metrics: dict[str, np.ndarray]  # `loss`, `accuracy` and the like, [K, F], each on its held-out rows
    fitted: tuple[Fitted, ...] = field(repr=False)  # one of K * F members, seed by seed, or K * F of one member


def cross_validate(
    network: NetworkSpec | Callable[[int], nn.Module],
    inputs: np.ndarray,
    targets: np.ndarray,
    settings: SupervisedSettings | None = None,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    should_stop: Callable[[], bool] = lambda: False,
    device: torch.device | str = "cpu",
) -> CrossValidation:
    """Fit `folds` networks for every seed, each to all rows but its fold's, and judge each on that fold.

    Each seed draws its own folds; with integer labels every class is spread over them to within a row (Kohavi
    1995). Nothing is stopped by held-out rows: `settings.validation_fraction` is taken out of what a network learns
    from.

    Args:
        network: a spec, which makes one stack of K * F networks; or a maker of plain modules by seed, which are fitted
            one after the other.
        inputs, targets, settings, should_stop: as in `fit`.

    Raises:
        UsageError: there are fewer rows than folds, or what `fit` raises.
    """
    with own_surroundings(None, int(seeds[0])):
        return _cross_validated(network, inputs, targets, settings, folds, seeds, should_stop, device)


def _cross_validated(
    network: NetworkSpec | Callable[[int], nn.Module],
    inputs: np.ndarray,
    targets: np.ndarray,
    settings: SupervisedSettings | None,
    folds: int,
    seeds: Sequence[int],
    should_stop: Callable[[], bool],
    device: torch.device | str,
) -> CrossValidation:
    rows = len(inputs)
    if not 2 <= folds <= rows:
        raise UsageError(f"{folds} folds of {rows} rows are impossible; use 2 folds or more, and not more than rows.")
    fold = np.stack([fold_of_rows(np.asarray(targets), folds, seed) for seed in seeds])  # [K, R]
    members = [(k, f) for k in range(len(seeds)) for f in range(folds)]
    held_out = [np.flatnonzero(fold[k] == f) for k, f in members]
    kept = [np.flatnonzero(fold[k] != f) for k, f in members]
    groups = [list(range(len(members)))] if isinstance(network, NetworkSpec) else [[m] for m in range(len(members))]
    fitted, found, outputs = [], [], []
    for group in groups:
        whole = Examples([seeds[members[m][0]] for m in group], inputs, targets, rows=[kept[m] for m in group])
        module = network if isinstance(network, NetworkSpec) else network(whole.seeds[0])
        done = fit_examples(module, whole, settings, should_stop=should_stop, device=device)
        validated = whole.subset([held_out[m] for m in group])
        fitted.append(done)
        found.append(done.judge(validated))
        outputs += list(done.outputs_of(validated))
    out_of_fold = np.zeros((len(seeds), rows, *outputs[0].shape[1:]), outputs[0].dtype)
    for (k, _), numbers, output in zip(members, held_out, outputs, strict=True):
        out_of_fold[k, numbers] = output[: len(numbers)]
    metrics = {
        tag.removeprefix("validation/"): np.concatenate([f[tag] for f in found]).reshape(len(seeds), folds)
        for tag in found[0]
    }
    return CrossValidation(tuple(seeds), fold, out_of_fold, metrics, tuple(fitted))


def fold_of_rows(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold `0 .. folds - 1` in which each row is held out, `[R]`; sizes differ by one row at most."""
    order = stratified_order(targets, stream(seed, "folds"))
    fold = np.empty(len(targets), np.int64)
    fold[order] = np.arange(len(targets)) % folds
    return fold
