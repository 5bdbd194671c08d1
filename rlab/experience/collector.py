"""Holds what an agent acts on next, carries its state, and counts every episode's return and length.

All of it is tensors on the agent's device that are changed in place, so that it can be part of a program.
"""

from typing import Any

import torch

from rlab.experience.env_contract import NO_STATE, DeviceEnv, Step
from rlab.experience.episode_counts import EpisodeCounts
from rlab.networks.memory import State, reset


class Collector(EpisodeCounts):
    """The observation and the agent's state to act on next, and the episodes of these envs.

    Args:
        env: the envs.
        looked: as of `EpisodeCounts`.
    """

    def __init__(self, env: DeviceEnv, looked: int = 1) -> None:
        super().__init__(len(env.seeds), env.num_envs, env.device, looked)
        self.env = env
        self.obs = torch.zeros(0)  # [S, N, *obs]
        self.carried: State = NO_STATE  # the agent's state, [S, N, ...] each
        self._initial: State = NO_STATE  # that every episode begins with

    def start(self, initial: State = NO_STATE) -> None:
        """Begin fresh episodes in every env; `initial` is the agent's state at the beginning of an episode."""
        obs = self.env.reset()
        if self._initial.keys() != initial.keys() or self.obs.shape != obs.shape:
            self.obs, self._initial, self.carried = obs.clone(), _copied(initial), _copied(initial)
        self.obs.copy_(obs)  # in place: programs may have this memory
        for name, value in initial.items():
            self._initial[name].copy_(value)
            self.carried[name].copy_(value)
        self.begin()

    def take(self, step: Step, state: State) -> None:
        """What a vector step led to, and the state that the agent's last call returned: what to act on next."""
        self.obs.copy_(step.obs)
        if state and not (step.all_valid and step.none_ended):
            # An episode begins behind a row that ended one, and behind a reset row.
            state = reset(state, self._initial, ~step.valid | step.terminated | step.truncated)
        for name, value in state.items():
            self.carried[name].copy_(value)
        self.count(step)

    def state(self) -> dict[str, Any]:
        """The counters and the env's own state. Episodes under way are not kept: a resumed run begins fresh ones."""
        return {"transitions": self.transitions.copy(), "episodes": self.episodes.copy(), "env": self.env.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.load_counts(state["transitions"], state["episodes"])
        self.env.load_state(state["env"])


def _copied(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}
