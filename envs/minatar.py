"""MinAtar's games (Young and Tian 2019) as Gymnasium envs whose episodes depend on their seed alone."""

from typing import Any

import gymnasium as gym
import numpy as np
from minatar.gym import BaseEnv

PIXELS = 16  # of a picture, for each square of the board


class MinAtarEnv(BaseEnv):
    """A game of MinAtar: boards `bool [10, 10, C]`; with 10 % chance the action before is repeated.

    MinAtar itself repeats the last action of one episode in the first step of the next, and draws pictures that no
    video takes. Its ids end in -v0 with all six actions, in -v1 with those that do something in the game.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The board of a new game; nothing of the one before it is left."""
        gym.Env.reset(self, seed=seed)
        self.game.last_action = 0
        found: tuple[np.ndarray, dict] = super().reset(seed=seed, options=options)
        return found

    def render(self) -> np.ndarray:
        """The board in MinAtar's colours, `uint8 [160, 160, 3]`."""
        shares = super().render()  # of brightness
        return np.repeat(np.repeat((shares * 255).round().astype(np.uint8), PIXELS, axis=0), PIXELS, axis=1)
