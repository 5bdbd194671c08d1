"""What a run writes of itself: its logs, films, checkpoints and policies, and the evaluation of its final weights."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from rlab.ending import before_ending
from rlab.errors import RlabError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.stats import interval_over_members, iqm
from rlab.jobs.films import Films
from rlab.jobs.foreign_code import resume_command
from rlab.jobs.judging import FINAL_EPISODE_SEED, TRAINING_EPISODE_SEED, judging_failed
from rlab.jobs.request import Request
from rlab.jobs.saving import Saved, Saver
from rlab.learning.contract import LoopListener
from rlab.learning.dropping import spread
from rlab.learning.episodes import Hear
from rlab.runs import files
from rlab.runs.appending import closed_at_last
from rlab.runs.folder import RESULT, RunFolder
from rlab.runs.logs import MetricsLog, read_json_lines
from rlab.runs.tables import EpisodeLog


class Recorder:
    """Writes what a session does into the folder of its run. Use it as a context manager, which closes all files.

    Args:
        resume_at, judgement_due: as of `open_log`.
        base, at_once: as of `Saver`.
    """

    def __init__(
        self,
        session: Saved,
        folder: RunFolder,
        resume_at: int,
        judgement_due: bool,
        base: int | None,
        at_once: bool,
    ) -> None:
        self._session, self._folder = session, folder
        self._resume_at, self._judgement_due, self._base, self._at_once = resume_at, judgement_due, base, at_once
        self._open = ExitStack()
        self.listeners: list[LoopListener] = []
        self.on_episodes: list[Hear] = []

    def __enter__(self) -> "Recorder":
        """Open everything.

        Raises:
            RlabError: the disk refuses.
        """
        session, folder, at = self._session, self._folder, self._resume_at
        request, run = session.request, session.request.run
        with self._open as opening:
            self._log = opening.enter_context(closed_at_last(open_log(request, folder, at, self._judgement_due)))
            asked_for = [EpisodeLog(folder.path, at)] if run.log_episodes else []
            rest = [opening.enter_context(closed_at_last(each)) for each in asked_for]
            logs = [self._log, *rest]
            self._saver = opening.enter_context(Saver(session, folder, logs, self._base, self._at_once))
            opening.enter_context(before_ending(self._saver.complete))
            self.listeners = [*logs, *self._films(), self._saver]
            self.on_episodes = [each.on_episodes for each in rest]
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def on_cycle(self) -> None:
        """Between two cycles of the loop."""
        self._saver.on_cycle()

    def settle(self) -> None:
        """Wait until the last save is written; as of `Saver`."""
        self._saver.settle()

    def finish(self) -> None:
        """Wait until the last save is written; as of `Saver`."""
        self._saver.finish()

    def judge(self, evaluate: Callable[[], Evaluation | None], time: int) -> Evaluation | None:
        """`judged_at_last` for the session at this time of its clock."""
        session = self._session
        more = session.resumed_at, session.loop.members.state()
        return judged_at_last(evaluate, session.request, self._folder, self._log, time, *more)

    def _films(self) -> list[Films]:
        session, every = self._session, self._session.request.run.film_every
        if not every:
            return []
        show, at = self._log.on_film, self._resume_at
        place = self._folder.path, session.request.env

        def first() -> Any:
            return session.agent.policy().only(session.loop.members.left[0])

        return [Films(*place, first, every, TRAINING_EPISODE_SEED, at, show)]


def open_log(request: Request, folder: RunFolder, resume_at: int, judgement_due: bool = False) -> MetricsLog:
    """The logs of a run, with its settings; `resume_at` and `judgement_due` as of `MetricsLog`."""
    log = MetricsLog(
        folder.path,
        request.run.training_seeds,
        iqm=iqm,
        summarise=interval_over_members,
        resume_at=resume_at,
        judgement_due=judgement_due,
        unit=request.unit,
        tables="csv" in (request.run.log or ()),
    )
    log.on_start(request.logged(), request.origins, request.compared())
    return log


def judged_at_last(
    evaluate: Callable[[], Evaluation | None],
    request: Request,
    folder: RunFolder,
    log: MetricsLog,
    time: int,
    resumed_at: Sequence[int],
    dropped: Sequence[Mapping[str, Any]] = (),
) -> Evaluation | None:
    """The evaluation of the final weights, written down; None where it was stopped.

    Args:
        evaluate: plays its episodes.
        time: the run's clock.
        resumed_at: the times at which it was taken up again otherwise than exactly.
        dropped: the members that were dropped, which are not judged; as data.

    Raises:
        NotJudgedError: it failed.
    """
    try:
        result = evaluate()
    except RlabError as error:
        raise judging_failed(error, partial(resume_command, folder.name, folder.config), True, "") from error
    if result is None:
        return None
    seeds = request.run.training_seeds
    returns, lengths = (
        spread(result.returns, result.seeds, seeds, np.nan),
        spread(result.lengths, result.seeds, seeds, 0),
    )
    log.on_final_evaluation(time, returns, lengths)
    report = result.to_json("policy", request.agent, request.env.env_id)
    # Where a run was not taken up exactly it is not the run that it would have been: that belongs to the result.
    files.write_json(folder.path / RESULT, {**report, "dropped": list(dropped), "resumed_at": list(resumed_at)})
    return result


def final_evaluation(folder: RunFolder) -> Evaluation | None:
    """The evaluation of a run's final weights, as its log keeps it; None where they were not judged."""
    path = folder.path / "eval.jsonl"
    header, rows = read_json_lines(path) if path.is_file() else ({}, [])
    if not rows or not rows[-1].get("final"):
        return None
    returns, lengths = np.array(rows[-1]["returns"], np.float64), np.array(rows[-1]["lengths"], np.int64)
    judged = np.flatnonzero(~np.isnan(returns).any(axis=1)).tolist()  # without the members that were dropped
    seeds = tuple(header["seeds"][member] for member in judged)
    return Evaluation(seeds, FINAL_EPISODE_SEED, returns[judged], lengths[judged])
