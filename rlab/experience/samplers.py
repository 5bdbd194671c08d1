"""Samplers choose rows of a storage and read them as batches. Here rows are drawn uniformly; rollouts and sequences are
in `sequence_samplers`, batches with a share of demonstrations in `mixture_sampler`.

A sampler is given its random streams, one per member, so that a member's draws do not depend on the other members.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch

from rlab.errors import RlabError
from rlab.experience.storage import Storage

Batch = dict[str, torch.Tensor]
Streams = Sequence[np.random.Generator]


class Sampler(Protocol):
    """Gives the batches that an agent learns from."""

    draws_ahead: bool  # whether many batches may be drawn as one and cut up; such a sampler gets no feedback

    def sample(self, batch_size: int) -> Batch:
        """A batch `[S, batch_size, ...]` with `row [S, batch_size]`, the id of each (first) row in its storage."""
        ...

    def feedback(self, row: np.ndarray, value: np.ndarray) -> None:
        """What the update said of the rows `[S, B]` of the last batch, one value `[S, B]` each, in their order."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next draws depend on besides the storage."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class RandomSampler:
    """A storage and the random streams, one per member, that rows are drawn from it with. Subclasses give `sample`."""

    draws_ahead = True

    def __init__(self, storage: Storage, streams: Streams) -> None:
        self.storage, self.streams = storage, tuple(streams)

    def feedback(self, row: np.ndarray, value: np.ndarray) -> None:
        """Nothing changes: no row becomes more likely than another."""

    def state(self) -> dict[str, Any]:
        """Where the streams stand."""
        return {"streams": [dict(s.bit_generator.state) for s in self.streams]}

    def load_state(self, state: dict[str, Any]) -> None:
        for s, saved in zip(self.streams, state["streams"], strict=True):
            s.bit_generator.state = saved


class UniformSampler(RandomSampler):
    """Windows of up to `n_step` transitions, whose first rows are drawn uniformly with replacement.

    A window stops at the end of an episode and at the newest row, so it may be shorter; `steps` is its length.

    Args:
        storage: what the rows are drawn from.
        streams: one per member.
        n_step: transitions in a window.
    """

    def __init__(self, storage: Storage, streams: Streams, n_step: int = 1) -> None:
        super().__init__(storage, streams)
        self.n_step = n_step

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_windows` gives it.

        Raises:
            RlabError: a member holds no transition.
        """
        return read_windows(self.storage, self._draw(batch_size), self.n_step)

    def _draw(self, batch_size: int) -> np.ndarray:
        """The ids of valid rows, `[S, batch_size]`; a reset row that was drawn is drawn again."""
        storage, rows, num_envs = self.storage, self.storage.rows, self.storage.num_envs
        if storage.own_rows is not None:  # the members' numbers of rows differ, and must not matter to each other
            pairs = zip(storage.own_rows, self.streams, strict=True)
            return np.stack([own[s.integers(len(own), size=batch_size)] for own, s in pairs])
        if not rows:
            raise RlabError("the storage is empty; collect before sampling.")
        drawn = np.stack([s.integers(num_envs * rows, size=batch_size) for s in self.streams])
        for attempt in count(1):
            env, age = np.divmod(drawn, rows)
            row = (storage.rows_written - 1 - age) * num_envs + env
            wrong = ~storage.read(row, "valid")["valid"]
            if not wrong.any():
                break
            if attempt % 100 == 0 and not storage.transitions.all():  # or the draw would never end
                raise RlabError("the storage of a member holds only reset rows; raise --replay-capacity.")
            for i in np.flatnonzero(wrong.any(axis=1)).tolist():
                drawn[i, wrong[i]] = self.streams[i].integers(num_envs * rows, size=int(wrong[i].sum()))
        return row


def read_windows(storage: Storage, row: np.ndarray, n_step: int = 1) -> Batch:
    """Windows of up to `n_step` transitions that begin at the rows with the ids `row [S, B]`.

    Returns:
        `row`, and all fields but those below, `[S, B, ...]`, of the first row; `reward [S, B, n_step]`, zero behind the
        window; `steps [S, B]`, the transitions in it; `terminated`, `truncated [S, B]` of its last row; `next_obs
        [S, B, *obs]`, what the last row led to; of demonstrations also `demonstration [S, B]`, which is true.
    """
    of_last = ("reward", "terminated", "truncated") if n_step > 1 else ()
    batch = {"row": row, **storage.read(row, *(f.name for f in storage.fields if f.name not in ("valid", *of_last)))}
    if n_step == 1:
        last, steps, batch["reward"] = row, np.ones_like(row), batch["reward"][..., None]
    else:
        steps, batch["reward"] = _walk(storage, row, n_step)
        last = row + (steps - 1) * storage.num_envs
        batch |= storage.read(last, "terminated", "truncated")
    batch |= {"steps": steps, "next_obs": storage.successors(last)}
    if storage.demonstrated:
        batch["demonstration"] = np.ones(row.shape, bool)
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def _walk(storage: Storage, row: np.ndarray, n_step: int) -> tuple[np.ndarray, np.ndarray]:
    """The transitions in each window `[S, B]`, and their rewards `[S, B, n_step]`."""
    values = storage.read_windows(row, n_step, "reward", "terminated", "truncated")
    ended = values["terminated"] | values["truncated"]
    # inside[k]: the row exists, and the episode went on through the k rows before it
    inside = row[..., None] + np.arange(n_step) * storage.num_envs < storage.rows_written * storage.num_envs
    inside[..., 1:] &= ~np.logical_or.accumulate(ended, axis=-1)[..., :-1]
    return inside.sum(axis=-1), np.where(inside, values["reward"], np.float32(0.0))
