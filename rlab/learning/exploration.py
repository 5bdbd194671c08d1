"""How an agent tries what it does not yet believe in."""

from collections.abc import Sequence

import numpy as np


def linear(start: float, end: float, fraction: float, progress: float) -> float:
    """From `start` to `end` over the first `fraction` of a run, then `end`. `progress` is in [0, 1]."""
    return end if progress >= fraction else start + (end - start) * progress / fraction


def epsilon_greedy(
    greedy: np.ndarray, num_actions: int, epsilon: float, streams: Sequence[np.random.Generator]
) -> np.ndarray:
    """Actions `[S, N]`: one coin per env, each member from its own stream; where it falls, a uniform action."""
    shape = greedy.shape[1:]
    coins = np.stack([s.random(shape) for s in streams])
    others = np.stack([s.integers(num_actions, size=shape) for s in streams])
    return np.where(coins < epsilon, others, greedy)
