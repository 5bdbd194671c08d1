"""Sends what a run logs to services such as MLflow and W&B (`--log mlflow wandb`). A run never waits for a service and
never fails because of one: what it logs lies in its folder, from which a service gets whatever it lacks."""

import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from rlab.door import without_password
from rlab.errors import RlabError, UsageError, pip_install
from rlab.evaluation.stats import iqm
from rlab.jobs.judging import NotJudgedError
from rlab.jobs.request import Request
from rlab.jobs.varied import paths_of
from rlab.machine import is_installed
from rlab.places import one_line, warn
from rlab.randomness import kept_generators
from rlab.runs import files
from rlab.runs.folder import RESULT, RunFolder
from rlab.runs.logged_rows import (
    NOTHING,
    LoggedRow,
    LoggedRun,
    Mark,
    Service,
    evaluation_row,
    logged_rows,
    metrics_row,
)
from rlab.runs.logs import last_row, read_json_lines
from rlab.runs.mlflow_log import MLflowLog
from rlab.runs.status import FAILED, FINISHED, NOT_JUDGED
from rlab.runs.tables import CsvLog
from rlab.runs.wandb_log import WandbLog

SERVICES: Mapping[str, Callable[[], Service]] = {"mlflow": MLflowLog, "wandb": WandbLog}
KEY = "log-key.json"  # in the run folder: what services know the run by
AGAIN = 30.0  # seconds until a service that failed is tried again
AT_LAST = 60.0  # seconds that the end of a run waits for a service
LONGEST = 150  # letters of an error that are shown


def services_of(request: Request) -> list[Service]:
    """The services that show a run.

    Raises:
        UsageError: the package of one is not installed, or members differ in settings, which one run there cannot show.
    """
    names = [name for name in SERVICES if name in (request.run.log or ())]
    for name in names:
        if request.vary:
            raise UsageError(f"--log {name} is for a run whose members all have the same settings.")
        if not is_installed(name):
            raise UsageError(f"--log {name} needs a package that is not installed: {pip_install(name)}.")
    return [SERVICES[name]() for name in names]


def check_services(request: Request) -> None:
    """Refuse a new run, of which nothing is lost yet, that a service could not show.

    Raises:
        UsageError: the service does not answer, or nobody is logged in there; the message says which.
    """
    for service in services_of(request):
        try:
            with kept_generators():
                service.check()
        except Exception as error:
            raise UsageError(f"--log {service.name}: {_why(error)}. Leave it out to train without.") from error


class Sender:
    """A listener that tells services what a run does.

    Each has a thread of its own. Where one fails, a warning says so, it is tried again every so often, and at the end.
    Use it as a context manager while the run is held.

    Args:
        say: shows a line to people.
    """

    def __init__(
        self, services: Sequence[Service], request: Request, folder: RunFolder, say: Callable[[str], None]
    ) -> None:
        self._seeds, self._folder, self._say = request.run.training_seeds, folder.path, say
        told = logged_run(request, folder) if services else None
        self._feeds = [_Feed(service, told) for service in services if told is not None]
        self._status: str | None = None

    def __enter__(self) -> "Sender":
        """Find the run everywhere, or begin it."""
        with kept_generators():
            for feed in self._feeds:
                feed.start(self._say)
        self._warn()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is not sent yet; not after a second Ctrl+C."""
        if self._feeds and (error is None or isinstance(error, Exception)):
            judging = NOT_JUDGED if isinstance(error, NotJudgedError) else FAILED
            self._end(self._status or judging)

    def ends(self, status: str) -> None:
        """The run stands so, and this process is done with it."""
        self._status = status

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        if self._feeds:
            self._put(metrics_row(env_steps, metrics, self._seeds, iqm))

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """The row that the log before this listener has just written, which has the interval."""
        row = last_row(self._folder / "eval.jsonl") if self._feeds else None
        if row is not None:
            self._put(evaluation_row(env_steps, row, self._seeds, iqm))

    def on_save(self, env_steps: int) -> None:
        """The policy is sent when the process is done with the run."""

    def _end(self, status: str) -> None:
        kept = {name: self._folder / name for name in ("policy", "config.json", RESULT)}
        kept = {name: path for name, path in kept.items() if path.exists()}
        with kept_generators():
            for feed in self._feeds:
                feed.end(status, kept)
            until = time.monotonic() + AT_LAST
            for feed in self._feeds:
                feed.wait(until - time.monotonic())
        self._warn()

    def _put(self, row: LoggedRow) -> None:
        for feed in self._feeds:
            feed.put(row)
        self._warn()

    def _warn(self) -> None:
        for feed in self._feeds:
            if (trouble := feed.trouble()) is not None:
                warn(trouble)


class _Feed:
    """Sends rows to one service, in a thread that lives only while there is something to send."""

    def __init__(self, service: Service, run: LoggedRun) -> None:
        self._service, self._run = service, run
        self._lock = threading.Lock()
        self._waiting: list[LoggedRow] = []
        self._last: Callable[[], None] | None = None  # what is done when all rows are sent
        self._thread: threading.Thread | None = None
        self._open = False
        self._behind = True  # whether the folder may have rows that the service lacks and that do not wait here
        self._mark: Mark = NOTHING  # the last row that was received
        self._again_at = 0.0  # not to be tried before
        self._trouble: str | None = None
        self._failing = False

    def start(self, say: Callable[[str], None]) -> None:
        """Open it, in this thread."""
        try:
            say(f"{self._service.title}: {without_password(self._opened())}")
        except Exception as error:
            self._fail(error)

    def put(self, row: LoggedRow) -> None:
        """Have a row sent, as soon as those before it are."""
        with self._lock:
            self._waiting.append(row)
            if time.monotonic() >= self._again_at:
                self._go()
            elif self._behind:
                self._waiting.clear()  # it is in the folder

    def end(self, status: str, files: Mapping[str, Path]) -> None:
        """Send what is missing, then be done."""
        with self._lock:
            self._behind, self._again_at, self._failing = True, 0.0, False  # a last failure is worth a line of its own
            self._last = partial(self._service.end, status, files)
            self._go()

    def wait(self, seconds: float) -> None:
        """Wait until everything is sent, so long at most."""
        thread = self._thread
        if thread is not None:
            thread.join(max(seconds, 0.0))
            if thread.is_alive():
                self._complain(f"has not taken everything after {AT_LAST:.0f} s")

    def trouble(self) -> str | None:
        """What is to be warned of since the last call."""
        with self._lock:
            found, self._trouble = self._trouble, None
        return found

    def _go(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"log {self._service.title}", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                rows, self._waiting = self._waiting, []
                last, behind = self._last, self._behind
                if not (rows or last or behind):
                    self._thread = None
                    return
                self._behind = False
                self._last = None
            try:
                self._send(rows, behind)
                if last is not None:
                    last()
            except Exception as error:
                self._fail(error)
                with self._lock:
                    self._thread = None
                return

    def _send(self, rows: list[LoggedRow], behind: bool) -> None:
        if not self._open:
            self._opened()
            behind = True
        if behind:
            rows = logged_rows(self._run.folder, self._run.unit, iqm, self._mark)
        rows = [row for row in rows if row.mark > self._mark]
        if rows:
            self._service.send(rows)
            self._mark = rows[-1].mark
        self._failing = False

    def _opened(self) -> str:
        self._mark, where = self._service.begin(self._run)
        self._open = True
        return where

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._open, self._behind = False, True
            self._waiting.clear()
            self._again_at = time.monotonic() + AGAIN
        self._complain(f"failed: {_why(error)}")

    def _complain(self, what: str) -> None:
        """Once, until it works again."""
        if not self._failing:
            self._failing = True
            title, command = self._service.title, f"rlab resume RUN --log {self._service.name}"
            later = f"what {title} lacks is sent later, also by {command}"
            self._trouble = f"{title} {what}. The run does not need it: {later}"


def send_again(request: Request, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Have a finished run in the logs that the request names, whole: tables are written, services get what they lack.

    Raises:
        RlabError: the disk refuses, or another process is writing the run.
    """
    with folder.held():
        if "csv" in (request.run.log or ()):
            for path in paths_of(folder) or [folder.path]:  # of each set of settings
                rows = {name: read_json_lines(path / f"{name}.jsonl")[1] for name in ("metrics", "eval")}
                CsvLog(path, request.run.training_seeds, request.unit, rows.__getitem__).close()
        with Sender(services_of(request), request, folder, say) as sender:
            sender.ends(FINISHED)


def logged_run(request: Request, folder: RunFolder) -> LoggedRun:
    """What services are told about a run; its key is written into its folder the first time."""
    stated = folder.config
    config = {"agent": request.agent, "env": request.env.label, **request.logged()}
    config |= {name: stated.get(name) for name in ("command", "commit")}
    return LoggedRun(
        _key(folder.path / KEY),
        folder.path.name,
        folder.path,
        request.unit,
        request.run.log_project,
        {name: value for name, value in config.items() if value is not None},
        (request.agent, request.env.env_id),
        request.command,
    )


def _key(path: Path) -> str:
    """The key of a run; a new one where there is none, or the file is broken."""
    try:
        known = files.read_json(path).get("key") if path.exists() else None
    except RlabError:
        known = None
    if not isinstance(known, str) or not re.fullmatch("[0-9a-f]{16}", known):
        known = secrets.token_hex(8)
        files.write_json(path, {"key": known})
    return known


def _why(error: Exception) -> str:
    """An error in one line of bounded length, without passwords."""
    text, root = without_password(one_line(error)), error
    while isinstance(cause := root.__cause__ or root.__context__, Exception):
        root = cause
    why = without_password(one_line(root))
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ..."
    return (text if root is error or why in text else f"{text} ({why[:LONGEST]})").rstrip(". ")
