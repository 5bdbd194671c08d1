"""Noise for exploring with continuous actions, by name: how the noise of one step resembles that of the steps before.

Every kind is the mean, over its rates, of processes `z <- (1 - rate) z + sqrt(1 - (1 - rate)^2) e` with standard normal
`e`, times the root of their number: normal with mean 0 and deviation 1 at every step, whatever the kind.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.learning.exploration import AHEAD

# Name -> rates. `normal` has no memory. The rate of `ornstein_uhlenbeck` is theta of Lillicrap et al. 2016, section 7.
# `pink` (Eberhard et al. 2023) has a power near 1/f down to a period of some thousand steps: processes whose time
# constants are octaves apart, each of the same power, add up to it.
NOISES: dict[str, tuple[float, ...]] = {
    "normal": (1.0,),
    "ornstein_uhlenbeck": (0.15,),
    "pink": tuple(2.0**-octave for octave in range(10)),
}


class ExplorationNoise:
    """Noise `[S, N, width]` of one kind for every vector step; it goes on over the ends of episodes.

    Args:
        kind: one of `NOISES`.
        width: numbers per action.
        seeds: the training seed of each member.
        device: where it is needed.
    """

    def __init__(self, kind: str, width: int, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._draws = Draws(seeds, "actions", device, ahead=AHEAD)
        self._width, self._rates = width, NOISES[kind]
        self._keep = torch.tensor([1.0 - rate for rate in self._rates], device=device)
        self._add = (1.0 - self._keep.square()).sqrt()
        self._processes: Tensor | None = None  # [S, N, width, rates], where the kind has a memory

    def next(self, num_envs: int) -> Tensor:
        """The noise of one vector step, `[S, N, width]` float32."""
        fresh = self._draws.normal(num_envs, self._width, len(self._rates))
        if self._rates == NOISES["normal"]:
            return fresh.squeeze(-1)
        if self._processes is None:
            self._processes = fresh.clone()  # they begin as they go on: with deviation 1
        else:
            self._processes.mul_(self._keep).add_(self._add * fresh)
        return self._processes.sum(dim=-1) * len(self._rates) ** -0.5

    def state(self) -> dict[str, Any]:
        """The draws, and where the processes stand."""
        return {**self._draws.state(), "processes": None if self._processes is None else self._processes.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the very noise that came after `state()`."""
        self._draws.load_state(state)
        found = state["processes"]
        self._processes = None if found is None else found.to(self._keep.device).clone()
