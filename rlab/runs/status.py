"""The state of a run: what its process last wrote to `status.json`, and whether it is still alive."""

import contextlib
import time
from dataclasses import dataclass
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


def write_status(run: RunFolder, status: str, reason: str | None = None) -> None:
    """Record the state of the run. Where it cannot be written nothing is raised, so that the run itself goes on."""
    short = None if reason is None else " ".join(reason.split())[:WORDS_KEPT]
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(RlabError):
        files.write_json(run.path / STATUS, {"status": status, "reason": short, "at": at})


def read_status(run: RunFolder, saved: int, budget: int) -> Status:
    """The state of the run. The folder's content counts more than the record, which a process may not have updated.

    Args:
        saved: how far its policy was trained, in the run's unit.
        budget: how far it is to be trained.
    """
    record = _record(run.path / STATUS)
    held = run.is_held()
    if held or (held is None and record.status == RUNNING):
        return Status(RUNNING, None, record.at)
    if (run.path / RESULT).is_file() or record.status == FINISHED:
        return Status(FINISHED, None, record.at)
    if record.status == NOT_JUDGED or saved >= budget:
        wanted = run.config["run"].get("final_eval_episodes", 0)
        return Status(NOT_JUDGED if wanted else FINISHED, record.reason, record.at)
    if record.status == RUNNING:
        return Status(STOPPED, VANISHED, record.at)
    return Status(FAILED if record.status == FAILED else STOPPED, record.reason, record.at)


def _record(path: Path) -> Status:
    """The record; an empty one where there is none, or it is broken."""
    with contextlib.suppress(RlabError):
        record = files.read_json(path)
        status, reason, at = (record.get(key) for key in ("status", "reason", "at"))
        return Status(str(status), None if reason is None else str(reason), None if at is None else str(at))
    return Status("")
