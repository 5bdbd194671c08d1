"""Prioritised replay in one file of one's own: proportional prioritisation (Schaul et al. 2016, section 3.3).

A row is drawn with probability p^alpha / sum(p^alpha), where p is the absolute TD error that the agent's `update` gave
as feedback when the row was last learned from; a new row has the largest p so far. `weight [S, B]` in the batch
corrects the bias that this brings: (rows * probability)^-beta, divided by the largest of the member's batch.
"""

from typing import Any

import numpy as np
import torch

from rlab.experience.samplers import Batch, RandomSampler, Streams, read_windows
from rlab.experience.storage import Storage


class PrioritisedSampler(RandomSampler):
    """Windows of up to `n_step` transitions whose first row is drawn in proportion to its priority.

    Args:
        storage, streams, n_step: as of `UniformSampler`.
        alpha: 0 draws uniformly; 0.6 in the paper.
        beta: 1 corrects the bias in full; from 0.4 to 1 in the paper.
        floor: added to every error, so that no row is lost for ever.
    """

    draws_ahead = False  # the next batch depends on the feedback to this one

    def __init__(
        self,
        storage: Storage,
        streams: Streams,
        n_step: int = 1,
        alpha: float = 0.6,
        beta: float = 0.4,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(storage, streams)
        self.n_step, self.alpha, self.beta, self.floor = n_step, alpha, beta, floor
        self.size = storage.lane_rows * storage.num_envs  # rows of a member; row r has the place r % size
        self.priority = np.zeros((storage.members, self.size))  # p^alpha; 0 for a row that is not valid
        self.largest = np.ones((storage.members, 1))  # p^alpha, so far
        self.seen = 0  # rows of time that have a priority

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_windows` gives it, with `weight [S, B]`."""
        self._take_in_new_rows()
        sums = self.priority.cumsum(axis=1)
        share = np.stack([s.random(batch_size) for s in self.streams])
        target = share * sums[:, -1:]
        place = np.stack([np.searchsorted(one, t, side="right") for one, t in zip(sums, target, strict=True)])
        probability = np.take_along_axis(self.priority, place, axis=1) / sums[:, -1:]
        weight = (probability * np.count_nonzero(self.priority, axis=1)[:, None]) ** -self.beta
        weight = torch.from_numpy((weight / weight.max(axis=1, keepdims=True)).astype(np.float32))
        return {**read_windows(self.storage, self._row_at(place), self.n_step), "weight": weight}

    def feedback(self, row: np.ndarray, value: np.ndarray) -> None:
        """The TD errors `[S, B]` of the rows `[S, B]` of the last batch."""
        priority = (np.abs(value) + self.floor) ** self.alpha
        np.put_along_axis(self.priority, row % self.size, priority, axis=1)
        self.largest = np.maximum(self.largest, priority.max(axis=1, keepdims=True))

    def _take_in_new_rows(self) -> None:
        first = max(self.seen, self.storage.rows_written - self.storage.rows)
        self.seen = self.storage.rows_written
        new = np.arange(first * self.storage.num_envs, self.seen * self.storage.num_envs)
        valid = self.storage.read(np.tile(new, (self.storage.members, 1)), "valid")["valid"]
        self.priority[:, new % self.size] = np.where(valid, self.largest, 0.0)

    def _row_at(self, place: np.ndarray) -> np.ndarray:
        """The ids of the rows at these places: the newest that each can hold."""
        newest = self.seen * self.storage.num_envs - 1
        return newest - (newest - place) % self.size

    def state(self) -> dict[str, Any]:
        own = {"priority": self.priority.copy(), "largest": self.largest.copy(), "seen": self.seen}
        return {**super().state(), **own}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.priority, self.largest, self.seen = state["priority"], state["largest"], int(state["seen"])
