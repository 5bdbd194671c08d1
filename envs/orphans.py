"""A worker process ends when its parent does, also where the parent is killed and the worker hangs."""

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from typing import Any

EVERY = 1.0  # seconds between two looks at the parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def die_with_parent(parent: int, lasts: bool) -> None:
    """Have this process killed when its parent has died.

    On Linux the kernel does it, so that code in C that hangs cannot prevent it. Everywhere a thread looks at the
    parent: that is also for a parent that is not `parent`, as the server that Python's `forkserver` starts processes
    from, and which ends with the program.

    Args:
        parent: the process that asked for this one.
        lasts: whether it was asked for in the program's main thread. The kernel counts the end of another thread as the
            parent's.
    """
    ours = os.getppid()
    if ours != parent:
        _let_server_end()
    if sys.platform.startswith("linux") and (lasts or ours != parent):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    asked_by = multiprocessing.parent_process()
    if os.getppid() != ours or (asked_by is not None and not asked_by.is_alive()):
        os._exit(1)  # it died before it was watched
    threading.Thread(target=_look, args=(ours,), name="rlab parent watch", daemon=True).start()


def _let_server_end() -> None:
    """Close this process's own handle of the fork server, which ends when nobody has one: it would outlive the program
    as long as this process does."""
    server: Any = multiprocessing.forkserver._forkserver  # Python has no public way
    handle, server._forkserver_alive_fd = server._forkserver_alive_fd, None
    if handle is not None:
        os.close(handle)


def _look(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), signal.SIGKILL)
