"""Early stopping on held-out rows, for every member by itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from rlab.errors import UsageError
from rlab.learning.best import BestWeights


class EarlyStopping:
    """Early stopping (Prechelt 1998): a member that has stopped keeps its best weights while others go on.

    Args:
        members: S.
        patience: validations in a row without a lower loss after which a member stops; None: no member stops, and only
            the best weights are kept.

    Raises:
        UsageError: the patience is below 1.
    """

    def __init__(self, members: int, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise UsageError(f"patience {patience} must be 1 validation or more; None never stops.")
        self.patience = patience
        self.best = BestWeights(members)  # the score is minus the loss, the time is in updates
        self.waited = np.zeros(members, np.int64)  # [S] validations since the best

    @property
    def best_loss(self) -> np.ndarray:
        """The lowest loss so far, `[S]`."""
        return -self.best.score

    @property
    def stopped(self) -> np.ndarray:
        """Which members have stopped, bool `[S]`."""
        return np.zeros_like(self.waited, bool) if self.patience is None else self.waited >= self.patience

    def observe(self, loss: np.ndarray, weights: Mapping[str, Tensor], updates: int) -> None:
        """Take over the weights `[S, ...]` of the members whose held-out loss `[S]` is below their best.

        A loss that is NaN is not an improvement. A member that has stopped takes over nothing.
        """
        running = ~self.stopped
        better = (-loss > self.best.score) & running
        self.waited += running
        self.waited[better] = 0
        self.best.take(better, -loss, weights, updates)

    def state(self) -> dict[str, Any]:
        return {"best": self.best.state(), "waited": self.waited.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.best.load_state(state["best"])
        self.waited[:] = state["waited"]
