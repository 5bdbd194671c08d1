"""The process of a job: `rlab resume` of its folder, and what it says and logs meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from rlab import door
from rlab.engines.log_tail import LogTail
from rlab.errors import RlabError

DONE, STOPPED = 0, 130  # exit codes
PATIENCE = 5.0  # seconds for what a process has started to end after it
LOGS: tuple[Literal["metrics", "evaluation"], ...] = ("metrics", "evaluation")
FILES = {"metrics": "metrics.jsonl", "evaluation": "eval.jsonl"}
# `rlab` with the import path of the process that started it, and a SIGTERM when that process is gone (on Linux), so
# that nothing goes on training that nobody waits for.
_RUN = """
import ctypes, json, os, signal, sys
parent, path = json.loads(sys.argv.pop(1))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != parent:
    sys.exit(130)
sys.path[:] = path
from rlab.cli.main import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Look:
    """What is new of a job since the last look."""

    rows: list[tuple[Literal["metrics", "evaluation"], dict[str, Any]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    code: int | None = None  # of its process once that has ended; negative where it was killed
    error: str | None = None  # what it failed with, or how it died


class Process(Protocol):
    """A job under way. Every method returns at once."""

    def look(self) -> Look: ...

    def ask_to_stop(self) -> None:
        """Have it save and stop; may be called again."""

    def end(self) -> None:
        """End it, whatever it does, and let go of what it needed."""


class ResumeProcess:
    """`rlab resume` on this machine, in a session of its own: Ctrl+C reaches this process alone, which passes it on.

    Args:
        folder: a run that has begun.
        changes: flags of `rlab resume`.
        where: the working folder; None: that of this process.
    """

    def __init__(self, folder: Path, changes: Sequence[str], where: str | None = None) -> None:
        self._asked = False
        self._tails = {kind: LogTail(folder / FILES[kind]) for kind in LOGS}
        self._lines: list[str] = []
        self._answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # -P: the current folder is on its path where it is on this one's. What was asked for is trusted by now.
        words = ["resume", str(folder), "--trust", "--json", "--quiet", *changes]
        command = [sys.executable, "-P", "-c", _RUN, json.dumps([os.getpid(), sys.path]), *words]
        self._process = subprocess.Popen(
            command,
            cwd=where,
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def look(self) -> Look:
        code = self._code()
        if code is not None:
            self._reader.join(PATIENCE)  # what it started, such as envs, may hold on to its standard error
        lines, self._lines = self._lines, []
        rows = [(kind, row) for kind in LOGS for row in self._tails[kind].rows()]
        return Look(rows, lines, code, self._error(code))

    def ask_to_stop(self) -> None:
        if not self._asked and self._process.poll() is None:
            self._asked = True
            self._process.terminate()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        if self._reader.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what it has started and what does not end by itself
            self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._answer.close()

    def _code(self) -> int | None:
        """Its exit code; None while it runs. One that was killed before it could listen to being asked has stopped."""
        code = self._process.poll()
        return STOPPED if self._asked and code == -signal.SIGTERM else code

    def _error(self, code: int | None) -> str | None:
        if code is None or code in (DONE, STOPPED):
            return None
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was killed ({name}" + ("; is there enough memory?)" if name == "SIGKILL" else ")")
        self._answer.seek(0)
        lines = self._answer.read().splitlines()
        try:
            return str(door.parse_json(lines[-1], "the answer")["error"])
        except (IndexError, ValueError, KeyError, TypeError, RlabError):
            return f"its process ended with exit code {code}"

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip() and not line.startswith("rlab: "):  # its error, which it answers with, too
                self._lines.append(line.rstrip())
