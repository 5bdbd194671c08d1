"""Files that only grow: logs and curves. A disk that is full for a while costs them nothing."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rlab.errors import DiskError
from rlab.places import warn
from rlab.runs import files

FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
# Neither a link is followed nor a pipe waited for.
FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Closes(Protocol):
    """A log that is open."""

    def close(self) -> None: ...


class Trouble:
    """Says once that the disk refuses what several files have for it, and again after it has taken everything."""

    def __init__(self) -> None:
        self._said = False

    def meet(self, error: DiskError) -> None:
        """The disk has refused something."""
        if not self._said:
            self._said = True
            warn(f"{error}. What it refused is kept in memory and written as soon as it takes it")

    def end(self) -> None:
        """The disk has taken everything."""
        self._said = False


class Appender:
    """An append-only file. What the disk refuses waits in memory and is written before anything else; a file that was
    deleted meanwhile is written again, from its beginning.

    Raises:
        DiskError: it cannot be opened, or it is a link or no regular file.
    """

    def __init__(self, path: Path, trouble: Trouble | None = None) -> None:
        self.path, self._trouble = path, trouble or Trouble()
        self._waiting = b""
        self._file = _opened(path)

    def append(self, data: bytes) -> None:
        """Hand data to the operating system at once, so that they outlive this process; a refusal is warned of."""
        self._waiting += data
        try:
            self._hand_over()
        except DiskError as error:
            self._trouble.meet(error)

    def sync(self) -> None:
        """Have everything so far on the disk, so that it outlives a power cut.

        Raises:
            DiskError: the disk refuses.
        """
        self._hand_over()
        try:
            files.sync_file(self._file)
        except OSError as error:
            raise DiskError(f"cannot write {self.path}: {error.strerror}") from error
        self._trouble.end()

    def close(self) -> None:
        """Let go of the file.

        Raises:
            DiskError: the disk still refuses something.
        """
        if self._file < 0:
            return
        try:
            self._hand_over()
        finally:
            os.close(self._file)
            self._file = -1

    def abandon(self) -> None:
        """Let go of the file, which was replaced, and of what waits."""
        self._waiting = b""
        os.close(self._file)
        self._file = -1

    def _hand_over(self) -> None:
        """Write what waits. Of a write that is cut short the rest waits: the next one goes on in the middle."""
        try:
            if os.fstat(self._file).st_nlink == 0:
                self._write_again()
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError as error:
            raise DiskError(f"cannot write {self.path}: {error.strerror}") from error

    def _write_again(self) -> None:
        """Put the file, whose name is gone and whose content this process can still read, back into its place."""
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        files.write_bytes(self.path, content)
        os.close(self._file)
        self._file = _opened(self.path)
        warn(f"{self.path} was deleted or replaced while the run was writing it; it is whole again")


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, FLAGS, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise DiskError(f"cannot write {path}: it is not a regular file")
    except OSError as error:
        cause = "it is a link, and nothing is written through links" if os.path.islink(path) else error.strerror
        raise DiskError(f"cannot write {path}: {cause}") from error
    return descriptor


@contextmanager
def closed_at_last(log: Closes) -> Iterator[Any]:
    """Close a log behind a block: what the disk still refuses is an error, unless the block ends in another one."""
    try:
        yield log
    except BaseException:
        with suppress(DiskError):
            log.close()
        raise
    log.close()


def close_all(closers: list[Callable[[], None]]) -> None:
    """Call all of them, also where some fail.

    Raises:
        DiskError: what the first of them failed with.
    """
    failed: list[DiskError] = []
    for close in closers:
        try:
            close()
        except DiskError as error:
            failed.append(error)
    if failed:
        raise failed[0]
