"""The place in a user's own code where something happened, for errors and warnings that have their cause there."""

import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rlab.errors import RlabWarning

_HERE = Path(__file__).parent
# rlab's own code, which in a clone lies beside what a user wrote, and what is installed.
_RLAB = tuple(str(place) + os.sep for place in (_HERE, *(_HERE.parent / room for room in ("agents", "envs"))))
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_PACKAGES = {"site-packages", "dist-packages"}  # those of another installation, which a venv may look into
NOTEBOOK = "ipykernel_"  # in the paths of the files that Jupyter makes of cells


def place_of(error: BaseException) -> str:
    """The innermost line of a user's own code that an error came through, `"my_envs.py:23"`; "" if it came through
    none."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if _is_own(file):
            place = f"{'notebook cell' if NOTEBOOK in file else Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def place_at(frame: FrameType) -> str:
    """The innermost line of a user's own code that a thread is in, `"my_envs.py:23"`; "" if it is in none."""
    inner: FrameType | None = frame
    while inner is not None and not _is_own(inner.f_code.co_filename):
        inner = inner.f_back
    return "" if inner is None else f"{Path(inner.f_code.co_filename).name}:{inner.f_lineno}"


def one_line(error: BaseException) -> str:
    """An error in one line, with its place: `"ValueError: no such room (my_envs.py:23)"`."""
    text = " ".join(str(error).split())
    place = place_of(error)
    return f"{type(error).__name__}: {text}".removesuffix(": ").rstrip(".") + (f" ({place})" if place else "")


def message_of(error: BaseException) -> str:
    """An error's message; with the name of its class where that is not an Exception, such as the SystemExit of
    `sys.exit()`."""
    return str(error) if isinstance(error, Exception) else f"{type(error).__name__}: {error}".removesuffix(": ")


def warn(message: str) -> None:
    """Warn with the line of the user's program that called rlab, not with one of rlab's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_own(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:  # the command line
        warnings.warn(message, RlabWarning, stacklevel=2)
    else:
        warnings.warn_explicit(message, RlabWarning, frame.f_code.co_filename, frame.f_lineno)


@contextmanager
def quiet() -> Iterator[None]:
    """A block whose warnings another process gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RlabWarning)
        yield


def _is_own(file: str) -> bool:
    if file.startswith(("<", *_RLAB, *_INSTALLED)):
        return False
    return _PACKAGES.isdisjoint(Path(file).parts)
