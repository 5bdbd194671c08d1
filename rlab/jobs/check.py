"""`rlab.check`: what training in an env would stumble over, and which agents can learn in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlab.agents import choosers
from rlab.envs import Checkup, EnvLike, Finding, check_env, env_spec
from rlab.envs.linter import STEPS
from rlab.envs.watch import ENV_TIMEOUT
from rlab.errors import UsageError
from rlab.jobs.defaults import data_of
from rlab.networks.heads import build_head, stochastic_head_json
from rlab.networks.spaces import Box, Leaf


def check(
    env: EnvLike,
    *,
    env_kwargs: Sequence[str] | Mapping[str, Any] = (),
    wrappers: Sequence[str] = (),
    max_episode_steps: int | None = None,
    env_timeout: float = ENV_TIMEOUT,
    steps: int = STEPS,
    seed: int = 0,
) -> Checkup:
    """Play an env with random actions and report, as a linter does, what is wrong with it and how to fix it.

        print(rlab.check(MyEnv).report())

    Args:
        env, env_kwargs, wrappers: as for `train`.
        max_episode_steps: replaces the env's own time limit.
        env_timeout: seconds for each constructor, reset, step and close of an env.
        steps: of random play, over all episodes.
        seed: of the first episode.

    Raises:
        UsageError: the env, a keyword or a wrapper does not exist.
    """
    try:
        spec = env_spec(env, env_kwargs, wrappers, max_episode_steps)
    except UsageError as error:
        if "config.json" not in str(error):  # else it is a keyword that no run can keep
            raise
        return Checkup(str(env), (Finding("keywords", "error", str(error), "give it in a function of your own"),))
    found = check_env(replace(spec, timeout=env_timeout), steps, seed)
    if found.packing is None:
        return found
    actions = found.packing.action_space
    why = nothing_to_choose(actions)
    able = tuple(choosers(actions)) if why is None else ()
    if any(data_of(agent) != "dataset" for agent in able):
        return replace(found, agents=able)
    fix = "change the action space, or use a wrapper that does: --wrapper DiscretizeAction"
    if why is not None:
        fix = "leave an element that never changes out of the actions, or widen its bounds"
    none = Finding("no-agent", "error", why or f"no agent can choose actions {actions}", fix)
    return replace(found, agents=able, findings=(none, *found.findings))


def nothing_to_choose(space: Leaf) -> str | None:
    """Why a policy cannot choose such actions though agents can use their kind; None: it can."""
    if not isinstance(space, Box) or np.dtype(space.dtype).kind != "f":
        return None
    try:
        build_head(stochastic_head_json(space, squash=False), space)
    except UsageError as error:
        return str(error)
    return None
