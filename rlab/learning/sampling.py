"""The noise that turns a policy's outputs into sampled actions, each member's from its own stream."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rlab.learning.exploration import BLOCK
from rlab.randomness import stream

# What a head asks for -> numbers of that distribution.
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "gumbel": lambda rng, shape: rng.gumbel(size=shape),
    "logistic": lambda rng, shape: rng.logistic(size=shape),
    "normal": lambda rng, shape: rng.standard_normal(shape),
}


class ActionNoise:
    """Noise `[S, N, width]` for every vector step, drawn ahead in blocks: a draw for each step costs more than acting.

    Args:
        kind: one of `NOISE`.
        width: numbers per action.
        seeds: the training seed of each member.
    """

    def __init__(self, kind: str, width: int, seeds: Sequence[int]) -> None:
        self._draw, self._width = NOISE[kind], width
        self._streams = [stream(seed, "actions") for seed in seeds]
        self._before: list[dict[str, Any]] = []  # the streams' states before the present block
        self._block = torch.zeros(0, len(seeds), 0, width)  # [BLOCK, S, N, width]
        self._used = 0

    def next(self, num_envs: int) -> torch.Tensor:
        """The noise of one vector step, `[S, N, width]` float32."""
        if self._used == len(self._block):
            self._fill(num_envs)
        self._used += 1
        return self._block[self._used - 1]

    def state(self) -> dict[str, Any]:
        """Where each stream stood before the present block, and how much of it is used."""
        drawn = bool(self._before)
        return {
            "streams": list(self._before) if drawn else [s.bit_generator.state for s in self._streams],
            "used": self._used if drawn else 0,
            "num_envs": self._block.shape[2],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the very draw that came after `state()`."""
        for s, saved in zip(self._streams, state["streams"], strict=True):
            s.bit_generator.state = saved
        self._before, self._block = [], self._block[:0, :, :0]
        if state["num_envs"]:
            self._fill(state["num_envs"])
        self._used = state["used"]

    def _fill(self, num_envs: int) -> None:
        self._before = [dict(s.bit_generator.state) for s in self._streams]
        shape = (BLOCK, num_envs, self._width)
        drawn = np.stack([self._draw(s, shape) for s in self._streams], axis=1, dtype=np.float32, casting="same_kind")
        self._block, self._used = torch.from_numpy(drawn), 0
