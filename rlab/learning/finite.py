"""NaN or Inf anywhere stops a run within one update, and the error names the tensor and the member. Nothing that holds
one is saved, and nothing that holds one is gone on from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.errors import RlabError
from rlab.learning.contract import Agent, Batch
from rlab.learning.contract_checks import check_metrics
from rlab.learning.means import Means
from rlab.networks.finite import first_not_finite, in_words

# Minus infinity until a member was judged.
SCORES = ("best/score", "loop/early_stopping/best/score")
UNCHECKED = ("loop/collector/env", "loop/means")
ADVICE = "A lower --learning-rate, --max-grad-norm or --obs-scaling running often helps."
SQUARES_BELOW = 1e15  # in size: float32 holds the sum of a million squares of smaller numbers


def check_update(metrics: Mapping[str, Tensor], batch: Batch, agent: Agent, seeds: Sequence[int], updates: int) -> None:
    """Raise where an update went wrong. The sum of a loss and a gradient norm is finite only where everything is.

    Nothing is checked where the update reports no metrics; its weights are before they are saved.

    Raises:
        RlabError: naming the first tensor that is not finite, from the cause to the effect, and its member.
        UsageError: as `check_metrics`.
    """
    if not metrics:
        return
    try:
        total = torch.stack(list(metrics.values())).sum().item()
    except (RuntimeError, TypeError):
        check_metrics(agent, metrics, len(seeds))
        raise
    if not math.isfinite(total):
        _name_the_broken(suspects(metrics, batch), seeds, updates, _too_large(batch))


def check_sums(sums: Means, seeds: Sequence[int], updates: int) -> None:
    """Raise where something that updates of a program reported was not finite.

    Raises:
        RlabError: naming the first tensor that is not finite, and its member.
    """
    if not sums.finite():
        _name_the_broken(suspects(sums_of(sums), {}), seeds, updates)


def sums_of(sums: Means) -> dict[str, Tensor]:
    """The sum `[S]` of every metric."""
    return {name: total for name, (total, _) in sums.sums().items()}


def check_finite_agent(agent: Agent, seeds: Sequence[int], updates: int) -> None:
    """Raise where anything of an agent is not finite: weights, targets, moments, statistics. The last update may break
    a weight while its loss was still finite.

    Raises:
        RlabError: naming the first such tensor of the agent's `state()`, and its member.
    """
    what = _not_finite(agent.state(), seeds)
    if what is not None:
        raise RlabError(f"{what} is not finite at update {updates}; nothing was saved from it. {ADVICE}")


def check_saved(state: Mapping[str, Any], seeds: Sequence[int]) -> None:
    """Refuse a training state, as it is saved, in which a number is not finite that should be.

    Infinite may be what `SCORES` names. The state of envs is theirs, and the means of metrics are checked as they come:
    neither is looked at.

    Args:
        state: of a whole run.
        seeds: one training seed per member.

    Raises:
        RlabError: naming the first tensor or number that is not, its member, and how many updates were made.
    """
    what = _not_finite(state, seeds)
    if what is not None:
        raise RlabError(f"{what} is not finite at update {state['loop']['updates']}: no run can go on from that.")


def _not_finite(state: Mapping[str, Any], seeds: Sequence[int]) -> str | None:
    """The first tensor or number of a state that is not finite and should be, in words."""
    tensors: dict[str, Tensor] = {}
    broken = [where for where, value in _numbers(state, "") if not _taken(where, value, tensors)]
    found = first_not_finite(tensors)
    if found is not None:
        return in_words(found, seeds)
    return repr(broken[0]) if broken else None


def _numbers(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts, lists and tuples, each with the keys that lead to it."""
    if place in UNCHECKED:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{place}/{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{place}/{index}")
    else:
        yield place, value


def _taken(place: str, value: Any, tensors: dict[str, Tensor]) -> bool:
    """Put a leaf that has to be finite among the tensors that are looked at; false for a number that is not."""
    if place in SCORES:
        return True
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
        value = torch.from_numpy(np.array(value, np.float64))
    if isinstance(value, Tensor):
        tensors[place] = value
    return not isinstance(value, float) or math.isfinite(value)


def _too_large(batch: Batch) -> str:
    """What to do about rewards or observations whose sums float32 cannot square; "" where they are not the cause."""
    for what, named, scaling in (("Rewards", _of_rewards, "reward"), ("Observations", _of_observations, "obs")):
        tensors = {name: tensor for name, tensor in batch.items() if named(name) and tensor.is_floating_point()}
        sizes = {name: tensor.abs().nan_to_num(0.0, 0.0).max().item() for name, tensor in tensors.items()}
        name = max(sizes, key=sizes.__getitem__, default="")
        if name and sizes[name] >= SQUARES_BELOW:
            return (
                f"{what} are the cause: {name!r} of the batch reaches {sizes[name]:.3g}, whose square float32 does not "
                f"hold. Divide them in the env, or use --{scaling}-scaling running where the agent has it."
            )
    return ""


def _of_rewards(name: str) -> bool:
    return any(word in name for word in ("reward", "return", "advantage"))


def _of_observations(name: str) -> bool:
    return name in ("obs", "next_obs")


def _name_the_broken(named: Iterator[tuple[str, Tensor]], seeds: Sequence[int], updates: int, cause: str = "") -> None:
    for name, tensor in named:
        broken = ~torch.isfinite(tensor).flatten(1).all(dim=1) if tensor.dim() > 1 else ~torch.isfinite(tensor)
        if broken.any():
            seed = seeds[int(broken.nonzero()[0])]
            raise RlabError(
                f"{name} of the member with seed {seed} is not finite at update {updates}; nothing was saved from it. "
                + (cause or ADVICE)
            )


def suspects(metrics: Mapping[str, Tensor], batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """What may not be finite where an update went wrong, by name, from the cause to the effect."""
    for name, tensor in batch.items():
        if tensor.is_floating_point():
            # -inf is the value of an action that a mask forbids
            yield f"batch tensor {name!r}", tensor.masked_fill(tensor.isneginf(), 0.0)
    # In the order in which they were worked out, so that the metrics show whether loss or gradient came first.
    for name, tensor in metrics.items():
        yield f"metric {name!r}", tensor
