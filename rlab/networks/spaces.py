"""Observation and action spaces as plain data: what a policy folder can carry without Gymnasium.

Every space has an **array form**, in which replay, rollouts and evaluation handle it: one array of `shape` and `dtype`.
Box, Discrete, MultiDiscrete and MultiBinary are arrays already; `pack` makes one vector of everything else.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import prod
from typing import Any, ClassVar, Union, cast

import numpy as np

from rlab.errors import UsageError
from rlab.networks.bounds import BY_SHAPE, FIRST, LAST, NO_IMAGE, UNCLEAR, channels_of, unclear_channels
from rlab.networks.space_schema import check_space
from rlab.types import Json

Bounds = float | tuple[float, ...]
MASK_KEY = "action_mask"  # of an env's info or Dict observation; the name that Gymnasium's own envs use
# Dtype -> the dtypes of which it holds every number exactly, and the range of the integers that it does.
HOLDS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "uint8": (("uint8", "bool"), 0, 255),
    "int32": (("uint8", "bool", "int8", "uint16", "int16", "int32"), 1 - 2**31, 2**31 - 1),
    "float32": (("uint8", "bool", "int8", "uint16", "int16", "float16", "float32"), -(2**24), 2**24),
}
MAX_FEATURES = 10_000_000  # a first layer of 64 units would already take 2.4 GiB


class _Kind:
    """What all spaces share: a name in files, and fields that files hold as they are."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """What files hold of it; `space_from_json` gives it back."""
        return {"kind": self.kind, **{f.name: _to_json(getattr(self, f.name)) for f in fields(cast(Any, self))}}


@dataclass(frozen=True)
class Box(_Kind):
    """Arrays of one shape. With three axes it may be an image: see `bounds.channels_of`.

    `low` and `high` are one number where all elements share it, else one number per element in row-major order.
    `channels` says where an image has them; the shape decides unless it is stated. With `frames` above 1 an array is a
    stack of the episode's newest so many frames, oldest first, with zeros for those before its beginning: they lie one
    behind the other along `frame_axis`. Spaces that differ in these two are equal: their arrays are.
    """

    kind = "box"
    shape: tuple[int, ...]
    dtype: str
    low: Bounds
    high: Bounds
    channels: str = field(default=BY_SHAPE, compare=False)
    frames: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        if self.channels == BY_SHAPE:
            object.__setattr__(self, "channels", channels_of(self.shape, self.dtype, self.low, self.high))

    @property
    def is_image(self) -> bool:
        """Whether it has a height, a width and channels, wherever these are."""
        return self.channels != NO_IMAGE

    @property
    def image_size(self) -> tuple[int, int, int]:
        """Height, width and channels of an image.

        Raises:
            UsageError: the shape does not tell which axis holds the channels.
        """
        if self.channels == UNCLEAR:
            raise UsageError(unclear_channels(self.shape))
        a, b, c = self.shape
        return (b, c, a) if self.channels == FIRST else (a, b, c)

    @property
    def frame_axis(self) -> int:
        """The axis along which the frames of a stack lie: that of an image's channels, else the last one."""
        return 0 if self.channels == FIRST else len(self.shape) - 1

    def to_json(self) -> dict[str, Any]:
        unsaid = {"channels": len(self.shape) != 3, "frames": self.frames == 1}
        return {name: value for name, value in super().to_json().items() if not unsaid.get(name)}

    def __str__(self) -> str:  # the bounds may be one number per element
        return f"Box({self.shape}, {self.dtype})"


@dataclass(frozen=True)
class Discrete(_Kind):
    """The integers `start .. start + n - 1`."""

    kind = "discrete"
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[str] = "int64"
    n: int
    start: int = 0


@dataclass(frozen=True)
class MultiDiscrete(_Kind):
    """Several integers at once: element i is in `start[i] .. start[i] + nvec[i] - 1`, row-major where 2-D or more."""

    kind = "multi_discrete"
    dtype: ClassVar[str] = "int64"
    nvec: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MultiBinary(_Kind):
    """Arrays of zeros and ones."""

    kind = "multi_binary"
    dtype: ClassVar[str] = "int8"
    shape: tuple[int, ...]


class _Packed(_Kind):
    """A space whose array form is the vector of all its leaves, one after another."""

    @property
    def parts(self) -> tuple["Space", ...]:
        raise NotImplementedError

    @cached_property  # these two are asked for at every env step
    def shape(self) -> tuple[int, ...]:
        return (sum(prod(part.shape) for part in self.parts),)

    @cached_property
    def dtype(self) -> str:
        return _common_dtype([leaf for part in self.parts for leaf in leaves(part)])


@dataclass(frozen=True)
class Dict(_Packed):
    """Named parts, in the order in which they are packed."""

    kind = "dict"
    items: tuple[tuple[str, "Space"], ...]

    @property
    def parts(self) -> tuple["Space", ...]:
        return tuple(space for _, space in self.items)

    def __str__(self) -> str:
        return f"Dict({', '.join(f'{name}: {space}' for name, space in self.items)})"


@dataclass(frozen=True)
class Tuple(_Packed):
    """Parts in order."""

    kind = "tuple"
    items: tuple["Space", ...]

    @property
    def parts(self) -> tuple["Space", ...]:
        return self.items

    def __str__(self) -> str:
        return f"Tuple({', '.join(map(str, self.items))})"


@dataclass(frozen=True)
class Masked(_Packed):
    """An observation with the mask of allowed actions behind it, never a part of another space.

    `size` bits, one for each option of each choice that an action makes (see `choices`).
    """

    kind = "masked"
    obs: "Space"
    size: int

    @property
    def parts(self) -> tuple["Space", ...]:
        return (self.obs, MultiBinary((self.size,)))

    def __str__(self) -> str:
        return f"{self.obs} with a mask of {self.size} actions"


Leaf = Box | Discrete | MultiDiscrete | MultiBinary
Space = Union[Leaf, Dict, Tuple, Masked]  # noqa: UP007  # the classes above name it before it exists
KINDS: dict[str, Any] = {k.kind: k for k in (Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple, Masked)}


def leaves(space: Space) -> Iterator[Leaf]:
    """The spaces that are arrays by themselves, in the order in which they are packed."""
    if isinstance(space, _Packed):
        for part in space.parts:
            yield from leaves(part)
    else:
        yield space


def pack(space: Space, obs: Any, mask: Any = None) -> np.ndarray:
    """The array form of an observation, or of a batch of them (each leaf then leads with the same axes).

    Args:
        obs: what the env gave: an array, a number, or dicts and tuples of these. For a masked space either the
            observation alone, with `mask` beside it, or a dict that holds the mask under `action_mask`.
        mask: the actions allowed, for a masked space; None allows all.

    Raises:
        UsageError: a part is missing or has another shape than its space says.
    """
    if not isinstance(space, _Packed):
        return _leaf_array(space, obs)
    inner = space.obs if isinstance(space, Masked) else space
    flat = [_flat(leaf, value) for leaf, value in _leaf_values(inner, obs)]
    if isinstance(space, Masked):
        if mask is None and isinstance(obs, Mapping):
            mask = obs.get(MASK_KEY)
        flat.append(np.ones((*flat[0].shape[:-1], space.size)) if mask is None else _bits(space, mask))
    lead = {part.shape[:-1] for part in flat}
    if len(lead) > 1:
        raise UsageError(f"the parts of an observation {space} differ in their batch: {', '.join(map(str, lead))}.")
    # as the space's dtype, which holds all values exactly: NumPy alone would not make an int64 a uint8
    return np.concatenate([part.astype(space.dtype, copy=False) for part in flat], axis=-1)


def feature_shape(space: Space) -> tuple[int, ...]:
    """The shape of one observation as a network sees it: `(channels, height, width)` of an image, else `(features,)`.

    `Preprocess` makes these features; a mask is none of them.

    Raises:
        UsageError: they are too many, as of one integer out of a thousand million, or the channels of an image may be
            first or last.
    """
    obs = space.obs if isinstance(space, Masked) else space
    if isinstance(obs, Box) and obs.is_image:
        height, width, channels = obs.image_size
        return channels, height, width
    features = sum(leaf_features(leaf) for leaf in leaves(obs))
    if features > MAX_FEATURES:
        raise UsageError(f"observations {obs} would be {features} features; more than {MAX_FEATURES} are not taken.")
    return (features,)


def leaf_features(leaf: Leaf) -> int:
    """How many features a leaf becomes: integers are one-hot, one feature for each value that they can have."""
    return sum(choices(leaf)) or prod(leaf.shape)


def choices(space: Space) -> tuple[int, ...]:
    """How many options each choice has that an action makes: `(n,)`, or the `nvec`. Other spaces make none.

    A mask of actions has a bit for each option of each choice, in this order.
    """
    if isinstance(space, Discrete):
        return (space.n,)
    return space.nvec if isinstance(space, MultiDiscrete) else ()


def space_from_json(data: Json) -> Space:
    """The space that `to_json` wrote.

    Raises:
        RlabError: the kind is not one that this version knows, or a value is invalid.
    """
    check_space(data)
    kind = data["kind"]
    values = {name: _from_json(value) for name, value in data.items() if name != "kind"}
    if kind == "box":
        low, high = _bounds_from_json(data["low"]), _bounds_from_json(data["high"])
        # Before the place of the channels was written down, they were last, and images were uint8 or bool.
        was_image = len(data["shape"]) == 3 and data["dtype"] in ("uint8", "bool")
        values = {"channels": LAST if was_image else NO_IMAGE, **values, "low": low, "high": high}
    space: Space = KINDS[kind](**values)
    return space


def _leaf_values(space: Space, obs: Any) -> Iterator[tuple[Leaf, Any]]:
    if isinstance(space, Dict):
        for name, part in space.items:
            if not isinstance(obs, Mapping) or name not in obs:
                raise UsageError(f"an observation {space} needs a part {name!r}.")
            yield from _leaf_values(part, obs[name])
    elif isinstance(space, Tuple):
        if not isinstance(obs, Sequence) or len(obs) != len(space.items):
            raise UsageError(f"an observation {space} needs {len(space.items)} parts.")
        for part, value in zip(space.items, obs, strict=True):
            yield from _leaf_values(part, value)
    else:
        assert not isinstance(space, Masked)  # it is never a part
        yield space, obs


def _bits(space: Masked, mask: Any) -> np.ndarray:
    """A mask as zeros and ones `[..., size]`."""
    bits = _joined(mask) != 0
    if bits.shape[-1:] != (space.size,):
        raise UsageError(f"a mask of shape {bits.shape} does not fit; expected {space.size} zeros and ones.")
    return bits


def _joined(mask: Any) -> np.ndarray:
    """Gymnasium writes the mask of a MultiDiscrete as a tuple of arrays, a tuple of tuples where it is 2-D."""
    return np.concatenate([_joined(part) for part in mask], axis=-1) if isinstance(mask, tuple) else np.asarray(mask)


def _leaf_array(leaf: Leaf, value: Any) -> np.ndarray:
    array = np.asarray(value)
    lead = array.ndim - len(leaf.shape)
    if lead < 0 or array.shape[lead:] != leaf.shape:
        raise UsageError(f"an observation of shape {array.shape} does not fit {leaf}.")
    return array.astype(leaf.dtype, copy=False)


def _flat(leaf: Leaf, value: Any) -> np.ndarray:
    array = _leaf_array(leaf, value)
    return array.reshape(*array.shape[: array.ndim - len(leaf.shape)], prod(leaf.shape))  # -1 is unknown for no rows


def _common_dtype(parts: Sequence[Leaf]) -> str:
    """The smallest of uint8, int32, float32 and float64 that holds the values of all leaves exactly."""
    for dtype, (held, least, most) in HOLDS.items():
        if all(leaf.dtype in held if isinstance(leaf, Box) else _within(leaf, least, most) for leaf in parts):
            return dtype
    return "float64"


def _within(leaf: Discrete | MultiDiscrete | MultiBinary, least: int, most: int) -> bool:
    low, high = _integers(leaf)
    return least <= low and high <= most


def _integers(leaf: Discrete | MultiDiscrete | MultiBinary) -> tuple[int, int]:
    """The smallest and the largest value."""
    if isinstance(leaf, MultiBinary):
        return 0, 1
    if isinstance(leaf, Discrete):
        return leaf.start, leaf.start + leaf.n - 1
    return min(leaf.start), max(s + n - 1 for s, n in zip(leaf.start, leaf.nvec, strict=True))


def bounds_of(array: np.ndarray) -> Bounds:
    """One number where all elements share it, else one number per element in row-major order."""
    flat = array.ravel()
    return float(flat[0]) if flat.size and (flat == flat[0]).all() else tuple(map(float, flat))


def _to_json(value: Any) -> Any:
    if isinstance(value, _Kind):
        return value.to_json()
    if isinstance(value, tuple):
        return [_to_json(each) for each in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value  # JSON has no infinity


def _from_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_from_json, value))
    return space_from_json(value) if isinstance(value, Mapping) else value


def _bounds_from_json(bounds: float | str | Sequence[float | str]) -> Bounds:
    if isinstance(bounds, (list, tuple)):
        return tuple(float(b) for b in bounds)
    return float(bounds)  # type: ignore[arg-type]
