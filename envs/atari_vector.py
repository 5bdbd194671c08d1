"""ALE's own vector env, which steps and shrinks Atari games in threads of C++, in the place of `AtariFrames` and
`FrameStack`.

It follows their rules: where nothing is drawn at random, each observation, reward and ending is theirs, but for pixels
that round to the next of 256 levels. It draws its starts and sticky actions from streams of its own, one for each
sub-env, so that a seed stands for other episodes; the limit of an episode's frames does not count those of its start.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.vector import AutoresetMode

from rlab.envs.atari import LIFE_LOST
from rlab.envs.gym_spaces import CHANNELS, FRAMES
from rlab.errors import UsageError
from rlab.networks.bounds import FIRST

# What it can be told of a game; `AtariFrames` and `FrameStack` say the rest.
KEYWORDS = frozenset(
    {"game", "frameskip", "obs_type", "repeat_action_probability", "full_action_space", "max_num_frames_per_episode"}
)
Wrappers = Sequence[tuple[str, Mapping[str, Any]]]


def why_not_atari_vector(found: Registered, kwargs: Mapping[str, Any], wrappers: Wrappers, limited: bool) -> str | None:
    """Why a game, made with these keywords and wrappers, cannot run in ALE's vector env; None where it can.

    Args:
        limited: whether it has a time limit beside its own.
    """
    if [name for name, _ in wrappers] != ["AtariFrames", "FrameStack"]:
        return "ALE's vector env shows stacks of frames: use --wrapper Atari and no other"
    if strange := sorted(kwargs.keys() - KEYWORDS):
        return f"ALE's vector env does not take {', '.join(strange)}"
    if {**found.kwargs, **kwargs}.get("obs_type") != "grayscale":
        return "stacks of ALE's vector env are in grey here: leave out the keyword obs_type"
    return "its limit counts frames: --env-kwargs max_num_frames_per_episode=N" if limited else None


class AtariVector(gym.vector.VectorEnv):
    """`num_envs` games of one kind; `reset` takes one seed for each.

    Args:
        kwargs: those of the game, its name included.
        wrappers: the arguments of `AtariFrames` and of `FrameStack`.
    """

    def __init__(self, num_envs: int, kwargs: Mapping[str, Any], wrappers: Wrappers) -> None:
        (_, frames), (_, stack) = wrappers
        size = frames.get("size", (84, 84))
        self._counts_lives, skip = frames["life_loss"], frames["skip"]
        settings = {
            **{name: value for name, value in kwargs.items() if name not in ("frameskip", "obs_type")},
            "img_height": size[0],
            "img_width": size[1],
            "stack_num": stack["frames"],
            "frameskip": skip,
            "noop_max": frames["noops"],
            "use_fire_reset": frames["fire"],
            "reward_clipping": False,
        }
        threads = min(num_envs, os.cpu_count() or 1)
        make = importlib.import_module("ale_py.vector_env").AtariVectorEnv
        try:
            self._games = make(
                num_envs=num_envs, num_threads=threads, autoreset_mode=AutoresetMode.SAME_STEP, **settings
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"ALE's vector env cannot play {kwargs['game']}: {error}; use --vector sync") from error
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_action_space = self._games.single_action_space
        self.single_observation_space = self._games.single_observation_space
        setattr(self.single_observation_space, CHANNELS, FIRST)
        setattr(self.single_observation_space, FRAMES, stack["frames"])
        self.observation_space, self.action_space = self._games.observation_space, self._games.action_space
        self.time_limit = -(-int(kwargs["max_num_frames_per_episode"]) // skip)  # env steps
        self._lives = np.zeros(num_envs, np.int32)

    def reset(  # type: ignore[override]  # the base class takes one seed for all
        self, *, seed: Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start every game; without seeds their streams go on."""
        seeds = None
        if seed is not None:  # ALE takes 31 bits
            seeds = np.array([np.random.SeedSequence(one).generate_state(1)[0] >> 1 for one in seed], np.int64)
        obs, info = self._games.reset(seed=seeds)
        self._lives = info["lives"].copy()
        return obs, {}

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, given = self._games.step(actions)
        ended = terminated | truncated
        info = {name: given[name] for name in ("final_obs",) if ended.any()}
        if self._counts_lives and (lost := (given["lives"] < self._lives) & ~ended).any():
            info[LIFE_LOST] = lost
        self._lives = given["lives"].copy()
        return obs, reward, terminated, truncated, info
