"""Runs of a search as stacks: those that differ in nothing but settings that members may have of their own are trained
as one, with all seeds of each. What must be equal, such as widths, splits them into several stacks by itself."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from rlab.agents import load_agent
from rlab.errors import RlabError
from rlab.jobs.listeners import Listener
from rlab.jobs.request import Request
from rlab.jobs.resume import continue_run
from rlab.jobs.running import Run, start
from rlab.jobs.varied import folders_of
from rlab.learning.novel_agent import with_novelty
from rlab.learning.per_member import settings_per_member
from rlab.runs import files
from rlab.runs.folder import SETTINGS, RunFolder, is_run
from rlab.search.executors import OneByOne, OnEnd, OnPoint, Result, Task, result_of
from rlab.trust import Trust

STACKS = "stacks"  # the folder beside those of tasks, with a folder for each stack:
RUN, TASKS, STOPPED = "run", "tasks.json", "stopped.json"  # its run, whose it is, and which of those count no more


@dataclass(frozen=True)
class InStacks:
    """In this process, so many at once as one stack.

    A run that is to stop early stays in its stack, and only counts no more; the stack stops when all of it is to.
    """

    at_once: int
    trust: Trust = False

    def run(self, tasks: Iterator[Task], on_point: OnPoint, on_end: OnEnd) -> None:
        """As `Executor.run`."""
        while batch := list(islice(tasks, self.at_once)):
            for stack in stacks_of(batch):
                if len(stack) == 1 and not _place_of(stack).exists():
                    OneByOne(self.trust).run(iter(stack), on_point, on_end)
                else:
                    self._train(stack, on_point, on_end)

    def _train(self, stack: Sequence[Task], on_point: OnPoint, on_end: OnEnd) -> None:
        began, place = time.perf_counter(), _place_of(stack)
        hearing = _Hearing(stack, on_point, place)
        try:
            run = self._carry_out(stack, place, hearing)
        except RlabError:  # of one of them, perhaps: each by itself says which
            hearing.check()
            shutil.rmtree(place, ignore_errors=True)
            for task in stack:
                if not hearing.goes_on(task):
                    on_end(task, Result("stopped"))
            OneByOne(self.trust).run(filter(hearing.goes_on, stack), on_point, on_end)
            return
        hearing.check()
        if run.interrupted:
            raise KeyboardInterrupt(f"{stack[0].label} and those beside it are saved")
        seconds = (time.perf_counter() - began) / len(stack)
        folder, names = RunFolder.open(run.path), _named(place / TASKS)
        sets = dict(zip(names, folders_of(folder), strict=True))
        for task in stack:
            path = folder.path / SETTINGS / sets[task.folder.name]
            own = _moved(path, task.folder) if is_run(path) else Run.open(task.folder)  # moved before it was told of
            on_end(task, _result_of(own, task, hearing.goes_on(task), seconds))
        shutil.rmtree(place)
        with contextlib.suppress(OSError):
            place.parent.rmdir()  # where it was the last one

    def _carry_out(self, stack: Sequence[Task], place: Path, hearing: "_Hearing") -> Run:
        """The run of a stack, from where its folder is, if there is one."""
        folder = place / RUN
        if is_run(folder):
            if (run := Run.open(folder)).finished:
                return run
            return continue_run(folder, {}, False, self.trust, [hearing], allow_version_change=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _name(place / TASKS, stack)
        return start(request_of([task.request for task in stack]), folder, False, self.trust, [hearing])


def stacks_of(tasks: Sequence[Task]) -> list[list[Task]]:
    """The tasks in stacks: those that an interrupted search trained together first, then those that can be. Of a stack
    that is trained some may have been told of already."""
    left, found = {task.folder.name: task for task in tasks}, []
    for place in sorted((tasks[0].folder.parent / STACKS).glob("*")) if tasks else []:
        names = _named(place / TASKS)
        here = [name for name in names if name in left]
        if here and (len(here) == len(names) or (is_run(place / RUN) and Run.open(place / RUN).finished)):
            found.append([left.pop(name) for name in here])
    alike: dict[str, list[Task]] = {}
    for task in left.values():
        alike.setdefault(_shared(task.request), []).append(task)
    for group in alike.values():
        seen: dict[str, Task] = {}  # of two with the same settings one is trained by itself
        for task in group:
            key = json.dumps(asdict(task.request.settings), sort_keys=True)
            if key in seen:
                found.append([task])
            seen.setdefault(key, task)
        found.append(list(seen.values()))
    return found


def request_of(requests: Sequence[Request]) -> Request:
    """The request of a stack of them. A member whose numbers break is dropped: it is not to end the others."""
    first = requests[0]
    values = [asdict(each.settings) for each in requests]
    names = [name for name in values[0] if any(each[name] != values[0][name] for each in values)]
    run = replace(first.run, on_nan="drop-member")
    return replace(first, run=run, vary=tuple({name: each[name] for name in names} for each in values))


def _shared(request: Request) -> str:
    """What members of one stack have in common, in words."""
    free = settings_per_member(with_novelty(load_agent(request.agent), request.settings))
    settings = {name: value for name, value in asdict(request.settings).items() if name not in free}
    whole = [request.agent, request.env.to_json(), asdict(request.run), asdict(request.sources), settings]
    return json.dumps(whole, sort_keys=True, default=str)


def _place_of(stack: Sequence[Task]) -> Path:
    """The folder of a stack: the one that an interrupted search left, or that of a new one."""
    root, names = stack[0].folder.parent / STACKS, {task.folder.name for task in stack}
    left = (place for place in sorted(root.glob("*")) if names <= set(_named(place / TASKS)))
    return next(left, root / f"{stack[0].folder.name}-{len(stack)}")


def _name(path: Path, tasks: Iterable[Task]) -> None:
    files.write_json(path, {"tasks": [task.folder.name for task in tasks]})


def _named(path: Path) -> list[str]:
    """The names of the tasks that such a file holds, in order."""
    return list(files.read_json(path)["tasks"]) if path.is_file() else []


def _moved(path: Path, folder: Path) -> Run:
    """The run of one set of settings, in a folder of its own, out of its stack."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(path, folder)
    own = RunFolder.open(folder)
    own.changed({name: value for name, value in own.config.items() if name != "of_stack"})
    return Run.open(folder)


def _result_of(run: Run, task: Task, goes_on: bool, seconds: float) -> Result:
    if not goes_on:
        return replace(result_of(run, seconds), status="stopped", evaluation=None, record=None)
    if task.request.run.on_nan == "stop" and (run.dropped or run.status == "failed"):
        why = run.dropped[0].reason if run.dropped else "the numbers of every seed stopped being finite"
        return Result("failed", seconds, error=why)
    return result_of(run, seconds)


class _Hearing(Listener):
    """Passes the evaluations of a stack on to each of its tasks, and its own failures to whoever carries it out.

    A task that was to stop stays stopped when the stack goes on later: its points would be judged anew.
    """

    def __init__(self, stack: Sequence[Task], on_point: OnPoint, place: Path) -> None:
        self._stack, self._on_point, self._place = stack, on_point, place
        stopped = set(_named(place / STOPPED))
        self._stopped = [task for task in stack if task.folder.name in stopped]
        self._error: Exception | None = None

    def goes_on(self, task: Task) -> bool:
        return task not in self._stopped

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> bool:
        try:
            for task, own in zip(self._stack, np.split(returns, len(self._stack)), strict=True):
                if task not in self._stopped and not self._on_point(task, env_steps, own):
                    self._stopped.append(task)
                    _name(self._place / STOPPED, self._stopped)
        except Exception as error:  # of the search, such as a database that is away
            self._error = error
            return False
        return len(self._stopped) < len(self._stack)

    def check(self) -> None:
        """Raise what failed here."""
        if self._error is not None:
            raise self._error
