"""Observations of every kind as arrays, and the mask of allowed actions as a part of them.

An env may observe dicts and tuples, and may give the allowed actions: in `info["action_mask"]`, in a part of its
observation of that name, or by a method `action_masks()`, as for sb3-contrib's MaskablePPO. Replay, rollouts
and policies handle arrays: `SubEnv` gives the array form, with the mask after the observation. Training, evaluation
and play all use the same `Packing`.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.checks import EnvError, as_array, in_parts, raised, reset_values, step_values, stopped_by_user
from rlab.envs.gym_spaces import array_space_from_gym, obs_hint, sampled, space_from_gym
from rlab.envs.own_globals import OwnGlobals, warn_of_generators
from rlab.envs.watch import ENV_TIMEOUT, watched
from rlab.errors import RlabError, UsageError
from rlab.networks.spaces import MASK_KEY, Leaf, Masked, Space, choices
from rlab.places import warn

MASK_METHOD = "action_masks()"
PROBE_SEED = 0  # of the one reset that shows whether an env gives masks
_warned: set[str] = set()  # envs for which this process has warned that they fail in close


@dataclass(frozen=True)
class Packing:
    """An env's spaces and masks: how its observations become arrays."""

    env_id: str
    obs_space: Space
    action_space: Leaf
    mask_in_info: bool = False
    mask_method: bool = False  # whether the env, or a wrapper of it, has `action_masks()`
    seen: bool = False  # whether a first reset and step were checked: a mask that comes only later is a fault


def find_packing(make: Callable[[], gym.Env], env_id: str, timeout: float = ENV_TIMEOUT) -> Packing:
    """The packing of an env, from a fresh instance that is reset, stepped once and closed.

    Args:
        make: makes the env, with all its wrappers.
        timeout: seconds that each call of the env may take.

    Raises:
        UsageError: a space that rlab does not support, or a mask that does not fit the actions.
        RlabError: the env's reset or first step failed.
    """
    own = OwnGlobals(PROBE_SEED)
    env = own.call(make)
    try:
        of_gym = env.observation_space
        obs_space = space_from_gym(of_gym, f"the observation space of {env_id}", obs_hint(of_gym))
        action_space = array_space_from_gym(env.action_space, f"the action space of {env_id}")
        method = mask_method(env)
        if isinstance(obs_space, Masked):
            _check_bits([obs_space.size], action_space, env_id)
            return Packing(env_id, obs_space, action_space, mask_method=method is not None)
        info, later = _first_infos(env, env_id, method, own, timeout)
    finally:
        close_or_warn(env, env_id, timeout)
    warn_of_generators(env_id, own)
    in_info = info.get(MASK_KEY) is not None
    if not in_info and MASK_KEY in later:
        raise UsageError(f"{env_id} gives an {MASK_KEY} in its steps and none in its reset, where one is needed too.")
    for name, mask in ((MASK_KEY, info.get(MASK_KEY)), (MASK_METHOD, info.get(MASK_METHOD))):
        if mask is not None:
            _check_bits(_bits_in(mask), action_space, env_id, name)
    if not in_info and method is None:
        return Packing(env_id, obs_space, action_space, seen=True)
    masked = Masked(obs_space, sum(choices(action_space)))
    return Packing(env_id, masked, action_space, in_info, method is not None)


def mask_method(env: gym.Env) -> Callable[[], Any] | None:
    """The method `action_masks` of an env or of a wrapper around it, the outermost first; None where none has it.

    Where it is a property, a function that returns its value.
    """
    for layer in layers(env):
        if isinstance(inspect.getattr_static(layer, "action_masks", None), property):
            return lambda: layer.action_masks  # type: ignore[attr-defined]
    try:
        found = env.get_wrapper_attr("action_masks")
    except AttributeError:
        return None
    return found if callable(found) else None


def layers(env: gym.Env) -> Iterator[gym.Env]:
    """An env's wrappers, the outermost first, and the env inside."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def plain_packing(env: gym.Env, env_id: str) -> Packing:
    """Of an env whose observations are arrays by themselves, with no mask.

    Raises:
        UsageError: they are not.
    """
    of_gym = env.observation_space
    obs_space = array_space_from_gym(of_gym, f"the observation space of {env_id}", obs_hint(of_gym))
    return Packing(env_id, obs_space, array_space_from_gym(env.action_space, f"the action space of {env_id}"))


def close_or_warn(env: Any, env_id: str, timeout: float | None) -> None:
    """Close an env or vector env. A failure there is a warning, once for each env: it must not hide an error or lose
    work.

    Args:
        timeout: seconds that it may take; None: what it closes is watched.
    """
    try:
        if timeout is None:
            env.close()
        else:
            watched(timeout, lambda fault: fault.line(env_id, "in close", ""), env.close)
    except BaseException as error:  # an env may raise anything, such as sys.exit()
        if stopped_by_user(error):
            raise
        if env_id not in _warned:
            _warned.add(env_id)
            warn(f"{env_id} failed in close: {raised(error).why}")


def _first_infos(
    env: gym.Env, env_id: str, method: Callable[[], Any] | None, own: OwnGlobals, timeout: float
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The infos of a first reset, with the mask that the method gives, and where that has no mask of a first step."""
    limited = partial(watched, timeout, lambda fault: fault.line(env_id, "in its first reset or step", ""))
    try:
        _, info = reset_values(own.call(limited, env.reset, seed=PROBE_SEED))
        if method is not None:
            return {**info, MASK_METHOD: limited(method)}, {}
        if info.get(MASK_KEY) is not None:
            return info, {}
        action_space = copy.deepcopy(env.action_space)  # a copy, so that the env's own draws stay the same
        action_space.seed(PROBE_SEED)
        *_, later = step_values(own.call(limited, env.step, sampled(action_space)))
        return info, later
    except EnvError as fault:
        raise RlabError(f"{env_id} {fault}") from None
    except BaseException as error:  # an env may raise anything, such as sys.exit()
        if stopped_by_user(error):
            raise
        raise RlabError(f"{env_id} failed in its first reset or step: {raised(error).why}") from error


def _check_bits(sizes: list[int] | None, action_space: Leaf, env_id: str, name: str = MASK_KEY) -> None:
    """Raise where a mask of these sizes, one array or one for each choice, does not fit the actions."""
    expected = choices(action_space)
    if not expected:
        raise UsageError(
            f"{env_id} gives an {name}, and its actions are {action_space}; "
            "only Discrete and MultiDiscrete actions can be masked."
        )
    if sizes not in ([sum(expected)], list(expected)):
        found = "something else" if sizes is None else " and ".join(map(str, sizes))
        raise UsageError(f"the {name} of {env_id} must be {sum(expected)} zeros and ones, not {found}.")


def _bits_in(mask: Any) -> list[int] | None:
    """How many zeros and ones each array of a mask in an env's info has; None where it is not a mask."""
    parts = [_bits_in(part) for part in mask] if isinstance(mask, tuple) or in_parts(mask) else []
    if parts:
        return None if None in parts else [size for part in parts for size in part or ()]
    bits = as_array(mask)
    if bits is None:
        return None
    plain = bits.ndim == 1 and bits.dtype.kind in "biuf" and bool(np.isin(bits, (0, 1)).all())
    return [bits.size] if plain else None
