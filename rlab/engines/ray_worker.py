"""What an actor of Ray does on its machine: it holds the process of one job, and its files where the run folder cannot
be seen from there. What goes to and fro is text, numbers and the bytes of files."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlab.engines.process import ResumeProcess
from rlab.engines.transfer import add_piece, names_in, read_piece
from rlab.runs import files
from rlab.runs.folder import MANIFEST
from rlab.version import VERSION


class Worker:
    """One job on one machine."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._own: str | None = None  # a folder of its own that holds a copy of the run
        self._process: ResumeProcess | None = None

    def meet(self, folder: str, manifest: Sequence[int]) -> dict[str, Any]:
        """Whether the run folder is seen from here, by the identity of its manifest; and what this machine is."""
        found = files.identity(Path(folder) / MANIFEST)
        seen = found is not None and list(found) == list(manifest)
        if seen:
            self._folder = Path(folder)
        else:
            self._own = tempfile.mkdtemp(prefix="rlab-")
            self._folder = Path(self._own) / Path(folder).name
        return {"version": VERSION, "machine": platform.node(), "seen": seen}

    def receive(self, name: str, piece: bytes) -> None:
        """The next piece of a file of the run."""
        add_piece(self._run, name, piece)

    def begin(self, changes: Sequence[str], where: str, path: Sequence[str]) -> None:
        """Start the process, in the working folder and with the import path of the one that asks, as far as they are
        here."""
        sys.path += [each for each in path if each not in sys.path and os.path.exists(each)]
        self._process = ResumeProcess(self._run, changes, where if os.path.isdir(where) else None)

    def look(self) -> tuple[list[Any], list[str], int | None, str | None]:
        """As `ResumeProcess.look`."""
        assert self._process is not None
        found = self._process.look()
        return found.rows, found.said, found.code, found.error

    def stop(self) -> None:
        """Have the process save and stop."""
        if self._process is not None:
            self._process.ask_to_stop()

    def names(self) -> list[str]:
        """The files of the run."""
        return names_in(self._run)

    def read(self, name: str, start: int) -> bytes:
        """A piece of a file of the run."""
        return read_piece(self._run, name, start)

    def end(self) -> None:
        """End the process and remove the copy of the run."""
        if self._process is not None:
            self._process.end()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    @property
    def _run(self) -> Path:
        assert self._folder is not None
        return self._folder
