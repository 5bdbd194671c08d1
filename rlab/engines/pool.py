"""Jobs in processes, several at once, until all have ended: wherever the processes run."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rlab.engines.job import Ended, Event, Job, OnEvent
from rlab.engines.process import DONE, STOPPED, Look, Process
from rlab.errors import RlabError
from rlab.runs.listing import clock_unit, saved_time

PAUSE = 0.1  # seconds between two looks at the processes
MOST_DEATHS = 3  # of a job's processes in a row without a save between them, after which it has failed


@dataclass
class _Taken:
    """A job that was taken, and what is known of it."""

    job: Job
    process: Process | None = None  # None: it waits for its folder
    waits: bool = False  # for another process that writes the folder
    asked: bool = False  # to stop
    deaths: int = 0  # since the last save
    saved: int = 0  # how far it was saved at its last death
    newest: dict[str, tuple[int, bool]] = field(default_factory=dict)  # log -> when its last row was told of
    ended: Ended | None = None


def run_jobs(
    start: Callable[[Job], Process], at_once: int, jobs: Iterable[Job], on_event: OnEvent, stop: threading.Event
) -> list[Ended]:
    """As `JobEngine.run`, each job in a process that `start` begins, at most so many at once."""
    coming = iter(jobs)
    taken: list[_Taken] = []
    under_way: list[_Taken] = []
    more = True
    try:
        while True:
            more = more and not stop.is_set()
            while more and len(under_way) < at_once:
                job = next(coming, None)
                more = job is not None
                under_way += [] if job is None else [_Taken(job)]
                taken += [] if job is None else under_way[-1:]
            if not under_way:
                return [each.ended for each in taken if each.ended is not None]
            for each in under_way:
                _advance(each, start, on_event, stop)
            ended = [each for each in under_way if each.ended is not None]
            under_way = [each for each in under_way if each.ended is None]
            if not ended:
                time.sleep(PAUSE)
    finally:
        for each in taken:
            if each.process is not None:
                each.process.end()


def _advance(taken: _Taken, start: Callable[[Job], Process], on_event: OnEvent, stop: threading.Event) -> None:
    """One step of a job: start its process, or tell what is new of it and see to how it ended."""
    job = taken.job
    if taken.process is None:
        if taken.asked or stop.is_set():
            _end(taken, Ended(job, "stopped"), on_event)
        elif job.folder.is_held():  # most likely by one that is about to save and end, since what started it is gone
            if not taken.waits:
                _tell(
                    taken, Event(job, "said", text=f"waits for another process that writes {job.folder.name}"), on_event
                )
            taken.waits = True
        else:
            taken.process, taken.waits = start(job), False
            _tell(taken, Event(job, "begun"), on_event)
        return
    if stop.is_set() or taken.asked:
        taken.process.ask_to_stop()
    look = taken.process.look()
    for event in _news(taken, look):
        _tell(taken, event, on_event)
    if look.code is None:
        return
    taken.process.end()
    taken.process = None
    if look.code == DONE:
        _end(taken, Ended(job, "done"), on_event)
    elif look.code == STOPPED:
        _end(taken, Ended(job, "stopped"), on_event)
    elif look.code > 0 or _dies_on(taken):
        _end(taken, Ended(job, "failed", look.error), on_event)
    else:
        _tell(taken, Event(job, "again", text=look.error), on_event)


def _news(taken: _Taken, look: Look) -> Iterator[Event]:
    """What a look has found, without the rows that a process before this one has logged already."""
    unit = clock_unit(taken.job.folder)
    for kind, row in look.rows:
        when = (int(row[unit]), bool(row.get("final")))
        if when > taken.newest.get(kind, (-1, False)):
            taken.newest[kind] = when
            yield Event(taken.job, kind, row)
    for line in look.said:
        yield Event(taken.job, "said", text=line)


def _dies_on(taken: _Taken) -> bool:
    """Whether a job whose process died would only die again."""
    try:
        saved = saved_time(taken.job.folder)
    except RlabError:
        saved = taken.saved  # the next process says what is wrong with it
    taken.deaths = taken.deaths + 1 if saved <= taken.saved else 1
    taken.saved = saved
    return taken.deaths >= MOST_DEATHS


def _end(taken: _Taken, ended: Ended, on_event: OnEvent) -> None:
    taken.ended = ended
    on_event(Event(taken.job, "ended", text=ended.error, status=ended.status))


def _tell(taken: _Taken, event: Event, on_event: OnEvent) -> None:
    taken.asked |= on_event(event) is False
