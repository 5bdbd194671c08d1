"""DQN with prioritised replay (Schaul et al. 2016): proportional prioritisation, section 3.3.

A row is drawn with probability p^alpha / sum(p^alpha), where p is the absolute TD error that the agent's `update` gave
as feedback when the row was last learned from; a new row has the largest p so far. `weight [S, B]` in the batch
corrects the bias that this brings: 1 / (rows * probability), relative to the largest of the member's batch.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlab.agents.dqn import DQN, DQNConfig
from rlab.draws import Draws
from rlab.experience.samplers import Batch, Sampler, UniformSampler, read_windows
from rlab.experience.storage import Storage
from rlab.learning.contract import Now, Updated
from rlab.learning.exploration import linear
from rlab.ranges import check_shares
from rlab.types import Clock


class PrioritisedSampler(UniformSampler):
    """Windows of up to `n_step` transitions whose first row is drawn in proportion to its priority.

    Args:
        storage, draws, n_step: as of `UniformSampler`.
        alpha: 0 draws uniformly; 0.6 in the paper.
        floor: added to every error, so that no row is lost for ever.
    """

    draws_ahead = False  # the next batch depends on the feedback to this one

    def __init__(
        self, storage: Storage, draws: Draws, n_step: int = 1, alpha: float = 0.6, floor: float = 1e-3
    ) -> None:
        super().__init__(storage, draws, n_step)
        self.alpha, self.floor = alpha, floor
        self.size = storage.lane_rows * storage.num_envs  # rows of a member; row r has the place r % size
        shape, device = (storage.members, self.size), storage.device
        self.priority = torch.zeros(shape, dtype=torch.float64, device=device)  # p^alpha; 0: a row that is not valid
        self.largest = torch.ones(storage.members, 1, dtype=torch.float64, device=device)  # p^alpha, so far
        self.seen = torch.zeros(1, dtype=torch.int64, device=device)  # rows of time that have a priority

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_windows` gives it, with `weight [S, B]`."""
        row = self._take_in_new_rows()
        sums = self.priority.cumsum(dim=1)
        target = self.draws.uniform(batch_size) * sums[:, -1:]
        place = torch.searchsorted(sums, target, right=True)
        probability = self.priority.gather(1, place) / sums[:, -1:]
        weight = probability.amin(dim=1, keepdim=True) / probability
        return {**read_windows(self.storage, row[place], self.n_step), "weight": weight.float()}

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """The TD errors `[S, B]` of the rows `[S, B]` of the last batch."""
        priority = (value.abs().double() + self.floor) ** self.alpha
        self.priority.scatter_(1, row % self.size, priority)
        self.largest.copy_(torch.maximum(self.largest, priority.amax(dim=1, keepdim=True)))

    def _take_in_new_rows(self) -> Tensor:
        """The id of the row that has each place, `[size]`, after giving new rows the largest priority."""
        newest, num_envs = self.storage.clock() * self.storage.num_envs - 1, self.storage.num_envs
        row = newest - (newest - torch.arange(self.size, device=self.storage.device)) % self.size
        valid = self.storage.read(row.clamp(min=0).expand(self.priority.shape), "valid")["valid"]
        new = row >= self.seen * num_envs
        self.priority.copy_(torch.where(new, self.largest * valid, self.priority))
        self.seen += self.storage.clock() - self.seen
        return row

    def state(self) -> dict[str, Any]:
        return {**super().state(), "priority": self.priority, "largest": self.largest, "seen": self.seen}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        for name, tensor in (("priority", self.priority), ("largest", self.largest), ("seen", self.seen)):
            tensor.copy_(state[name])


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

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        return PrioritisedSampler(storage, draws, self.config.n_step, self.config.alpha)

    def scheduled(self, clock: Clock) -> dict[str, float]:
        return {**super().scheduled(clock), "replay/beta": linear(self.config.beta, 1.0, 1.0, clock.progress)}

    def update(self, batch: Batch, now: Now) -> Updated:
        return super().update({**batch, "weight": batch["weight"] ** now["replay/beta"]}, now)
