"""What a run writes of itself: its logs, films, checkpoints and policies, and the evaluation of its final weights."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
from rlab.jobs.varied import shares_of
from rlab.learning.contract import LoopListener
from rlab.learning.dropping import spread
from rlab.learning.episodes import Hear
from rlab.runs import files
from rlab.runs.appending import closed_at_last
from rlab.runs.folder import RESULT, RunFolder
from rlab.runs.logs import MetricsLog, read_json_lines
from rlab.runs.observed import save_observed
from rlab.runs.status import FAILED, write_status
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
        run = session.request.run
        with self._open as opening:
            self._shares = shares_of(session.parts, folder)
            self._logs: list[MetricsLog] = []
            for share in self._shares:
                if share.folder is not folder:
                    opening.enter_context(share.folder.held())
                log = open_log(share.request, share.folder, at, self._judgement_due)
                self._logs.append(opening.enter_context(closed_at_last(log)))
            asked_for = [EpisodeLog(folder.path, at)] if run.log_episodes else []
            rest = [opening.enter_context(closed_at_last(each)) for each in asked_for]
            pairs = zip(self._logs, self._shares, strict=True)
            logs = [*(OfMembers(log, share.members) if session.request.vary else log for log, share in pairs), *rest]
            saver = Saver(session, folder, self._shares, logs, self._base, self._at_once)
            self._saver = opening.enter_context(saver)
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
        """Judge the final weights, each set of settings by itself, at this time of the clock; what all members got.

        What they observed meanwhile is kept beside their policies.

        Raises:
            NotJudgedError: it failed.
        """
        session, members = self._session, self._session.loop.members
        found = judged(evaluate, self._folder)
        if found is None:
            return None
        places = np.flatnonzero(members.remain)
        for share, log in zip(self._shares, self._logs, strict=True):
            if (mine := np.isin(places, share.members)).any():
                seeds = tuple(members.seeds[place] for place in places[mine])
                own = replace(found, seeds=seeds, returns=found.returns[mine], lengths=found.lengths[mine])
                more = session.resumed_at, members.facts(share.members)
                write_verdict(own, share.request, share.folder, log, time, *more)
                observed = [each for place, each in session.judge.observed.items() if mine[place]]
                save_observed(share.folder.policy, observed)
        return found

    def ended(self, status: str, why: str | None) -> None:
        """Write down how the run ended, where each set of settings has a folder of its own."""
        for share in self._shares:
            if share.folder is not self._folder:
                left = self._session.loop.members.remain[share.members].any()
                write_status(share.folder, *((status, why) if left else (FAILED, "every seed was dropped")))

    def _films(self) -> list[Films]:
        session, every = self._session, self._session.request.run.film_every
        if not every:
            return []
        show, at = self._logs[0].on_film, self._resume_at
        place = self._folder.path, session.request.env

        def first() -> Any:
            return session.agent.policy().at([int(session.loop.members.remain.argmax())])

        return [Films(*place, first, every, TRAINING_EPISODE_SEED, at, show)]


class OfMembers:
    """A log of some members of a stack: what listeners hear of all is cut down to them."""

    def __init__(self, log: MetricsLog, members: range) -> None:
        self._log, self._members = log, slice(members.start, members.stop)

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        own = {name: value[self._members] if np.ndim(value) else value for name, value in metrics.items()}
        self._log.on_metrics(env_steps, own)

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        if not np.isnan(returns[self._members]).all():  # else every one of them was dropped
            self._log.on_evaluation(env_steps, returns[self._members], lengths[self._members])

    def on_save(self, env_steps: int) -> None:
        """The saver calls `sync`."""

    def sync(self) -> None:
        self._log.sync()


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
    """The evaluation of the final weights, written down as of `write_verdict`; None where it was stopped.

    Args:
        evaluate: plays its episodes.

    Raises:
        NotJudgedError: it failed.
    """
    result = judged(evaluate, folder)
    if result is not None:
        write_verdict(result, request, folder, log, time, resumed_at, dropped)
    return result


def judged(evaluate: Callable[[], Evaluation | None], folder: RunFolder) -> Evaluation | None:
    """What `evaluate` gives; raises NotJudgedError where it fails."""
    try:
        return evaluate()
    except RlabError as error:
        raise judging_failed(error, partial(resume_command, folder.name, folder.config), True, "") from error


def write_verdict(
    result: Evaluation,
    request: Request,
    folder: RunFolder,
    log: MetricsLog,
    time: int,
    resumed_at: Sequence[int],
    dropped: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the evaluation of the final weights down.

    Args:
        time: the run's clock.
        resumed_at: the times at which it was taken up again otherwise than exactly.
        dropped: the members that were dropped, which are not judged; as data.
    """
    remain = np.isin(request.run.training_seeds, result.seeds)
    returns, lengths = spread(result.returns, remain, np.nan), spread(result.lengths, remain, 0)
    log.on_final_evaluation(time, returns, lengths)
    report = result.to_json("policy", request.agent, request.env.env_id)
    # Where a run was not taken up exactly it is not the run that it would have been: that belongs to the result.
    files.write_json(folder.path / RESULT, {**report, "dropped": list(dropped), "resumed_at": list(resumed_at)})


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
