"""Keeps, for every member, the weights that did best on held-out rows, and says who has waited long enough."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError


class EarlyStopping:
    """Early stopping (Prechelt 1998) for every member by itself: the best of member i may come from another moment
    than the best of member j, and a member that has stopped keeps its best weights while others go on.

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
        self.best_loss = np.full(members, np.inf)  # [S]
        self.best_update = np.zeros(members, np.int64)  # [S] when it was reached
        self.waited = np.zeros(members, np.int64)  # [S] validations since
        self.weights: dict[str, Tensor] = {}  # [S, ...] each: the best of every member; empty before the first loss

    @property
    def stopped(self) -> np.ndarray:
        """Who has stopped, bool `[S]`."""
        return np.zeros_like(self.waited, bool) if self.patience is None else self.waited >= self.patience

    def observe(self, loss: np.ndarray, weights: Mapping[str, Tensor], updates: int) -> None:
        """Take over the weights `[S, ...]` of the members whose held-out loss `[S]` is below their best.

        A loss that is NaN is no better than any other. A member that has stopped takes nothing over any more.
        """
        going_on = ~self.stopped
        better = (loss < self.best_loss) & going_on
        self.waited += going_on
        self.waited[better] = 0
        self.best_loss[better], self.best_update[better] = loss[better], updates
        if not self.weights:
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
            return
        chosen = torch.from_numpy(better)
        for name, tensor in weights.items():
            if better.any():
                mask = chosen.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
                self.weights[name] = torch.where(mask, tensor.detach(), self.weights[name].to(tensor.device))

    def state(self) -> dict[str, Any]:
        return {
            "best_loss": self.best_loss.copy(),
            "best_update": self.best_update.copy(),
            "waited": self.waited.copy(),
            "weights": dict(self.weights),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.best_loss[:], self.best_update[:] = state["best_loss"], state["best_update"]
        self.waited[:], self.weights = state["waited"], dict(state["weights"])
