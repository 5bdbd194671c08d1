"""Observations of every kind as arrays, and the mask of allowed actions as a part of them.

An env may observe dicts and tuples, and may say in `info["action_mask"]` which actions are allowed. Replay, rollouts
and policies handle arrays: `PackedObservation` gives the array form, with the mask behind the observation. Training,
evaluation and play all see an env through the same `Packing`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.spaces import OBS_HINT, array_space_from_gym, space_from_gym
from rlab.errors import RlabError, UsageError
from rlab.networks.spaces import MASK_KEY, Leaf, Masked, Space, choices, pack

PROBE_SEED = 0  # of the one reset that shows whether an env gives masks


@dataclass(frozen=True)
class Packing:
    """What the observations of an env are, and so how they become arrays."""

    env_id: str
    obs_space: Space
    action_space: Leaf
    mask_in_info: bool = False

    @property
    def needed(self) -> bool:
        """Whether observations are no arrays by themselves, or have a mask to carry."""
        return not isinstance(self.obs_space, Leaf)

    def wrap(self, env: gym.Env) -> gym.Env:
        """The env with arrays as observations; one that has them already is returned as it is."""
        return PackedObservation(env, self) if self.needed else env


class PackedObservation(gym.Wrapper):
    """The array form of an env's observations, as `packing` says; `packing.obs_space` is what they really are."""

    def __init__(self, env: gym.Env, packing: Packing) -> None:
        super().__init__(env)
        self.packing = packing
        space, dtype = packing.obs_space, np.dtype(packing.obs_space.dtype)
        low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        self.observation_space = gym.spaces.Box(low, high, space.shape, dtype.type)
        self._choices = choices(packing.action_space)
        self._first_bits = list(accumulate(self._choices, initial=0))[:-1]  # where the bits of each choice begin

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._pack(obs, info, ended=False), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._pack(obs, info, bool(terminated or truncated)), reward, terminated, truncated, info

    def _pack(self, obs: Any, info: Mapping[str, Any], ended: bool) -> np.ndarray:
        space = self.packing.obs_space
        mask = info.get(MASK_KEY) if self.packing.mask_in_info else None
        if mask is None and self.packing.mask_in_info and not ended:
            raise RlabError(f"its info has no {MASK_KEY!r}, though that of its first reset had one.")
        packed = pack(space, obs, mask)
        if isinstance(space, Masked):
            bits = packed[-space.size :]
            if not np.logical_or.reduceat(bits, self._first_bits).all():
                if not ended:
                    raise RlabError(f"its {MASK_KEY} allows no action, though the episode goes on.")
                bits[:] = 0  # none for one choice is none at all: nothing is chosen any more
        return packed


def find_packing(make: Callable[[], gym.Env], env_id: str) -> Packing:
    """What the observations of an env are, seen in a fresh one that is reset, stepped once and closed.

    Args:
        make: makes the env, with all its wrappers.

    Raises:
        UsageError: a space that rlab does not support, or a mask that does not fit the actions.
        RlabError: the env's reset or first step failed.
    """
    env = make()
    try:
        obs_space = space_from_gym(env.observation_space, f"the observation space of {env_id}", OBS_HINT)
        action_space = array_space_from_gym(env.action_space, f"the action space of {env_id}")
        if isinstance(obs_space, Masked):
            _check_bits([obs_space.size], action_space, env_id)
            return Packing(env_id, obs_space, action_space)
        try:
            _, info = env.reset(seed=PROBE_SEED)
            env.action_space.seed(PROBE_SEED)
            *_, later = env.step(env.action_space.sample()) if info.get(MASK_KEY) is None else ({},)
        except Exception as error:  # whatever an env may raise
            raise RlabError(f"{env_id} failed in its first reset or step: {reason(error)}") from error
    finally:
        env.close()
    if info.get(MASK_KEY) is None:
        if MASK_KEY in later:
            raise UsageError(f"{env_id} gives an {MASK_KEY} in its steps and none in its reset, where one is due too.")
        return Packing(env_id, obs_space, action_space)
    _check_bits(_bits_in(info[MASK_KEY]), action_space, env_id)
    return Packing(env_id, Masked(obs_space, sum(choices(action_space))), action_space, mask_in_info=True)


def obs_space_of(env: gym.Env, env_id: str) -> Space:
    """What the observations of a single env are; they come as arrays.

    Raises:
        UsageError: they are no arrays: the env was not made by `make_env`.
    """
    if isinstance(env, PackedObservation):
        return env.packing.obs_space
    return array_space_from_gym(env.observation_space, f"the observation space of {env_id}", OBS_HINT)


def reason(error: Exception) -> str:
    """Why an env failed, in words: errors of our own need no name of their type."""
    return str(error) if isinstance(error, RlabError) else f"{type(error).__name__}: {error}"


def _check_bits(sizes: list[int] | None, action_space: Leaf, env_id: str) -> None:
    """Raise where a mask of these sizes, one array or one for each choice, does not fit the actions."""
    expected = choices(action_space)
    if not expected:
        raise UsageError(
            f"{env_id} gives an {MASK_KEY}, and its actions are {action_space}; "
            "only Discrete and MultiDiscrete actions can be masked."
        )
    if sizes not in ([sum(expected)], list(expected)):
        found = "something else" if sizes is None else " and ".join(map(str, sizes))
        raise UsageError(f"the {MASK_KEY} of {env_id} must be {sum(expected)} zeros and ones, not {found}.")


def _bits_in(mask: Any) -> list[int] | None:
    """How many zeros and ones each array of a mask in an env's info has; None where it is no such thing."""
    parts = [_bits_in(part) for part in mask] if isinstance(mask, tuple) else []
    if parts:
        return None if None in parts else [size for part in parts for size in part or ()]
    bits = np.asarray(mask)
    plain = bits.ndim == 1 and bits.dtype.kind in "biuf" and bool(np.isin(bits, (0, 1)).all())
    return [bits.size] if plain else None
