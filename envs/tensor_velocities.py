"""`NoVelocity` for tensor envs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.envs.tensor_env import EnvState, TensorEnv
from rlab.networks.spaces import Bounds, Box


class NoVelocity(TensorEnv):
    """A tensor env of which some elements of the observation are kept, in the order of `kept`."""

    def __init__(self, env: TensorEnv, kept: Sequence[int]) -> None:
        super().__init__()
        space = env.obs_space
        assert isinstance(space, Box)  # as of all envs in `velocities.KEPT`
        low, high = (_of(bound, kept) for bound in (space.low, space.high))
        self.obs_space = replace(space, shape=(len(kept),), low=low, high=high)
        self.env, self.action_space, self.time_limit = env, env.action_space, env.time_limit
        self.reset_uniforms, self.step_uniforms = env.reset_uniforms, env.step_uniforms
        self.kept = torch.tensor(list(kept))

    def reset(self, u: Tensor) -> EnvState:
        return self.env.reset(u)

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        return self.env.step(state, action, u)

    def obs(self, state: EnvState) -> Tensor:
        return self.env.obs(state).index_select(-1, self.kept)

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return self.env.state_of(gym_env)

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        self.env.set_state(gym_env, state)

    def give_noise(self, gym_env: Any, u: np.ndarray) -> None:
        self.env.give_noise(gym_env, u)

    def noise_of(self, gym_env: Any, steps: int) -> np.ndarray:
        return self.env.noise_of(gym_env, steps)

    def to(self, device: torch.device | str) -> "NoVelocity":
        """The same env with its tensors, and those of the env inside, on a device."""
        moved = super().to(device)
        assert isinstance(moved, NoVelocity)
        moved.env = self.env.to(device)
        return moved


def _of(bound: Bounds, kept: Sequence[int]) -> Bounds:
    """The bounds of the elements that are kept: one number where all share it."""
    if not isinstance(bound, tuple):
        return bound
    some = tuple(bound[i] for i in kept)
    return some[0] if len(set(some)) == 1 else some
