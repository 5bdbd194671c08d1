"""What an engine runs, and what it says of it. An engine starts runs in processes, here or on other machines.

with closing(job_engine("local", at_once=2)) as engine:
    ended = engine.run(jobs, on_event, stop)
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rlab.runs.folder import RunFolder

Status = Literal["done", "stopped", "failed"]


@dataclass(frozen=True, eq=False)
class Job:
    """A run that has begun: its folder holds the request, and in the end the result. Running a job is resuming it, to
    the end of its budget and the final evaluation, wherever it was left; a job that is finished ends at once."""

    folder: RunFolder
    label: str  # such as its device and seeds, for people
    changes: tuple[str, ...] = ()  # flags of `rlab resume`


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    begun       it was handed to a process, which may have to wait for a free machine
    metrics     a row of its metrics.jsonl
    evaluation  a row of its eval.jsonl; the last one has `final`
    said        a line for people, such as a warning
    again       its process or machine died: it will be run again, from its last save where that can be read
    ended       with the status of `Ended`, and the error
    """

    job: Job
    kind: Literal["begun", "metrics", "evaluation", "said", "again", "ended"]
    row: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    status: Status | None = None


@dataclass(frozen=True)
class Ended:
    """How a job ended: done; stopped (and saved) because it was asked to; or failed, and with what."""

    job: Job
    status: Status
    error: str | None = None


OnEvent = Callable[[Event], bool | None]  # False: this job should save and stop


class JobEngine(Protocol):
    """What runs jobs."""

    @property
    def at_once(self) -> int:
        """How many jobs it runs at once."""

    @property
    def place(self) -> str:
        """Where it runs them, for people: `on this machine`."""

    def close(self) -> None:
        """Let go of what it runs them on."""

    def run(self, jobs: Iterable[Job], on_event: OnEvent, stop: threading.Event) -> list[Ended]:
        """Run all jobs, several at once; those that have ended, in the order in which they were taken.

        A job is taken from the iterable when a process is free for it, after the events of all that ended before: an
        iterable may choose the next job by what became of the others.

        Args:
            on_event: is called in this thread.
            stop: once it is set, the jobs that are running save and stop, and no other is begun.
        """
