"""Jobs in processes of this machine."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from rlab.engines.job import Ended, Job, OnEvent
from rlab.engines.pool import run_jobs
from rlab.engines.process import Process, ResumeProcess


@dataclass(frozen=True)
class LocalEngine:
    """Runs so many jobs at once on this machine."""

    at_once: int
    place: str = "on this machine"

    def close(self) -> None:
        """Nothing is open."""

    def run(self, jobs: Iterable[Job], on_event: OnEvent, stop: threading.Event) -> list[Ended]:
        """As `JobEngine.run`."""
        return run_jobs(_started, self.at_once, jobs, on_event, stop)


def _started(job: Job) -> Process:
    return ResumeProcess(job.folder.path, job.changes)
