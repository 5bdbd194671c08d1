"""Checkpoints: the full training state on the disk, of which a crash at any instant leaves the previous one whole.

checkpoint/checkpoint-<n>.json       a commit: names and SHA-256 of all that belongs to it, written last; the newest few
checkpoint/state-<n>-<sha>.json          the structure of its state
checkpoint/state-<n>-<sha>.safetensors   its tensors
checkpoint/chunk-<index>-<n>-<sha>.safetensors   the chunk of the replay that is not complete yet
checkpoint/chunk-<index>-<sha>.safetensors       complete ones, written once and for all
checkpoint/parity-<index>-<sha>.bin              what repairs a complete chunk, the one thing that checkpoints share

What no commit names any more is deleted once a newer one is on the disk.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from rlab.errors import RlabError
from rlab.places import warn
from rlab.runs import files
from rlab.runs.encoding import State, decode, encode
from rlab.runs.folder import RunFolder
from rlab.runs.parity import parity_of, repaired
from rlab.runs.tensors import arrays_from_bytes, arrays_to_bytes, tensors_from_bytes, tensors_to_bytes

COMMIT = re.compile(r"checkpoint-(\d{6,15})\.json")
OLDER = "checkpoint.json"  # what earlier versions had in place of commits
TENSORS = ".safetensors"
PARITY = ".bin"
MOST_CHUNK = 2**30  # bytes of one that is repaired; it has about 4 MiB, or a single row
KEPT = 2  # checkpoints


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
    """A chunk of a saved checkpoint; it can be read as long as that is kept."""

    index: int
    complete: bool
    commit: Path
    stem: str  # of the name of the file
    entry: dict[str, Any]  # its name and SHA-256

    def arrays(self) -> dict[str, np.ndarray]:
        """Read the file.

        Raises:
            RlabError: it is missing, changed or damaged.
        """
        return arrays_from_bytes(self.content(), self.commit.parent / self.entry["name"])

    def content(self) -> bytes:
        """The bytes of the file; raises as `arrays`. Where a bit of a complete chunk was flipped it is put right."""
        folder, commit = self.commit.parent, self.commit
        try:
            return files.read_checked(folder, self.entry, self.stem, TENSORS, commit)
        except RlabError as error:
            found = self._repaired()
            if found is None:
                raise
            path = folder / self.entry["name"]
            warn(f"{error} It was repaired")
            with contextlib.suppress(RlabError):
                files.write_bytes(path, found)
            return found

    def _repaired(self) -> bytes | None:
        folder, commit = self.commit.parent, self.commit
        if "parity" not in self.entry:
            return None
        try:
            parity = files.read_checked(folder, self.entry["parity"], f"parity-{self.index:06d}", PARITY, commit)
            found = repaired(files.read_bytes(folder / self.entry["name"], MOST_CHUNK), parity)
        except RlabError:
            return None
        return found if found is not None and files.sha256(found) == self.entry["sha256"] else None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    number: int  # of its commit
    state: State
    chunks: list[StoredChunk]  # by index


@dataclass(frozen=True)
class Snapshot:
    """A training state as it was at one moment: nothing in it changes when training goes on."""

    structure: Any  # JSON
    tensors: dict[str, Tensor]  # on the CPU


def snapshot(state: Mapping[str, Any]) -> Snapshot:
    """A copy of nested dicts, lists and tuples with torch tensors, NumPy arrays and JSON values at the leaves.

    Raises:
        TypeError: the state holds something else; the message names the place.
    """
    structure, tensors = encode(state)
    return Snapshot(structure, {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})


class CheckpointWriter:
    """Writes the checkpoints of a run, one after another. One thread at a time may use it.

    Args:
        run: whose; its folder is held by this process.
        keep: how many checkpoints stay; the newest are kept.
        base: the number of the one that the run goes on from; None where it begins. What is newer belongs to a future
            that did not happen, or is damaged: it goes with the next save.
    """

    def __init__(self, run: RunFolder, keep: int = KEPT, base: int | None = None) -> None:
        self._folder, self._keep = run.checkpoint, keep
        self._named: dict[int, set[str]] = {}  # what each commit that counts names, the oldest first
        self._chunks: dict[int, dict[str, Any]] = {}  # complete chunks on the disk, by index
        self._begun = False
        if base is not None:
            for number in commits(self._folder):
                if number <= base:
                    with contextlib.suppress(RlabError):
                        self._named[number] = _names(_entries(_read_commit(self._path(number))))
            entries = _read_commit(self._path(base))["chunks"]
            self._chunks = {entry["index"]: entry for entry in entries if entry["complete"]}

    def has(self, chunk: Chunk) -> bool:
        """Whether a chunk is on the disk as it is."""
        entry = self._chunks.get(chunk.index)
        return chunk.complete and entry is not None and (self._folder / entry["name"]).is_file()

    def write_chunk(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a complete chunk, ahead of the checkpoints that will name it.

        Raises:
            DiskError: the disk refuses.
        """
        self._begin()
        data = arrays_to_bytes(arrays)
        named = files.write_named(self._folder, _stem(index), data, TENSORS)
        parity = files.write_named(self._folder, f"parity-{index:06d}", parity_of(data), PARITY)
        self._chunks[index] = {"index": index, "complete": True, **named, "parity": parity}

    def commit(self, state: Snapshot, chunks: Iterable[Chunk]) -> None:
        """Write a checkpoint of a state and of chunks, those that are not written yet first; then delete what it makes
        superfluous.

        Raises:
            DiskError: the disk refuses, and the previous checkpoints stay.
        """
        self._begin()
        # Python's float repr round-trips, so the state comes back to the bit.
        text = json.dumps({"format": files.FORMAT, "state": state.structure}, allow_nan=False).encode()
        number = max(commits(self._folder), default=0) + 1
        entries = [self._entry(chunk, number) for chunk in chunks]
        stem, tensors = f"state-{number:06d}", tensors_to_bytes(state.tensors)
        content = {
            "chunks": entries,
            "structure": files.write_named(self._folder, stem, text, ".json"),
            "tensors": files.write_named(self._folder, stem, tensors, TENSORS),
        }
        files.write_json(self._path(number), content)
        self._named[number] = _names(_entries(content))
        self._named = dict(list(self._named.items())[-self._keep :])
        first = min((entry["index"] for entry in entries), default=0)
        self._chunks = {index: entry for index, entry in self._chunks.items() if index >= first}
        self._delete_the_rest()

    def _entry(self, chunk: Chunk, number: int) -> dict[str, Any]:
        """What this commit says of a chunk, which is written where it has to be."""
        if chunk.complete:
            if not self.has(chunk):
                self.write_chunk(chunk.index, chunk.arrays())
            return self._chunks[chunk.index]
        stem, data = _stem(chunk.index, number), arrays_to_bytes(chunk.arrays())
        return {"index": chunk.index, "complete": False, **files.write_named(self._folder, stem, data, TENSORS)}

    def _path(self, number: int) -> Path:
        return self._folder / f"checkpoint-{number:06d}.json"

    def _begin(self) -> None:
        """Make the folder where it is missing; clean up behind writers that were killed."""
        files.make_folder(self._folder)
        if not self._begun:
            files.clean(self._folder)
            self._begun = True

    def _delete_the_rest(self) -> None:
        """Delete commits first: what they name may be missing then, which no other commit shows."""
        files.keep_only(self._folder, {self._path(number).name for number in self._named}, "checkpoint*.json")
        named = _names(self._chunks.values()).union(*self._named.values())
        files.keep_only(self._folder, named, "state-*")
        files.keep_only(self._folder, named, "chunk-*")
        files.keep_only(self._folder, named, "parity-*")


def has_checkpoint(run: RunFolder) -> bool:
    """Whether the run has saved a checkpoint, whatever became of it."""
    return bool(commits(run.checkpoint)) or (run.checkpoint / OLDER).is_file()


def load_checkpoint(run: RunFolder) -> tuple[State, list[StoredChunk]]:
    """The state and the chunks of `newest_checkpoint`; a chunk is read when its `arrays()` is called."""
    found = newest_checkpoint(run)
    return found.state, found.chunks


def newest_checkpoint(run: RunFolder) -> Checkpoint:
    """The newest checkpoint that is whole, every file of it read and checked; of a newer one that is damaged a warning
    says what is wrong.

    Raises:
        RlabError: there is none; or of those that there are none is whole, and one line says what is missing, changed
            or damaged in the newest.
    """
    return files.settled(lambda: _newest(run), lambda: commits(run.checkpoint))


def broken_checkpoints(run: RunFolder) -> tuple[list[str], bool]:
    """What is wrong with each checkpoint of a run that is not whole, and whether one of them is."""
    wrong, numbers = [], commits(run.checkpoint)
    for number in numbers:
        try:
            _loaded(run.checkpoint / f"checkpoint-{number:06d}.json", number)
        except RlabError as error:
            wrong.append(str(error))
    return wrong, len(wrong) < len(numbers)


def commits(folder: Path) -> list[int]:
    """The numbers of the commits in a checkpoint folder, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := COMMIT.fullmatch(path.name)))


def _newest(run: RunFolder) -> Checkpoint:
    folder, damages = run.checkpoint, []
    for number in reversed(commits(folder)):
        try:
            found = _loaded(folder / f"checkpoint-{number:06d}.json", number)
        except RlabError as error:
            damages.append(error)
            continue
        for damage in damages:
            warn(f"{damage}. {run.name} goes on from the checkpoint before it")
        return found
    if damages:
        raise damages[0]
    if (folder / OLDER).is_file():
        raise RlabError(
            f"the checkpoint of {run.name} was written by an older version of rlab and cannot be continued; "
            "its policy still plays, and rlab finetune begins from it."
        )
    raise RlabError(f"{run.path} has no checkpoint to resume from")


def _loaded(commit: Path, number: int) -> Checkpoint:
    folder, content = commit.parent, _read_commit(commit)
    text = files.read_checked(folder, content["structure"], f"state-{number:06d}", ".json", commit)
    tensors = files.read_checked(folder, content["tensors"], f"state-{number:06d}", TENSORS, commit)
    named = tensors_from_bytes(tensors, folder / content["tensors"]["name"])
    where = folder / content["structure"]["name"]
    structure = files.parse_json(text, where)
    try:
        state = decode(structure["state"], named)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RlabError(f"{where} is broken ({type(error).__name__}: {error})") from error
    chunks = [_stored(commit, number, entry) for entry in content["chunks"]]
    for chunk in chunks:
        chunk.content()
    return Checkpoint(number, state, sorted(chunks, key=lambda chunk: chunk.index))


def _stored(commit: Path, number: int, entry: dict[str, Any]) -> StoredChunk:
    index, complete = entry["index"], entry["complete"]
    return StoredChunk(index, complete, commit, _stem(index) if complete else _stem(index, number), entry)


def _read_commit(path: Path) -> dict[str, Any]:
    """A commit, which names `chunks`, `structure` and `tensors`. Raises RlabError where it is broken."""
    content = files.read_json(path)
    entries = content.get("chunks")
    if not isinstance(entries, list) or not all(_is_chunk_entry(entry) for entry in entries):
        raise RlabError(f"{path} is broken: 'chunks' must be a list of objects with index, complete, name and sha256")
    if not all(_is_named(content.get(part)) for part in ("structure", "tensors")):
        raise RlabError(f"{path} is broken: 'structure' and 'tensors' must be objects with name and sha256")
    return content


def _entries(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a commit says of each file that it names."""
    return [*content["chunks"], content["structure"], content["tensors"]]


def _names(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """The files of these entries, and what repairs them."""
    return {each["name"] for entry in entries for each in (entry, entry.get("parity", entry))}


def _is_chunk_entry(entry: Any) -> bool:
    return (
        _is_named(entry)
        and type(entry.get("index")) is int
        and type(entry.get("complete")) is bool
        and _is_named(entry.get("parity", entry))
    )


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


def _stem(index: int, number: int | None = None) -> str:
    """How the name of a chunk's file begins; an incomplete one belongs to one commit."""
    return f"chunk-{index:06d}" if number is None else f"chunk-{index:06d}-{number:06d}"
