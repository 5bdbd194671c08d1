"""Prioritised replay of windows of rows, from which networks with memory learn."""

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.experience.prioritised_sampler import PrioritisedSampler
from rlab.experience.samplers import Batch
from rlab.experience.sequence_samplers import check_held, check_length, read_sequences
from rlab.experience.storage import Storage


class PrioritisedSequences(PrioritisedSampler):
    """Windows of `length` rows in time order, drawn as `PrioritisedSampler` draws rows: `feedback` gives each window a
    priority by its first row. A window joins when its last row is written.

    Windows begin at every `apart` rows of a lane, so that they overlap, as those of R2D2 do (Kapturowski et al. 2019,
    section 2.3: 80 rows, 40 apart).

    Args:
        storage, draws, alpha: as of `PrioritisedSampler`.
        length: L, rows in a window.
        apart: rows between the beginnings of two windows of a lane.

    Raises:
        UsageError: a lane of the storage is shorter than a window.
    """

    def __init__(self, storage: Storage, draws: Draws, length: int, apart: int, alpha: float = 0.6) -> None:
        check_length(storage, length)
        # One of them is always held.
        self.length, self.apart = length, min(apart, storage.lane_rows - length + 1)
        super().__init__(storage, draws, alpha=alpha)
        if storage.rows:
            row = self._row(torch.arange(self.size, device=storage.device).expand(storage.members, -1))
            oldest, last = (storage.rows_written - storage.rows) * storage.num_envs, storage.rows_written - length
            behind = (last + 1) * storage.num_envs if storage.last_rows is None else storage.last_rows + 2 - length
            begins = self._begins(row) & (row >= oldest) & (row < torch.as_tensor(behind).clamp(min=oldest + 1))
            self.tree.fill(begins.double())

    def replace(self, dropped: Tensor, valid: Tensor, first_id: int | Tensor) -> None:
        """The rows `valid [S, N]` were written, with the ids `first_id ..`, in the place of the oldest."""
        row = (first_id + torch.arange(valid.shape[1], device=valid.device)).expand(valid.shape)
        self.tree.set(row % self.size, torch.zeros_like(self.largest).expand(valid.shape))
        first = row - (self.length - 1) * self.storage.num_envs  # of the windows that are whole now
        self.tree.set(first % self.size, self.largest * (self._begins(first) & (first >= 0)))

    def _begins(self, row: Tensor) -> Tensor:
        """Whether a window begins at rows with these ids."""
        return row // self.storage.num_envs % self.apart == 0

    def check(self) -> None:
        """Raise RlabError where a lane holds fewer rows than a window."""
        check_held(self.storage, self.length)

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_sequences` gives it, with `weight [S, batch_size]`."""
        place, weight = self._weighed_places(batch_size)
        return {**read_sequences(self.storage, self._row(place), self.length), "weight": weight}
