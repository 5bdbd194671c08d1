"""DQN with prioritised replay (Schaul et al. 2016): proportional prioritisation, section 3.3.

A row is drawn with probability p^alpha / sum(p^alpha), where p is the absolute TD error that the agent's `update` gave
as feedback when the row was last learned from; a new row has the largest p so far. `weight [S, B]` in the batch
corrects the bias that this brings: 1 / (rows * probability), relative to the largest of the member's batch.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from rlab.agents.dqn import DQN, DQNConfig
from rlab.experience.samplers import Batch, RandomSampler, Sampler, Streams, read_windows
from rlab.experience.storage import Storage
from rlab.learning.contract import Updated
from rlab.learning.exploration import linear
from rlab.ranges import check_shares
from rlab.types import Clock


class PrioritisedSampler(RandomSampler):
    """Windows of up to `n_step` transitions whose first row is drawn in proportion to its priority.

    Args:
        storage, streams, n_step: as of `UniformSampler`.
        alpha: 0 draws uniformly; 0.6 in the paper.
        floor: added to every error, so that no row is lost for ever.
    """

    draws_ahead = False  # the next batch depends on the feedback to this one

    def __init__(
        self, storage: Storage, streams: Streams, n_step: int = 1, alpha: float = 0.6, floor: float = 1e-3
    ) -> None:
        super().__init__(storage, streams)
        self.n_step, self.alpha, self.floor = n_step, alpha, floor
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
        weight = probability.min(axis=1, keepdims=True) / probability
        batch = read_windows(self.storage, self._row_at(place), self.n_step)
        return {**batch, "weight": torch.from_numpy(weight.astype(np.float32))}

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


@dataclass(frozen=True, kw_only=True)
class PrioritisedDQNConfig(DQNConfig):
    alpha: float = 0.6  # exponent of priorities
    beta: float = 0.4  # exponent of importance weights at the start; 1 at the end of the budget

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "alpha", "beta")


class PrioritisedDQN(DQN):
    """DQN that learns more often from what surprises it."""

    Config: ClassVar[type] = PrioritisedDQNConfig

    def sampler(self, storage: Storage, streams: Streams) -> Sampler:
        return PrioritisedSampler(storage, streams, self.config.n_step, self.config.alpha)

    def update(self, batch: Batch, clock: Clock) -> Updated:
        beta = linear(self.config.beta, 1.0, 1.0, clock.progress)
        return super().update({**batch, "weight": batch["weight"] ** beta}, clock)
