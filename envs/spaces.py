"""Gymnasium spaces to the plain data of `rlab.networks.spaces`."""

import gymnasium as gym
import numpy as np

from rlab.errors import UsageError
from rlab.networks.spaces import Bounds, Box, Discrete, Space

OBS_HINT = " A wrapper may help: --wrapper FlattenObservation; for MiniGrid FlatObsWrapper or ImgObsWrapper."


def space_from_gym(space: gym.Space, of: str = "this env", hint: str = "") -> Space:
    """The space as plain data.

    Args:
        space: a Gymnasium Box (of any dtype) or Discrete.
        of: whose space it is, for the error: `"the observation space of CartPole-v1"`.
        hint: what the error says last.

    Raises:
        UsageError: any other kind of space.
    """
    if isinstance(space, gym.spaces.Box):
        return Box(tuple(space.shape), str(space.dtype), _bounds(space.low), _bounds(space.high))
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    raise UsageError(f"{of} is {space}; rlab works with Box and Discrete spaces.{hint}")


def _bounds(bounds: np.ndarray) -> Bounds:
    """One number where all elements share it, else one number per element in row-major order."""
    flat = bounds.ravel()
    if flat.size and (flat == flat[0]).all():
        return float(flat[0])
    return tuple(float(b) for b in flat)
