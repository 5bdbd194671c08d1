"""`TensorVectorEnv`: S x N copies of a `TensorEnv` that reset themselves, on one device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.envs.tensor_env import EnvState, TensorEnv
from rlab.experience.env_contract import Step
from rlab.networks.spaces import Space

USE = "tensor env"  # the name of the random streams
AHEAD = 64  # vector steps whose random numbers are worked out at once


class TensorVectorEnv:
    """S x N envs for training, each on its own random stream; an env that ends is reset in the same step.

    A step reads nothing back to the host and changes the state in place, in the same tensors for ever: it can be part
    of a compiled program and of a CUDA graph.

    Args:
        env: what it steps; its `time_limit` truncates episodes.
        seeds: the training seed of each member; S of them.
        num_envs: N, the envs of each member.
    """

    has_reset_rows = False  # every row is a transition
    restarts = None  # they never fail
    on_host = False  # a step can be part of a program

    def __init__(self, env: TensorEnv, seeds: Sequence[int], num_envs: int, device: torch.device | str = "cpu") -> None:
        self.env = env.to(device)
        self.obs_space: Space = env.obs_space
        self.action_space: Space = env.action_space
        self.time_limit = env.time_limit
        self.seeds = tuple(seeds)
        self.num_envs = num_envs
        self.device = torch.device(device)
        rows = (len(self.seeds), num_envs)
        self._uniforms = env.reset_uniforms + env.step_uniforms
        self._draws = Draws.of_envs(self.seeds, num_envs, USE, self.device, AHEAD)
        self._no_noise = torch.zeros(*rows, 0, device=self.device)
        self._steps = torch.zeros(rows, dtype=torch.int64, device=self.device)  # of the episode under way
        self._valid = torch.ones(rows, dtype=torch.bool, device=self.device)
        self._never = torch.zeros(rows, dtype=torch.bool, device=self.device)
        first = self.env.reset(torch.zeros(*rows, env.reset_uniforms, device=self.device))
        self._state: EnvState = {name: value.clone() for name, value in first.items()}

    def reset(self) -> Tensor:
        """Start an episode in every env; observations `[S, N, *obs]`."""
        fresh = self.env.reset(self._noise()[..., : self.env.reset_uniforms])
        for name, value in self._state.items():
            value.copy_(fresh[name])
        self._steps.zero_()
        return self.obs()

    def step(self, action: Tensor) -> Step:
        """Apply actions `[S, N]` or `[S, N, *action]`: integers counted from 0, or in the env's own units.

        All tensors of the step are new ones, but for `valid` and, without a time limit, `truncated`.
        """
        noise, first = self._noise(), self.env.reset_uniforms
        after, reward, terminated = self.env.step(self._copies(), action, noise[..., first:])
        next_obs = self.env.obs(after)
        over, truncated = terminated, self._never
        if self.time_limit is not None:
            over = terminated | (self._steps.add_(1) >= self.time_limit)
            truncated = over ^ terminated  # a termination takes precedence over a time limit
            self._steps.masked_fill_(over, 0)
        fresh = self.env.reset(noise[..., :first])
        now = {name: torch.where(_as_wide(over, value), fresh[name], value) for name, value in after.items()}
        for name, value in self._state.items():
            value.copy_(now[name])
        return Step(
            obs=self.env.obs(now),
            next_obs=next_obs,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=self._valid,
            all_valid=True,
            none_ended=False,
        )

    def obs(self) -> Tensor:
        """What to act on next, `[S, N, *obs]`: what the last `reset` or `step` gave, also after `load_state`."""
        return self.env.obs(self._copies())

    def state(self) -> dict[str, Any]:
        """All that is needed to go on in the middle of the episodes: tensors `[S, N, ...]` and numbers, all copies."""
        return {"draws": self._draws.state(), "steps": self._steps.clone(), "fields": self._copies()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved, which is always possible: the answer is None (see `DeviceEnv`)."""
        self._draws.load_state(state["draws"])
        self._steps.copy_(state["steps"])
        for name, value in self._state.items():
            value.copy_(state["fields"][name])

    def suspend(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""

    def _copies(self) -> EnvState:
        """The state in memory of its own: what is made of it may be a view of it."""
        return {name: value.clone() for name, value in self._state.items()}

    def _noise(self) -> Tensor:
        """The uniform numbers of one reset and one step, `[S, N, reset_uniforms + step_uniforms]`."""
        return self._draws.uniform(self._uniforms) if self._uniforms else self._no_noise


def _as_wide(rows: Tensor, value: Tensor) -> Tensor:
    """`rows [S, N]` with as many dimensions as `value [S, N, ...]`."""
    return rows.reshape(rows.shape + (1,) * (value.ndim - rows.ndim))
