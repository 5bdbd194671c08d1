"""Replay: transitions go in one vector step at a time (see `lanes`) and come out as uniformly drawn windows.

n-step returns, stacks and sequences are window reads; no successor is stored twice (see `lanes`).
"""

from collections.abc import Sequence
from itertools import count

import numpy as np
import torch

from rlab.errors import RlabError
from rlab.experience.lanes import NO_FINAL, Lanes


class Replay(Lanes):
    """Lanes that are read as random windows."""

    def sample(
        self, streams: Sequence[np.random.Generator], batch_size: int, n_step: int = 1
    ) -> dict[str, torch.Tensor]:
        """Uniformly drawn windows of up to `n_step` transitions, each member from its own stream.

        A window stops at the end of an episode and at the newest row, so it may be shorter; `steps` says how long it
        is.

        Returns:
            `obs`, `action` and extra fields `[S, B, ...]` of the window's first row; `reward [S, B, n_step]`, zero
            behind the window; `steps [S, B]`; `terminated`, `truncated [S, B]` of its last row; `next_obs [S, B, ...]`,
            the observation that the last row led to.

        Raises:
            RlabError: a member holds no transition.
        """
        lane, time = self._draw(streams, batch_size)
        last, reward = self._windows(lane, time, n_step)
        first_row, last_row = lane + self._slots_of(time), lane + self._slots_of(last)
        skipped = ("reward", "terminated", "truncated", "valid")
        batch = {f.name: self._flat[f.name].take(first_row, axis=0) for f in self.fields if f.name not in skipped}
        batch["reward"] = reward
        batch["steps"] = last - time + 1
        batch["terminated"] = self._flat["terminated"].take(last_row)
        batch["truncated"] = self._flat["truncated"].take(last_row)
        batch["next_obs"] = self._successors(lane, last)
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _draw(self, streams: Sequence[np.random.Generator], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each drawn row's lane starts, and its time, `[S, B]`; a reset row that was drawn is drawn again."""
        rows = self.rows
        if not rows:
            raise RlabError("the replay is empty; collect before sampling.")
        drawn = np.stack([s.integers(self.num_envs * rows, size=batch_size) for s in streams])
        for attempt in count(1):
            env, age = np.divmod(drawn, rows)
            time = self.rows_written - 1 - age
            lane = np.take_along_axis(self._lane_start, env, axis=1)
            wrong = ~self._flat["valid"].take(lane + self._slots_of(time))
            if not wrong.any():
                break
            if attempt % 100 == 0 and not self.transitions.all():  # or the draw would never end
                raise RlabError("the replay holds reset rows and no transition of a member; raise --replay-capacity.")
            for i in np.flatnonzero(wrong.any(axis=1)).tolist():
                drawn[i, wrong[i]] = streams[i].integers(self.num_envs * rows, size=int(wrong[i].sum()))
        return lane, time

    def _windows(self, lane: np.ndarray, time: np.ndarray, n_step: int) -> tuple[np.ndarray, np.ndarray]:
        """The time of each window's last row `[S, B]`, and the rewards in it `[S, B, n_step]`."""
        if n_step == 1:
            return time, self._flat["reward"].take(lane + self._slots_of(time))[..., None]
        times = time[..., None] + np.arange(n_step)  # [S, B, n]
        row = lane[..., None] + self._slots_of(times)
        ended = self._flat["terminated"].take(row) | self._flat["truncated"].take(row)
        # inside[k]: the row exists, and the episode went on through the k rows before it
        inside = times < self.rows_written
        inside[..., 1:] &= ~np.logical_or.accumulate(ended, axis=-1)[..., :-1]
        reward = self._flat["reward"].take(row)
        return time + inside.sum(axis=-1) - 1, np.where(inside, reward, np.float32(0.0))

    def _successors(self, lane: np.ndarray, time: np.ndarray) -> np.ndarray:
        successors: np.ndarray = self._flat["obs"].take(lane + self._slots_of(time + 1), axis=0)
        final = self._final_slot.take(lane + self._slots_of(time))
        hidden = final != NO_FINAL
        if hidden.any():
            successors[hidden] = self._finals[final[hidden]]
        return successors
