"""`TensorEnv`: an env as functions of tensors, which steps any number of envs at once on any device."""

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlab.envs.gym_spaces import space_from_gym
from rlab.envs.tensor_noise import GivenUniforms
from rlab.networks.spaces import Space

EnvState: TypeAlias = dict[str, Tensor]  # [..., *field] each, with the same leading dimensions


class TensorEnv:
    """An env without time limit, autoreset and random generator: pure functions of tensors with any leading dimensions.

    They run inside compiled programs and CUDA graphs: no `.item()`, no `if` on a number in a tensor, no NumPy, and no
    tensor is changed in place. A state is a dict of tensors. Where `step` does not change a field it may return the
    tensor that it was given. Random numbers come in as `u`, uniform in [0, 1); a chance of p is `u[..., 0] < p`.

    Tensors that are attributes, such as tables, are moved by `to`. Numbers that are attributes are constants.

    `state_of` and `set_state` are for `rlab.envs.check_tensor_env`, which compares the env with a Gymnasium env. All is
    computed in the dtype of the state's floats: float32 in training, float64 where policies are judged.

    Args:
        gym_env: the Gymnasium env whose spaces these are; without it a subclass sets `obs_space` and `action_space`.
    """

    obs_space: Space  # of what `obs` gives, in array form: see `rlab.networks.spaces`
    action_space: Space
    time_limit: int | None = None  # env steps after which an episode is truncated; None: it is not
    reset_uniforms: int = 0  # how many uniform numbers a reset takes
    step_uniforms: int = 0  # how many uniform numbers a step takes

    def __init__(self, gym_env: gym.Env | None = None) -> None:
        if gym_env is not None:
            name = type(gym_env).__name__
            self.obs_space = space_from_gym(gym_env.observation_space, f"the observation space of {name}")
            self.action_space = space_from_gym(gym_env.action_space, f"the action space of {name}")

    @classmethod
    def why_not(cls, kwargs: Mapping[str, Any]) -> str | None:
        """Why this class cannot take the place of the Gymnasium env that is made with `kwargs`; None where it can."""
        return None

    def reset(self, u: Tensor) -> EnvState:
        """The first state of an episode, from `u [..., reset_uniforms]`."""
        raise NotImplementedError

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        """The next state, the reward (float32 `[...]`, or as the state) and whether the episode terminated (bool).

        Args:
            state: it stays as it is.
            action: `[..., *action]`; integers count from 0, whatever the action space's start.
            u: `[..., step_uniforms]`.
        """
        raise NotImplementedError

    def obs(self, state: EnvState) -> Tensor:
        """The observation of a state, `[..., *obs]`, in the observation space's dtype."""
        raise NotImplementedError

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        """The state of a Gymnasium env: for each field what `np.asarray` makes an array `[*field]` of."""
        raise NotImplementedError(f"{type(self).__name__} has no state_of, which the comparison with Gymnasium needs")

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        """Put a Gymnasium env into a state, given as arrays `[*field]`."""
        raise NotImplementedError(f"{type(self).__name__} has no set_state, which the comparison with Gymnasium needs")

    def give_noise(self, gym_env: Any, u: np.ndarray) -> None:
        """Let the next reset or step of a Gymnasium env draw what the numbers `u` stand for, in the order of `u`."""
        gym_env.np_random = GivenUniforms(u)

    def noise_of(self, gym_env: Any, steps: int) -> np.ndarray:
        """The numbers `u` `[steps, step_uniforms]` of a Gymnasium env's next steps, taken from its generator."""
        if self.step_uniforms:
            raise NotImplementedError(f"{type(self).__name__} has no noise_of, which judging needs")
        return np.empty((steps, 0))

    def to(self, device: torch.device | str) -> "TensorEnv":
        """The same env with its tensors on a device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved
