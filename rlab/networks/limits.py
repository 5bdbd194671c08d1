"""Which numbers a space takes: the integers of each element, the floats that float32 holds, and a space in words."""

from typing import Any

import numpy as np

from rlab.networks.spaces import Box, Dict, Discrete, Leaf, Masked, MultiBinary, MultiDiscrete, Space, Tuple

FLOAT32_MAX = float(np.finfo(np.float32).max)

Bounds = tuple[np.ndarray | int, np.ndarray | int]  # least and greatest integer, for all elements or for each


def integer_bounds(leaf: Leaf) -> Bounds | None:
    """The least and the greatest integer of each element, `[*leaf]` or one number for all; None where the dtype of the
    leaf holds no others, or holds floats."""
    dtype = np.dtype(leaf.dtype)
    if dtype.kind not in "iu":
        return None
    low, high = all_integer_bounds(leaf)
    limits = np.iinfo(dtype)
    if np.all(low == limits.min) and np.all(high == limits.max):
        return None
    return low, high


def all_integer_bounds(leaf: Leaf) -> Bounds:
    """The least and the greatest value of an integer leaf's elements, both of them allowed."""
    if isinstance(leaf, Discrete):
        return leaf.start, leaf.start + leaf.n - 1
    if isinstance(leaf, MultiBinary):
        return 0, 1
    if isinstance(leaf, MultiDiscrete):
        start = np.array(leaf.start, np.int64).reshape(leaf.shape)
        return start, start + np.array(leaf.nvec, np.int64).reshape(leaf.shape) - 1
    dtype = np.dtype(leaf.dtype)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)

    def integers(bounds: Any) -> np.ndarray | int:
        # Stored as floats, which round the largest int64 up: the dtype's own limits stand for what lies beyond.
        if not isinstance(bounds, tuple):
            return int(min(max(bounds, limits[0]), limits[1]))
        found = [int(min(max(bound, limits[0]), limits[1])) for bound in bounds]
        return np.array(found, np.uint64 if dtype.kind == "u" else np.int64).reshape(leaf.shape)

    return integers(leaf.low), integers(leaf.high)


def first_outside(array: np.ndarray, bounds: Bounds) -> tuple[int, ...] | None:
    """Where the first integer outside its bounds is, in `array [*leaf]` or `[n, *leaf]`."""
    inside = (array >= bounds[0]) & (array <= bounds[1])
    if np.count_nonzero(inside) == inside.size:
        return None
    return tuple(np.argwhere(~inside)[0].tolist())


def float32_holds(values: np.ndarray) -> bool:
    """Whether every one of these floats is finite, and float32 holds it: networks and storage work with float32."""
    return squares_below(values, FLOAT32_MAX) or bool(held_by_float32(values).all())


def held_by_float32(values: np.ndarray) -> np.ndarray:
    """Which of these floats are finite and within float32: NaN says no to any comparison."""
    return np.asarray(np.abs(values.astype(np.float64, copy=False)) <= FLOAT32_MAX)


def squares_below(values: np.ndarray, limit: float) -> bool:
    """The quick look, one product: where the sum of squares is below `limit`, so is each number; NaN says no.

    `vdot` is the one product of NumPy's that overflows without a warning.
    """
    return float(np.vdot(values, values)) < limit  # a float: float16 would not hold the limit


def space_words(space: Space) -> str:
    """A space for people, with the integers that it takes."""
    if isinstance(space, Discrete):
        return f"Discrete({space.n}), the integers {space.start} to {space.start + space.n - 1}"
    if isinstance(space, MultiDiscrete):
        starts = f" from {list(space.start)}" if any(space.start) else ""
        return f"MultiDiscrete({list(space.nvec)}){starts}"
    if isinstance(space, MultiBinary):
        return f"MultiBinary{space.shape}, zeros and ones"
    if isinstance(space, Box) and np.dtype(space.dtype).kind in "iu":
        low, high = all_integer_bounds(space)
        return f"{space}, integers" if isinstance(low, np.ndarray) else f"{space}, the integers {low} to {high}"
    return str(space)


def same_form(one: Space, other: Space) -> bool:
    """Whether two spaces differ in nothing but the bounds of their Boxes, which a network does not depend on."""
    if isinstance(one, Box) and isinstance(other, Box):
        return (one.shape, one.dtype) == (other.shape, other.dtype)
    if isinstance(one, Dict) and isinstance(other, Dict):
        names = [name for name, _ in one.items] == [name for name, _ in other.items]
        return names and all(map(same_form, one.parts, other.parts))
    if isinstance(one, Tuple) and isinstance(other, Tuple):
        return len(one.items) == len(other.items) and all(map(same_form, one.parts, other.parts))
    if isinstance(one, Masked) and isinstance(other, Masked):
        return one.size == other.size and same_form(one.obs, other.obs)
    return one == other
