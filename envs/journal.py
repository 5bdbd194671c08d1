"""A journal of the episode under way: how it began and the actions since, so that it can be played again to its present
state, in an env whose state rlab cannot read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.env_memory import Path, as_data, generators_of, held_at, memory_of, set_generator
from rlab.envs.generators import generator_state

LONGEST = 100_000  # steps of an episode that are kept and played again
BLOCK = 1000  # actions that are packed into one array


class Unsaved(Exception):
    """A state that cannot be saved; the message is a clause that says why."""


@dataclass(frozen=True)
class Beginning:
    """How an episode began: what decided its first observation."""

    seed: int | None
    options: Any  # of `reset`
    counters: dict[str, Any]  # of the `SubEnv`
    globals: dict[str, Any]  # of its `OwnGlobals`
    generators: list[tuple[Path, dict[str, Any]]]  # that the env held, before the reset


class Journal:
    """What is recorded while an env is played: well under a microsecond for a step."""

    def __init__(self, env: gym.Env) -> None:
        self._env = env
        self._paths: list[Path] = []  # where the env holds generators
        self._resets = 0
        self.beginning: Beginning | None = None
        self._recent: list[Any] = []
        self._blocks: list[np.ndarray] = []
        self.result: tuple[Any, ...] = ()  # of the last step, or as if of one where the episode has just begun
        self.total_reward = 0.0

    def begin(self, seed: int | None, options: Any, counters: dict[str, Any], own_globals: dict[str, Any]) -> None:
        """Note how an episode is about to begin."""
        if self._resets < 2:  # an env may make its generators when it is made, and in its first reset
            self._paths = list(generators_of(self._env))
        self._resets += 1
        states = [(path, self._state_at(path)) for path in self._paths]
        found = [(path, state) for path, state in states if state is not None]
        self.beginning = Beginning(seed, options, counters, own_globals, found)
        self._recent, self._blocks, self.total_reward = [], [], 0.0

    def add(self, action: Any, result: tuple[Any, float, bool, bool, Any]) -> None:
        """One step. Action and observation are kept as they are: nobody changes them any more."""
        self.result = result
        self.total_reward += result[1]
        self._recent.append(action)
        if len(self._recent) == BLOCK:
            if len(self._blocks) * BLOCK < LONGEST:
                self._blocks.append(small(np.array(self._recent)))
            self._recent = []

    def state(self) -> dict[str, Any]:
        """All that a replay needs, as data.

        Raises:
            Unsaved: the episode is too long, or began with something that is not data.
        """
        began = self.beginning
        assert began is not None
        if len(self._blocks) * BLOCK >= LONGEST:
            raise Unsaved(f"an episode has {LONGEST} steps or more, and rlab cannot read the env's state")
        try:
            options = as_data(began.options)
        except TypeError as error:
            raise Unsaved(f"its episode began with options that are not data: {error}") from None
        obs, _, terminated, truncated, _ = self.result
        memory = memory_of(self._env)
        self._paths = [tuple(path) for path, _ in memory["generators"]]
        blocks = [*self._blocks, *([small(np.array(self._recent))] if self._recent else [])]
        return {
            "seed": began.seed,
            "options": options,
            "counters": dict(began.counters),
            "globals": began.globals,
            "generators": [[list(path), state] for path, state in began.generators],
            "actions": blocks,
            "result": [np.array(obs), terminated, truncated, self.total_reward],
            "memory": memory,
        }

    def ends_as(self, result: Any) -> bool:
        """Whether the episode is where it was saved: the last observation, how it ended, and its return."""
        obs, _, terminated, truncated, _ = self.result
        there = np.array(obs)
        same = (there.dtype, there.shape, there.tobytes()) == (result[0].dtype, result[0].shape, result[0].tobytes())
        return same and [terminated, truncated] == result[1:3] and self.total_reward == result[3]

    def _state_at(self, path: Path) -> dict[str, Any] | None:
        try:
            return generator_state(held_at(self._env, path))
        except (LookupError, TypeError):
            return None


def actions_of(state: Mapping[str, Any], dtype: Any) -> Iterator[Any]:
    """The actions of a saved journal, one by one, as the vector env gave them."""
    for block in state["actions"]:
        yield from block.astype(dtype)


def restore_generators(env: gym.Env, state: Mapping[str, Any]) -> bool:
    """Let the generators that the env holds be where they were before the episode; false where one cannot."""
    return all([set_generator(env, tuple(path), saved) for path, saved in state["generators"]])


def small(actions: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them."""
    if actions.dtype.kind not in "iu":
        return actions
    least, most = int(actions.min()), int(actions.max())
    for dtype in (np.uint8, np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return actions.astype(dtype)
    return actions
