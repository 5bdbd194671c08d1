"""How the runs of a search are carried out: one after another in this process, or several at once in processes."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from rlab.engines.job import Event, Job, JobEngine
from rlab.errors import RlabError
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.listeners import Listener
from rlab.jobs.request import Request
from rlab.jobs.resume import continue_run
from rlab.jobs.running import Run, begin, start
from rlab.jobs.signals import stop_on_signal
from rlab.runs.folder import RunFolder
from rlab.search.results import facts_of
from rlab.trust import Trust

Curve = tuple[np.ndarray, np.ndarray]  # when [T], in the run's unit, and the members' mean returns [S, T]


@dataclass(frozen=True, eq=False)
class Task:
    """A run that a search wants."""

    label: str  # for people: `trial 7`
    request: Request
    folder: Path  # one that exists is gone on with


@dataclass(frozen=True, eq=False)
class Result:
    """How it ended: with all its budget used and judged; stopped early, since it was not worth going on; or failed."""

    status: Literal["done", "stopped", "failed"]
    seconds: float = 0.0  # of this process's part of it
    evaluation: Evaluation | None = None
    curve: Curve | None = None
    error: str | None = None
    record: Mapping[str, Any] | None = None  # of one that is done: what `rlab.search.results.facts_of` says of its run


OnPoint = Callable[[Task, int, np.ndarray], bool]  # a task's time and returns [S, E]; False: it should stop
OnEnd = Callable[[Task, Result], None]


class Executor(Protocol):
    """Carries out tasks. It takes the next one when it has room for it, after it told of all that ended before, so that
    an iterator may choose what comes next by what was found. One that trains several in one stack takes so many first.

    An interrupt ends it with KeyboardInterrupt once what runs is saved.
    """

    @property
    def at_once(self) -> int:
        """How many tasks it carries out at once."""

    def run(self, tasks: Iterator[Task], on_point: OnPoint, on_end: OnEnd) -> None:
        """Carry out all of them; both functions are called in this thread."""


@dataclass(frozen=True)
class OneByOne:
    """In this process."""

    trust: Trust = False
    at_once: int = 1

    def run(self, tasks: Iterator[Task], on_point: OnPoint, on_end: OnEnd) -> None:
        """As `Executor.run`."""
        for task in tasks:
            began = time.perf_counter()
            hearing = _Hearing(task, on_point)
            try:
                run = _carry_out(task, hearing, self.trust)
            except Exception as error:  # whatever a combination of settings may lead to
                hearing.check()
                on_end(task, Result("failed", time.perf_counter() - began, error=in_one_line(error)))
                continue
            hearing.check()
            if run.interrupted:
                raise KeyboardInterrupt(f"{task.label} is saved")
            on_end(task, result_of(run, time.perf_counter() - began))


@dataclass(frozen=True)
class InProcesses:
    """Each in a process of its own, as many at once as the engine runs."""

    engine: JobEngine
    trust: Trust = False

    @property
    def at_once(self) -> int:
        return self.engine.at_once

    def run(self, tasks: Iterator[Task], on_point: OnPoint, on_end: OnEnd) -> None:
        """As `Executor.run`."""
        begun: dict[Job, tuple[Task, float]] = {}

        def jobs() -> Iterator[Job]:
            for task in tasks:
                try:
                    job = Job(_begun(task, self.trust), task.label)
                except Exception as error:  # whatever a combination of settings may lead to
                    on_end(task, Result("failed", error=in_one_line(error)))
                    continue
                begun[job] = task, time.perf_counter()
                yield job

        def on_event(event: Event) -> bool:
            task, began = begun[event.job]
            if event.kind == "evaluation" and not event.row.get("final"):
                unit = task.request.unit
                return on_point(task, int(event.row[unit]), np.array(event.row["returns"], np.float64))
            if event.kind == "ended" and not stop.is_set():
                seconds = time.perf_counter() - began
                failed = None if event.text is None else Result("failed", seconds, error=event.text)
                on_end(task, failed or result_of(Run.open(task.folder), seconds))
            return True

        with stop_on_signal() as stop:
            self.engine.run(jobs(), on_event, stop)
        if stop.is_set():
            raise KeyboardInterrupt("what was under way is saved")


def result_of(run: Run, seconds: float) -> Result:
    """How a run ended that raised no error."""
    if not run.finished:
        return Result("stopped", seconds, None, _curve(run))
    if run.evaluation is None:
        return Result("failed", seconds, error="its final weights were not judged")
    return Result("done", seconds, run.evaluation, _curve(run), record=facts_of(RunFolder.open(run.path)))


def in_one_line(error: Exception) -> str:
    """An error as a search records it."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RlabError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _carry_out(task: Task, hearing: "_Hearing", trust: Trust) -> Run:
    """The run of a task from where its folder is, if there is one."""
    if _left(task) is None:
        return start(task.request, task.folder, False, trust, [hearing])
    return continue_run(task.folder, {}, False, trust, [hearing], allow_version_change=True)


def _begun(task: Task, trust: Trust) -> RunFolder:
    return _left(task) or begin(task.request, task.folder, trust)


def _left(task: Task) -> RunFolder | None:
    """The folder that an earlier process left of a task; None where it has to be begun."""
    if not task.folder.exists():
        return None
    try:
        found = RunFolder.open(task.folder)
    except RlabError:
        found = None  # its process ended before it was whole
    if found is None or task.request.env.local:  # no other process finds such an env again
        shutil.rmtree(task.folder)
        return None
    return found


class _Hearing(Listener):
    """Passes a run's evaluations on, and its own failures to whoever carries the run out."""

    def __init__(self, task: Task, on_point: OnPoint) -> None:
        self._task, self._on_point = task, on_point
        self._error: Exception | None = None

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> bool:
        try:
            return self._on_point(self._task, env_steps, returns)
        except Exception as error:  # of the search, such as a database that is away
            self._error = error
            return False

    def check(self) -> None:
        """Raise what failed here."""
        if self._error is not None:
            raise self._error


def _curve(run: Run) -> Curve | None:
    try:
        return run.curve()
    except RlabError:
        return None  # nothing was judged while it trained
