"""Whether a training state from the disk is one of this run: it is compared with the state that a fresh run has."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from rlab.door import check_counts, clean
from rlab.errors import RlabError
from rlab.runs.schema import MOST_STEPS

LARGEST = 2**63
# What loading a state raises that was edited.
LOADING = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError, AssertionError)
# The state of envs is theirs: what they cannot load they begin anew, or refuse.
POSITIVE = {"storage/chunk_rows": 2**32}  # and at most this
UNCHECKED = ("loop/collector/env",)


@contextmanager
def fitting(where: str) -> Iterator[None]:
    """While a state is loaded: what it lacks, or has of another kind, is one line.

    Raises:
        RlabError: naming `where` it came from.
    """
    try:
        yield
    except RlabError:
        raise
    except LOADING as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RlabError(f"{where} does not fit this run ({reason:.200}). Was it edited?") from error


def check_clock(state: Mapping[str, Any], unit: str, step: int, where: str) -> None:
    """Refuse a state without a clock, and one that no run of this many env steps at a time can show.

    Raises:
        RlabError: it is.
    """
    loop = state.get("loop")
    if not isinstance(loop, dict):
        raise RlabError(f"{where} has no state of the loop. Was it edited?")
    check_counts(where, MOST_STEPS, **{unit: loop.get(unit), "updates": loop.get("updates")})
    if loop[unit] % step:
        raise RlabError(f"{where}: {unit} {loop[unit]:,} is not a multiple of {step}, by which its clock goes on")


def check_like(saved: Any, fresh: Any, where: str, place: str = "") -> None:
    """Refuse a state with other keys, kinds of values, or kinds of tensors than a fresh one.

    What is empty or None in the fresh state may be anything: it comes with learning.

    Raises:
        RlabError: naming the place.
    """
    if fresh is None or place in UNCHECKED:
        return
    wrong = _difference(saved, fresh)
    if not wrong and place in POSITIVE and not 1 <= saved <= POSITIVE[place]:
        wrong = f"must be from 1 to {POSITIVE[place]:,}, and is {saved}"
    if wrong:
        raise RlabError(f"{where}: {place or 'the state'} {wrong}. Was it edited, or written by another rlab?")
    if isinstance(fresh, Mapping):
        for key, value in fresh.items():
            check_like(saved[key], value, where, f"{place}/{key}" if place else str(key))
    elif isinstance(fresh, list | tuple) and len(fresh) == len(saved):
        for index, (one, other) in enumerate(zip(saved, fresh, strict=True)):
            check_like(one, other, where, f"{place}/{index}")


def sound_rows(rows: dict[str, np.ndarray], options: Sequence[int], where: str) -> dict[str, np.ndarray]:
    """Rows of the storage as they are.

    Args:
        options: of each choice that an action makes; none where actions are floats.

    Raises:
        RlabError: a number is not finite, or an action is not one of the options.
    """
    for name, values in rows.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise RlabError(f"{where}: its rows have {name!r} that is NaN or infinite. Was it edited?")
    action = rows.get("action")
    if options and action is not None and action.dtype.kind in "iu" and action.size:
        taken = action.reshape(*action.shape[:3], -1)  # [S, N, rows, choices]
        if (taken < 0).any() or (taken >= np.array(options)).any():
            raise RlabError(f"{where}: its rows have an action that is none of {list(options)!r:.60}. Was it edited?")
    return rows


def _difference(saved: Any, fresh: Any) -> str | None:
    """How a value differs in kind from a fresh one; None where it does not."""
    if isinstance(fresh, Mapping):
        if not isinstance(saved, Mapping):
            return f"must be an object, not {clean(repr(saved)):.60}"
        lacking = sorted(str(key) for key in fresh.keys() - saved.keys())
        return f"lacks {lacking[0]!r}" if lacking else None
    if isinstance(fresh, torch.Tensor | np.ndarray):
        if type(saved) is not type(fresh) or saved.dtype != fresh.dtype or saved.ndim != fresh.ndim:
            found = f"{saved.dtype}, {saved.ndim} axes" if hasattr(saved, "dtype") else clean(repr(saved))
            return f"must be an array of {fresh.dtype} with {fresh.ndim} axes, not {found:.60}"
        if isinstance(fresh, torch.Tensor) and saved.shape != fresh.shape:  # arrays of NumPy may grow, as books do
            return f"must be a tensor {tuple(fresh.shape)}, not {tuple(saved.shape)!r:.60}"
        return None
    if isinstance(fresh, list | tuple):
        if not isinstance(saved, list | tuple) or (fresh and isinstance(fresh[0], Mapping) and not saved):
            return f"must be a list like {clean(repr(fresh)):.60}, not {clean(repr(saved)):.60}"
        return None
    if isinstance(fresh, bool | str):
        return None if type(saved) is type(fresh) else f"must be like {fresh!r:.60}, not {clean(repr(saved)):.60}"
    return _difference_of_numbers(saved, fresh)


def _difference_of_numbers(saved: Any, fresh: Any) -> str | None:
    if isinstance(saved, bool) or not isinstance(saved, int | float | np.generic):
        return f"must be a number, not {clean(repr(saved)):.60}"
    number: Any = saved.item() if isinstance(saved, np.generic) else saved
    if isinstance(fresh, int) and not isinstance(number, int):
        return f"must be a whole number, not {saved!r:.60}"
    if isinstance(fresh, int) and fresh >= 0 and number < 0:
        return f"must not be negative, and is {saved}"
    if isinstance(fresh, int) and abs(fresh) < LARGEST <= abs(number):
        return f"must be below 2^63, not {saved!r:.60}"
    return None
