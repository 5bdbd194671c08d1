"""Steps the envs with an agent's actions and keeps the books of every episode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlab.experience.contract import NO_STATE, Acted, Step, VectorEnv
from rlab.networks.memory import State


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode: who played it in which env, its undiscounted return and its length in transitions."""

    member: int
    env: int
    episode_return: float
    length: int


class Collector:
    """Holds the observation to act on next and, per sub-env, the return and length of the episode under way."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        lanes = (len(env.seeds), env.num_envs)
        self.obs = np.zeros(0)
        self.carried: State = NO_STATE  # what the agent gave to be carried on
        self.transitions = np.zeros(lanes[0], np.int64)  # per member; reset rows are none
        self.episodes = np.zeros(lanes[0], np.int64)
        self._returns = np.zeros(lanes, np.float64)
        self._lengths = np.zeros(lanes, np.int64)

    def start(self) -> None:
        """Begin fresh episodes in every env."""
        self.obs = self.env.reset()
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def collect(self, act: Callable[[np.ndarray, State], Acted]) -> tuple[np.ndarray, Acted, Step, list[Episode]]:
        """One vector step: the observation `[S, N, *obs]`, what was done, what it led to, and the episodes that ended.

        `act` gets a copy of the observation, which it may change; what is stored stays what the env gave.
        """
        obs = self.obs
        acted = act(obs.copy(), self.carried)
        self.carried = acted.state
        step = self.env.step(acted.action)
        self.obs = step.obs.copy()  # the step goes on to who stores it and to the agent
        if step.all_valid:
            self._returns += step.reward
            self._lengths += 1
            self.transitions += self.env.num_envs
        else:
            self._returns += step.reward * step.valid
            self._lengths += step.valid
            self.transitions += step.valid.sum(axis=1)
        if step.none_ended:
            return obs, acted, step, []
        ended = step.valid & (step.terminated | step.truncated)
        return obs, acted, step, self._close(ended) if ended.any() else []

    def _close(self, ended: np.ndarray) -> list[Episode]:
        finished = [
            Episode(int(member), int(env), float(self._returns[member, env]), int(self._lengths[member, env]))
            for member, env in np.argwhere(ended)
        ]
        self.episodes += ended.sum(axis=1)
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return finished

    def state(self) -> dict[str, Any]:
        """The counters and the env's own state; episodes under way are not kept, a resumed run begins fresh ones."""
        return {"transitions": self.transitions.copy(), "episodes": self.episodes.copy(), "env": self.env.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.transitions[:] = state["transitions"]
        self.episodes[:] = state["episodes"]
        self.env.load_state(state["env"])
