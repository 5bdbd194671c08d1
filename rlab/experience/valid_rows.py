"""Which rows of a storage are transitions, listed so that one of them is drawn without drawing again."""

import torch
from torch import Tensor


class ValidRows:
    """The ids of each member's valid rows that are held, numbered in the order in which they were written: a ring.

    Args:
        members, num_envs: S and N.
        rows: the most rows of a member that are held at a time.
        device: where the ids are.
    """

    def __init__(self, members: int, num_envs: int, rows: int, device: torch.device) -> None:
        self._size = rows
        # Place 0 takes the ids of rows that are not valid; behind it the members' rings.
        self._ids = torch.zeros(1 + members * rows, dtype=torch.int64, device=device)
        self._first = torch.arange(members, device=device).unsqueeze(1) * rows + 1
        self._newest = torch.full((members, 1), -1, dtype=torch.int64, device=device)  # its number
        self._oldest = torch.zeros_like(self._newest)
        self._env = torch.arange(num_envs, device=device).repeat(members)

    @property
    def counts(self) -> Tensor:
        """How many there are, `[S, 1]`."""
        return self._newest - self._oldest + 1

    def replace(self, dropped: Tensor, valid: Tensor, first_id: int | Tensor) -> None:
        """The rows `valid [S, N]` of one time were written, with the ids `first_id ..`; the oldest, `dropped [S, N]`,
        are no longer held."""
        self._oldest += dropped.sum(dim=1, keepdim=True)
        self._list(valid, self._env + first_id)

    def begin(self, valid: Tensor, first_id: int) -> None:
        """List the rows `valid [S, R]`, of which there is one at least, with the ids `first_id ..` at once."""
        ids = torch.arange(first_id, first_id + valid.shape[1], device=valid.device)
        self._list(valid, ids.repeat(len(valid)))

    def _list(self, valid: Tensor, ids: Tensor) -> None:
        rank = valid.cumsum(dim=1)  # from 1
        place = ((self._newest + rank) % self._size + self._first) * valid
        self._ids.index_copy_(0, place.flatten(), ids)  # for scatter_ a compiled program copies all of the memory
        self._newest += rank[:, -1:]

    def ids(self, number: Tensor) -> Tensor:
        """The ids `[S, B]` of rows by their numbers, each below `counts`; 0 is the oldest."""
        place = (self._oldest + number) % self._size + self._first
        return self._ids.index_select(0, place.flatten()).view(number.shape)
