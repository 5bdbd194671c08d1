"""Gymnasium's Acrobot as a tensor env."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from torch import Tensor

from rlab.envs.tensor_classic import within_a_turn
from rlab.envs.tensor_env import EnvState, TensorEnv

GRAVITY = 9.8  # a constant inside Gymnasium's AcrobotEnv._dsdt, as is the range of a reset


class Acrobot(TensorEnv):
    """`gymnasium.envs.classic_control.acrobot`: the state is `links`, (theta1, theta2, theta1_dot, theta2_dot).

    `book_or_nips` chooses the equations of motion, as in Gymnasium's env, and so does `dt` the seconds of a step.
    """

    reset_uniforms = 4

    def __init__(self) -> None:
        env = AcrobotEnv()
        super().__init__(env)
        m1, m2, l1, lc1, lc2 = (
            env.LINK_MASS_1,
            env.LINK_MASS_2,
            env.LINK_LENGTH_1,
            env.LINK_COM_POS_1,
            env.LINK_COM_POS_2,
        )
        self.dt, self.book_or_nips = env.dt, env.book_or_nips
        # The terms of Sutton and Barto (1998), section 11.3, which do not depend on the state.
        self.coupling = m2 * l1 * lc2
        self.inertia2 = m2 * lc2**2 + env.LINK_MOI
        self.inertia1 = m1 * lc1**2 + m2 * l1**2 + env.LINK_MOI + self.inertia2
        self.weight1, self.weight2 = (m1 * lc1 + m2 * l1) * GRAVITY, m2 * lc2 * GRAVITY
        self.fastest1, self.fastest2 = env.MAX_VEL_1, env.MAX_VEL_2
        self.torques = torch.tensor(env.AVAIL_TORQUE)

    def reset(self, u: Tensor) -> EnvState:
        return {"links": u * 0.2 - 0.1}

    def step(self, state: EnvState, action: Tensor, u: Tensor) -> tuple[EnvState, Tensor, Tensor]:
        links, torque, dt = state["links"], self.torques[action], self.dt
        # Runge and Kutta's classical method
        k1 = self.derivative(links, torque)
        k2 = self.derivative(torch.add(links, k1, alpha=dt / 2), torque)
        k3 = self.derivative(torch.add(links, k2, alpha=dt / 2), torque)
        k4 = self.derivative(torch.add(links, k3, alpha=dt), torque)
        after = torch.add(links, torch.add(k1 + k4, k2 + k3, alpha=2), alpha=dt / 6)
        theta1, theta2, speed1, speed2 = after.unbind(-1)
        theta1, theta2 = within_a_turn(theta1), within_a_turn(theta2)
        speed1, speed2 = speed1.clamp(-self.fastest1, self.fastest1), speed2.clamp(-self.fastest2, self.fastest2)
        after = torch.stack((theta1, theta2, speed1, speed2), -1)
        terminated = -theta1.cos() - (theta1 + theta2).cos() > 1.0
        return {"links": after}, terminated.float() - 1.0, terminated

    def derivative(self, links: Tensor, torque: Tensor) -> Tensor:
        """Of (theta1, theta2, theta1_dot, theta2_dot) with respect to time."""
        theta1, theta2, speed1, speed2 = links.unbind(-1)
        swing, shared = theta2.sin() * self.coupling, theta2.cos() * self.coupling
        d1, d2 = 2 * shared + self.inertia1, shared + self.inertia2
        phi2 = (theta1 + theta2).sin() * self.weight2  # cos(x - pi / 2) is sin(x)
        weight = torch.add(phi2, theta1.sin(), alpha=self.weight1)
        phi1 = torch.addcmul(weight, swing * speed2, torch.add(speed2, speed1, alpha=2), value=-1)
        share = d2 / d1
        push = torch.addcmul(torque - phi2, share, phi1)
        if self.book_or_nips != "nips":
            push = torch.addcmul(push, swing * speed1, speed1, value=-1)
        acceleration2 = push / torch.rsub(share * d2, self.inertia2)
        acceleration1 = torch.addcmul(phi1, d2, acceleration2) / -d1
        return torch.stack((speed1, speed2, acceleration1, acceleration2), -1)

    def obs(self, state: EnvState) -> Tensor:
        theta1, theta2, speed1, speed2 = state["links"].unbind(-1)
        return torch.stack((theta1.cos(), theta1.sin(), theta2.cos(), theta2.sin(), speed1, speed2), -1)

    def state_of(self, gym_env: Any) -> dict[str, Any]:
        return {"links": gym_env.state}

    def set_state(self, gym_env: Any, state: Mapping[str, np.ndarray]) -> None:
        gym_env.state = np.array(state["links"], np.float64)
