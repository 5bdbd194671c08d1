"""Images among observations: where they lie in a vector of features, and what is worth saying of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from rlab.networks.bounds import FIRST, LAST, MIN_SIDE, largest_bounds
from rlab.networks.spaces import Box, Dict, Masked, Space, Tuple, leaf_features, leaves

LIKE_IMAGE = 16  # elements a side, from which an array of two axes may be meant as an image


@dataclass(frozen=True)
class ImagePart:
    """An image inside a vector of features, its pixels in the order of the env's array."""

    first: int  # the feature that is its first pixel
    box: Box


def image_parts(space: Space) -> tuple[ImagePart, ...]:
    """The images among the parts of an observation that are large enough for convolutions; () where it is no vector.

    Raises:
        UsageError: the channels of one may be first or last.
    """
    obs = space.obs if isinstance(space, Masked) else space
    found, first = [], 0
    for leaf in leaves(obs) if isinstance(obs, Dict | Tuple) else ():
        if isinstance(leaf, Box) and leaf.is_image and min(leaf.image_size[:2]) >= MIN_SIDE:
            found.append(ImagePart(first, leaf))
        first += leaf_features(leaf)
    return tuple(found)


def image_notes(space: Space) -> tuple[str, ...]:
    """One line for each image of which it is worth saying how its axes are taken."""
    found = []
    for leaf in leaves(space):
        if isinstance(leaf, Box) and leaf.dtype == "uint8" and len(leaf.shape) == 2 and min(leaf.shape) >= LIKE_IMAGE:
            numbers, image = prod(leaf.shape), (*leaf.shape, 1)
            found.append(f"an array {leaf.shape} of uint8 is taken as {numbers} numbers; {image} would be an image")
        if isinstance(leaf, Box) and leaf.channels in (FIRST, LAST) and leaf.is_image:
            height, width, channels = leaf.image_size
            if leaf.channels == FIRST or len({height, width, channels}) == 1:
                where = f"{leaf.channels}: {channels} channels of {height}x{width}"
                other = "ChannelsLast:axis=2" if leaf.channels == FIRST else "ChannelsLast"
                found.append(f"an image {leaf.shape} is taken with its channels {where}; --wrapper {other} if not so")
    return tuple(found)


def pixel_divisor(images: Sequence[Box]) -> np.ndarray:
    """What the pixels of images, one behind the other, are divided by, float32: by the larger bound of their space.

    One number `[]` where it is that for all of them, else one for each element in row-major order, `[n]`.
    """
    divisors = [largest_bounds(image.low, image.high, image.dtype).astype(np.float32) for image in images]
    flat = np.concatenate([np.broadcast_to(d, prod(i.shape)) for d, i in zip(divisors, images, strict=True)])
    return np.asarray(flat[0] if (flat == flat[0]).all() else flat)
