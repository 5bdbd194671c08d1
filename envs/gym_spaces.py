"""Gymnasium spaces to the plain data of `rlab.networks.spaces`."""

from math import prod
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.errors import UsageError
from rlab.networks.bounds import BY_SHAPE, is_bound
from rlab.networks.spaces import (
    MASK_KEY,
    Box,
    Dict,
    Discrete,
    Leaf,
    Masked,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    bounds_of,
)

CHANNELS = "rlab_channels"  # the attribute of a Gymnasium Box for the position of an image's channels
FRAMES = "rlab_frames"  # that for how many frames it stacks
ARRAYS = "Box, Discrete, MultiDiscrete and MultiBinary"


def obs_hint(space: gym.Space) -> str:
    """A hint for an observation space of another kind, for the end of a message."""
    if "MissionSpace" in str(space):
        return " A wrapper helps: --wrapper ImgObsWrapper or FlatObsWrapper."
    return " Your own wrapper can make arrays: --wrapper my_module:MyWrapper."


def space_from_gym(space: gym.Space, of: str = "this env", hint: str = "") -> Space:
    """The space as plain data; a Dict with a part `action_mask` is a masked space.

    Args:
        space: a Gymnasium Box (of any dtype), Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple of spaces.
        of: whose space it is, for the error: `"the observation space of CartPole-v1"`.
        hint: the end of the error's message.

    Raises:
        UsageError: any other kind of space, one without a number in it, a Dict or Tuple of nothing, or an `action_mask`
            that is not a mask.
    """
    if isinstance(space, gym.spaces.Dict) and MASK_KEY in space.spaces:
        size = _mask_size(space.spaces[MASK_KEY], of)
        rest = {name: part for name, part in space.spaces.items() if name != MASK_KEY}
        return Masked(_something(_space(gym.spaces.Dict(list(rest.items())), of, hint), of), size)
    return _something(_space(space, of, hint), of)


def array_space_from_gym(space: gym.Space, of: str, hint: str = "") -> Leaf:
    """A space whose elements are arrays by themselves, as plain data.

    Raises:
        UsageError: any other kind of space, or one without a number in it.
    """
    found = _leaf(space)
    if found is None:
        raise UsageError(f"{of} is {_one_line(space)}; only {ARRAYS} are supported here.{hint}")
    _something(found, of)
    return found


def sampled(space: gym.Space) -> Any:
    """What `space.sample()` gives, also where the bounds of a Box are too far apart for NumPy's generators:
    numbers that float32 does not hold count as unbounded."""
    try:
        with np.errstate(over="ignore"):
            return space.sample()
    except OverflowError:
        assert isinstance(space, gym.spaces.Box)
        dtype = str(space.dtype)
        low = np.where(is_bound(space.low, dtype), space.low, -np.inf)
        high = np.where(is_bound(space.high, dtype), space.high, np.inf)
        return gym.spaces.Box(low, high, space.shape, space.dtype, space.np_random).sample()


def _something(space: Space, of: str) -> Space:
    """The space, which has one number in it at least."""
    if not prod(space.shape):
        raise UsageError(
            f"{of} is {space}, which has no number in it; it needs one at least, such as a constant 0 in a Box of "
            "shape (1,)."
        )
    return space


def _space(space: gym.Space, of: str, hint: str) -> Space:
    found = _leaf(space)
    if found is not None:
        return found
    if isinstance(space, gym.spaces.Dict) and space.spaces:
        named = space.spaces.items()
        return Dict(tuple((name, _space(part, f"the part {name!r} of {of}", hint)) for name, part in named))
    if isinstance(space, gym.spaces.Tuple) and space.spaces:
        counted = enumerate(space.spaces)
        return Tuple(tuple(_space(part, f"part {index} of {of}", hint) for index, part in counted))
    raise UsageError(f"{of} is {_one_line(space)}; rlab works with {ARRAYS}, and with Dict and Tuple of them.{hint}")


def _leaf(space: gym.Space) -> Leaf | None:
    if isinstance(space, gym.spaces.Box):
        bounds = bounds_of(space.low), bounds_of(space.high)
        channels, frames = getattr(space, CHANNELS, BY_SHAPE), getattr(space, FRAMES, 1)
        return Box(tuple(space.shape), str(space.dtype), *bounds, channels, frames)
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, gym.spaces.MultiDiscrete):
        nvec, start = (tuple(int(number) for number in numbers.ravel()) for numbers in (space.nvec, space.start))
        return MultiDiscrete(nvec, start, tuple(space.shape))
    if isinstance(space, gym.spaces.MultiBinary):
        return MultiBinary(tuple(space.shape))
    return None


def _mask_size(space: gym.Space, of: str) -> int:
    """How many bits a mask has that is a part of an observation; it may be a tuple of masks, one for each choice."""
    if isinstance(space, gym.spaces.Tuple) and space.spaces:
        return sum(_mask_size(part, of) for part in space.spaces)
    found = _leaf(space)
    bits = isinstance(found, MultiBinary)
    bits |= isinstance(found, Box) and (found.low, found.high) == (0.0, 1.0)
    bits |= isinstance(found, MultiDiscrete) and {*found.nvec} == {2} and {*found.start} == {0}
    if found is None or not bits or len(found.shape) != 1:
        raise UsageError(f"{of} has an {MASK_KEY} {_one_line(space)}; expected one row of zeros and ones.")
    return found.shape[0]


def _one_line(space: gym.Space) -> str:
    """The space in words; that of a large Box may state every bound, on many lines."""
    words = " ".join(str(space).split())
    return words if len(words) <= 200 else f"{words[:200]}..."
