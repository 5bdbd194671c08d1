"""Checkpoints: the full training state on the disk, of which a crash at any instant leaves the previous one whole.

checkpoint/checkpoint.json           the one commit point: names and SHA-256 of everything below, replaced last
checkpoint/state-<sha>.json          the structure of the state
checkpoint/state-<sha>.safetensors   its tensors
checkpoint/chunk-<index>-<sha>.safetensors   the replay, in chunks; a complete one is written once and for all
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.encoding import State, decode, encode
from rlab.runs.folder import RunFolder
from rlab.runs.tensors import arrays_from_bytes, arrays_to_bytes, tensors_from_bytes, tensors_to_bytes

CHECKPOINT = "checkpoint.json"
TENSORS = ".safetensors"


class Chunk(Protocol):
    """A piece of replay. A complete chunk never changes again; its index is never used for anything else."""

    @property
    def index(self) -> int: ...

    @property
    def complete(self) -> bool: ...

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The content; called only where it has to be written."""
        ...


@dataclass(frozen=True)
class StoredChunk:
    """A chunk of a saved checkpoint; it can be read until the next checkpoint is saved."""

    index: int
    complete: bool
    folder: Path
    entry: dict[str, Any]  # name and SHA-256 of the file

    def arrays(self) -> dict[str, np.ndarray]:
        """Read the file.

        Raises:
            RlabError: it is missing, changed or damaged.
        """
        data = files.read_checked(self.folder, self.entry, _stem(self.index), TENSORS, self.folder / CHECKPOINT)
        return arrays_from_bytes(data, self.folder / self.entry["name"])


def has_checkpoint(run: RunFolder) -> bool:
    """Whether the run has saved a checkpoint."""
    return (run.checkpoint / CHECKPOINT).is_file()


def save_checkpoint(run: RunFolder, state: Mapping[str, Any], chunks: Iterable[Chunk] = ()) -> None:
    """Replace the checkpoint of a run.

    `state` is nested dicts, lists and tuples with torch tensors, NumPy arrays and JSON values at the leaves. Complete
    chunks that the previous checkpoint has are kept as they are; chunks that are not named any more are deleted.

    Raises:
        RlabError: the disk refuses, and the previous checkpoint stays.
        TypeError: the state holds something else; the message names the place.
    """
    folder = run.checkpoint
    files.make_folder(folder)
    files.clean(folder)
    kept = {entry["index"]: entry for entry in _chunk_entries(folder) if entry["complete"]}
    structure, tensors = encode(state)
    # Python's float repr round-trips, so the state comes back to the bit.
    text = json.dumps({"format": files.FORMAT, "state": structure}, allow_nan=False).encode()
    entries = [_saved_chunk(folder, chunk, kept) for chunk in chunks]
    parts = {
        "structure": files.write_named(folder, "state", text, ".json"),
        "tensors": files.write_named(folder, "state", tensors_to_bytes(tensors), TENSORS),
    }
    files.write_json(folder / CHECKPOINT, {"chunks": entries, **parts})
    named = {entry["name"] for entry in (*entries, *parts.values())}
    files.keep_only(folder, named, "state-*")
    files.keep_only(folder, named, "chunk-*")


def load_checkpoint(run: RunFolder) -> tuple[State, list[StoredChunk]]:
    """The state and the chunks, by index, of the last checkpoint; a chunk is read when its `arrays()` is called.

    Raises:
        RlabError: there is none, or one line on what is missing, changed or damaged.
    """
    folder = run.checkpoint
    if not has_checkpoint(run):
        raise RlabError(f"{run.path} has no checkpoint to resume from")
    commit = folder / CHECKPOINT
    data = files.read_json(commit)
    text = files.read_checked(folder, data.get("structure"), "state", ".json", commit)
    tensors = files.read_checked(folder, data.get("tensors"), "state", TENSORS, commit)
    named = tensors_from_bytes(tensors, folder / data["tensors"]["name"])
    where = folder / data["structure"]["name"]
    structure = files.parse_json(text, where)
    try:
        state = decode(structure["state"], named)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RlabError(f"{where} is broken ({type(error).__name__}: {error})") from error
    chunks = [StoredChunk(entry["index"], entry["complete"], folder, entry) for entry in _chunk_entries(folder)]
    for chunk in chunks:
        if not (folder / str(chunk.entry.get("name"))).is_file():
            raise RlabError(f"{folder / str(chunk.entry.get('name'))} is missing, and {commit} needs it")
    return state, sorted(chunks, key=lambda chunk: chunk.index)


def _saved_chunk(folder: Path, chunk: Chunk, kept: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    entry = kept.get(chunk.index)
    if chunk.complete and entry is not None and (folder / entry["name"]).is_file():
        return entry
    saved = files.write_named(folder, _stem(chunk.index), arrays_to_bytes(chunk.arrays()), TENSORS)
    return {"index": chunk.index, "complete": chunk.complete, **saved}


def _chunk_entries(folder: Path) -> list[dict[str, Any]]:
    """The chunks that the commit point lists; none where there is no checkpoint yet."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return []
    entries = files.read_json(path).get("chunks")
    if not isinstance(entries, list) or not all(_is_chunk_entry(entry) for entry in entries):
        raise RlabError(f"{path} is broken: 'chunks' must be a list of objects with index, complete, name and sha256")
    return entries


def _is_chunk_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("index")) is int
        and type(entry.get("complete")) is bool
        and isinstance(entry.get("name"), str)
    )


def _stem(index: int) -> str:
    return f"chunk-{index:06d}"
