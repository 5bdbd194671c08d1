"""What `rlab serve --record DIR` writes: the segments of a recording (see `rlab.experience.recording_lines`), one
folder for each model. Nothing here waits for the disk, and what it refuses is counted, not kept."""

import contextlib
import errno
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlab import door
from rlab.errors import DiskError, UsageError
from rlab.experience.dataset import action_from_env
from rlab.experience.recording_lines import SEGMENTS, Answers, Header, Told, segment_name
from rlab.serving.log import log
from rlab.serving.models import ServedModel
from rlab.serving.observers import AnsweredBatch

MIB = 2**20
PAUSE = 1_000_000_000  # ns after a refusal of the disk in which it is not tried again, so that answers stay quick
MOST_OPEN = 64  # segments of one process, one for each version that is served
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class Room:
    """How much of a disk all recordings in a folder may take; the oldest segments give way."""

    most_bytes: int = 1024 * MIB
    segment_bytes: int = 16 * MIB  # of one segment, which is the unit of giving way; each process has one under way

    @classmethod
    def of(cls, mebibytes: int) -> "Room":
        """Raises UsageError where that is not 1 at least."""
        if mebibytes < 1:
            raise UsageError(f"a recording needs 1 MiB at least, not {mebibytes}.")
        return cls(mebibytes * MIB, min(16 * MIB, mebibytes * MIB // 8))


class Segments:
    """Appends to the newest segment of one recording, and begins the next when that is full or gone.

    Args:
        root: the folder of all recordings, which share the room.
        header: of each segment; the recording is in the folder of its model there.
    """

    def __init__(self, root: Path, header: Header, room: Room, now: Callable[[], int] = time.time_ns) -> None:
        self._root, self._header, self._room, self._now = root, header, room, now
        self._folder = root / re.sub(r"^\.+", "-", header.model)  # else ".." would be a folder outside
        self._file = -1
        self._path = self._folder
        self._bytes = 0

    def append(self, line: bytes) -> None:
        """Hand a line to the operating system.

        Raises:
            DiskError: it refuses, or the line is longer than what is read; the line is lost.
        """
        if len(line) > min(door.MOST_LINE, self._room.most_bytes) // 2:
            raise DiskError(f"cannot record {len(line):,} bytes at once in {self._folder}")
        try:
            gone = self._file < 0 or os.fstat(self._file).st_nlink == 0
            if gone or self._bytes + len(line) > self._room.segment_bytes:
                self._begin()
            written = os.write(self._file, line)
            self._bytes += written
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.close()  # what follows is to be whole lines of another segment
            raise DiskError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self) -> None:
        self.close()
        self._make_room()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / segment_name(self._now(), os.getpid())
        self._file = os.open(self._path, FLAGS, 0o666)
        header = self._header.to_line()
        try:
            self._bytes = os.write(self._file, header)
            if self._bytes < len(header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._path.unlink()  # else a full disk would fill with empty segments
            raise

    def _make_room(self) -> None:
        """Delete the oldest segments, of whatever model, until a full one has room."""
        found = sorted(self._root.glob(f"*/{SEGMENTS}"), key=lambda path: path.name)
        sizes = [_size(path) for path in found]
        excess = sum(sizes) + self._room.segment_bytes - self._room.most_bytes
        for path, size in zip(found, sizes, strict=True):
            if excess <= 0:
                return
            with contextlib.suppress(FileNotFoundError):  # another process has deleted it
                path.unlink()
            excess -= size


@dataclass
class Recorded:
    """What one process has recorded, or several together."""

    observations: int = 0  # that were answered
    feedback: int = 0  # requests of which something was told
    lost: int = 0  # lines that the disk refused

    def add(self, other: "Recorded") -> None:
        """Take what another process has recorded."""
        self.observations += other.observations
        self.feedback += other.feedback
        self.lost += other.lost


class Recorder:
    """Observes the traffic of one process, and writes it down. What cannot be written is lost and counted.

    Args:
        root: the folder of the recordings.
        now: ns since 1970.
    """

    def __init__(self, root: Path, room: Room, now: Callable[[], int] = time.time_ns) -> None:
        self._root, self._room, self._now = root, room, now
        self._segments: OrderedDict[tuple[str, str], Segments] = OrderedDict()  # of each version of a model
        self._last = 0
        self._refused_until = 0  # ns since 1970, when the disk is tried again
        self.counts = Recorded()

    def answered(self, model: ServedModel, batch: AnsweredBatch) -> None:
        """Write down what was asked and answered."""
        requests = tuple(batch.ids), tuple(batch.rows), tuple(batch.sequences), tuple(batch.starts)
        action = action_from_env(model.runner.action_space, batch.actions)
        with contextlib.suppress(DiskError):  # `_write` has said so
            self._write(model, Answers(self._later(batch.time), *requests, batch.obs, action).to_line())
            self.counts.observations += len(action)

    def refused(self, model: str | None, status: int, message: str) -> None:
        """Nothing is recorded of a request that got no answer."""

    def stopped(self) -> None:
        """Let go of the files."""
        for segments in self._segments.values():
            segments.close()

    def tell(self, model: ServedModel, told: Sequence[Told]) -> None:
        """Write down what actions have led to.

        Raises:
            DiskError: the disk refuses.
        """
        self._write(model, b"".join(each.to_line() for each in told))
        self.counts.feedback += len(told)

    def time(self) -> int:
        """ns since 1970, later than every time before."""
        return self._later(self._now())

    def _later(self, time: int) -> int:
        self._last = max(self._last + 1, time)
        return self._last

    def _write(self, model: ServedModel, lines: bytes) -> None:
        now = self._now()
        try:
            if now < self._refused_until:
                raise DiskError("the disk has refused to record a moment ago")
            self._segments_of(model).append(lines)
        except DiskError as error:
            self.counts.lost += 1
            if now >= self._refused_until:
                log("error", "nothing is recorded until the disk takes it again", error=error)
                self._refused_until = now + PAUSE
            raise

    def _segments_of(self, model: ServedModel) -> Segments:
        key = model.name, model.version
        if key not in self._segments:
            self._segments[key] = Segments(self._root, header_of(model), self._room, self._now)
            if len(self._segments) > MOST_OPEN:  # a version that was replaced long ago
                self._segments.popitem(last=False)[1].close()
        return self._segments[key]


def header_of(model: ServedModel) -> Header:
    """Which policy answers."""
    facts, runner = model.metadata, model.runner
    known = (facts.get(name) for name in ("agent", "parent_sha256"))
    return Header(model.name, model.version, runner.obs_space, runner.action_space, *known)


def check_folder(root: Path) -> None:
    """Make the folder of the recordings where there is none.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--record {root} cannot be made: {error.strerror}") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise UsageError(f"--record {root} is a folder in which this user may not write")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process has deleted it
        return 0
