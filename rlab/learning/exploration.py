"""How an agent tries what it does not yet believe in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlab.randomness import stream

BLOCK = 256  # vector steps drawn ahead at once; a draw for each step costs more than the step's own arithmetic


def linear(start: float, end: float, fraction: float, progress: float) -> float:
    """From `start` to `end` over the first `fraction` of a run, then `end`. `progress` is in [0, 1]."""
    return end if progress >= fraction else start + (end - start) * progress / fraction


class EpsilonGreedy:
    """One coin and one uniform action per env and step, each member from its own stream.

    With `duration_exponent` mu an exploring action is held for n steps, drawn with probability proportional to n^-mu
    (temporally extended epsilon-greedy, Dabney et al. 2021, section 4; their mu is 2). Long pushes in one direction
    reach what single random actions never do.

    With `masked`, `choose` is told each time which actions are allowed: a uniform one is one of these, and an action
    that is held ends where it is not allowed any more.
    """

    def __init__(
        self, num_actions: int, seeds: Sequence[int], duration_exponent: float | None = None, masked: bool = False
    ) -> None:
        self._num_actions, self._exponent, self._masked = num_actions, duration_exponent, masked
        self._streams = [stream(seed, "exploration") for seed in seeds]
        self._before: list[dict[str, Any]] = []  # the streams' states before the present block
        self._coins = np.zeros((0, len(seeds), 0))  # [BLOCK, S, N]
        self._actions = np.zeros((0, len(seeds), 0), np.int64)
        self._picks = np.zeros((0, len(seeds), 0))  # in [0, 1): which of the allowed actions
        self._durations = np.zeros((0, len(seeds), 0), np.int64)
        self._used = 0
        self._left: np.ndarray | None = None  # [S, N] steps for which the held action goes on
        self._held: np.ndarray | None = None  # [S, N]

    def choose(self, greedy: np.ndarray, epsilon: float, allowed: np.ndarray | None = None) -> np.ndarray:
        """Actions `[S, N]`: the greedy one, or where the env's coin is below `epsilon` a uniform one.

        `allowed [S, N, A]` is bool and true somewhere in every row; it is what a `masked` one needs.
        """
        if (allowed is not None) != self._masked:
            raise ValueError(f"masked is {self._masked}, so allowed must {'' if self._masked else 'not '}be given")
        if self._used == len(self._coins):
            self._draw(greedy.shape[1])
        coins, actions = self._coins[self._used], self._actions[self._used]
        if allowed is not None:
            actions = _pick(allowed, self._picks[self._used])
            self._end_forbidden(allowed)
        self._used += 1
        if self._exponent is None:
            return np.where(coins < epsilon, actions, greedy)
        return self._choose_held(greedy, coins < epsilon, actions, self._durations[self._used - 1])

    def _end_forbidden(self, allowed: np.ndarray) -> None:
        if self._left is not None and self._held is not None:
            self._left = self._left * np.take_along_axis(allowed, self._held[..., None], axis=-1)[..., 0]

    def _choose_held(
        self, greedy: np.ndarray, explore: np.ndarray, actions: np.ndarray, durations: np.ndarray
    ) -> np.ndarray:
        if self._left is None or self._held is None:
            self._left, self._held = np.zeros_like(greedy), np.zeros_like(greedy)
        begins = (self._left == 0) & explore
        self._held = np.where(begins, actions, self._held)
        self._left = np.where(begins, durations, self._left)
        chosen = np.where(self._left > 0, self._held, greedy)
        self._left = np.maximum(self._left - 1, 0)
        return chosen

    def state(self) -> dict[str, Any]:
        """Where each stream stood before the present block, how much of it is used, and what is being held."""
        drawn = bool(self._before)
        return {
            "streams": list(self._before) if drawn else [s.bit_generator.state for s in self._streams],
            "used": self._used if drawn else 0,
            "num_envs": self._coins.shape[2],
            "left": None if self._left is None else self._left.copy(),
            "held": None if self._held is None else self._held.copy(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the very draw that came after `state()`."""
        for s, saved in zip(self._streams, state["streams"], strict=True):
            s.bit_generator.state = saved
        if state["num_envs"]:
            self._draw(state["num_envs"])
        self._used, self._left, self._held = state["used"], state["left"], state["held"]

    def _draw(self, num_envs: int) -> None:
        self._before = [dict(s.bit_generator.state) for s in self._streams]
        shape = (BLOCK, num_envs)
        self._coins = np.stack([s.random(shape) for s in self._streams], axis=1)
        self._actions = np.stack([s.integers(self._num_actions, size=shape) for s in self._streams], axis=1)
        if self._exponent is not None:
            self._durations = np.stack([s.zipf(self._exponent, shape) for s in self._streams], axis=1)
        if self._masked:  # drawn last: without a mask every draw is what it was
            self._picks = np.stack([s.random(shape) for s in self._streams], axis=1)
        self._used = 0


def _pick(allowed: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The action `[S, N]` that stands at `share [S, N]` of the way through those `allowed [S, N, A]`."""
    rank = (share * allowed.sum(axis=-1)).astype(np.int64)
    picked: np.ndarray = (allowed.cumsum(axis=-1) > rank[..., None]).argmax(axis=-1)
    return picked
