"""The state of all sub-envs of a vector env on the host, as data: all of them go on, or none."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.door import clean
from rlab.envs.native import SeededCartPole
from rlab.envs.watched import WatchedVectorEnv
from rlab.randomness import kept_generators

Saved = dict[str, Any]  # {"state": ...}, or {"why_not": a clause}
# What loading a state raises that is not one of this env.
NOT_A_STATE = (AttributeError, LookupError, OverflowError, TypeError, ValueError)


def saved_envs(env: gym.vector.VectorEnv) -> Saved:
    """The state of all sub-envs, or why there is none."""
    if env.closed:
        return {"why_not": "its envs were closed before their state was saved"}
    if isinstance(env, SeededCartPole):
        return {"state": env.get_state()}
    obstacle = _why_not(env)
    if obstacle is not None:
        return {"why_not": obstacle}
    assert isinstance(env, WatchedVectorEnv)
    saved = env.call_each("save_state", [()] * env.num_envs)
    for index, one in enumerate(saved):
        if "why_not" in one:
            return {"why_not": f"{one['why_not']} (sub-env {index})"}
    return {"state": {"sub_envs": list(saved), "restarts": env.restarts.tolist(), "seeds": list(env.seeds)}}


def load_envs(env: gym.vector.VectorEnv, saved: Mapping[str, Any]) -> str | None:
    """Put all sub-envs where they were saved: None, or a clause that says why that is impossible.

    Raises:
        NOT_A_STATE: this is not what `saved_envs` gives, or that of another kind of vector env.
    """
    if "why_not" in saved:
        return clean(saved["why_not"])
    obstacle = None if isinstance(env, SeededCartPole) else _why_not(env)
    if obstacle is not None:
        return obstacle
    state = saved["state"]
    if isinstance(env, SeededCartPole):
        env.set_state(state)
        return None
    states, seeds = list(state["sub_envs"]), [None if seed is None else int(seed) for seed in state["seeds"]]
    restarts = np.array(state["restarts"], np.int64).reshape(len(states))
    if len(states) != env.num_envs:
        return f"the state of {len(states)} sub-envs was saved, and there are {env.num_envs}"
    assert isinstance(env, WatchedVectorEnv)
    env.restarts, env.seeds = restarts, seeds
    return _load_sub_envs(env, states)


def _load_sub_envs(env: WatchedVectorEnv, states: Sequence[Any]) -> str | None:
    given: list[Any] = list(states)
    while True:
        with kept_generators():  # what an env draws while it is played again does not move them
            answers = env.call_each("load_state", [(state,) for state in given])
        for index, answer in enumerate(answers):
            if isinstance(answer, str):
                return f"{answer} (sub-env {index})"
        if all(answers):
            return None
        given = [None] * env.num_envs  # those that are still playing their episodes again go on


def _why_not(env: gym.vector.VectorEnv) -> str | None:
    """Why the sub-envs of this vector env cannot be saved; None where they can."""
    return (
        None if isinstance(env, WatchedVectorEnv) else f"{type(env).__name__} does not give the state of its sub-envs"
    )
