"""Whole episodes of a tensor env that begin, and draw, as those of its Gymnasium env do."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlab.envs.make import make_env
from rlab.envs.specs import EnvSpec
from rlab.envs.tensor_env import EnvState
from rlab.envs.tensor_registry import is_shipped, tensor_env_of, why_not_tensor
from rlab.networks.spaces import Discrete, MultiDiscrete, Space


def why_not_tensor_episodes(spec: EnvSpec) -> str | None:
    """Why episodes played as tensors are not sure to be those of the Gymnasium env; None where they are.

    Raises:
        UsageError: the env or a wrapper does not exist, or the env cannot be made.
    """
    why = why_not_tensor(spec)
    if why is not None:
        return why
    if not is_shipped(spec):
        return f"the tensor version of {spec.env_id} is not one of rlab's, which are proven equal to Gymnasium's envs"
    if not (spec.max_episode_steps or spec.check().max_episode_steps) and tensor_env_of(spec).step_uniforms:
        return f"{spec.env_id} has no time limit, so that the random numbers of its steps cannot be drawn in advance"
    return None


class TensorEpisodes:
    """E episodes, each from its own seed, as functions of tensors with leading dimensions `[..., E]`.

    Gymnasium's env is reset with each seed once, for the state that it begins in and the random numbers that its steps
    would draw. The state is float64, as in Gymnasium's envs; only the last digits of what is computed differ.

    Args:
        spec: of an env for which `why_not_tensor_episodes` knows no obstacle.
        seeds: of the episodes; E of them.
    """

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        env = self._env = tensor_env_of(spec).to(device)
        self.obs_space: Space = env.obs_space
        self.action_space: Space = env.action_space
        self.time_limit = env.time_limit
        states, noise = [], []
        gym_env = make_env(spec)
        try:
            for seed in seeds:
                gym_env.reset(seed=int(seed))
                states.append({name: np.array(value) for name, value in env.state_of(gym_env.unwrapped).items()})
                noise.append(env.noise_of(gym_env.unwrapped, env.time_limit or 1))
        finally:
            gym_env.close()
        usual = env.reset(torch.zeros(1, env.reset_uniforms, device=device))  # its dtypes
        dtypes = {name: torch.float64 if value.is_floating_point() else value.dtype for name, value in usual.items()}
        self.start: EnvState = {  # [E, *field]
            name: torch.from_numpy(np.stack([state[name] for state in states])).to(device, dtype)
            for name, dtype in dtypes.items()
        }
        self._noise = torch.from_numpy(np.stack(noise)).to(device)  # [E, T, step_uniforms]
        self._obs_dtype: torch.dtype = getattr(torch, env.obs_space.dtype)
        self._first: Tensor | None = None  # what integers count from
        if isinstance(env.action_space, Discrete | MultiDiscrete):
            self._first = torch.tensor(env.action_space.start, device=device).reshape(env.action_space.shape)

    def obs(self, state: EnvState) -> Tensor:
        """The observations `[..., E, *obs]` of a state."""
        return self._env.obs(state).to(self._obs_dtype)

    def step(self, state: EnvState, action: Tensor, steps: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        """The next state, the reward and whether the episode terminated, `[..., E]` each.

        Args:
            action: `[..., E, *action]`, elements of the action space as a policy gives them.
            steps: int64 `[1]`, how many steps the episodes have taken.
        """
        counted = action if self._first is None else action - self._first
        noise = self._noise
        if self._env.step_uniforms:
            noise = noise.index_select(
                1, steps.clamp(max=noise.shape[1] - 1)
            )  # steps behind the last one count for none
        return self._env.step(state, counted, noise[:, 0])
