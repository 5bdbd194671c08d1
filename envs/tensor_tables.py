"""Gymnasium's toy-text envs as tensor envs: tables of what each action in each state leads to, read from their own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv
from torch import Tensor

from rlab.envs.tensor_env import EnvState, TensorEnv
from rlab.envs.tensor_noise import GivenUniforms
from rlab.networks.spaces import Masked

BITS = 2**24  # of a uniform number


class Table(TensorEnv):
    """An env with the tables `P` and `initial_state_distrib` of Gymnasium's toy-text envs; the state is `place`.

    `P[state][action]` is a list of (probability, next state, reward, terminated). Gymnasium takes the first of them at
    which the sum of the probabilities passes a uniform number, and so do these.

    Args:
        gym_env: a fresh one.
    """

    def __init__(self, gym_env: Any) -> None:
        super().__init__(gym_env)
        table, self.num_actions = gym_env.P, len(gym_env.P[0])
        cells = [table[place][action] for place in sorted(table) for action in range(self.num_actions)]
        self.width = max(map(len, cells))  # outcomes of one cell; shorter ones are filled up with their last
        filled = [[*cell, *[cell[-1]] * (self.width - len(cell))] for cell in cells]
        self.after = torch.tensor([[int(outcome[1]) for outcome in cell] for cell in filled]).flatten()
        self.reward = torch.tensor([[float(outcome[2]) for outcome in cell] for cell in filled]).flatten()
        self.terminated = torch.tensor([[bool(outcome[3]) for outcome in cell] for cell in filled]).flatten()
        chances = [[*(outcome[0] for outcome in cell), *[1.0] * (self.width - len(cell))] for cell in cells]
        self.passed = _thresholds(np.array(chances)).T.contiguous()  # [width - 1, cells]
        self.step_uniforms = int(self.width > 1)
        first = np.flatnonzero(gym_env.initial_state_distrib)
        self.first = torch.from_numpy(first)
        self.first_passed = _thresholds(gym_env.initial_state_distrib[first])
        self.reset_uniforms = int(len(first) > 1)

    def reset(self, u: Tensor) -> EnvState:
        if not self.reset_uniforms:
            return {"place": self.first.expand(u.shape[:-1])}
        return {"place": self.first[torch.bucketize(u[..., 0].contiguous(), self.first_passed, right=True)]}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        cell = torch.add(action, state["place"], alpha=self.num_actions)
        if self.width > 1:
            first = cell * self.width
            for passed in self.passed.unbind():  # compiled, a sum over the outcomes is four times as slow
                first = first + (passed[cell] <= u[..., 0])
            cell = first
        return {"place": self.after[cell]}, self.reward[cell], self.terminated[cell]

    def obs(self, state: EnvState) -> Tensor:
        return state["place"]

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"place": gym_env.s}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.s = int(state["place"])

    def noise_of(self, gym_env: Any, steps: int) -> np.ndarray:
        drawn: np.ndarray = gym_env.np_random.random((steps, self.step_uniforms))
        return drawn

    def give_noise(self, gym_env: Any, u: np.ndarray) -> None:
        gym_env.np_random = GivenUniforms(np.append(u, 0.0))  # Gymnasium draws where there is one outcome too


class FrozenLake(Table):
    """`gymnasium.envs.toy_text.frozen_lake`, with any map and all keywords."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(FrozenLakeEnv(**kwargs))

    @classmethod
    def why_not(cls, kwargs: Mapping[str, Any]) -> str | None:
        if kwargs.get("desc") is None and kwargs.get("map_name", "4x4") is None:
            return "FrozenLake without a map draws one at random each time it is made; give desc or map_name"
        return None


class CliffWalking(Table):
    """`gymnasium.envs.toy_text.cliffwalking`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(CliffWalkingEnv(**kwargs))


class Taxi(Table):
    """`gymnasium.envs.toy_text.taxi`, with its mask of actions behind the state's number."""

    def __init__(self, **kwargs: Any) -> None:
        env = TaxiEnv(**kwargs)
        super().__init__(env)
        self.obs_space = Masked(self.obs_space, self.num_actions)
        masks = np.array([env.action_mask(place) for place in sorted(env.P)])
        rows = np.concatenate([np.array(sorted(env.P))[:, None], masks], axis=1)
        self.observed = torch.from_numpy(rows.astype(self.obs_space.dtype))  # [places, 1 + actions]

    @classmethod
    def why_not(cls, kwargs: Mapping[str, Any]) -> str | None:
        if kwargs.get("fickle_passenger"):
            return "the tensor version of Taxi has no fickle passenger"
        return None

    def obs(self, state: EnvState) -> Tensor:
        return self.observed[state["place"]]


def _thresholds(chances: np.ndarray) -> Tensor:
    """Which uniform numbers pass an outcome by: the sums of chances `[..., k]`, but for the last, as float32.

    They are rounded up to the next number that a draw can give, so that a comparison in float32 has the result that
    Gymnasium's has in float64.
    """
    sums = np.cumsum(chances, axis=-1)[..., :-1]
    return torch.from_numpy((np.ceil(sums * BITS) / BITS).astype(np.float32))
