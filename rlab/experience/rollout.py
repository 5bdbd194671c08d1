"""Rollouts: T vector steps of every env in time order, learned from once and then overwritten."""

from collections.abc import Sequence

import numpy as np
import torch

from rlab.errors import RlabError
from rlab.experience.lanes import NO_FINAL, Field, Lanes


class Rollout(Lanes):
    """Lanes of `steps` rows that are read whole, in time order, each time they are full.

    Args:
        members, num_envs: S and N.
        steps: T, vector steps of one rollout.
        obs, action, extra: the fields, as for `Lanes`.
    """

    def __init__(
        self, members: int, num_envs: int, steps: int, obs: Field, action: Field, extra: Sequence[Field] = ()
    ) -> None:
        super().__init__(members, num_envs, steps * num_envs, obs, action, extra)

    @property
    def full(self) -> bool:
        """Whether the newest row completed a rollout."""
        return self.rows_written > 0 and self.rows_written % self.lane_rows == 0

    def read(self) -> dict[str, torch.Tensor]:
        """The newest T rows of every lane.

        Returns:
            `obs [S, N, T + 1, ...]`, the last row being what the newest action led to or what was acted on next;
            `action` and extra fields `[S, N, T, ...]`; `reward`, `terminated`, `truncated`, `valid [S, N, T]`;
            `final_obs [S, K, ...]` with `final_row [S, K]`: the successors that the env hid by resetting at once, and
            the rows `n * T + t` that they follow. Every other row's successor is the next row of `obs`. K is the
            largest number of a member; where one has fewer, `final_row` is `N * T`, which is no row.

        Raises:
            RlabError: there are no T rows yet.
        """
        if self.rows < self.lane_rows:
            raise RlabError(f"the rollout has {self.rows} of its {self.lane_rows} rows; collect before reading.")
        time = np.arange(self.rows_written - self.lane_rows, self.rows_written)
        slots, behind = self._slots_of(time), self._slots_of(np.append(time, self.rows_written))
        batch = {name: data[:, :, behind if name == "obs" else slots] for name, data in self._data.items()}
        batch["final_obs"], batch["final_row"] = self._hidden(self._final_slot[:, :, slots])
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _hidden(self, final: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden successors `[S, K, *obs]` and their rows `[S, K]`, from their places `[S, N, T]` in the side table."""
        flat = final.reshape(self.members, -1)  # [S, N * T]
        rows = [np.flatnonzero(member != NO_FINAL) for member in flat]
        most = max(map(len, rows))
        row = np.full((self.members, most), flat.shape[1], np.int64)
        obs = np.zeros((self.members, most, *self._finals.shape[1:]), self._finals.dtype)
        for member, found in enumerate(rows):
            row[member, : len(found)] = found
            obs[member, : len(found)] = self._finals[flat[member, found]]
        return obs, row
