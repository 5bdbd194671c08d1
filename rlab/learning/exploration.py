"""How an agent explores: epsilon-greedy actions, and the noise that turns a policy's outputs into sampled actions.

Training draws NumPy numbers ahead in blocks, since a draw for each vector step costs more than the arithmetic of the
step. A policy that is asked with `greedy=False` (`rlab.networks.heads`) cannot know what it will be asked next, and
draws from the torch generators that its caller brings; so each has its own code for the same distributions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rlab.randomness import stream

BLOCK = 256  # vector steps that are drawn at once


def linear(start: float, end: float, fraction: float, progress: float) -> float:
    """From `start` to `end` over the first `fraction` of a run, then `end`. `progress` is in [0, 1]."""
    return end if progress >= fraction else start + (end - start) * progress / fraction


class BlockDraws:
    """Random numbers for every vector step, each member's from its own stream, drawn for `BLOCK` steps at once.

    Args:
        seeds: the training seed of each member.
        use: what the streams are for; two objects with one use draw the same numbers.
        draw: all arrays `[BLOCK, N, ...]` of one member, given its stream and N.
    """

    def __init__(
        self, seeds: Sequence[int], use: str, draw: Callable[[np.random.Generator, int], Sequence[np.ndarray]]
    ) -> None:
        self._streams, self._draw = [stream(seed, use) for seed in seeds], draw
        self._before: list[dict[str, Any]] = []  # the streams' states before the present block
        self._block: list[np.ndarray] = []  # [BLOCK, S, N, ...] each
        self._used, self._num_envs = BLOCK, 0

    def next(self, num_envs: int) -> list[np.ndarray]:
        """The arrays `[S, N, ...]` of one vector step."""
        if self._used == BLOCK:
            self._fill(num_envs)
        self._used += 1
        return [values[self._used - 1] for values in self._block]

    def state(self) -> dict[str, Any]:
        """Where each stream stood before the present block, and how much of it is used."""
        drawn = bool(self._before)
        return {
            "streams": list(self._before) if drawn else [s.bit_generator.state for s in self._streams],
            "used": self._used if drawn else 0,
            "num_envs": self._num_envs,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the very draw that came after `state()`."""
        for s, saved in zip(self._streams, state["streams"], strict=True):
            s.bit_generator.state = saved
        self._before, self._used, self._num_envs = [], BLOCK, state["num_envs"]
        if self._num_envs:
            self._fill(self._num_envs)
            self._used = state["used"]

    def _fill(self, num_envs: int) -> None:
        self._before = [dict(s.bit_generator.state) for s in self._streams]
        members = [self._draw(s, num_envs) for s in self._streams]
        self._block = [np.stack(values, axis=1) for values in zip(*members, strict=True)]
        self._used, self._num_envs = 0, num_envs


# What a head asks for -> numbers of that distribution.
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "gumbel": lambda rng, shape: rng.gumbel(size=shape),
    "logistic": lambda rng, shape: rng.logistic(size=shape),
    "normal": lambda rng, shape: rng.standard_normal(shape),
}


class ActionNoise:
    """Noise `[S, N, width]` for every vector step.

    Args:
        kind: one of `NOISE`.
        width: numbers per action.
        seeds: the training seed of each member.
        use: what it is for; two of one use give the same numbers.
    """

    def __init__(self, kind: str, width: int, seeds: Sequence[int], use: str = "actions") -> None:
        draw = NOISE[kind]
        self._draws = BlockDraws(
            seeds, use, lambda rng, num_envs: [draw(rng, (BLOCK, num_envs, width)).astype(np.float32)]
        )

    def next(self, num_envs: int) -> torch.Tensor:
        """The noise of one vector step, `[S, N, width]` float32."""
        return torch.from_numpy(self._draws.next(num_envs)[0])

    def state(self) -> dict[str, Any]:
        return self._draws.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._draws.load_state(state)


class EpsilonGreedy:
    """One coin and one uniform action per env and step, each member from its own stream.

    With `duration_exponent` mu an exploring action is held for n steps, drawn with probability proportional to n^-mu
    (temporally extended epsilon-greedy, Dabney et al. 2021, section 4; their mu is 2). Long pushes in one direction
    reach what single random actions never do.

    With `masked`, `choose` takes the allowed actions of each step: a uniform action is one of these, and a held action
    ends where it is no longer allowed.
    """

    def __init__(
        self, num_actions: int, seeds: Sequence[int], duration_exponent: float | None = None, masked: bool = False
    ) -> None:
        def draw(rng: np.random.Generator, num_envs: int) -> list[np.ndarray]:
            shape = (BLOCK, num_envs)
            drawn = [rng.random(shape), rng.integers(num_actions, size=shape)]
            if duration_exponent is not None:
                drawn.append(rng.zipf(duration_exponent, shape))
            if masked:  # drawn last: without a mask every draw is what it was
                drawn.append(rng.random(shape))
            return drawn

        self._masked, self._holds = masked, duration_exponent is not None
        self._draws = BlockDraws(seeds, "exploration", draw)
        self._left: np.ndarray | None = None  # [S, N] steps for which the held action goes on
        self._held: np.ndarray | None = None  # [S, N]

    def choose(self, greedy: np.ndarray, epsilon: float, allowed: np.ndarray | None = None) -> np.ndarray:
        """Actions `[S, N]`: the greedy one, or where the env's coin is below `epsilon` a uniform one.

        `allowed [S, N, A]` is bool and true somewhere in every row; it is what a `masked` one needs.
        """
        if (allowed is not None) != self._masked:
            raise ValueError(f"masked is {self._masked}, so allowed must {'' if self._masked else 'not '}be given")
        coins, actions, *further = self._draws.next(greedy.shape[1])
        if allowed is not None:
            actions = _pick(allowed, further[-1])
            self._end_forbidden(allowed)
        if not self._holds:
            return np.where(coins < epsilon, actions, greedy)
        return self._choose_held(greedy, coins < epsilon, actions, further[0])

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
        """The draws, and what is being held."""
        return {
            **self._draws.state(),
            "left": None if self._left is None else self._left.copy(),
            "held": None if self._held is None else self._held.copy(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the very draw that came after `state()`."""
        self._draws.load_state(state)
        self._left, self._held = state["left"], state["held"]


def _pick(allowed: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The action `[S, N]` that stands at `share [S, N]` of the way through those `allowed [S, N, A]`."""
    rank = (share * allowed.sum(axis=-1)).astype(np.int64)
    picked: np.ndarray = (allowed.cumsum(axis=-1) > rank[..., None]).argmax(axis=-1)
    return picked
