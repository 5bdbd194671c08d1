"""A time limit for every call of an env: its constructor, `reset`, `step` and `close`.

A thread of its own looks after the calls of all threads of this process; a call itself only notes when it begins. One
that takes too long is interrupted where it stands, by an exception that Python raises in it: in the main thread through
a signal, which ends waiting too (`time.sleep`, a lock, a socket), in another thread between two steps of Python code.
Code in C that never returns to Python cannot be interrupted; it is named (see `when_lost`), and ends with its process.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TypeVar

from rlab.ending import end_program
from rlab.envs.checks import EnvError, Hung
from rlab.places import place_at

ENV_TIMEOUT = 60.0  # seconds, unless set: no known env takes as long for one step or reset
GRACE = 0.5  # seconds that an interrupted call has to end in
AGAIN = 0.05  # seconds after which a call that goes on is interrupted again: it may have caught the exception
STARVED = (
    1.0  # seconds that this thread may wake too late; beyond them the process was stopped, which no env is blamed for
)
SIGNAL = getattr(signal, "SIGURG", None)  # ignored by default and used by hardly any program; None on Windows

T = TypeVar("T")
Name = Callable[[EnvError], str]  # the line of an error, with the name of the env that it is about


class _Call:
    """The call that one thread is in."""

    __slots__ = ("fired", "limit", "name", "since", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.since = 0.0  # when it began; 0: none is under way
        self.limit = ENV_TIMEOUT
        self.name: Name | None = None
        self.fired = False  # whether it was interrupted


def watched(limit: float, name: Name, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """What the function returns, which has `limit` seconds.

    Args:
        name: gives the line that is printed of a call that cannot be interrupted.

    Raises:
        Hung: it took longer.
    """
    call = _calls.get(threading.get_ident())
    if call is None or call.since or limit < _shortest:
        call = _ready(limit)
        if call.since:  # an env inside the constructor of another one, which has the outer limit
            return function(*args, **kwargs)
    call.limit, call.name = limit, name
    call.since = time.monotonic()
    try:
        return function(*args, **kwargs)
    finally:
        call.since = 0.0
        if call.fired:
            _settle(call)


def too_late(limit: float) -> str:
    """Why a call failed, in words."""
    return f"no answer for {limit:g} s"


def when_lost(tell: Callable[[str], None]) -> None:
    """What to do about a call that cannot be interrupted: `tell` gets the line that names it, in the watching thread,
    and may end the process. By default a program of rlab is ended, and any other is warned."""
    global _tell
    _tell = tell


_calls: dict[int, _Call] = {}  # by thread
_shortest = float("inf")  # the smallest limit so far: how often the watching thread looks
_lock = threading.Lock()
_changed = threading.Event()
_tell: Callable[[str], None] = end_program
_exit = os._exit
_signalled = False  # whether the main thread is interrupted by SIGNAL


def _ready(limit: float) -> _Call:
    """The entry of this thread, and a watching thread that looks often enough."""
    global _shortest
    ident = threading.get_ident()
    with _lock:
        begin = _shortest == float("inf")
        if limit < _shortest:
            _shortest = limit
            _changed.set()
        if begin:
            threading.Thread(target=_watch, name="rlab env watch", daemon=True).start()
        call = _calls.setdefault(ident, _Call(ident))
        alive = {thread.ident for thread in threading.enumerate()} | {ident}
        for gone in _calls.keys() - alive:
            del _calls[gone]
    if threading.current_thread() is threading.main_thread():
        _take_signal()
    os._exit = _leave
    return call


def _take_signal() -> None:
    global _signalled
    if SIGNAL is not None and not _signalled and signal.getsignal(SIGNAL) in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(SIGNAL, _interrupted)
        _signalled = True


def _interrupted(number: int, frame: FrameType | None) -> None:
    """In the main thread: raise in the call that the signal is about, unless that has just ended."""
    call = _calls.get(threading.get_ident())
    if call is not None and call.since and call.fired:
        raise Hung(too_late(call.limit))


def _settle(call: _Call) -> None:
    """A call that was interrupted is over. Nothing may be raised behind it, and what it did is not believed."""
    with _lock:  # the watching thread may be about to raise
        call.fired = False
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call.thread), None)
    error = sys.exception()
    if isinstance(error, Hung):
        error.args = (too_late(call.limit),)  # one that came between two steps of Python code has no words
    elif not isinstance(error, KeyboardInterrupt):
        raise Hung(too_late(call.limit))  # it caught the exception


def _leave(status: int) -> NoReturn:
    """`os._exit`: a call of an env that ends the whole program with it, past all that is to be said and saved, fails
    instead. A process that it forked may end that way."""
    call = _calls.get(threading.get_ident())
    if call is not None and call.since:
        raise SystemExit(f"os._exit({status})")
    _exit(status)


def _watch() -> None:
    """The watching thread."""
    lost: dict[int, float] = {}  # calls that were given up, by thread: when they began
    late = 0.0  # seconds that the process was stopped, and when that was seen
    seen = 0.0
    while True:
        now, wait = time.monotonic(), _shortest
        for call in list(_calls.values()):
            since = call.since
            if not since or lost.get(call.thread) == since:
                continue
            expires = since + call.limit + (late if since < seen else 0.0)
            if now >= expires + GRACE and call.fired:
                lost[call.thread] = since
                _lost(call)
            elif now >= expires:
                _interrupt(call, since)
                wait = min(wait, AGAIN)
            else:
                wait = min(wait, expires - now)
        _changed.wait(wait)
        _changed.clear()
        woke = time.monotonic()
        if woke - now > wait + STARVED:
            late, seen = woke - now - wait, woke


def _interrupt(call: _Call, since: float) -> None:
    with _lock:
        call.fired = True  # before the next look: a call that ends now sees it, and settles
        if call.since != since:
            call.fired = False
            return
        if _signalled and call.thread == threading.main_thread().ident:
            signal.pthread_kill(call.thread, SIGNAL)  # type: ignore[arg-type]  # not None where it was taken
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call.thread), ctypes.py_object(Hung))


def _lost(call: _Call) -> None:
    """Name a call that cannot be interrupted."""
    frame, name = sys._current_frames().get(call.thread), call.name
    place = "" if frame is None else place_at(frame)
    then = "and it cannot be interrupted; --vector async plays envs in processes that can be ended"
    why = f"{too_late(call.limit)}{f' ({place})' if place else ''}, {then}"
    _tell(name(EnvError("raised", "failed", why)) if name is not None else why)


def _forget() -> None:
    """In a process that was forked: its threads are new, and so are its calls."""
    global _shortest, _lock, _changed, _tell
    _calls.clear()
    _shortest, _lock, _changed = float("inf"), threading.Lock(), threading.Event()
    _tell = end_program


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
