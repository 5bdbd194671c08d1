"""Evaluation on a device: all members and all episodes step at once, as tensors, and the host only looks in."""

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

from rlab.evaluation.episode_driver import (
    CANNOT_PLAY,
    HasTimeLimit,
    StoppedError,
    check_episodes,
    check_spaces,
    endless,
    most_steps,
)
from rlab.evaluation.evaluate import Evaluation, check_returns
from rlab.networks.finite import check_finite
from rlab.networks.policy import Policy

LOOK_EVERY = 16  # steps between two looks at whether an episode goes on; a look waits for the device


class Episodes(HasTimeLimit, Protocol):
    """E episodes as functions of tensors `[..., E]`, such as `rlab.envs.tensor_episodes.TensorEpisodes`."""

    start: dict[str, Tensor]  # [E, *field] each, the state that they begin in

    def obs(self, state: dict[str, Tensor]) -> Tensor: ...

    def step(self, state: dict[str, Tensor], action: Tensor, steps: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The next state, the reward and whether the episode terminated, for actions as the policy gives them; `steps`
        `[1]` have been taken."""
        ...


class RunsPrograms(Protocol):
    """Calls functions of tensors as they are, or compiled: `rlab.learning.programs.Programs`."""

    def run(self, name: str, function: Callable[..., Any], *args: Any) -> Any: ...

    def capture(self, key: Hashable, function: Callable[[], Any]) -> Any: ...


class TensorEvaluation:
    """Judges a stack of policies again and again by the same episodes, greedily.

    The state of all `S x E` episodes is kept in tensors that stay where they are, so that a step can be a compiled
    program. An episode that is over stands still.

    Args:
        policy: the stack; it is judged with the weights that it has when this is called.
        episodes: E of them, on the policy's device.
        first_seed: of the episodes, whose seeds follow each other.
        programs: calls the functions, which have to be the same ones for as long as it lives.

    Raises:
        UsageError: no episodes, those of other spaces than the policy's, or seeds that training envs may have used.
    """

    def __init__(self, policy: Policy, episodes: Episodes, first_seed: int, programs: RunsPrograms) -> None:
        self.policy, self.first_seed = policy, first_seed
        self._envs, self._programs = episodes, programs
        self.episodes = count = len(next(iter(episodes.start.values())))
        check_episodes("an evaluation", count, first_seed)
        check_spaces(policy, episodes)
        rows = (len(policy.seeds), count)
        self._state = {name: value.expand(rows[0], *value.shape).clone() for name, value in episodes.start.items()}
        device = next(iter(self._state.values())).device
        self._memory = {name: value.clone() for name, value in policy.initial_state(count).items()}
        self._active = torch.empty(rows, dtype=torch.bool, device=device)
        self._returns = torch.empty(rows, dtype=torch.float64, device=device)
        self._lengths = torch.empty(rows, dtype=torch.int64, device=device)
        self._steps = torch.empty(1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def __call__(self, should_stop: Callable[[], bool] = lambda: False) -> Evaluation:
        """Play all episodes from their beginning to their end.

        Args:
            should_stop: called before every few steps.

        Raises:
            StoppedError: `should_stop` returned true.
            EndlessError: an episode does not end and its env has no time limit.
            RlabError: a weight or a return is not finite.
        """
        check_finite(self.policy, self.policy.seeds, CANNOT_PLAY)
        self._begin()
        taken, most = 0, most_steps(self._envs)
        while self._active.any():
            if should_stop():
                raise StoppedError
            if taken >= most:
                row, column = self._active.nonzero()[0].tolist()
                seed = self.first_seed + column
                raise endless(f"{seed} of training seed {self.policy.seeds[row]}", self._envs)
            self._programs.capture("judged steps", self._several)
            taken += LOOK_EVERY
        returns, lengths = self._returns.cpu().numpy().copy(), self._lengths.cpu().numpy().copy()
        check_returns(returns, self.policy.seeds, self.first_seed)
        return Evaluation(self.policy.seeds, self.first_seed, returns, lengths)

    def _begin(self) -> None:
        for name, value in self._state.items():
            value.copy_(self._envs.start[name].expand_as(value))
        for name, value in self.policy.initial_state(self.episodes).items():
            self._memory[name].copy_(value)
        self._active.fill_(True)
        for total in (self._returns, self._lengths, self._steps):
            total.zero_()

    def _several(self) -> None:
        for _ in range(LOOK_EVERY):
            self._programs.run("judged step", self._step)

    def _step(self) -> None:
        """One step of every episode that is active; all that changes is changed in place."""
        obs = self._envs.obs(self._state)
        if self._memory:
            action, memory = self.policy(obs, state=self._memory)
            for name, value in memory.items():
                self._memory[name].copy_(value)
        else:
            action = self.policy(obs)
        after, reward, terminated = self._envs.step(self._state, action, self._steps)
        self._returns.add_(torch.where(self._active, reward.double(), 0.0))
        self._lengths.add_(self._active)
        for name, value in self._state.items():
            wide = self._active.reshape(self._active.shape + (1,) * (value.ndim - 2))
            value.copy_(torch.where(wide, after[name], value))
        self._steps.add_(1)
        over = terminated
        if (limit := self._envs.time_limit) is not None:
            over = over | (self._lengths >= limit)
        self._active.logical_and_(~over)
