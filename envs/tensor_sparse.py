"""The probe worlds of `probe_sparse.py` as tensor envs, each under the name of its Gymnasium env."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.envs import probe_sparse
from rlab.envs.tensor_env import EnvState, TensorEnv


class ProbeBitFlip(TensorEnv):
    """The state is `x`, the bits, and `goal`, those to be reached; 0 and 1 as floats."""

    def __init__(self, bits: int = 15) -> None:
        super().__init__(probe_sparse.ProbeBitFlip(bits))
        self.bits = self.time_limit = bits
        self.reset_uniforms = 2 * bits

    def reset(self, u: Tensor) -> EnvState:
        drawn = (u * 2).floor()
        return {"x": drawn[..., : self.bits], "goal": drawn[..., self.bits :]}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        flipped = action.unsqueeze(-1) == torch.arange(self.bits, device=action.device)
        x = torch.where(flipped, 1.0 - state["x"], state["x"])
        reached = self.compute_terminated(x, state["goal"], {})
        return {"x": x, "goal": state["goal"]}, reached.to(x.dtype) - 1.0, reached

    def obs(self, state: EnvState) -> Tensor:
        x = state["x"]  # observed, and achieved
        return torch.cat([x, x, state["goal"]], dim=-1).to(torch.uint8)

    def compute_reward(self, achieved_goal: Tensor, desired_goal: Tensor, info: Mapping[str, Any]) -> Tensor:
        """As the Gymnasium env's."""
        return self.compute_terminated(achieved_goal, desired_goal, info).to(torch.float32) - 1.0

    def compute_terminated(self, achieved_goal: Tensor, desired_goal: Tensor, info: Mapping[str, Any]) -> Tensor:
        """As the Gymnasium env's."""
        return (achieved_goal == desired_goal).all(dim=-1)

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"x": gym_env.x, "goal": gym_env.goal}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.x, gym_env.goal, gym_env.t = state["x"].astype(np.int64), state["goal"].astype(np.int64), 0


class ProbeChain(TensorEnv):
    """The state is `x`, the cell."""

    def __init__(self, cells: int = 30) -> None:
        super().__init__(probe_sparse.ProbeChain(cells))
        self.cells, self.time_limit = cells, cells + 7

    def reset(self, u: Tensor) -> EnvState:
        return {"x": u.new_ones(u.shape[:-1])}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        x = (state["x"] + 2.0 * action - 1.0).clamp(0.0, self.cells - 1.0)
        last, first = (x == self.cells - 1).to(x.dtype), (x == 0).to(x.dtype)
        return {"x": x}, last + probe_sparse.ProbeChain.SMALL * first, torch.zeros_like(x, dtype=torch.bool)

    def obs(self, state: EnvState) -> Tensor:
        return state["x"].long()

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"x": gym_env.x}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.x, gym_env.t = int(state["x"]), 0
