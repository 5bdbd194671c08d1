"""Locks on folders: the system lets go of one when its process ends, however it ends."""

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlab.disk import if_supported
from rlab.errors import DiskError, RlabError

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows has no such locks
    fcntl = None

PAUSE = 0.02  # seconds between two attempts
WAIT = 4 * PAUSE  # that the other process may take which only checks whether the folder is held
NO_LOCKS = "nothing keeps a second process from writing the same run"


@contextmanager
def held(folder: Path, name: str, wait: float = WAIT) -> Iterator[bool]:
    """Keep other processes out of a folder; gives whether the file system can.

    Args:
        wait: seconds, for another process that holds it.

    Raises:
        RlabError: another process holds it, which the message says of `name`.
        DiskError: it cannot be opened.
    """
    if fcntl is None:
        yield False
        return
    handle = _opened(folder)
    try:
        yield _lock(handle, name, wait)
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool | None:
    """Whether a process holds this folder; None where the file system cannot tell."""
    if fcntl is None:
        return None
    handle = _opened(folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(handle)


def _opened(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DiskError(f"cannot open {folder}: {error.strerror}") from error


def _lock(handle: int, name: str, wait: float) -> bool:
    give_up = time.monotonic() + wait
    while True:
        try:
            return if_supported(fcntl.flock, handle, fcntl.LOCK_EX | fcntl.LOCK_NB, consequence=NO_LOCKS)
        except BlockingIOError as error:
            if time.monotonic() >= give_up:
                raise RlabError(f"another process is writing {name}; wait for it, or stop it") from error
            time.sleep(PAUSE)
