"""Observations of every kind as arrays, and the mask of allowed actions as a part of them.

An env may observe dicts and tuples, and may say in `info["action_mask"]` which actions are allowed. Replay, rollouts
and policies handle arrays: `SubEnv` gives the array form, with the mask behind the observation. Training, evaluation
and play all see an env through the same `Packing`.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.checks import EnvError, raised, reset_values, step_values
from rlab.envs.spaces import OBS_HINT, array_space_from_gym, space_from_gym
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.networks.spaces import MASK_KEY, Leaf, Masked, Space, choices

PROBE_SEED = 0  # of the one reset that shows whether an env gives masks


@dataclass(frozen=True)
class Packing:
    """What the observations of an env are, and so how they become arrays."""

    env_id: str
    obs_space: Space
    action_space: Leaf
    mask_in_info: bool = False


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
        info, later = _first_infos(env, env_id)
    finally:
        close_or_warn(env, env_id)
    if info.get(MASK_KEY) is None:
        if MASK_KEY in later:
            raise UsageError(f"{env_id} gives an {MASK_KEY} in its steps and none in its reset, where one is due too.")
        return Packing(env_id, obs_space, action_space)
    _check_bits(_bits_in(info[MASK_KEY]), action_space, env_id)
    return Packing(env_id, Masked(obs_space, sum(choices(action_space))), action_space, mask_in_info=True)


def plain_packing(env: gym.Env, env_id: str) -> Packing:
    """Of an env whose observations are arrays by themselves, with no mask.

    Raises:
        UsageError: they are not.
    """
    obs_space = array_space_from_gym(env.observation_space, f"the observation space of {env_id}", OBS_HINT)
    return Packing(env_id, obs_space, array_space_from_gym(env.action_space, f"the action space of {env_id}"))


def close_or_warn(env: Any, env_id: str) -> None:
    """Close an env or vector env. A failure there is a warning: it must hide no error and lose no work."""
    try:
        env.close()
    except Exception as error:  # whatever an env may raise
        warnings.warn(f"{env_id} failed in close: {type(error).__name__}: {error}", RlabWarning, stacklevel=2)


def _first_infos(env: gym.Env, env_id: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The infos of a first reset and, where that has no mask, of a first step."""
    try:
        _, info = reset_values(env.reset(seed=PROBE_SEED))
        if info.get(MASK_KEY) is not None:
            return info, {}
        env.action_space.seed(PROBE_SEED)
        *_, later = step_values(env.step(env.action_space.sample()))
        return info, later
    except EnvError as fault:
        raise RlabError(f"{env_id} {fault}") from None
    except Exception as error:  # whatever an env may raise
        raise RlabError(f"{env_id} failed in its first reset or step: {raised(error).why}") from error


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
