"""The means of what updates report, over a stretch of any length, in memory that does not grow with it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEPT = 128  # updates between two additions: a sum over many rows costs hardly more than one over a single row


class Means:
    """Mean of every metric over the updates that reported it, by name.

    The sums are in float64, which holds the sum of some thousand float32 values of like size without rounding, so a
    mean does not depend on how often `state` was called in between.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[Tensor]] = {}  # values that are not in the sums yet
        self._most = 0  # how many of them one name has, at most
        self._sums: dict[str, tuple[Tensor, int]] = {}  # float64, and how many values are in it

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take what one update reports, `[S]` each; names may differ from update to update."""
        for name, value in metrics.items():
            self._kept.setdefault(name, []).append(value.detach() if value.requires_grad else value)
        self._most += 1
        if self._most >= KEPT:
            self._add_up()

    def take(self) -> dict[str, np.ndarray]:
        """The means, float64, in the order in which the names first came; starts over."""
        self._add_up()
        means = {name: (total / count).cpu().numpy() for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def state(self) -> dict[str, Any]:
        """Sums and counts, however many updates they are of."""
        self._add_up()
        return {name: {"sum": total, "count": count} for name, (total, count) in self._sums.items()}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from `state()`."""
        self._kept, self._most = {}, 0
        self._sums = {name: (row["sum"].to(device), int(row["count"])) for name, row in state.items()}

    def _add_up(self) -> None:
        for name, values in self._kept.items():
            added = torch.stack(values).double().sum(dim=0)
            total, count = self._sums.get(name, (torch.zeros_like(added), 0))
            self._sums[name] = total + added, count + len(values)
        self._kept, self._most = {}, 0
