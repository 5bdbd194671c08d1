"""The state of a run: what its process last wrote to `status.json`, and whether it is still alive."""

import contextlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.folder import RESULT, RunFolder

STATUS = "status.json"
RUNNING, FINISHED, NOT_JUDGED, STOPPED, FAILED = "running", "finished", "not-judged", "stopped", "failed"
BROKEN = "broken"  # of a folder that cannot be read
VANISHED = "its process ended without writing its state: it was killed, or the machine went down"
WORDS_KEPT = 300  # letters of a reason


@dataclass(frozen=True)
class Status:
    """`running`, `finished`, `not-judged` (trained, the final evaluation is still to come), `stopped` or `failed`."""

    status: str
    reason: str | None = None  # why it stopped, failed or was not judged, in a few words
    at: str | None = None  # UTC, ISO 8601: since when
    began: str | None = None  # the same, of the first process that trained it
    wall_seconds: float | None = None  # of all processes that trained it, but for those that were killed


def write_status(run: RunFolder, status: str, reason: str | None = None, seconds: float = 0.0) -> None:
    """Record the state of the run. Where it cannot be written nothing is raised, so that the run itself goes on.

    Args:
        seconds: how long this process has trained it.
    """
    short = None if reason is None else " ".join(reason.split())[:WORDS_KEPT]
    at, before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), _record(run.path / STATUS)
    total = round((before.wall_seconds or 0.0) + seconds, 3)
    now = Status(status, short, at, before.began or at, total)
    with contextlib.suppress(RlabError):
        files.write_json(run.path / STATUS, asdict(now))


def read_status(run: RunFolder, saved: int, budget: int) -> Status:
    """The state of the run. The folder's content counts more than the record, which a process may not have updated.

    Args:
        saved: how far its policy was trained, in the run's unit.
        budget: how far it is to be trained.
    """
    record = _record(run.path / STATUS)
    held = run.is_held()
    if held or (held is None and record.status == RUNNING):
        return replace(record, status=RUNNING, reason=None)
    if (run.path / RESULT).is_file() or record.status == FINISHED:
        return replace(record, status=FINISHED, reason=None)
    if record.status == NOT_JUDGED or saved >= budget:
        wanted = run.config["run"].get("final_eval_episodes", 0)
        return replace(record, status=NOT_JUDGED if wanted else FINISHED)
    if record.status == RUNNING:
        return replace(record, status=STOPPED, reason=VANISHED)
    return replace(record, status=FAILED if record.status == FAILED else STOPPED)


def why_failed(run: Path) -> str | None:
    """Why a run failed, in a few words; None where it did not, or nothing says why."""
    record = _record(run / STATUS)
    return record.reason if record.status == FAILED else None


def _record(path: Path) -> Status:
    """The record; an empty one where there is none, or it is broken."""
    with contextlib.suppress(RlabError):
        record = files.read_json(path)
        reason, at, began = (None if record.get(key) is None else str(record[key]) for key in ("reason", "at", "began"))
        seconds = record.get("wall_seconds")
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < float("inf")
        return Status(str(record.get("status")), reason, at, began, seconds if known else None)
    return Status("")
