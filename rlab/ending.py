"""Ending the whole program from any thread, where something hangs that nothing can interrupt."""

import contextlib
import os
from collections.abc import Callable, Iterator

from rlab.errors import RlabWarning
from rlab.places import warn

Tell = Callable[[str], object]

_tell: Tell | None = None  # None: the process is somebody else's, and is only told
_first: list[Tell] = []  # what has to be done before, the newest last


def ends_with_line(tell: Tell | None) -> None:
    """This process is a program of rlab, which may end itself: it tells why in one line first. None: it is not."""
    global _tell
    _tell = tell


@contextlib.contextmanager
def before_ending(do: Tell) -> Iterator[None]:
    """During the block, what has to be done before the program ends; it is given the line."""
    _first.append(do)
    try:
        yield
    finally:
        _first.remove(do)


def end_program(line: str) -> None:
    """End the program with exit code 1, where it is one of rlab; elsewhere only warn."""
    if _tell is None:
        with contextlib.suppress(RlabWarning):  # where warnings are errors: nobody is here to catch it
            warn(line)
        return
    try:
        _tell(line)
        for do in reversed(_first):
            with contextlib.suppress(Exception):  # the others are to be done too
                do(line)
    finally:
        os._exit(1)
