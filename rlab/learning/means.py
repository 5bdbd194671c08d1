"""The means of what updates report, over a stretch of any length, in memory that does not grow with it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Means:
    """Mean of every metric over the updates that reported it, by name.

    The sums are in float64, which holds the sum of some thousand float32 values of like size without rounding, so a
    mean does not depend on how often `state` was called in between. They are changed in place, so that they can be
    part of a program; a program must have seen every set of names before.
    """

    def __init__(self) -> None:
        # For every set of names that one update reported: sums [names, S], and [1], how many updates are in them.
        self._sums: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take what one update reports, `[S]` each; names may differ from update to update."""
        if not metrics:
            return
        values, names = torch.stack(list(metrics.values())).detach(), tuple(metrics)
        if names not in self._sums:
            count = torch.zeros(1, dtype=torch.float64, device=values.device)
            self._sums[names] = torch.zeros_like(values, dtype=torch.float64), count
        total, count = self._sums[names]
        total += values
        count += 1

    def finite(self) -> bool:
        """Whether everything that was reported since the last `take` is finite."""
        sums = [total.sum() for total, _ in self._sums.values()]
        return not sums or math.isfinite(torch.stack(sums).sum().item())

    def sums(self) -> dict[str, tuple[Tensor, float]]:
        """The sum `[S]` of every metric since the last `take`, and of how many values, in the order in which the names
        first came."""
        found: dict[str, tuple[Tensor, float]] = {}
        for names, (total, count) in self._sums.items():
            number = count.item()
            for name, row in zip(names, total, strict=True):
                before, counted = found.get(name, (torch.zeros_like(row), 0.0))
                found[name] = before + row, counted + number
        return found

    def take(self) -> dict[str, np.ndarray]:
        """The means, float64; starts over."""
        means = {name: (total / count).cpu().numpy() for name, (total, count) in self.sums().items() if count}
        for total, count in self._sums.values():
            total.zero_()
            count.zero_()
        return means

    def state(self) -> list[dict[str, Any]]:
        """Sums and counts, however many updates they are of."""
        return [
            {"names": list(names), "sum": total.clone(), "count": count.clone()}
            for names, (total, count) in self._sums.items()
        ]

    def load_state(self, state: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        """Go on from `state()`."""
        self._sums = {
            tuple(row["names"]): (row["sum"].clone().to(device), row["count"].clone().to(device)) for row in state
        }
