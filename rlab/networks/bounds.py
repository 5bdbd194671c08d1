"""Which bounds of a Box are bounds at all, and which axis of an image holds its channels; plain numbers in and out."""

from collections.abc import Sequence

import numpy as np

from rlab.errors import UsageError

BY_SHAPE = "by shape"  # the place of the channels is not stated, so the shape decides
LAST, FIRST, UNCLEAR, NO_IMAGE = "last", "first", "unclear", ""
MIN_SIDE = 3  # pixels; an image with less has no room for a 3x3 convolution
MAX_FIRST = 16  # channels; a longer first axis is taken for channels only where the other two are alike and as long
LARGEST = 3.4e38  # float32 ends just above


def is_bound(bounds: float | Sequence[float] | np.ndarray, dtype: str) -> np.ndarray:
    """Which of a Box's bounds limit anything: not infinite ones, and not the largest number of the dtype.

    Some spaces state that number where they mean "no bound". It is an honest bound of integers of 8 and 16 bits, such
    as pixels. What float32 cannot hold is not a bound either: networks compute in float32.
    """
    kind = np.dtype(dtype)
    size = np.abs(np.asarray(bounds, np.float64))
    if kind.kind == "f":
        limit = min(float(np.finfo(kind).max), LARGEST)
    else:
        limit = float(np.iinfo(kind).max) if kind.kind in "iu" and kind.itemsize > 2 else np.inf
    return np.asarray(size < limit)


def inwards(bound: np.ndarray, towards: float) -> np.ndarray:
    """The float32 next to a bound that is not outside it.

    Args:
        towards: infinity for a lower bound, minus infinity for an upper one.
    """
    with np.errstate(over="ignore"):
        near = bound.astype(np.float32)
    outside = near < bound if towards > 0 else near > bound
    return np.where(outside, np.nextafter(near, np.float32(towards)), near)


def largest_bounds(low: float | Sequence[float], high: float | Sequence[float], dtype: str) -> np.ndarray:
    """By what numbers are divided so that they come within [-1, 1]: the larger absolute bound, one number where both
    bounds are; 1 where an element lacks a bound, or has bounds of 0."""
    size = np.maximum(np.abs(np.asarray(low, np.float64)), np.abs(np.asarray(high, np.float64)))
    return np.asarray(np.where(is_bound(low, dtype) & is_bound(high, dtype) & (size > 0), size, 1.0))


def channels_of(shape: Sequence[int], dtype: str, low: float | Sequence[float], high: float | Sequence[float]) -> str:
    """Where the channels of an image are: `last` or `first`; `unclear` where the shape leaves both open, and "" where
    a Box is not an image.

    An image has three axes, and is of uint8 or bool, or of other numbers with finite bounds and sides of `MIN_SIDE` or
    more. Two sides alike tell it, else the shortest axis does; where all three are alike they are last, as is usual in
    Gymnasium.
    """
    if len(shape) != 3:
        return NO_IMAGE
    place = _by_shape(*shape)
    if dtype in ("uint8", "bool"):
        return place
    limited = bool(is_bound(low, dtype).all() and is_bound(high, dtype).all())
    sides = shape[:2] if place == LAST else shape[1:]
    return place if limited and place != UNCLEAR and min(sides) >= MIN_SIDE else NO_IMAGE


def _by_shape(first: int, middle: int, last: int) -> str:
    could_be_last, could_be_first = min(first, middle) >= MIN_SIDE, min(middle, last) >= MIN_SIDE
    if not (could_be_last and could_be_first):
        return FIRST if could_be_first else LAST
    if first == middle or (last < first and last < middle):
        return LAST
    if (middle == last and first < middle) or (first < min(middle, last) and first <= MAX_FIRST):
        return FIRST
    return UNCLEAR


def unclear_channels(shape: Sequence[int], key: str = "") -> str:
    """What to say of an image that may have its channels first or last; `key` as in `to_last`."""
    return (
        f"an image of shape {tuple(shape)} may have its channels first or last. --wrapper {to_last(key)} moves them "
        f"from the first axis to the last one; --wrapper {to_last(key, axis=2)} says that they are last."
    )


def to_last(key: str = "", axis: int = 0) -> str:
    """The wrapper that says where an image has its channels; `key` is its place in a Dict or Tuple, as `front/left`."""
    settings = [f"axis={axis}"] * (axis != 0) + [f"key={key}"] * (key != "")
    return ":".join(["ChannelsLast", *([",".join(settings)] if settings else [])])


def inner_bounds(low: np.ndarray, high: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The outermost float32 numbers that are not outside the bounds.

    Raises:
        UsageError: a lower bound is not below its upper one, or no two float32 numbers lie between them; of `what`.
    """
    inner = inwards(low, np.inf), inwards(high, -np.inf)
    narrow = ~(inner[0] < inner[1])
    if narrow.any():
        first = np.flatnonzero(narrow)[0]
        least, most = float(low[first]), float(high[first])
        if not least < most:
            raise UsageError(
                f"{what} leave nothing to choose in number {first}: its lower bound, {least!r}, is not below its upper "
                f"one, {most!r}. Take it out of the space, and let a wrapper of your own add it to what the env gets."
            )
        raise UsageError(
            f"{what} leave nothing to choose in number {first}: float32, in which networks compute, cannot tell the "
            f"bounds {least!r} and {most!r} apart. Let the env take actions around 0, in [-1, 1] say, and "
            "shift and scale them itself."
        )
    return inner
