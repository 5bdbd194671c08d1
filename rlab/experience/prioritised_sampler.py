"""Prioritised replay (Schaul et al. 2016, section 3.3, the proportional variant): rows whose predictions were furthest
off are learned from more often, and count less each time."""

from typing import Any

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.experience.samplers import Batch, UniformSampler, read_windows
from rlab.experience.storage import Storage
from rlab.experience.sum_tree import SumTree

FLOOR = 1e-6  # added to every error, so that no row is lost for ever; of OpenAI Baselines, the paper only says small


class PrioritisedSampler(UniformSampler):
    """Windows of up to `n_step` transitions, whose first row is drawn with probability `p^alpha / sum(p^alpha)`.

    p is the size of the error that `feedback` gave for the row, plus `FLOOR`; that of a new row is the largest so far,
    1 at first. Rows that are not valid have none, and a row's priority goes when it is overwritten.

    A batch of B takes one row from each of B equal parts of the sum of priorities, as in the paper's appendix B.2.1:
    the probabilities are those of independent draws, and what they add to the noise of a batch is less.

    Args:
        storage: what the rows are drawn from; it tells this sampler of every row that is written.
        draws: one stream per member.
        n_step: transitions in a window; `[S, 1]` where members differ.
        alpha: 0 draws uniformly, 1 in proportion to the error.

    Raises:
        UsageError: as `UniformSampler`.
    """

    draws_ahead = False  # the next batch depends on the feedback to this one

    def __init__(self, storage: Storage, draws: Draws, n_step: int | Tensor = 1, alpha: float = 0.6) -> None:
        super().__init__(storage, draws, n_step)
        self.alpha = alpha
        self.size = storage.lane_rows * storage.num_envs  # rows of a member; row r has the place r % size
        self.tree = SumTree(storage.members, self.size, storage.device)
        self.largest = torch.ones(storage.members, 1, dtype=torch.float64, device=storage.device)  # p^alpha so far
        if storage.rows:
            row = self._row(torch.arange(self.size, device=storage.device).expand(storage.members, -1))
            held = row >= (storage.rows_written - storage.rows) * storage.num_envs
            self.tree.fill((held & storage.read(row.clamp(min=0), "valid")["valid"]).double())
        storage.followers.append(self)

    def replace(self, dropped: Tensor, valid: Tensor, first_id: int | Tensor) -> None:
        """The rows `valid [S, N]` were written, with the ids `first_id ..`, in the place of the oldest."""
        place = (first_id + torch.arange(valid.shape[1], device=valid.device)) % self.size
        self.tree.set(place.expand(valid.shape), self.largest * valid)

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_windows` gives it, with `weight [S, batch_size]`.

        A weight is the inverse of the row's probability, relative to the largest of the member's batch: what corrects
        the bias of the draws in full (section 3.4, beta = 1). Raise it to the power of beta to correct a part.
        """
        place, weight = self._weighed_places(batch_size)
        return {**read_windows(self.storage, self._row(place), self.n_step, self.own_steps), "weight": weight}

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """The errors `[S, B]` of the rows `[S, B]` of the last batch. Of a row that is there several times the last one
        counts."""
        priority = (value.abs().double() + FLOOR) ** self.alpha
        self.largest.copy_(torch.maximum(self.largest, priority.amax(dim=1, keepdim=True)))
        in_order, order = (row % self.size).sort(dim=1, stable=True)
        last = torch.searchsorted(in_order, in_order, right=True) - 1
        self.tree.set(in_order, priority.gather(1, order).gather(1, last))

    def _weighed_places(self, count: int) -> tuple[Tensor, Tensor]:
        """Places `[S, count]` and their weights."""
        place, probability = self._draw_places(count)
        return place, (probability.amin(dim=1, keepdim=True) / probability).float()

    def _draw_places(self, count: int) -> tuple[Tensor, Tensor]:
        """Places `[S, count]` and the probability that a draw gives each."""
        inside = (self.draws.words(count).double() + 0.5) * 2.0**-32  # a float32 has too few digits for 10^6 rows
        part = torch.arange(count, device=self.storage.device)
        place = self.tree.find((part + inside) / count)
        return place, self.tree.get(place) / self.tree.total()

    def _row(self, place: Tensor) -> Tensor:
        """The ids of the rows that have these places now; below 0 where there is none yet."""
        newest = self.storage.clock() * self.storage.num_envs - 1
        return newest - (newest - place) % self.size

    def state(self) -> dict[str, Any]:
        return {**super().state(), "tree": self.tree.state(), "largest": self.largest}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.tree.load_state(state["tree"])
        self.largest.copy_(state["largest"])
