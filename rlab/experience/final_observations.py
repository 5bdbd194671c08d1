"""The side table of storage: the final observations of episodes that the env hides by resetting at once."""

import numpy as np

from rlab.experience.fields import Field, check_memory

NONE = -1  # the place of a row whose successor is not hidden


class FinalObservations:
    """The hidden successors of some rows. `place [S, N, slots]` has an index into the table for each of those rows.

    Places are used again once their row is overwritten; the table doubles where it is full.
    """

    def __init__(self, lanes: tuple[int, int, int], obs: Field) -> None:
        """`lanes` is `(S, N, slots)`."""
        self.place = np.full(lanes, NONE, np.int32)
        self._flat_place = self.place.reshape(-1)
        self.table = np.zeros((64, *obs.shape), obs.dtype)
        self.free = list(range(64))

    def release(self, slot: int) -> None:
        """The rows of this slot will be overwritten."""
        if len(self.free) == len(self.table):
            return
        lanes = self.place[:, :, slot]
        used = lanes[lanes != NONE]
        if used.size:
            self.free.extend(used.tolist())
            lanes[...] = NONE

    def keep(self, slot: int, ended: np.ndarray, next_obs: np.ndarray) -> None:
        """Keep `next_obs [S, N, *obs]` of the rows of this slot where `ended [S, N]`."""
        for member, env in np.argwhere(ended):
            self.keep_one(member, env, slot, next_obs[member, env])

    def keep_one(self, member: int, env: int, slot: int, obs: np.ndarray) -> None:
        """Keep the successor of one row.

        Raises:
            UsageError: the table is full and the machine has no memory for a larger one.
        """
        if not self.free:
            size = len(self.table)
            check_memory(f"storage for {2 * size} final observations", 2 * self.table.nbytes)
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            self.free = list(range(size, 2 * size))
        place = self.free.pop()
        self.table[place] = obs
        self.place[member, env, slot] = place

    def put_into(self, successors: np.ndarray, at: np.ndarray) -> None:
        """Overwrite those of `successors [..., *obs]` that are hidden; `at [...]` is the flat index of each row."""
        place = self._flat_place.take(at)
        hidden = place != NONE
        if hidden.any():
            successors[hidden] = self.table[place[hidden]]

    def listed(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hidden successors `[S, K, *obs]` of rows with the places `[S, ...]`, R of each member, and which of the R
        they follow `[S, K]`. K is the largest number of a member; where one has fewer, the rest is R, which is not a
        row."""
        flat = place.reshape(len(place), -1)  # [S, R]
        rows = [np.flatnonzero(member != NONE) for member in flat]
        most = max(map(len, rows))
        row = np.full((len(rows), most), flat.shape[1], np.int64)
        obs = np.zeros((len(rows), most, *self.table.shape[1:]), self.table.dtype)
        for member, found in enumerate(rows):
            row[member, : len(found)] = found
            obs[member, : len(found)] = self.table[flat[member, found]]
        return obs, row
