"""The parts of an observation that are explained one by one, players of a game, and the features that a network reads
of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from rlab.errors import UsageError, unknown
from rlab.networks.bounds import FIRST
from rlab.networks.spaces import Box, Dict, Leaf, Masked, Space, Tuple, choices

MOST_PARTS = 256  # of one leaf; neighbours of a longer vector are one player
PATCHES = 8  # along the longer side of an image


@dataclass(frozen=True, eq=False)
class Players:
    """n parts of an observation.

    A feature that a network reads depends on the elements of one player alone, so that replacing a player's features
    by those of another observation is replacing its elements.
    """

    names: tuple[str, ...]  # [n]
    owner: np.ndarray  # [*features] int64: whose each feature is
    element: np.ndarray  # [n] int64: the element of the array form that is this number of a Box; -1 where it is not one
    grid: tuple[int, int] | None = None  # rows and columns of patches, where the observation is one image

    def axes(self, names: Sequence[str]) -> tuple[int, ...]:
        """The two players of these names, for a map; () of no names.

        Raises:
            UsageError: a name is unknown or not of a number, or there are not two different ones.
        """
        for name in names:
            if name not in self.names:
                raise unknown("feature", name, self.names)
        if names and (len(names) != 2 or names[0] == names[1]):
            raise UsageError(f"--axes takes two different features, not {len(set(names))}.")
        found = tuple(self.names.index(name) for name in names)
        for player in found:
            if self.element[player] < 0:
                raise UsageError(f"the feature {self.names[player]!r} is not a number: it cannot be an axis of a map.")
        return found


def players_of(space: Space, names: Sequence[str] = ()) -> Players:
    """The players of an observation space: every number, choice or bit is one, and so is every patch of an image. The
    mask of allowed actions is not a player.

    Args:
        names: of the players, in their order; (): `obs[2]`, `front/left[0]`. Of a stack of frames, those of one frame.

    Raises:
        UsageError: there are not as many names as players.
    """
    inner = space.obs if isinstance(space, Masked) else space
    if isinstance(inner, Box) and inner.is_image:
        owner, grid = _patches(inner)
        names_of, _, element = _of_leaf("", inner, owner, 0)
        height, width, channels = inner.image_size
        pixels = owner.reshape(inner.shape)
        features = pixels if inner.channels == FIRST else np.moveaxis(pixels, -1, 0)  # [C, H, W], as networks read it
        assert features.shape == (channels, height, width)
        return Players(_named(names_of, names, 1), features.copy(), element, grid)
    labels: list[str] = []
    owners: list[np.ndarray] = []
    elements: list[np.ndarray] = []
    first = 0
    for path, leaf in _named_leaves(inner, ""):
        owner = _patches(leaf)[0] if isinstance(leaf, Box) and leaf.is_image else _groups(prod(leaf.shape))
        of_leaf, features, element = _of_leaf(path or "obs", leaf, owner, first)
        owners.append(features + len(labels))
        labels += of_leaf
        elements.append(element)
        first += prod(leaf.shape)
    frames = inner.frames if isinstance(inner, Box) else 1
    return Players(_named(labels, names, frames), np.concatenate(owners), np.concatenate(elements))


def _of_leaf(path: str, leaf: Leaf, owner: np.ndarray, first: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of a leaf's players, the player of each of its features, and each player's element.

    Args:
        owner: the player of each of its elements, from 0 on.
        first: where its elements begin in the array form.
    """
    count = int(owner.max()) + 1
    many = choices(leaf)
    features = np.repeat(owner, many) if many else owner
    alone = np.bincount(owner, minlength=count) == 1
    starts = np.array([np.flatnonzero(owner == player)[0] for player in range(count)])
    if isinstance(leaf, Box) and leaf.is_image:
        names = _patch_names(path, leaf)
    elif count == 1:
        names = [path]
    elif isinstance(leaf, Box) and leaf.frames > 1 and alone.all():
        names = _frame_names(path, leaf)
    else:
        lasts = starts + np.bincount(owner, minlength=count) - 1
        names = [f"{path}[{a}]" if a == b else f"{path}[{a}-{b}]" for a, b in zip(starts, lasts, strict=True)]
    number = isinstance(leaf, Box) and not leaf.is_image
    return names, features, np.where(alone & number, starts + first, -1)


def _named(found: Sequence[str], names: Sequence[str], frames: int) -> tuple[str, ...]:
    """The names given, of one frame or of all, in place of those that were found."""
    if not names:
        return tuple(found)
    each, rest = divmod(len(found), frames)
    if len(names) == len(found):
        return tuple(names)
    if frames > 1 and not rest and len(names) == each:
        return tuple(_aged(name, frames - 1 - frame) for frame in range(frames) for name in names)
    wanted = f"{len(found)}" if frames == 1 else f"{each}, or {len(found)} for {frames} frames"
    raise UsageError(f"--features has {len(names)} names; the observation has {wanted}: {', '.join(found[:20])}.")


def _aged(name: str, age: int) -> str:
    return name if age == 0 else f"{name}, {age} step{'s' if age > 1 else ''} ago"


def _frame_names(path: str, leaf: Box) -> list[str]:
    """Frames lie one behind the other along the last axis, the oldest first."""
    size = leaf.shape[-1] // leaf.frames
    places = np.arange(prod(leaf.shape)).reshape(leaf.shape)
    names = []
    for place in places.ravel():
        *lead, last = (int(each) for each in np.unravel_index(place, leaf.shape))
        index = ",".join(map(str, [*lead, last % size]))
        names.append(_aged(f"{path}[{index}]", leaf.frames - 1 - last // size))
    return names


def _named_leaves(space: Space, path: str) -> Iterator[tuple[str, Leaf]]:
    """As `leaves`, with the keys that lead to each, such as `front/left`."""
    if isinstance(space, Dict | Tuple):
        parts = space.items if isinstance(space, Dict) else [(str(i), part) for i, part in enumerate(space.items)]
        for name, part in parts:
            yield from _named_leaves(part, f"{path}/{name}" if path else name)
    else:
        assert not isinstance(space, Masked)  # it is never a part
        yield path, space


def _groups(count: int) -> np.ndarray:
    """The player of each of `count` elements: neighbours together where there are too many."""
    return np.arange(count) // -(-count // MOST_PARTS)


def _patch_side(image: Box) -> int:
    height, width, _ = image.image_size
    return -(-max(height, width) // PATCHES)


def _patches(image: Box) -> tuple[np.ndarray, tuple[int, int]]:
    """The patch of each element of an image's array, row-major, all channels alike; and how many rows and columns of
    patches there are."""
    height, width, channels = image.image_size
    side = _patch_side(image)
    rows, columns = -(-height // side), -(-width // side)
    plane = (np.arange(height) // side)[:, None] * columns + np.arange(width) // side  # [H, W]
    if image.channels == FIRST:
        whole = np.broadcast_to(plane, (channels, height, width))
    else:
        whole = np.broadcast_to(plane[..., None], (height, width, channels))
    return whole.reshape(-1), (rows, columns)


def _patch_names(path: str, image: Box) -> list[str]:
    (rows, columns), side = _patches(image)[1], _patch_side(image)
    height, width, _ = image.image_size

    def span(index: int, end: int) -> str:
        first, last = index * side, min(end, (index + 1) * side) - 1
        return str(first) if first == last else f"{first}-{last}"

    whose = f"{path}, " if path else ""
    return [f"{whose}rows {span(r, height)}, columns {span(c, width)}" for r in range(rows) for c in range(columns)]
