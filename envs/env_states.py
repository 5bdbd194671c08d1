"""The state of host envs as data, so that a run goes on in the middle of its episodes."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from rlab.envs.native import SeededCartPole

Saved = dict[str, Any]  # {"state": ...}, or {"why_not": a clause}
# what loading a state raises that is not one of this env
NOT_A_STATE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def saved_envs(env: gym.vector.VectorEnv) -> Saved:
    """The state of all sub-envs, or why there is none."""
    if isinstance(env, SeededCartPole):
        return {"state": env.get_state()} if env.state is not None else {"why_not": "no episode had begun"}
    return {"why_not": f"{type(env).__name__} does not give the state of its sub-envs"}


def load_envs(env: gym.vector.VectorEnv, saved: Mapping[str, Any]) -> str | None:
    """Put all sub-envs where they were saved: None, or a clause that says why that is impossible."""
    if "why_not" in saved:
        return str(saved["why_not"])
    if not isinstance(env, SeededCartPole):
        return f"the state was not saved by {type(env).__name__}"
    try:
        env.set_state(saved["state"])
    except NOT_A_STATE as error:
        return f"its saved state does not fit it ({type(error).__name__}: {error})"
    return None
