"""`NoVelocity`: envs whose velocities are not observed, so that a policy needs memory to act well."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

_CLASSIC = "gymnasium.envs.classic_control"
# Entry point of an env -> the elements of its observation that are positions, angles or contacts.
KEPT: Mapping[str, tuple[int, ...]] = {
    f"{_CLASSIC}.cartpole:CartPoleEnv": (0, 2),  # of x, x_dot, theta, theta_dot
    f"{_CLASSIC}.pendulum:PendulumEnv": (0, 1),  # of cos, sin, theta_dot
    f"{_CLASSIC}.mountain_car:MountainCarEnv": (0,),
    f"{_CLASSIC}.continuous_mountain_car:Continuous_MountainCarEnv": (0,),
    f"{_CLASSIC}.acrobot:AcrobotEnv": (0, 1, 2, 3),
    "gymnasium.envs.box2d.lunar_lander:LunarLander": (0, 1, 4, 6, 7),  # of x, y, their speeds, angle, its speed, legs
}


class NoVelocity(gym.ObservationWrapper):
    """The observation without its velocities: a policy needs memory to act well.

    For CartPole, Pendulum, MountainCar, Acrobot and LunarLander, as the first wrapper. It may be stepped as tensors.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space, kinds = env.observation_space, type(env.unwrapped).__mro__
        kept = [KEPT[name] for kind in kinds if (name := f"{kind.__module__}:{kind.__qualname__}") in KEPT]
        if not kept:
            known = ", ".join(name.rpartition(":")[2].removesuffix("Env") for name in KEPT)
            raise ValueError(f"which elements are velocities is known of {known}, not of {kinds[0].__name__}")
        self._kept = list(kept[0])
        if not isinstance(space, gym.spaces.Box) or space != env.unwrapped.observation_space:
            raise ValueError("NoVelocity must be the first of the wrappers: another one changed the observation")
        low, high = space.low[self._kept], space.high[self._kept]
        self.observation_space = gym.spaces.Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: Any) -> np.ndarray:
        return np.asarray(observation)[self._kept]
