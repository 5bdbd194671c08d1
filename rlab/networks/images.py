"""Images among observations: where they lie in a vector of features, and what is worth saying of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from rlab.errors import UsageError
from rlab.networks.bounds import FIRST, LAST, MIN_SIDE, UNCLEAR, largest_bounds, to_last, unclear_channels
from rlab.networks.spaces import Box, Dict, Leaf, Masked, Space, Tuple, leaf_features

MIN_FRAME = 8  # pixels; a smaller table of uint8, such as a board, is not taken for a frame


@dataclass(frozen=True)
class ImagePart:
    """An image inside a vector of features, its pixels in the order of the env's array."""

    first: int  # the feature that is its first pixel
    box: Box


def image_parts(space: Space) -> tuple[ImagePart, ...]:
    """The images among the parts of an observation that are large enough for convolutions; () where it is not a vector.

    Raises:
        UsageError: the channels of one may be first or last.
    """
    obs = space.obs if isinstance(space, Masked) else space
    found, first = [], 0
    for key, leaf in named_leaves(obs) if isinstance(obs, Dict | Tuple) else ():
        if isinstance(leaf, Box) and leaf.channels == UNCLEAR:
            raise UsageError(unclear_channels(leaf.shape, key))
        if isinstance(leaf, Box) and leaf.is_image and min(leaf.image_size[:2]) >= MIN_SIDE:
            found.append(ImagePart(first, leaf))
        first += leaf_features(leaf)
    return tuple(found)


def named_leaves(space: Space, key: str = "") -> Iterator[tuple[str, Leaf]]:
    """The leaves with their places: names of a Dict and numbers of a Tuple, joined by slashes; "" for the whole."""
    if isinstance(space, Masked):
        yield from named_leaves(space.obs, key)
    elif isinstance(space, Dict | Tuple):
        named = space.items if isinstance(space, Dict) else enumerate(space.items)
        for name, part in named:
            yield from named_leaves(part, f"{key}/{name}" if key else str(name))
    else:
        yield key, space


def image_notes(space: Space) -> tuple[str, ...]:
    """One line for each array that is an image whose axes may be meant otherwise, or may be meant as an image."""
    boxes = [(key, leaf) for key, leaf in named_leaves(space) if isinstance(leaf, Box)]
    return tuple(note for key, box in boxes if (note := _note(box, key)))


def _note(box: Box, key: str) -> str:
    shape, here = box.shape, f" (part {key!r})" if key else ""
    if box.frames > 1:
        return ""  # whoever stacked them has said where they are
    if box.channels in (FIRST, LAST):
        height, width, channels = box.image_size
        if box.channels == LAST and len(set(shape)) > 1:
            return ""
        where = f"{box.channels}: {channels} channels of {height}x{width}"
        other = to_last(key, axis=2) if box.channels == FIRST else to_last(key)
        return f"an image {shape}{here} is taken with its channels {where}; --wrapper {other} if not so"
    taken = f"an array {shape} of {box.dtype}{here} is taken as {prod(shape)} plain numbers, not as an image"
    if len(shape) == 3 and not box.is_image and sorted(shape)[1] >= MIN_SIDE:
        moved, last = to_last(key), to_last(key, axis=2)
        return f"{taken}; --wrapper {moved} if its first axis holds the channels, {last} if its last one does"
    if box.dtype == "uint8" and len(shape) == 4 and min(shape[1:3]) >= MIN_SIDE:
        return f"{taken}; --wrapper {to_last(key)} makes one image of {shape[0]} frames"
    if box.dtype == "uint8" and len(shape) == 2 and min(shape) >= MIN_FRAME:
        if key:
            return f"{taken}; an axis for the channels, {(*shape, 1)}, makes it one"
        return f"{taken}; --wrapper FrameStack:frames=4 makes an image of 4 frames"
    return ""


def pixel_divisor(images: Sequence[Box]) -> np.ndarray:
    """What the pixels of images, one behind the other, are divided by, float32: by the larger bound of their space.

    One number `[]` where it is that for all of them, else one for each element in row-major order, `[n]`.
    """
    divisors = [largest_bounds(image.low, image.high, image.dtype).astype(np.float32) for image in images]
    flat = np.concatenate([np.broadcast_to(d, prod(i.shape)) for d, i in zip(divisors, images, strict=True)])
    return np.asarray(flat[0] if (flat == flat[0]).all() else flat)
