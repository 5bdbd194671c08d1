"""How the rows of a storage are written to a checkpoint: in chunks of about equal bytes, each written once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlab.errors import RlabError
from rlab.experience.fields import Field
from rlab.experience.final_observations import FinalObservations

CHUNK_BYTES = 4 * 2**20  # of one chunk, over all members


class Rows(Protocol):
    """The memory of a storage."""

    members: int
    num_envs: int
    rows_written: int
    chunk_rows: int  # rows of time in one chunk
    kept_fields: tuple[Field, ...]
    finals: FinalObservations

    @property
    def kept_rows(self) -> int: ...

    def kept(self, first: int, steps: int, name: str) -> np.ndarray: ...

    def put_rows(self, name: str, first: int, values: np.ndarray) -> None: ...


@dataclass(frozen=True)
class Chunk:
    """The rows of all lanes over a fixed stretch of time. A complete chunk never changes."""

    index: int
    complete: bool
    storage: Rows

    def arrays(self) -> dict[str, np.ndarray]:
        """The content, as `read_chunk` gives it."""
        return read_chunk(self.storage, self.index)


def rows_of_chunk(members: int, num_envs: int, fields: Sequence[Field]) -> int:
    """How many rows of time make up one chunk. It must not change while a storage lives: chunks go by their index."""
    return max(1, CHUNK_BYTES // (members * num_envs * sum(f.nbytes for f in fields)))


def chunks_of(storage: Rows) -> Iterator[Chunk]:
    """The chunks that hold the present rows, oldest first."""
    written, size = storage.rows_written, storage.chunk_rows
    for index in range((written - storage.kept_rows) // size, -(-written // size)):
        yield Chunk(index, index < complete_chunks(storage), storage)


def complete_chunks(storage: Rows) -> int:
    """How many chunks have been completed so far. The newest row may still change, when a resumed run cuts its
    episode, so that a complete chunk has a row behind it."""
    return max(0, storage.rows_written - 1) // storage.chunk_rows


def read_chunk(storage: Rows, index: int) -> dict[str, np.ndarray]:
    """All that is kept of the rows of one chunk, `[S, N, rows, ...]`; `first_row` is the time of its first row.

    `final_obs [k, *obs]` holds the hidden final observations, `final_at [k, 3]` their member, env and row.
    """
    first = max(index * storage.chunk_rows, storage.rows_written - storage.kept_rows)
    steps = min((index + 1) * storage.chunk_rows, storage.rows_written) - first
    arrays = {f.name: storage.kept(first, steps, f.name) for f in storage.kept_fields}
    arrays["final_at"], arrays["final_obs"] = storage.finals.of_rows(first, steps)
    return arrays | {"first_row": np.array(first)}


def load_chunks(storage: Rows, chunks: Iterable[dict[str, np.ndarray]]) -> None:
    """Put chunks into empty storage that has its `rows_written` already.

    Raises:
        RlabError: the chunks have other fields or shapes, or rows are missing.
    """
    loaded = 0
    for arrays in chunks:
        _check(storage, arrays)
        first = int(arrays["first_row"])
        skip = max(0, storage.rows_written - storage.kept_rows - first)  # rows that have been overwritten since
        for f in storage.kept_fields:
            storage.put_rows(f.name, first + skip, arrays[f.name][:, :, skip:])
        kept = arrays["final_at"][:, 2] >= skip
        storage.finals.put_rows(first, arrays["final_at"][kept], arrays["final_obs"][kept])
        loaded += arrays["valid"][:, :, skip:].shape[2]
    if loaded != storage.kept_rows:
        raise RlabError(f"the checkpoint has {loaded} of the {storage.kept_rows} rows it should have.")


def _check(storage: Rows, arrays: dict[str, np.ndarray]) -> None:
    rows = arrays["valid"].shape[2:3] if "valid" in arrays else ()
    for f in storage.kept_fields:
        expected = (storage.members, storage.num_envs, *rows, *f.shape)
        found = arrays.get(f.name)
        if found is None or found.shape != expected or found.dtype != f.dtype:
            raise RlabError(f"the checkpoint's rows do not fit: no field {f.name!r} of {f.dtype} {expected}.")
