"""Checks of observations, one by one or in batches; those that pass become arrays of rlab's own."""

import operator
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from rlab.envs.checks import TOO_LARGE, EnvError, as_array, shown
from rlab.networks.limits import (
    Bounds,
    all_integer_bounds,
    first_outside,
    held_by_float32,
    integer_bounds,
    space_words,
    squares_below,
)
from rlab.networks.spaces import Dict, Discrete, Leaf, Masked, Space, Tuple

Collector = Callable[[Any, list[np.ndarray]], None]  # appends the leaves of an observation, each as a row of numbers


def obs_reader(space: Space) -> Callable[[Any], Any]:
    """A function that checks one observation of an env and gives its array form, a copy.

    An array may come as a list, and in another dtype where nothing is lost: integers as floats, float64 as float32
    (rounded; a number too large for it is refused), never floats as integers. Shapes must agree, since NumPy would
    silently broadcast `(1,)` to `(3,)`.

    Floats beyond the bounds of a Box pass, integers beyond them are refused: in many published envs rounding and
    integration exceed the stated bounds, and a network can read such a number; an integer outside its space has no
    place in a one-hot row or a table. NaN and infinity pass here too: they are checked for whole batches.
    """
    if isinstance(space, Masked):
        raise ValueError("the mask is read apart")
    if not isinstance(space, Dict | Tuple):
        return _leaf_reader(space, "its observation")
    collect, dtype = _collector(space, "its observation"), np.dtype(space.dtype)

    def read(obs: Any) -> np.ndarray:
        parts: list[np.ndarray] = []
        collect(obs, parts)
        return np.concatenate(parts, dtype=dtype, casting="unsafe")  # which holds all values exactly

    return read


def _collector(space: Space, place: str) -> Collector:
    if isinstance(space, Dict):
        return _dict_collector(space, place)
    if isinstance(space, Tuple):
        return _tuple_collector(space, place)
    assert not isinstance(space, Masked)  # it is never a part
    read, size = _leaf_reader(space, place), prod(space.shape)

    def collect(obs: Any, parts: list[np.ndarray]) -> None:
        parts.append(read(obs).reshape(size))

    return collect


def _dict_collector(space: Dict, place: str) -> Collector:
    items = [(name, _collector(part, f"the part {name!r} of {place}")) for name, part in space.items]
    names = {name for name, _ in items}

    def collect(obs: Any, parts: list[np.ndarray]) -> None:
        if not isinstance(obs, Mapping):
            raise _misfit(shown(obs), place, space)
        if obs.keys() != names:
            missing, extra = sorted(names - obs.keys()), sorted(map(str, obs.keys() - names))
            found = f"without the part {missing[0]!r}" if missing else f"with a part {extra[0]!r}"
            raise _misfit(f"a dict {found}", place, space)
        for name, part in items:
            part(obs[name], parts)

    return collect


def _tuple_collector(space: Tuple, place: str) -> Collector:
    items = [_collector(part, f"part {index} of {place}") for index, part in enumerate(space.items)]

    def collect(obs: Any, parts: list[np.ndarray]) -> None:
        if not isinstance(obs, tuple | list):
            raise _misfit(shown(obs), place, space)
        if len(obs) != len(items):
            raise _misfit(f"a tuple of {len(obs)}", place, space)
        for part, value in zip(items, obs, strict=True):
            part(value, parts)

    return collect


def _leaf_reader(leaf: Leaf, place: str) -> Callable[[Any], Any]:
    """A function that makes an array (a NumPy integer for a Discrete) from what an env gave for a leaf."""
    if isinstance(leaf, Discrete):
        return _discrete_reader(leaf, place)
    dtype, shape, bounds = np.dtype(leaf.dtype), leaf.shape, integer_bounds(leaf)

    def read(obs: Any) -> np.ndarray:
        array = obs if type(obs) is np.ndarray else as_array(obs)
        if array is None or array.dtype.kind not in "biuf":
            raise _misfit(shown(obs), place, leaf)
        if array.shape != shape:
            raise _misfit(f"an array of shape {array.shape}", place, leaf)
        if array.dtype != dtype:
            return _cast(array, dtype, leaf, place)
        if bounds is not None:
            _check_bounds(array, bounds, leaf, place)
        return array.copy()

    return read


def _discrete_reader(leaf: Discrete, place: str) -> Callable[[Any], np.int64]:
    first, end = leaf.start, leaf.start + leaf.n

    def read(obs: Any) -> np.int64:
        number = obs if type(obs) is int else _integer(obs)
        if number is None or not first <= number < end:
            raise _misfit(shown(obs), place, leaf)
        return np.int64(number)

    return read


def _integer(value: Any) -> int | None:
    """An integer, also one in an array without axes; None for anything else, also for floats."""
    if isinstance(value, np.ndarray | np.bool_):
        return int(value) if value.shape == () and value.dtype.kind in "biu" else None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _cast(array: np.ndarray, dtype: np.dtype, leaf: Leaf, place: str) -> np.ndarray:
    """A copy in the dtype of its space, where that holds the values."""
    if dtype.kind == "f":
        if array.dtype.kind == "f" and not squares_below(array, float(np.finfo(dtype).max)):
            return _cast_large(array, dtype, place)
        return array.astype(dtype)
    if array.dtype.kind == "f":
        raise _misfit(f"{array.dtype} numbers", place, leaf)
    _check_bounds(array, all_integer_bounds(leaf), leaf, place)
    return array.astype(dtype)


def _cast_large(array: np.ndarray, dtype: np.dtype, place: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    lost = np.isinf(cast) & ~np.isinf(array)
    if lost.any():
        raise EnvError("observation", f"gave {float(array[lost][0])} in {place}", f"which {dtype} does not hold")
    return cast


def _check_bounds(array: np.ndarray, bounds: Bounds, leaf: Leaf, place: str) -> None:
    outside = first_outside(array, bounds)
    if outside is not None:
        raise _misfit(f"an array with the value {array[outside].item()}", place, leaf)


def rows_look(leaf: Leaf) -> Callable[[np.ndarray], tuple[int, EnvError] | None]:
    """A function that checks observations `[n, *leaf]` of a vector env: the first row outside its space, and why.

    Shape and dtype of the batch must be right; floats are not checked (see `float32_holds`).
    """
    bounds = integer_bounds(leaf)

    def look(obs: np.ndarray) -> tuple[int, EnvError] | None:
        outside = None if bounds is None else first_outside(obs, bounds)
        if outside is None:
            return None
        value = str(obs[outside].item())
        return outside[0], _misfit(f"an array with the value {value}" if leaf.shape else value, "its observation", leaf)

    return look


def first_not_held(name: str, values: np.ndarray) -> tuple[int, EnvError]:
    """The first row of `values [n, ...]` for which `float32_holds` is false, and why.

    Args:
        name: `observation`, `reward` or `action`.
    """
    held = held_by_float32(values)
    place = tuple(np.argwhere(~held)[0].tolist())
    number = float(values[place])
    did = "was given" if name == "action" else "gave"
    if not np.isfinite(number):
        return place[0], EnvError("not finite", f"{did} a non-finite {name}", str(values[place[0]]))
    what = f"gave a reward of {number}" if name == "reward" else f"{did} an {name} with {number}"
    return place[0], EnvError(name, what, TOO_LARGE)


def _misfit(found: str, place: str, space: Space) -> EnvError:
    return EnvError("observation", f"gave {found} as {place}", f"but the space is {space_words(space)}")
