"""A journal of the episode under way: how it began and the actions since, so that it can be played again to its present
state, in an env whose state rlab cannot read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.env_memory import (
    Path,
    Untouched,
    as_data,
    attributes_at,
    generator_states,
    generators_at,
    look_through,
    memory_of,
    plain_attributes,
)
from rlab.places import one_line

LONGEST = 100_000  # steps of an episode that are kept and played again
BLOCK = 1000  # actions that are packed into one array


class UnsavedError(Exception):
    """A state that cannot be saved; the message is a clause that says why."""


@dataclass(frozen=True)
class Beginning:
    """How an episode began: what decided its first observation."""

    seed: int | None
    options: Any  # of `reset`
    counters: dict[str, Any]  # of the `SubEnv`
    globals: dict[str, Any]  # its own and those of its process
    generators: list[Any]  # that the env held, before the reset: see `generator_states`
    attributes: list[Any]  # of its objects, before the reset: see `attributes_at`


class Journal:
    """What is recorded while an env is played: well under a microsecond for a step."""

    def __init__(self, env: gym.Env, untouched: Untouched) -> None:
        self._env, self._untouched = env, untouched
        self._generators: list[Path] = []  # where the env holds them
        self._objects: list[Path] = []
        self._resets = 0
        self._unreadable = ""
        self.beginning: Beginning | None = None
        self._recent: list[Any] = []
        self._blocks: list[np.ndarray] = []
        self.result: tuple[Any, ...] = ()  # of the last step, or as if of one where the episode has just begun
        self.total_reward = 0.0

    def begin(self, seed: int | None, options: Any, counters: dict[str, Any], own_globals: dict[str, Any]) -> None:
        """Note how an episode is about to begin."""
        generators: list[Any] = []
        attributes: list[Any] = []
        try:
            if self._resets & (self._resets - 1) == 0:  # at 0, 1, 2, 4, 8 ...: an env may make generators at any time
                self.look()
            generators = generator_states(generators_at(self._env, self._generators))
            attributes = attributes_at(self._env, self._objects)
        except Exception as error:  # the attributes of an env may be anything
            self._unreadable = f"the attributes of the env cannot be read: {one_line(error)}"
        self._resets += 1
        self.beginning = Beginning(seed, options, counters, own_globals, generators, attributes)
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
            UnsavedError: the episode is too long, or began with something that is not data.
        """
        began = self.beginning
        assert began is not None
        if self._unreadable:
            raise UnsavedError(self._unreadable)
        if len(self._blocks) * BLOCK >= LONGEST:
            raise UnsavedError(f"an episode has {LONGEST} steps or more, and rlab cannot read the env's state")
        try:
            options = as_data(began.options)
        except TypeError as error:
            raise UnsavedError(f"its episode began with options that are not data: {error}") from None
        obs, _, terminated, truncated, _ = self.result
        blocks = [*self._blocks, *([small(np.array(self._recent))] if self._recent else [])]
        return {
            "beginning": {
                "seed": began.seed,
                "options": options,
                "counters": began.counters,
                "globals": began.globals,
                "generators": began.generators,
                "attributes": plain_attributes(began.attributes),
            },
            "actions": blocks,
            "result": [np.array(obs), terminated, truncated, self.total_reward],
            "memory": self.look(),
        }

    def look(self) -> dict[str, Any]:
        """What the env remembers now, and where the next episodes find it."""
        found = look_through(self._env, self._untouched)
        self._generators, self._objects = list(found.generators), found.objects
        return memory_of(found)

    def difference(self, result: Any) -> str | None:
        """What is not as it was saved: the last observation, how the episode ended, or its return."""
        obs, _, terminated, truncated, _ = self.result
        there = np.array(obs)
        if (there.dtype, there.shape, there.tobytes()) != (result[0].dtype, result[0].shape, result[0].tobytes()):
            return "ended in another observation"
        if [terminated, truncated] != result[1:3]:
            return "ended in another way"
        return None if self.total_reward == result[3] else "gave other rewards"


def actions_of(state: Mapping[str, Any], dtype: Any) -> Iterator[Any]:
    """The actions of a saved journal, one by one, as the vector env gave them."""
    for block in state["actions"]:
        yield from block.astype(dtype)


def small(actions: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them."""
    if actions.dtype.kind not in "iu":
        return actions
    least, most = int(actions.min()), int(actions.max())
    for dtype in (np.uint8, np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return actions.astype(dtype)
    return actions
