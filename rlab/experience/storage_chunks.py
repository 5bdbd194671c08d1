"""How the rows of a storage are written to a checkpoint: in chunks of fixed size, each written once it is complete."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlab.errors import RlabError
from rlab.experience.fields import Field
from rlab.experience.final_observations import NONE, FinalObservations

CHUNK_ROWS = 4096  # rows of time in one chunk


class Rows(Protocol):
    """The memory of a storage."""

    members: int
    num_envs: int
    lane_rows: int  # the most rows of time that are held
    rows_written: int
    fields: tuple[Field, ...]
    data: dict[str, np.ndarray]  # [S, N, slots, ...] by the name of the field
    finals: FinalObservations

    @property
    def rows(self) -> int: ...

    def slots_of(self, time: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Chunk:
    """The rows of all lanes over a fixed stretch of time. A complete chunk never changes."""

    index: int
    complete: bool
    storage: Rows

    def arrays(self) -> dict[str, np.ndarray]:
        """The content, as `read_chunk` gives it."""
        return read_chunk(self.storage, self.index)


def chunks_of(storage: Rows) -> Iterator[Chunk]:
    """The chunks that hold the present rows, oldest first."""
    written = storage.rows_written
    for index in range((written - storage.rows) // CHUNK_ROWS, -(-written // CHUNK_ROWS)):
        # The newest row may still change, when a resumed run cuts its episode.
        yield Chunk(index, (index + 1) * CHUNK_ROWS < written, storage)


def read_chunk(storage: Rows, index: int) -> dict[str, np.ndarray]:
    """All fields of one chunk `[S, N, rows, ...]`; `first_row` is the time of its first row.

    `final_obs [k, *obs]` holds the hidden final observations, `final_at [k, 3]` their member, env and row.
    """
    first = max(index * CHUNK_ROWS, storage.rows_written - storage.rows)
    slots = storage.slots_of(np.arange(first, min((index + 1) * CHUNK_ROWS, storage.rows_written)))
    arrays = {name: values[:, :, slots] for name, values in storage.data.items()}
    place = storage.finals.place[:, :, slots]
    arrays["final_at"] = np.argwhere(place != NONE)
    arrays["final_obs"] = storage.finals.table[place[place != NONE]]
    arrays["first_row"] = np.array(first)
    return arrays


def load_chunks(storage: Rows, chunks: Iterable[dict[str, np.ndarray]]) -> None:
    """Put chunks into empty storage that has its `rows_written` already.

    Raises:
        RlabError: the chunks have other fields or shapes, or rows are missing.
    """
    loaded = 0
    for arrays in chunks:
        _check(storage, arrays)
        first = int(arrays["first_row"])
        skip = max(0, storage.rows_written - storage.lane_rows - first)  # rows that have been overwritten since
        time = np.arange(first + skip, first + arrays["valid"].shape[2])
        slots = storage.slots_of(time)
        for name, values in storage.data.items():
            values[:, :, slots] = arrays[name][:, :, skip:]
        for (member, env, row), obs in zip(arrays["final_at"], arrays["final_obs"], strict=True):
            if row >= skip:
                storage.finals.keep_one(member, env, slots[row - skip], obs)
        loaded += len(time)
    if loaded != storage.rows:
        raise RlabError(f"the checkpoint has {loaded} of the {storage.rows} rows it should have.")


def _check(storage: Rows, arrays: dict[str, np.ndarray]) -> None:
    rows = arrays["valid"].shape[2:3] if "valid" in arrays else ()
    for f in storage.fields:
        expected = (storage.members, storage.num_envs, *rows, *f.shape)
        found = arrays.get(f.name)
        if found is None or found.shape != expected or found.dtype != f.dtype:
            raise RlabError(f"the checkpoint's rows do not fit: no field {f.name!r} of {f.dtype} {expected}.")
