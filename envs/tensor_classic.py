"""Gymnasium's classic control as tensor envs, but for Acrobot. Constants are read from Gymnasium's own envs.

Where Gymnasium computes in float64, these compute in the dtype of the state: float32 in training.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from torch import Tensor

from rlab.envs.tensor_env import EnvState, TensorEnv


class CartPole(TensorEnv):
    """`gymnasium.envs.classic_control.cartpole`: the state is `cart`, (x, x_dot, theta, theta_dot).

    `kinematics_integrator` is "euler", or anything else for semi-implicit Euler, as in Gymnasium's env.
    """

    reset_uniforms = 4

    def __init__(self, sutton_barto_reward: bool = False) -> None:
        env = CartPoleEnv(sutton_barto_reward=sutton_barto_reward)
        super().__init__(env)
        self.sutton_barto_reward = sutton_barto_reward
        self.kinematics_integrator = env.kinematics_integrator
        self.gravity, self.tau = env.gravity, env.tau
        self.push = env.force_mag / env.total_mass
        self.pole_share = env.polemass_length / env.total_mass
        self.inertia = env.length * 4.0 / 3.0, env.length * env.masspole / env.total_mass
        self.bounds = torch.tensor([env.x_threshold, math.inf, env.theta_threshold_radians, math.inf])

    def reset(self, u: Tensor) -> EnvState:
        return {"cart": u * 0.1 - 0.05}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        cart = state["cart"]
        _, x_dot, theta, theta_dot = cart.unbind(-1)
        cos, sin = theta.cos(), theta.sin()
        # As in Gymnasium, with the constants of a term multiplied in advance.
        push = action.to(cart.dtype) * (2 * self.push) - self.push
        temp = torch.addcmul(push, theta_dot * theta_dot, sin, value=self.pole_share)
        full, less = self.inertia
        theta_acc = torch.addcmul(self.gravity * sin, cos, temp, value=-1) / torch.rsub(cos * cos, full, alpha=less)
        x_acc = torch.addcmul(temp, theta_acc, cos, value=-self.pole_share)
        if self.kinematics_integrator != "euler":
            x_dot, theta_dot = x_dot + self.tau * x_acc, theta_dot + self.tau * theta_acc
        after = torch.add(cart, torch.stack((x_dot, x_acc, theta_dot, theta_acc), -1), alpha=self.tau)
        terminated = (after.abs() > self.bounds).any(-1)
        reward = terminated * -1.0 if self.sutton_barto_reward else torch.ones_like(terminated, dtype=torch.float32)
        return {"cart": after}, reward, terminated

    def obs(self, state: EnvState) -> Tensor:
        return state["cart"]

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"cart": gym_env.state}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.state = np.array(state["cart"], np.float64)
        gym_env.steps_beyond_terminated = None
