"""The processes that train the parts of a run whose members are shared out: each of them resumes a run folder."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlab.errors import RlabError
from rlab.runs.folder import RunFolder

DONE, STOPPED = 0, 130  # exit codes
PAUSE = 0.1  # seconds between two looks at the processes
# `rlab` in a Python with the import path of this one.
_RUN = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from rlab.cli.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Part:
    """Some members of a run, and what is to be done with them."""

    folder: RunFolder  # a run of its own
    label: str  # its device and seeds, for people
    changes: tuple[str, ...] = ()  # flags of `rlab resume`


def train_parts(parts: Sequence[Part], stop: threading.Event, say: Callable[[str], None]) -> bool:
    """Train all parts, each in a process, to the end of their budget. Where one ends otherwise, or `stop` is set, the
    others save and stop.

    Args:
        say: is called with each line that they say, from a thread for each of them.

    Returns:
        whether all of them are trained; false where they were stopped.

    Raises:
        RlabError: some failed; the message names the first.
    """
    processes: list[_Process] = []
    try:
        for part in parts:
            processes.append(_Process(part, say))
        while any(each.code is None for each in processes):
            if stop.is_set() or any(each.code not in (None, DONE) for each in processes):
                for each in processes:
                    each.ask_to_stop()
            time.sleep(PAUSE)
        errors = [f"{each.part.label}: {error}" for each in processes if (error := each.error) is not None]
    finally:
        for each in processes:
            each.end()
    if errors:
        raise RlabError(errors[0])
    return all(each.code == DONE for each in processes)


class _Process:
    """`rlab resume` of one part, in a session of its own, so that Ctrl+C reaches this process alone, which passes it
    on."""

    def __init__(self, part: Part, say: Callable[[str], None]) -> None:
        self.part, self._say = part, say
        self._asked = False
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # -P: the current folder is on its path where it is on this one's. What was asked for is trusted by now.
        words = ["resume", str(part.folder.path), "--trust", "--json", *part.changes]
        words.append("--allow-version-change")  # which the run that they are parts of was checked for
        command = [sys.executable, "-P", "-c", _RUN, json.dumps(sys.path), *words]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._answer,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs. One that was killed before it could listen to being asked has stopped."""
        code = self._process.poll()
        return STOPPED if self._asked and code == -signal.SIGTERM else code

    @property
    def error(self) -> str | None:
        """What it failed with; None where it did not fail."""
        if self.code in (None, DONE, STOPPED):
            return None
        self._answer.seek(0)
        lines = self._answer.read().decode(errors="replace").splitlines()
        try:
            return str(json.loads(lines[-1])["error"])
        except (IndexError, ValueError, KeyError, TypeError):
            return f"its process ended with exit code {self.code}"

    def ask_to_stop(self) -> None:
        """Have it save and stop, where that was not asked for yet."""
        if not self._asked and self._process.poll() is None:
            self._asked = True
            self._process.terminate()

    def end(self) -> None:
        """End it, whatever it does, and let go of what it needed."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._answer.close()

    def _read(self) -> None:
        """Pass on what it says of its members; what it says of its folder is nothing for people."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip() and str(self.part.folder.path) not in line:
                self._say(f"{self.part.label}: {line.rstrip()}")
