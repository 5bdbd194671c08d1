"""What of an observation is watched for drift: numbers with names, the same where a policy is judged and where it is
served."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from math import prod

import numpy as np

from rlab.networks.bounds import FIRST
from rlab.networks.spaces import (
    Box,
    Dict,
    Discrete,
    Leaf,
    Masked,
    MultiDiscrete,
    Space,
    Tuple,
    choices,
    leaf_features,
    leaves,
)

MOST_FEATURES = 2_048  # that are watched; a Box of pixels that is not an image may have a million
Part = tuple[slice, Callable[[np.ndarray], np.ndarray]]  # where a leaf is in the flat array form; [R, size] to [R, f]


class ObsFeatures:
    """`[R, *obs]`, the array form of any observation space, to float64 features `[R, F]`, before any scaling.

    Numbers stay as they are, in row-major order. An integer out of n becomes n indicators, so that each value is
    watched by its frequency. An image becomes the mean and the standard deviation of each of its channels. A mask
    is left out.
    """

    names: tuple[str, ...]  # `obs[0]`, `obs.KEY[2]`, `obs=3` of an integer, `obs channel 0 mean` of an image

    def __init__(self, space: Space) -> None:
        inner = _without_mask(space)
        self._parts: list[Part] = []
        names: list[str] = []
        first = 0
        for name, leaf in _named(inner, "obs"):
            size = prod(leaf.shape)
            own, function = _features(name, leaf)
            self._parts.append((slice(first, first + size), function))
            names += own
            first += size
        self.names = tuple(names)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        rows = obs.reshape(len(obs), prod(obs.shape[1:]))  # -1 is unknown for no rows
        return np.concatenate([function(rows[:, part]) for part, function in self._parts], axis=1, dtype=np.float64)


def can_be_watched(space: Space) -> bool:
    """Whether observations of this space have few enough features."""
    return sum(_count(leaf) for leaf in leaves(_without_mask(space))) <= MOST_FEATURES


def _count(leaf: Leaf) -> int:
    return 2 * leaf.image_size[2] if isinstance(leaf, Box) and leaf.is_image else leaf_features(leaf)


def _without_mask(space: Space) -> Space:
    return space.obs if isinstance(space, Masked) else space


def _named(space: Space, name: str) -> Iterator[tuple[str, Leaf]]:
    """The leaves, in the order in which they are packed, by the names that exported files use."""
    if isinstance(space, Dict):
        for key, part in space.items:
            yield from _named(part, f"{name}.{key}")
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.items):
            yield from _named(part, f"{name}.{index}")
    else:
        assert not isinstance(space, Masked)  # it is never a part
        yield name, space


def _features(name: str, leaf: Leaf) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """The names of a leaf's features, and what computes them from its rows `[R, size]`."""
    if isinstance(leaf, Box) and leaf.is_image:
        channels = leaf.image_size[2]
        names = [f"{name} channel {channel} {what}" for what in ("mean", "std") for channel in range(channels)]
        return names, partial(_of_image, leaf.shape, leaf.channels == FIRST)
    elements = [f"{name}{_place(index)}" for index in product(*map(range, leaf.shape))]
    if isinstance(leaf, Discrete | MultiDiscrete):
        starts = leaf.start if isinstance(leaf, MultiDiscrete) else (leaf.start,)
        values = [range(start, start + n) for start, n in zip(starts, choices(leaf), strict=True)]
        names = [f"{element}={value}" for element, own in zip(elements, values, strict=True) for value in own]
        element = np.repeat(np.arange(len(values)), list(map(len, values)))
        return names, partial(_indicators, element, np.concatenate([np.array(own) for own in values]))
    return elements, lambda rows: rows


def _place(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]" if index else ""


def _indicators(element: np.ndarray, value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`[R, f]`: whether element `element[f]` of a row is `value[f]`."""
    return rows[:, element] == value


def _of_image(shape: tuple[int, ...], channels_first: bool, rows: np.ndarray) -> np.ndarray:
    """The means, then the standard deviations, of the channels of images `[R, size]`."""
    pixels = rows.reshape(len(rows), *shape)
    axes = (2, 3) if channels_first else (1, 2)
    mean = pixels.mean(axis=axes, dtype=np.float64)  # [R, C]
    squares = np.square(pixels, dtype=np.float64).mean(axis=axes)
    return np.concatenate([mean, np.sqrt(np.maximum(squares - np.square(mean), 0.0))], axis=1)
