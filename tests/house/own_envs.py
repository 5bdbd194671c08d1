"""Envs of one's own, as somebody keeps them in a module beside a script: a class, functions and a registered id."""

import gymnasium as gym
import numpy as np

LENGTH = 4  # env steps of an episode


class Walk(gym.Env):
    """Observes how many steps were taken; the reward is `gift` for action 1, else 0."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium declares it
    observation_space = gym.spaces.Box(0.0, LENGTH, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, gift: float = 1.0, ends: bool = True, render_mode: str | None = None) -> None:
        self.gift, self.ends, self.render_mode = gift, ends, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = np.array([min(self.steps, LENGTH)], np.float32)
        return obs, self.gift * int(action), self.ends and self.steps == LENGTH, False, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)

    @classmethod
    def endless(cls) -> "Walk":
        return cls(ends=False)


def make_walk(gift: float = 2.0) -> gym.Env:
    return gym.wrappers.TimeLimit(Walk(gift, ends=False), 6)


gym.register("OwnWalk-v0", entry_point="own_envs:Walk", max_episode_steps=3)
