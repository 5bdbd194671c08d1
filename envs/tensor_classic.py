"""Gymnasium's classic control as tensor envs, but for Acrobot. Constants are read from Gymnasium's own envs.

Where Gymnasium computes in float64, these compute in the dtype of the state: float32 in training.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.envs.classic_control import pendulum
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
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
        bounds = [env.x_threshold, math.inf, env.theta_threshold_radians, math.inf]
        self.bounds = torch.tensor(bounds, dtype=torch.float64)

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
        terminated = (after.abs() > self.bounds.to(after.dtype)).any(-1)
        reward = terminated * -1.0 if self.sutton_barto_reward else torch.ones_like(terminated, dtype=torch.float32)
        return {"cart": after}, reward, terminated

    def obs(self, state: EnvState) -> Tensor:
        return state["cart"]

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"cart": gym_env.state}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.state = np.array(state["cart"], np.float64)
        gym_env.steps_beyond_terminated = None


class _OnAHill(TensorEnv):
    """What the two mountain cars share: the state is `car`, (position, velocity)."""

    reset_uniforms = 1

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.min_position, self.max_position = env.min_position, env.max_position
        self.max_speed = env.max_speed
        self.goal_position, self.goal_velocity = env.goal_position, env.goal_velocity

    def reset(self, u: Tensor) -> EnvState:
        position = u * 0.2 - 0.6
        return {"car": torch.cat((position, torch.zeros_like(position)), -1)}

    def moved(self, car: Tensor, push: Tensor, gravity: float) -> tuple[Tensor, Tensor]:
        """The car after one step `[..., 2]`, and whether it reached the goal."""
        position, velocity = car.unbind(-1)
        velocity = velocity + torch.add(push, (3 * position).cos(), alpha=-gravity)
        velocity = velocity.clamp(-self.max_speed, self.max_speed)
        position = position + velocity
        at_wall = position <= self.min_position
        position = position.clamp(self.min_position, self.max_position)
        velocity = torch.where(at_wall, velocity.clamp(min=0), velocity)  # the left wall is inelastic
        reached = (position >= self.goal_position) & (velocity >= self.goal_velocity)
        return torch.stack((position, velocity), -1), reached

    def obs(self, state: EnvState) -> Tensor:
        return state["car"]

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"car": gym_env.state}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.state = np.array(state["car"], np.float64)


class MountainCar(_OnAHill):
    """`gymnasium.envs.classic_control.mountain_car`."""

    def __init__(self, goal_velocity: float = 0) -> None:
        env = MountainCarEnv(goal_velocity=goal_velocity)
        super().__init__(env)
        self.force, self.gravity = env.force, env.gravity

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        car = state["car"]
        after, reached = self.moved(car, (action.to(car.dtype) - 1) * self.force, self.gravity)
        return {"car": after}, torch.full_like(reached, -1.0, dtype=torch.float32), reached


class ContinuousMountainCar(_OnAHill):
    """`gymnasium.envs.classic_control.continuous_mountain_car`."""

    def __init__(self, goal_velocity: float = 0) -> None:
        env = Continuous_MountainCarEnv(goal_velocity=goal_velocity)
        super().__init__(env)
        self.bounds, self.power = (env.min_action, env.max_action), env.power

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        force = action[..., 0]
        after, reached = self.moved(state["car"], force.clamp(*self.bounds) * self.power, 0.0025)
        # the cost is that of the action as it came, outside its bounds too
        reward = torch.addcmul(reached.to(after.dtype) * 100.0, force, force, value=-0.1)
        return {"car": after.float().to(after.dtype)}, reward, reached  # Gymnasium's state is float32


class Pendulum(TensorEnv):
    """`gymnasium.envs.classic_control.pendulum`: the state is `pole`, (theta, theta_dot).

    Where Gymnasium's angle goes on growing, turn after turn, this one stays within a turn: float32 would lose its
    digits. What is observed is the same.
    """

    reset_uniforms = 2

    def __init__(self, g: float = 10.0) -> None:
        env = PendulumEnv(g=g)
        super().__init__(env)
        self.max_speed, self.max_torque, self.dt = float(env.max_speed), env.max_torque, env.dt
        self.gravity, self.torque = 3 * env.g / (2 * env.l), 3.0 / (env.m * env.l**2)
        self.most = torch.tensor([pendulum.DEFAULT_X, pendulum.DEFAULT_Y])

    def reset(self, u: Tensor) -> EnvState:
        return {"pole": (2 * u - 1) * self.most}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        angle, speed = state["pole"].unbind(-1)
        angle = within_a_turn(angle)
        torque = action[..., 0].clamp(-self.max_torque, self.max_torque)
        cost = torch.addcmul(torch.addcmul(angle * angle, speed, speed, value=0.1), torque, torque, value=0.001)
        turned = torch.add(self.torque * torque, angle.sin(), alpha=self.gravity)
        speed = torch.add(speed, turned, alpha=self.dt).clamp(-self.max_speed, self.max_speed)
        after = torch.stack((torch.add(angle, speed, alpha=self.dt), speed), -1)
        return {"pole": after}, -cost, torch.zeros_like(cost, dtype=torch.bool)

    def obs(self, state: EnvState) -> Tensor:
        angle, speed = state["pole"].unbind(-1)
        return torch.stack((angle.cos(), angle.sin(), speed), -1)

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"pole": gym_env.state}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        angle, speed = state["pole"].astype(np.float64)
        gym_env.state = np.array([angle - 2 * math.pi * np.round(angle / (2 * math.pi)), speed])


def within_a_turn(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi]; one that is there already stays as it is, to the last digit."""
    return torch.add(angle, (angle / (2 * math.pi)).round(), alpha=-2 * math.pi)
