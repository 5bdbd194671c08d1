"""Jobs on a cluster of Ray: each in an actor, which holds the process. The request and the files of the run folder
travel, where a machine does not see the folder; nothing is pickled that was learned."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rlab.engines import ray_cluster
from rlab.engines.job import Ended, Job, OnEvent
from rlab.engines.pool import run_jobs
from rlab.engines.process import STOPPED, Look
from rlab.engines.ray_worker import Worker
from rlab.engines.transfer import NEW, PIECE, add_piece, beside, names_in, pieces_of, put_in_place
from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.folder import MANIFEST
from rlab.version import VERSION

PATIENCE = 10.0  # seconds without a free machine after which that is said


class RayEngine:
    """Runs so many jobs at once on the cluster that RAY_ADDRESS names, or that this machine belongs to.

    Raises:
        UsageError: Ray is not installed, or there is no cluster.
    """

    place = "on a cluster of Ray"

    def __init__(self, at_once: int | None) -> None:
        self._ray, self._joined = ray_cluster.joined()
        self.at_once = at_once or max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def close(self) -> None:
        """Leave the cluster."""
        if self._joined:
            with ray_cluster.own_signals():
                self._ray.shutdown()

    def run(self, jobs: Iterable[Job], on_event: OnEvent, stop: threading.Event) -> list[Ended]:
        """As `JobEngine.run`."""
        return run_jobs(lambda job: RayProcess(self._ray, job), self.at_once, jobs, on_event, stop)


class RayProcess:
    """A job in an actor; as `rlab.engines.process.Process`. Where its machine or its actor is gone, it has died.

    Args:
        ray: the module, connected.
    """

    def __init__(self, ray: Any, job: Job) -> None:
        self._ray, self._job = ray, job
        config = job.folder.config
        on_gpu = (config.get("engine") or {}).get("device") == "cuda"
        self._needs = "GPU" if on_gpu else "CPU"
        room = {"num_cpus": 0 if on_gpu else int(config["run"].get("threads") or 1), "num_gpus": int(on_gpu)}
        self._worker = ray.remote(Worker).options(**room, scheduling_strategy="SPREAD", max_restarts=0).remote()
        manifest = list(files.identity(job.folder.path / MANIFEST) or ())
        self._answer = self._worker.meet.remote(str(job.folder.path), manifest)  # the one that is waited for
        self._met: dict[str, Any] | None = None
        self._waits_until: float | None = time.monotonic() + PATIENCE
        self._asked = False

    def look(self) -> Look:
        try:
            if not self._ray.wait([self._answer], timeout=0)[0]:
                waits = self._met is None
                return Look(code=STOPPED) if waits and self._asked else Look(said=self._impatience() if waits else [])
            answer = self._ray.get(self._answer)
            if self._met is None:
                return self._begin(answer)
            look = Look(*answer)
            if look.error is not None:
                look = replace(look, error=f"on {self._met['machine']}: {look.error}")
            if look.code is None:
                self._answer = self._worker.look.remote()
            elif not self._met["seen"]:
                self._fetch()
            return look
        except self._ray.exceptions.ActorUnavailableError:  # for a moment
            self._answer = self._worker.look.remote() if self._met else self._answer
            return Look()
        except self._ray.exceptions.RayActorError as error:
            return _lost(error)
        except self._ray.exceptions.RayError as error:
            return Look(code=1, error=f"Ray: {_last_line(error)}")
        except RlabError as error:
            return Look(code=error.exit_code, error=str(error))

    def ask_to_stop(self) -> None:
        if not self._asked:
            self._asked = True
            if self._met is not None:
                self._worker.stop.remote()

    def end(self) -> None:
        with contextlib.suppress(Exception):  # it may be gone
            if self._met is not None:
                self._ray.get(self._worker.end.remote(), timeout=5)
            self._ray.kill(self._worker)

    def _begin(self, met: dict[str, Any]) -> Look:
        """Hand the job to the machine that has taken it."""
        self._met = met
        if met["version"] != VERSION:
            return Look(code=2, error=f"{met['machine']} has rlab {met['version']}, and this machine {VERSION}.")
        if self._asked:
            return Look(code=STOPPED)
        if not met["seen"]:
            folder = self._job.folder.path
            for name in names_in(folder):
                for piece in pieces_of(folder, name):
                    self._ray.get(self._worker.receive.remote(name, piece))
        # A run that goes on on another machine of the cluster says so in its result.
        changes = [*self._job.changes, "--allow-version-change"]
        self._worker.begin.remote(changes, os.getcwd(), sys.path)
        self._answer = self._worker.look.remote()
        return Look()

    def _fetch(self) -> None:
        """Put the run as it is there in the place of the one that is here."""
        folder = self._job.folder.path
        new = beside(folder, NEW)
        for name in self._ray.get(self._worker.names.remote()):
            start, more = 0, True
            while more:
                piece = self._ray.get(self._worker.read.remote(name, start))
                add_piece(new, name, piece)
                start += len(piece)
                more = len(piece) == PIECE
        put_in_place(folder, new)

    def _impatience(self) -> list[str]:
        """A line where it has waited long for a machine."""
        if self._waits_until is None or time.monotonic() < self._waits_until:
            return []
        self._waits_until = None
        return [f"waits for a machine of the cluster with a free {self._needs}"]


def _lost(error: BaseException) -> Look:
    """What became of a job whose actor has gone."""
    text = str(error)
    if "No module named 'rlab" in text:
        return Look(code=2, error="a machine of the cluster lacks rlab: install the same version on all of them.")
    why = "its machine is gone" if "node" in text.lower() else "its process on the cluster is gone"
    return Look(code=-signal.SIGKILL, error=why)


def _last_line(error: BaseException) -> str:
    """Ray's errors have many lines, of which the last says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
