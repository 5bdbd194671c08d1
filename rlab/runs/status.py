"""How a run stands: what its process said last in `status.json`, and whether it is still alive."""

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
VANISHED = "its process ended without a word: it was killed, or the machine went down"
WORDS_KEPT = 300  # letters of a reason


@dataclass(frozen=True)
class Status:
    """`running`, `finished`, `not-judged` (trained, the final evaluation is still to come), `stopped` or `failed`."""

    status: str
    reason: str | None = None  # why it stopped, failed or was not judged, in a few words
    at: str | None = None  # UTC, ISO 8601: since when


def write_status(run: RunFolder, status: str, reason: str | None = None) -> None:
    """Say how the run stands now. A disk that refuses is no reason to lose the run: nothing is raised for it."""
    short = None if reason is None else " ".join(reason.split())[:WORDS_KEPT]
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(RlabError):
        files.write_json(run.path / STATUS, {"status": status, "reason": short, "at": at})


def read_status(run: RunFolder, saved: int, budget: int) -> Status:
    """How the run stands: the folder's content outranks what a process may have had no time to write.

    Args:
        saved: how far its policy was trained, in the run's unit.
        budget: how far it is to be trained.
    """
    said = _said(run.path / STATUS)
    held = run.is_held()
    if held or (held is None and said.status == RUNNING):
        return Status(RUNNING, None, said.at)
    if (run.path / RESULT).is_file() or said.status == FINISHED:
        return Status(FINISHED, None, said.at)
    if said.status == NOT_JUDGED or saved >= budget:
        wanted = run.config["run"].get("final_eval_episodes", 0)
        return Status(NOT_JUDGED if wanted else FINISHED, said.reason, said.at)
    if said.status == RUNNING:
        return Status(STOPPED, VANISHED, said.at)
    return Status(FAILED if said.status == FAILED else STOPPED, said.reason, said.at)


def _said(path: Path) -> Status:
    """The record; an empty one where there is none, or it is broken."""
    with contextlib.suppress(RlabError):
        record = files.read_json(path)
        status, reason, at = (record.get(key) for key in ("status", "reason", "at"))
        return Status(str(status), None if reason is None else str(reason), None if at is None else str(at))
    return Status("")
