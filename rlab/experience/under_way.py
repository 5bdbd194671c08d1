"""The envs, what is acted on next, and the episodes that are under way: what a checkpoint keeps of collecting."""

from typing import Any

import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.experience.env_contract import NO_STATE, DeviceEnv, Step
from rlab.experience.episode_counts import EpisodeCounts
from rlab.networks.memory import State

LIVES_WITH_MEMORY = (
    "life_loss: a lost life would end an episode in what is learned, and not for the memory of the policy that plays "
    "on; leave it out, as in --wrapper Atari, or use a policy without memory."
)


class UnderWay(EpisodeCounts):
    """Episodes that can be saved in their middle and taken up again; arguments as of `Collector`."""

    def __init__(self, env: DeviceEnv, looked: int = 1) -> None:
        super().__init__(len(env.seeds), env.num_envs, env.device, looked)
        self.env = env
        self.obs = torch.zeros(0)  # [S, N, *obs]
        self.carried: State = NO_STATE  # the agent's state, [S, N, ...] each
        self._initial: State = NO_STATE  # that every episode begins with
        self._goes_on = False  # whether the episodes under way were loaded, envs and all

    @property
    def begun(self) -> bool:
        """Whether there are episodes under way."""
        return self.obs.numel() > 0

    def start(self, initial: State = NO_STATE) -> None:
        """Begin fresh episodes in every env; `initial` is the agent's state at the beginning of an episode."""
        obs = self.env.reset()
        if self._initial.keys() != initial.keys() or self.obs.shape != obs.shape:
            self.obs, self._initial, self.carried = obs.clone(), copied(initial), copied(initial)
        self.obs.copy_(obs)  # in place: programs may have this memory
        for name, value in initial.items():
            self._initial[name].copy_(value)
            self.carried[name].copy_(value)
        self.begin()

    def go_on(self, initial: State = NO_STATE) -> bool:
        """Whether the episodes of `load_state` are under way, so that there is nothing to start; `initial` is the
        agent's state at the beginning of an episode."""
        goes_on, self._goes_on = self._goes_on, False
        if goes_on:
            self._initial = copied(initial)
        return goes_on

    def count(self, step: Step) -> None:
        """Also that no life was lost that is learned from as an ending, where the agent has memory.

        Raises:
            UsageError: one was.
        """
        if self.carried and step.life_lost is not None:
            raise UsageError(LIVES_WITH_MEMORY)
        super().count(step)

    def move_to(self, env: DeviceEnv) -> str | None:
        """Go on in other envs of the same kind, in the middle of the episodes under way.

        Returns:
            why these envs cannot take them up, as one clause, so that fresh ones must begin; None where they do.
        """
        state, self.env = self.env.state(), env
        why = env.load_state(state) if self.begun else None
        self._goes_on &= why is None
        return why

    def state(self) -> dict[str, Any]:
        """Everything that the next vector steps depend on besides the agent: the envs, what is acted on next, what the
        agent carries, and the episodes under way."""
        state: dict[str, Any] = {"transitions": self.transitions.copy(), "episodes": self.episodes.copy(), "env": None}
        if self.begun:
            state |= {"env": self.env.state(), "obs": self.obs.clone(), "carried": copied(self.carried)}
            state |= {"returns": self._returns.clone(), "lengths": self._lengths.clone()}
        return state

    def load_state(self, state: dict[str, Any]) -> str | None:
        """Go on from `state()`: `go_on` then says whether `start` is needed.

        Returns:
            why the episodes under way cannot go on, as one clause; None where they do, or where none had begun.

        Raises:
            ValueError: it is of other envs.
        """
        self.load_counts(state["transitions"], state["episodes"])
        if state["env"] is None:
            return None
        rows, shape = self._returns.shape, self.env.obs_space.shape
        for name, expected in (("obs", (*rows, *shape)), ("returns", rows), ("lengths", rows)):
            if not isinstance(state[name], Tensor) or state[name].shape != expected:
                raise ValueError(f"the {name} of the episodes under way must be a tensor {tuple(expected)}")
        why = self.env.load_state(state["env"])
        if why is None:
            self._goes_on = True
            self.obs = state["obs"].clone().to(self.env.device)
            self.carried = {name: value.clone().to(self.env.device) for name, value in state["carried"].items()}
            self._returns.copy_(state["returns"])
            self._lengths.copy_(state["lengths"])
        return why


def copied(state: State) -> State:
    """The same in memory of its own."""
    return {name: value.clone() for name, value in state.items()}
