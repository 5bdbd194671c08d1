"""Joining the cluster of Ray that RAY_ADDRESS names, or that this machine belongs to."""

import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlab.errors import UsageError, pip_install

REACHED_WITHIN = 5.0  # seconds
NO_CLUSTER = (
    "--engine ray finds no cluster{where}: start one with `ray start --head` on one machine and `ray start --address "
    "HEAD:6379` on the others, or name one in RAY_ADDRESS; --engine local needs none"
)


def joined() -> tuple[Any, bool]:
    """The module, connected; and whether this call has connected it, else a program that uses Ray has.

    Raises:
        UsageError: Ray is not installed, or there is no cluster.
    """
    ray = imported()
    if ray.is_initialized():
        return ray, False
    _connect(ray)
    return ray, True


def imported() -> Any:
    """The module.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with own_signals():
            return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(f"--engine ray needs Ray: {pip_install('ray')}") from error


@contextmanager
def own_signals() -> Iterator[None]:
    """Ray has SIGTERM end the process; put back what it was to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect(ray: Any) -> None:
    """Join the cluster, quietly.

    Raises:
        UsageError: there is none.
    """
    address = os.environ.get("RAY_ADDRESS") or "auto"
    where = "" if address == "auto" else f" at RAY_ADDRESS={address}"
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), REACHED_WITHIN).close()  # Ray would try for minutes
        with own_signals():
            ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UsageError(NO_CLUSTER.format(where=where)) from error
    # Ray prints what happens to its own processes; what that means for jobs is said by the pool.
    ray._private.worker._worker_logs_enabled = False
