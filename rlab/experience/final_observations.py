"""The side table of storage: the final observations of episodes that the env hides by resetting at once."""

import numpy as np
import torch
from torch import Tensor

from rlab.experience.columns import Column
from rlab.experience.dtypes import memory_dtype, torch_dtype, zeros
from rlab.experience.fields import SMALL, Field, check_memory

NONE = 0  # the place of a row whose successor is not hidden
FIRST_PLACES = 64  # of a larger observation's table, per member; it doubles where it is full


class FinalObservations:
    """The hidden successors of some rows. `place [S, slots, N]` is where in the table that of each row is.

    A member's part of the table is a ring: rows are overwritten in the order in which they were written, and so are
    their finals. Place 0 takes what is not to be kept. What the table holds are bits, as those of `Column`.

    Args:
        lanes: `(S, slots, N)`.
        obs: the field of observations.
        device: where the table is.
        growing: whether the table of large observations may begin small. It then grows between two rows, which a
            program cannot do.
    """

    def __init__(self, lanes: tuple[int, int, int], obs: Field, device: torch.device, growing: bool) -> None:
        self._members, self._slots, num_envs = lanes
        self._obs, self._device, self._most = obs, device, self._slots * num_envs
        places = "int32" if self._members * self._most < 2**31 else "int64"
        self.place = Column(lanes, Field("place", (), places), device)
        self._kept = torch.zeros(
            self._members, 1, dtype=torch.int64, device=device
        )  # so far; their number is their place
        self._released = torch.zeros_like(self._kept)  # so far; counted while the table may grow
        self._set_places(min(self._most, FIRST_PLACES) if growing and obs.nbytes > SMALL else self._most)

    @property
    def grows(self) -> bool:
        """Whether the table may still be replaced by a larger one: `keep` cannot be part of a program."""
        return self.places < self._most

    def _set_places(self, places: int) -> None:
        """An empty table of so many places for each member."""
        self.places = places
        shape = (1 + self._members * places, *self._obs.shape)
        self.table = zeros(shape, memory_dtype(self._obs.dtype), self._device)
        # where each member's part begins, [S, 1]
        self._first = torch.arange(self._members, device=self._device).unsqueeze(1) * places + 1

    @property
    def on_host(self) -> bool:
        """Whether Python may look at the values of tensors, without waiting for a GPU."""
        return self._device.type == "cpu" and not torch.compiler.is_compiling()

    def release(self, slot: int | Tensor) -> None:
        """The rows of this slot are overwritten: none of the new ones has a place."""
        if self.grows:
            self._released += (self.place.at(slot) != NONE).sum(dim=1, keepdim=True)
        self.place.clear(slot)

    def keep(self, slot: int | Tensor, hidden: Tensor, next_obs: Tensor) -> None:
        """Keep `next_obs [S, N, *obs]`, as bits, of those rows of this slot where `hidden [S, N]`. They have no place
        yet; the others keep theirs.

        Raises:
            UsageError: the table is full and the machine has no memory for a larger one.
        """
        rank = hidden.cumsum(dim=1)  # from 1
        count = rank[:, -1:]
        if self.grows:
            self._make_room(int((self._kept - self._released + count).max()))
        place = ((self._kept + rank) % self.places + self._first) * hidden  # NONE of the others
        self.place.put(slot, self.place.at(slot) + place)
        place, next_obs = place.flatten(), next_obs.flatten(0, 1)
        if self.on_host and self._obs.nbytes > SMALL:  # copy those alone that are hidden
            which = place.nonzero().squeeze(1)
            place, next_obs = place.index_select(0, which), next_obs.index_select(0, which)
        self.table.index_copy_(0, place, next_obs.to(self.table.dtype))
        self._kept += count

    def put_into(self, successors: Tensor, at: Tensor) -> Tensor:
        """`successors [K, *obs]`, bits that may be changed, with those put in place that are hidden; `at [K]` is the
        flat place of each row."""
        place = self.place.take(at)
        if self.on_host:  # read those alone that are hidden
            which = place.nonzero().squeeze(1)
            if len(which):
                successors.index_copy_(0, which, self.table.index_select(0, place.index_select(0, which)))
            return successors
        hidden = (place != NONE).view(-1, *(1 for _ in self._obs.shape))
        return torch.where(hidden, self.table.index_select(0, place), successors)

    def listed(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden successors `[S, K, *obs]`, as bits, of rows with the places `[S, R]`, and which of the R they
        follow `[S, K]`. Where a member has fewer than K, the rest is 0 and R, which is not a row.

        K is the largest number of a member where the host may look; in a program, and on a GPU, it is R.
        """
        hidden, rows = place != NONE, place.shape[1]
        most = rows
        if self.on_host:
            most = int(hidden.sum(dim=1).max())
        order = hidden.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]  # hidden ones first
        found = place.gather(1, order)
        obs = self.table.index_select(0, found.flatten()).view(*found.shape, *self._obs.shape)
        none = found == NONE
        return obs.masked_fill(none.view(*none.shape, *(1 for _ in self._obs.shape)), 0), order.masked_fill(none, rows)

    def of_rows(self, first: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The successors `[k, *obs]` that are kept of the rows at the times `first .. first + steps - 1`, and the
        member, env and row, from 0, of each `[k, 3]`."""
        place = self.place.lanes((first + torch.arange(steps, device=self._device)) % self._slots)
        obs = self.table[place[place != NONE].long()].view(torch_dtype(self._obs.dtype))
        return (place != NONE).nonzero().cpu().numpy(), obs.cpu().numpy()

    def put_rows(self, first: int, at: np.ndarray, obs: np.ndarray) -> None:
        """Keep what `of_rows` gave, of rows that were written after all those that are kept already."""
        order = np.lexsort((at[:, 2], at[:, 0]))  # by member, then by time
        member, env, row = at[order].T
        count = np.bincount(member, minlength=self._members)
        if self.grows:
            self._make_room(int((self._kept.cpu().numpy()[:, 0] + count).max()))
        rank = np.arange(len(order)) - (count.cumsum() - count)[member] + 1  # from 1 for each member
        number = torch.from_numpy(self._kept.cpu().numpy()[member, 0] + rank)
        place = (number % self.places + torch.from_numpy(member) * self.places + 1).to(self._device)
        self.place.bits[member, (first + row) % self._slots, env] = place.to(self.place.bits.dtype)
        self.table[place] = torch.from_numpy(obs[order]).to(self._device).view(self.table.dtype)
        self._kept += torch.from_numpy(count).to(self._device).unsqueeze(1)

    def _make_room(self, needed: int) -> None:
        """Double the table, if it has fewer places than a member needs."""
        if needed <= self.places:
            return
        old, places, first = self.table, self.places, self._first
        larger = min(self._most, max(2 * places, needed))
        check_memory(
            f"storage for {larger} final observations", larger * self._members * self._obs.nbytes, self._device
        )
        self._set_places(larger)
        # A place is a number's remainder; the numbers in the table are the newest of each member.
        index = torch.arange(places, device=self._device)
        number = self._kept - (self._kept - index) % places  # [S, places]
        moved = torch.zeros(len(old), dtype=torch.int64, device=self._device)  # where each place is now
        moved[(first + index).flatten()] = (number % larger + self._first).flatten()
        self.table[moved] = old
        self.place.bits.copy_(moved[self.place.bits.long()])
