"""Probe worlds whose reward random play hardly ever meets: one with goals, for hindsight, and one for novelty.

Registered as those of `probe.py`; their size is a keyword, so that they can be made as hard as wanted.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.probe import Outcome, World, registered_world
from rlab.errors import UsageError


class ProbeBitFlip(World):
    """Bits that an action flips one of, and bits to be reached; -1 for every step that does not reach them, 0 and the
    end for one that does, and a time limit of as many steps as there are bits (Andrychowicz et al. 2017, section 3.1).

    With w > 0 wrong bits V = -(1 - gamma^(w - 1)) / (1 - gamma); where none is wrong at the start, one must be made so:
    as for w = 2. Among 2^15 goals random play hardly ever meets its own; in hindsight it always meets one.
    """

    tensor_env = "rlab.envs.tensor_sparse:ProbeBitFlip"
    time_limit: int
    x: Any = 0  # the bits
    goal: Any = 0

    def __init__(self, bits: int = 15) -> None:
        if bits < 2:
            raise UsageError(f"bits must be 2 or more, not {bits}")
        self.bits = self.time_limit = bits
        part = gym.spaces.MultiBinary(bits)
        self.observation_space = gym.spaces.Dict(observation=part, achieved_goal=part, desired_goal=part)
        self.action_space = gym.spaces.Discrete(bits)

    def start(self) -> None:
        self.x, self.goal = self.np_random.integers(2, size=(2, self.bits))

    def observe(self) -> dict[str, np.ndarray]:
        x = self.x.astype(np.int8)
        return {"observation": x, "achieved_goal": x.copy(), "desired_goal": self.goal.astype(np.int8)}

    def step(self, action: np.int64) -> Outcome:
        self.t += 1
        self.x = self.x ^ (np.arange(self.bits) == action)
        reached = bool(self.compute_terminated(self.x, self.goal, {}))
        return self.observe(), float(reached) - 1.0, reached, not reached and self.t >= self.time_limit, {}

    @staticmethod
    def compute_reward(achieved_goal: np.ndarray, desired_goal: np.ndarray, info: dict[str, Any]) -> Any:
        """What a step pays that achieved this goal `[..., bits]`."""
        return (achieved_goal == desired_goal).all(axis=-1) - 1.0

    @staticmethod
    def compute_terminated(achieved_goal: np.ndarray, desired_goal: np.ndarray, info: dict[str, Any]) -> Any:
        """Whether it ended the episode."""
        return (achieved_goal == desired_goal).all(axis=-1)


class ProbeChain(World):
    """Cells in a row, from the second of which action 1 goes up and action 0 down. A step to the last cell pays 1 and
    one to the first, which is next to the start, 0.001; the time limit of `cells + 7` steps lets 10 steps pay 1 (Osband
    et al. 2016, figure 5).

    Random play goes up on balance as often as down: it meets 1 about once in 2^(cells - 20) million episodes and learns
    to stay in the first cell.
    """

    tensor_env = "rlab.envs.tensor_sparse:ProbeChain"
    time_limit: int
    SMALL = 0.001
    EPISODE_RETURN = 10.0  # of the best policy, undiscounted

    def __init__(self, cells: int = 30) -> None:
        if cells < 3:
            raise UsageError(f"cells must be 3 or more, not {cells}")
        self.cells, self.time_limit = cells, cells + 7
        self.observation_space = gym.spaces.Discrete(cells)

    def start(self) -> None:
        self.x = 1

    def observe(self) -> np.int64:
        return np.int64(self.x)

    def step(self, action: np.int64) -> Outcome:
        self.t += 1
        self.x = min(max(self.x + 2 * int(action) - 1, 0), self.cells - 1)
        reward = 1.0 if self.x == self.cells - 1 else self.SMALL if self.x == 0 else 0.0
        return self.observe(), reward, False, self.t >= self.time_limit, {}


SPARSE_PROBES = tuple(registered_world(world) for world in (ProbeBitFlip, ProbeChain))
