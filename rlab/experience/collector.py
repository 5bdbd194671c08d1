"""Steps the envs with an agent's actions, carries the agent's state, and counts every episode's return and length."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlab.experience.env_contract import NO_STATE, Acted, Step, VectorEnv
from rlab.networks.memory import State, reset


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode: who played it in which env, its undiscounted return and its length in transitions."""

    member: int
    env: int
    episode_return: float
    length: int


class Collector:
    """Holds the observation and the agent's state to act on next, and the return and length of each episode so far."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        shape = (len(env.seeds), env.num_envs)
        self.obs = np.zeros(0)
        self.carried: State = NO_STATE  # the agent's state, [S, N, ...] each
        self._initial: State = NO_STATE  # that every episode begins with
        self.transitions = np.zeros(shape[0], np.int64)  # per member, without reset rows
        self.episodes = np.zeros(shape[0], np.int64)
        self._returns = np.zeros(shape, np.float64)
        self._lengths = np.zeros(shape, np.int64)

    def start(self, initial: State = NO_STATE) -> None:
        """Begin fresh episodes in every env; `initial` is the agent's state at the beginning of an episode."""
        self.obs = self.env.reset()
        self.carried = self._initial = initial
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def collect(self, act: Callable[[np.ndarray, State], Acted]) -> tuple[np.ndarray, Acted, Step, list[Episode]]:
        """One vector step: the observation `[S, N, *obs]`, what was done, what it led to, and the episodes that ended.

        `act` gets a copy of the observation, which it may change, and the state that its last call returned, set to the
        initial state in rows where an episode begins.
        """
        obs = self.obs
        acted = act(obs.copy(), self.carried)
        step = self.env.step(acted.action)
        self.obs = step.obs.copy()  # the caller hands the step to the storage and to the agent
        self.carried = self._following(acted.state, step) if acted.state else acted.state
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

    def _following(self, state: State, step: Step) -> State:
        """The state for the next step: an episode begins behind a row that ended one, and behind a reset row."""
        if step.all_valid and step.none_ended:
            return state
        begins = torch.from_numpy(~step.valid | step.terminated | step.truncated)
        return reset(state, self._initial, begins.to(next(iter(state.values())).device))

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
        """The counters and the env's own state. Episodes under way are not kept: a resumed run begins fresh ones."""
        return {"transitions": self.transitions.copy(), "episodes": self.episodes.copy(), "env": self.env.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.transitions[:] = state["transitions"]
        self.episodes[:] = state["episodes"]
        self.env.load_state(state["env"])
