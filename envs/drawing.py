"""Envs that draw themselves, in a window or as pictures, made by a class or by a function."""

import inspect
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator

from rlab.errors import UsageError


def creator(found: Registered) -> Any:
    """The env's class or function.

    Raises:
        UsageError: it is registered as a vector env alone.
    """
    if found.entry_point is None:
        raise UsageError(f"{found.id} is registered without a single env")
    return load_env_creator(found.entry_point) if isinstance(found.entry_point, str) else found.entry_point


def drawing(found: Registered, env: gym.Env, render_mode: str) -> dict[str, Any]:
    """The keyword that turns drawing on; none where the env draws that way by itself.

    Args:
        env: one that was made without the keyword.

    Raises:
        UsageError: it cannot be drawn so, or its class or function takes no `render_mode`.
    """
    if env.render_mode == render_mode:
        return {}
    modes = _modes(found, env.metadata, render_mode)
    if not _takes_render_mode(creator(found)):
        raise UsageError(
            f"{found.id} cannot be drawn: its class or function takes no keyword render_mode, as Gymnasium's envs do"
        )
    return {"render_mode": render_mode if render_mode in modes else "rgb_array"}


def make_drawn(found: Registered, render_mode: str, **kwargs: Any) -> gym.Env:
    """`gym.make` of an env that is drawn; a window shows the arrays of one that has no window of its own.

    Raises:
        UsageError: it cannot be drawn so.
    """
    if hasattr(creator(found), "metadata"):
        _modes(found, creator(found).metadata, render_mode)
        return gym.make(found, render_mode=render_mode, **kwargs)  # Gymnasium handles it
    env = gym.make(found, **kwargs)
    keywords = drawing(found, env, render_mode)
    if keywords:
        env.close()
        env = gym.make(found, **kwargs, **keywords)
    return gym.wrappers.HumanRendering(env) if env.render_mode != render_mode else env


def _modes(found: Registered, metadata: Any, render_mode: str) -> list[str]:
    """How an env can be drawn; a UsageError where that is not in this mode."""
    modes = list((metadata or {}).get("render_modes") or [])
    # a window can show any env that draws arrays
    if render_mode not in modes and not (render_mode == "human" and "rgb_array" in modes):
        raise UsageError(f"{found.id} cannot be drawn as {render_mode!r}; it knows: {', '.join(modes) or 'nothing'}")
    return modes


def _takes_render_mode(make: Any) -> bool:
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # some callables written in C have no signature
        return True
    return "render_mode" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
