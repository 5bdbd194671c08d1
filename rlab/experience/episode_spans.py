"""Which rows of a storage belong to one episode: the times of its first and of its last row."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from rlab.experience.columns import Column
from rlab.experience.fields import Field, check_memory

BYTES = 24  # of each row: its episode's number, and a place for one episode's first and last row


class Rows(Protocol):
    """The memory of a storage."""

    members: int
    num_envs: int
    slots: int
    rows_written: int
    device: torch.device
    first_places: Tensor

    @property
    def columns(self) -> Mapping[str, Column]: ...

    @property
    def rows(self) -> int: ...

    def clock(self) -> int | Tensor: ...

    def held(self) -> int | Tensor: ...

    def read_lanes(self, first: int, steps: int, *names: str) -> dict[str, Tensor]: ...


class EpisodeSpans:
    """The span of the episode of every row that is held, also of episodes under way, whose last row is the newest.

    The episodes of a lane are numbered in the order in which they began. A row has the number of its episode, and each
    number has a place in a ring for its first and last time: as many places as a lane has slots, since each episode
    that is held has one row at least. It follows from which rows ended an episode, so it is not saved.

    Args:
        storage: which tells it of every row that is written.

    Raises:
        UsageError: the machine has no memory for it.
    """

    def __init__(self, storage: Rows) -> None:
        members, slots, num_envs, device = storage.members, storage.slots, storage.num_envs, storage.device
        rows = members * slots * num_envs
        check_memory(f"what hindsight knows of the episodes of {rows} rows", rows * BYTES, device)
        self._storage, self._slots, self._num_envs = storage, slots, num_envs
        self._number = Column((members, slots, num_envs), Field("number", (), "int64"), device)
        self._first, self._last = torch.zeros(2, rows, dtype=torch.int64, device=device).unbind()
        self._under_way = torch.zeros(members, num_envs, dtype=torch.int64, device=device)  # its number
        self._ring = storage.first_places.unsqueeze(1) + torch.arange(num_envs, device=device)  # [S, N]
        self.begin()

    def begin(self) -> None:
        """Look at the rows that are held."""
        storage, rows = self._storage, self._storage.rows
        if not rows:
            return
        time = storage.rows_written - rows + torch.arange(rows, device=storage.device)
        flags = storage.read_lanes(storage.rows_written - rows, rows, "terminated", "truncated", "valid")
        over = flags["terminated"] | flags["truncated"] | ~flags["valid"]  # [S, N, T]
        number = torch.cat([torch.ones_like(over[..., :1]), over[..., :-1]], dim=-1).cumsum(dim=-1)
        self._number.put_lanes(time % self._slots, number)
        self._under_way.copy_(number[..., -1])
        place, time = self._places(number, self._ring.unsqueeze(-1)).flatten(), time.expand(number.shape).flatten()
        self._first.fill_(storage.rows_written).scatter_reduce_(0, place, time, "amin")
        self._last.zero_().scatter_reduce_(0, place, time, "amax")

    def replace(self, dropped: Tensor, valid: Tensor, first_id: int | Tensor) -> None:
        """Rows were written, with the ids `first_id ..`: each is the first of an episode where the one before it ended
        one, or is a reset row, or where there is none."""
        now = first_id // self._num_envs
        before, columns = (now - 1) % self._slots, self._storage.columns
        ended = columns["terminated"].at(before) | columns["truncated"].at(before)
        begins = ended | ~columns["valid"].at(before)
        self._under_way += begins
        place = self._places(self._under_way, self._ring).flatten()
        time = torch.zeros_like(place) + now
        first = torch.where(begins.flatten(), time, self._first.index_select(0, place))
        self._first.index_copy_(0, place, first)  # for scatter_ a compiled program copies all of the memory
        self._last.index_copy_(0, place, time)
        self._number.put(now % self._slots, self._under_way)

    def of(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """The times `[S, B]` of the first and of the last row of the episodes that the rows with the ids `row [S, B]`
        are of, as far as they are held."""
        at = row % (self._slots * self._num_envs) + self._ring[:, :1]
        number = self._number.take(at.flatten()).view(at.shape)
        place = self._places(number, self._ring[:, :1] + row % self._num_envs).flatten()
        first, last = (times.index_select(0, place).view(at.shape) for times in (self._first, self._last))
        oldest = self._storage.clock() - self._storage.held()
        return torch.where(first < oldest, oldest, first), last

    def _places(self, number: Tensor, ring: Tensor) -> Tensor:
        return number % self._slots * self._num_envs + ring
