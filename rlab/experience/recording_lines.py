"""The lines of a recording: what a server of a policy was asked and answered, and what it was told of that later.

A recording is a folder of segments, files that only grow. The first line of a segment is its `Header`; every other
line is `Answers`, requests that were answered together, or `Told`, what became of one request. A line is one JSON
object. Arrays are base64 of their bytes, row-major and little-endian, in the array form of their space.
"""

import binascii
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlab import door
from rlab.errors import RlabError
from rlab.experience.dataset import action_field
from rlab.networks.spaces import Space, space_from_json

FORMAT = 1
SEGMENTS = "recorded-*.jsonl"


def segment_name(time: int, process: int) -> str:
    """The name of the segment that a process begins at a time, in ns; names sort by time."""
    return f"recorded-{time:020}-{process}.jsonl"


@dataclass(frozen=True)
class Header:
    """Which policy answered what follows, and its spaces."""

    model: str
    version: str
    obs_space: Space
    action_space: Space
    agent: str | None = None
    policy_sha256: str | None = None  # of its weights

    def to_line(self) -> bytes:
        spaces = {"obs_space": self.obs_space.to_json(), "action_space": self.action_space.to_json()}
        facts = {"model": self.model, "version": self.version, "agent": self.agent, "policy_sha256": self.policy_sha256}
        return _line({"format": FORMAT, **facts, **spaces})

    @classmethod
    def from_line(cls, line: bytes, path: Path) -> "Header":
        """Raises RlabError where the line is not one that `to_line` gives."""
        found = door.parse_json(line, path)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            version = found.get("format") if isinstance(found, dict) else None
            raise RlabError(f"{path} has format {version!r:.80}; this rlab reads format {FORMAT}. Is it a recording?")
        texts = [found.get(name) for name in ("model", "version", "agent", "policy_sha256")]
        if not all(isinstance(text, str) for text in texts[:2]) or not all(
            text is None or isinstance(text, str) for text in texts[2:]
        ):
            raise RlabError(f"{path}: its first line does not name a model and a version. Was it edited?")
        obs_space, action_space = (space_from_json(found.get(name, {})) for name in ("obs_space", "action_space"))
        model, version, agent, checksum = texts
        return cls(str(model), str(version), obs_space, action_space, agent, checksum)


@dataclass(frozen=True, eq=False)
class Answers:
    """R requests that were answered together, B observations in all."""

    time: int  # ns since 1970
    ids: tuple[str, ...]  # [R]
    rows: tuple[int, ...]  # [R], observations of each request; they sum to B
    sequences: tuple[str | None, ...]  # [R]: which run of requests each is part of; None: it stands alone
    starts: tuple[bool, ...]  # [R]: whether the sequence begins with it
    obs: np.ndarray = field(repr=False)  # [B, *obs], of the space's dtype
    action: np.ndarray = field(repr=False)  # [B, *action], as `action_field` says

    def to_line(self) -> bytes:
        requests = {"ids": self.ids, "rows": self.rows, "sequences": self.sequences, "starts": self.starts}
        return _line({"time": self.time, **requests, "obs": _text(self.obs), "action": _text(self.action)})


@dataclass(frozen=True, eq=False)
class Told:
    """What the actions for the N observations of one request led to."""

    time: int  # ns since 1970
    id: str
    reward: np.ndarray = field(repr=False)  # [N] float32
    terminated: np.ndarray = field(repr=False)  # [N] bool
    truncated: np.ndarray = field(repr=False)  # [N] bool, false where it terminated
    next_obs: np.ndarray = field(repr=False)  # [E, *obs]: what the E rows that ended led to, in order
    action: np.ndarray | None = field(default=None, repr=False)  # [N, *action]: taken in place of those answered

    @property
    def ended(self) -> np.ndarray:
        """Which rows ended their episodes, bool `[N]`."""
        return self.terminated | self.truncated

    def to_line(self) -> bytes:
        arrays = {name: _text(getattr(self, name)) for name in ("reward", "terminated", "truncated", "next_obs")}
        taken = {} if self.action is None else {"action": _text(self.action)}
        return _line({"time": self.time, "id": self.id, **arrays, **taken})


Segment = tuple[Header, Iterator[Answers | Told | None]]


def read_segment(path: Path) -> Segment | None:
    """The header of a segment, and its lines, None for one that was damaged; None where it has no whole line yet.

    Raises:
        RlabError: the file cannot be read, or its header is invalid.
    """
    lines = door.whole_lines(path)
    first = next(lines, None)
    if first is None:
        return None
    header = Header.from_line(first, path)
    return header, (_read(line, header, path) for line in lines if line)


def _read(line: bytes, header: Header, path: Path) -> Answers | Told | None:
    try:
        found = door.parse_json(line, path)
        return _answers(found, header) if "ids" in found else _told(found, header)
    except (RlabError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _answers(found: Mapping[str, Any], header: Header) -> Answers:
    ids, rows, sequences, starts = (tuple(found[name]) for name in ("ids", "rows", "sequences", "starts"))
    kinds = ((ids, str), (rows, int), (sequences, str | None), (starts, bool))
    if not all(isinstance(value, kind) for values, kind in kinds for value in values) or min(rows, default=0) < 1:
        raise ValueError("kinds of values")
    if len({len(values) for values, _ in kinds}) > 1:
        raise ValueError("numbers of requests")
    obs, action = _obs(found["obs"], header), _action(found["action"], header)
    if not sum(rows) == len(obs) == len(action):
        raise ValueError("numbers of rows")
    return Answers(int(found["time"]), ids, rows, sequences, starts, obs, action)


def _told(found: Mapping[str, Any], header: Header) -> Told:
    reward = _array(found["reward"], (), "float32")
    terminated, truncated = (_array(found[name], (), "bool") for name in ("terminated", "truncated"))
    action = _action(found["action"], header) if "action" in found else None
    told = Told(
        int(found["time"]), str(found["id"]), reward, terminated, truncated, _obs(found["next_obs"], header), action
    )
    lengths = {len(values) for values in (reward, terminated, truncated, reward if action is None else action)}
    if len(lengths) > 1 or told.ended.sum() != len(told.next_obs) or (terminated & truncated).any():
        raise ValueError("numbers of rows")
    return told


def _obs(text: str, header: Header) -> np.ndarray:
    return _array(text, header.obs_space.shape, header.obs_space.dtype)


def _action(text: str, header: Header) -> np.ndarray:
    expected = action_field(header.action_space)
    return _array(text, expected.shape, expected.dtype)


def _array(text: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Rows `[n, *shape]`; raises ValueError where the bytes are not whole rows."""
    stored = np.dtype(dtype).newbyteorder("<")
    data = binascii.a2b_base64(text, strict_mode=True)
    row = stored.itemsize * math.prod(shape)
    if len(data) % row:
        raise ValueError("bytes of an array")
    return np.frombuffer(data, stored).astype(dtype, copy=False).reshape(len(data) // row, *shape)


def _text(array: np.ndarray) -> str:
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return binascii.b2a_base64(stored.tobytes(), newline=False).decode()


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode() + b"\n"
