"""How a run ended, and the record of it that stays in its folder."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rlab.errors import RlabError
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.judging import NotJudgedError
from rlab.runs.folder import RunFolder
from rlab.runs.status import FAILED, FINISHED, NOT_JUDGED, RUNNING, STOPPED, write_status

INTERRUPTED = "interrupted"  # why a run stopped, or how that begins
BY_LISTENER = "by the listener "  # why a run stopped, before the listener's name


@dataclass(frozen=True)
class Outcome:
    """How a run ended: at its budget or stopped before it, and how good its final weights are where judged."""

    finished: bool
    time: int  # per member, in the run's unit
    evaluation: Evaluation | None
    stopped_by: str | None = None  # the listener that asked for it
    interrupted: bool = False  # by Ctrl+C or SIGTERM

    def status(self, to_be_judged: bool) -> str:
        """In the words of `rlab.runs.status`."""
        if not self.finished:
            return STOPPED
        return NOT_JUDGED if to_be_judged and self.evaluation is None else FINISHED

    @property
    def why(self) -> str | None:
        """Why it is not finished, in a few words."""
        if self.interrupted:
            return INTERRUPTED
        return None if self.stopped_by is None else f"{BY_LISTENER}{self.stopped_by}"


@contextmanager
def recorded_status(run: RunFolder) -> Iterator[Callable[[str, str | None], None]]:
    """Keep `status.json` true while a run goes on: running, then what the caller says of its end, or why it failed."""
    write_status(run, RUNNING)
    began = time.perf_counter()

    def write(status: str, why: str | None) -> None:
        write_status(run, status, why, time.perf_counter() - began)

    try:
        yield lambda status, why: write(status, None if status == FINISHED else why)
    except NotJudgedError as error:
        write(NOT_JUDGED, _why(error))
        raise
    except KeyboardInterrupt:  # a second Ctrl+C, in the middle of anything
        write(STOPPED, f"{INTERRUPTED} twice, before it could save")
        raise
    except Exception as error:
        write(FAILED, _why(error))
        raise


def _why(error: Exception) -> str:
    """The reason alone: a list of runs need not repeat the advice on how to go on."""
    cause = error.__cause__
    reason = cause if isinstance(error, RlabError) and isinstance(cause, RlabError) else error
    return str(reason) or type(error).__name__
