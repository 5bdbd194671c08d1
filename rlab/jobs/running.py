"""A run from its request to its end: the folder, the training, and what is reported of it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rlab.ending import before_ending
from rlab.errors import RlabError
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.foreign_code import only_here, resume_command
from rlab.jobs.inputs import open_inputs
from rlab.jobs.jobs_progress import JobsProgress
from rlab.jobs.listeners import Audience, audience_of
from rlab.jobs.log_services import Sender, check_services, services_of
from rlab.jobs.outcome import BY_LISTENER, INTERRUPTED, recorded_status
from rlab.jobs.progress import ProgressListener, announce, announcer
from rlab.jobs.recording import final_evaluation
from rlab.jobs.request import Request
from rlab.jobs.session import Session
from rlab.jobs.shared_out import SharedOut, check_for_processes, session_for
from rlab.jobs.support_watch import SupportWatch
from rlab.jobs.unread import refuse_unread
from rlab.jobs.varied import name_of, paths_of
from rlab.learning.dropping import Dropped
from rlab.learning.runtime import own_surroundings
from rlab.networks.policy import MemberPolicy
from rlab.places import quiet, warn
from rlab.ranks import ALONE, Ranks, joined
from rlab.runs import reading
from rlab.runs.folder import ROOT, SETTINGS, RunFolder, check_free, fresh_run_path, path_of
from rlab.runs.listing import clock_unit, policy_facts, saved_time
from rlab.runs.policies import load_policy
from rlab.runs.status import FAILED, FINISHED, NOT_JUDGED, STOPPED, read_status, write_status
from rlab.runs.tables import read_episodes
from rlab.trust import Trust


@dataclass(frozen=True)
class Run:
    """A run on the disk: how far it came and, where it was judged, how good its final weights are."""

    path: Path  # absolute
    finished: bool  # it used its whole budget, and was judged where it was to be: its status is finished
    unit: str  # what its clock counts: env_steps, or updates where it learned from a dataset
    time: int  # how far it came, per member
    evaluation: Evaluation | None = field(repr=False)
    trainable: float = 1.0  # share of the policy's parameters that fine-tuning trains; NaN where nothing says so
    stopped_by: str | None = None  # the listener that stopped it before its budget was used
    status: str = "finished"  # or running, stopped, or not-judged: trained, and the final evaluation is still to come
    interrupted: bool = False  # by Ctrl+C or SIGTERM
    dropped: tuple[Dropped, ...] = ()  # members that it went on without; their scores do not count
    only_here: str | None = field(default=None, repr=False)  # a note for people, where no other process finds the env
    name: str = field(default="", repr=False)  # the path as it was written

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Run":
        """The run in a folder, as another program or another day left it: `rlab.Run.open("runs/mine").curve()`.

        Raises:
            RlabError: it is not a run folder, or it is broken.
        """
        folder = RunFolder.open(path_of(path))
        unit, done = clock_unit(folder), saved_time(folder)
        status = read_status(folder, done, folder.config["run"][unit])
        by = (status.reason or "").partition(BY_LISTENER)[2] if status.status == STOPPED else ""
        return cls(
            folder.path,
            status.status == FINISHED,
            unit,
            done,
            final_evaluation(folder),
            trainable=folder.config.get("trainable", float("nan") if folder.config.get("start") else 1.0),
            stopped_by=by or None,
            status=status.status,
            dropped=_dropped(folder),
            interrupted=status.status == STOPPED and (status.reason or "").startswith(INTERRUPTED),
            only_here=only_here(folder.config["env"]["env_id"]) if folder.config["env"].get("local") else None,
            name=folder.name,
        )

    def __fspath__(self) -> str:
        """So that a `Run` can be given wherever a path can."""
        return str(self.path)

    @property
    def runs(self) -> "tuple[Run, ...]":
        """Where members differ in settings: the run of each set of them, in order. Each has a policy, curves and a
        result; the whole has none, since statistics never mix settings."""
        folder = RunFolder.open(self.path)
        return tuple(Run.open(path) for path in paths_of(folder))

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says: `agent`, `env`, `run` (seeds, budget ...), `settings` (the agent's) and more."""
        return RunFolder.open(self.path).config

    def policy(self, seed: int | None = None) -> MemberPolicy:
        """The final policy of one training seed (None: the first)."""
        return load_policy(self.path).policy.member(seed)

    def curve(self, tag: str = "eval/return") -> tuple[np.ndarray, np.ndarray]:
        """One tag over time: when `[T]`, in the run's unit, and the values `[S, T]`; NaN where a member had none.

        Without a tag: the evaluations during training, each member's mean return. `rlab list metrics` explains tags.

        Raises:
            UsageError: the run logged no such tag.
        """
        return reading.curve(self.path, self.unit, tag)

    def episodes(self) -> np.ndarray:
        """The episodes of training, a structured array `[E]` with the fields env_steps, seed, env, return, length and
        time (seconds since training began): `run.episodes()["return"]`.

        Raises:
            UsageError: the run was trained without `log_episodes=True`.
        """
        return read_episodes(self.path)

    def to_frame(self) -> Any:
        """All that was logged as a tidy pandas table, with the columns env_steps (or updates), seed, metric and value.

        Raises:
            UsageError: pandas is not installed.
        """
        return reading.to_frame(self.path, self.unit)

    def report(self) -> str:
        """The result for people, with the command that goes on where the run is not finished."""
        note = "".join(f"\n{line}" for line in (*self.dropped, self.only_here) if line is not None)
        saved = f"run: {self.name}   curves: tensorboard --logdir {self.name}{note}"
        reached = f"{self.time:,} {self.unit.replace('_', ' ')}"
        resume = "" if self.finished else resume_command(self.name, self.config)
        if self.status == NOT_JUDGED:
            return f"trained for {reached} and saved, not judged; judge it with: {resume}\n{saved}"
        if not self.finished:
            by = "" if self.stopped_by is None else f" by the listener {self.stopped_by}"
            return f"stopped{by} at {reached} and saved; go on with: {resume}\n{saved}"
        if runs := self.runs:
            own = f"each set is a run of its own, such as {self.name}/{SETTINGS}/{runs[0].path.name}"
            return "\n".join([*(f"{run.path.name:<40} {_line_of(run.evaluation)}" for run in runs), saved, own])
        verdict = "finished, not judged" if self.evaluation is None else self.evaluation.summary()
        return f"{verdict}\n{saved}"


def _line_of(found: Evaluation | None) -> str:
    """A result in one line."""
    if found is None:
        return "not judged"
    interval = "" if found.ci95 is None else f" [{found.ci95[0]:.3f}, {found.ci95[1]:.3f}]"
    return f"{found.iqm:.3f}{interval} IQM of {len(found.seeds)} training seeds, {found.episodes} episodes each"


def _dropped(folder: RunFolder) -> tuple[Dropped, ...]:
    """The members that a run has gone on without so far."""
    return Dropped.from_json(policy_facts(folder).get("dropped", []), folder.path)


def start(
    request: Request,
    out: str | Path | None,
    progress: bool,
    trust: Trust = False,
    listeners: Sequence[Any] | Audience = (),
) -> Run:
    """Make the run folder and train. An interrupt ends it with a run that says so."""
    audience = audience_of(listeners)
    # Before the first torch operation:
    surroundings = own_surroundings(request.run.threads, request.run.seed, request.run.deterministic)
    with surroundings, joined() as ranks:
        session, folder = _begun(request, out, trust, audience, ranks)
        if progress and ranks.leads:
            announce(session.describe())
        return carry_out(session, folder, progress, audience)


def begin(request: Request, out: str | Path, trust: Trust = False) -> RunFolder:
    """Make the run folder and leave the training to another process, which an engine starts: `rlab.engines.job.Job`.

    Raises:
        UsageError: the request cannot be carried out, or not in another process.
    """
    check_for_processes(request, "--jobs")
    with own_surroundings(request.run.threads, request.run.seed, request.run.deterministic):
        session, folder = _begun(request, out, trust, Audience(), ALONE)
        session.close()
    return folder


def _begun(
    request: Request, out: str | Path | None, trust: Trust, audience: Audience, ranks: Ranks
) -> tuple[Session | SharedOut, RunFolder]:
    """A run that is ready, and its folder; nothing is on the disk before everything else is known to fit."""
    if out is not None:
        check_free(out, unfinished=True)
    place = Path(ROOT if out is None else out).absolute()  # before an env is made, which may change the working folder
    ranks.of_first(partial(check_services, request))
    inputs = open_inputs(request, None, trust)
    session = session_for(request, inputs, audience, ranks)

    def fresh() -> RunFolder:
        path = place if out is not None else fresh_run_path(request.agent, request.env.env_id, place)
        tuned = {} if session.request.start is None else {"trainable": session.trainable}
        config = {**session.request.to_json(), **tuned}
        return RunFolder.create(path, config, out or Path(ROOT) / path.name, inputs.keep)

    try:
        refuse_unread(session.request.unread, request.origins)
        return session, ranks.of_first(fresh)
    except RlabError:
        session.close()
        raise


def unless_interrupted(run: Run) -> Run:
    """The run, unless Ctrl+C or SIGTERM ended it: then its caller should stop too.

    Raises:
        KeyboardInterrupt: it was interrupted; the message says how to go on.
    """
    if run.interrupted:
        raise KeyboardInterrupt(run.report())
    return run


def carry_out(
    session: Session | SharedOut,
    folder: RunFolder,
    progress: bool,
    audience: Audience,
    write_changes: Callable[[], RunFolder] | None = None,
) -> Run:
    """Train a session into its folder, with a user's listeners. Of several processes that train one learner the first
    writes the run down; the others have its folder to read from alone.

    Args:
        progress: show how far it is.
        write_changes: for a run that is resumed: writes its new settings once the folder is locked; returns the folder.
    """
    request, leads = session.request, session.ranks.leads
    audience = audience if leads else Audience()
    bar = _bar(session) if progress and leads else None
    begun = _as_begun(session, folder)
    audience.on_start(begun)
    try:
        failed = before_ending(lambda line: write_status(folder, FAILED, line))
        with ExitStack() as running:
            running.enter_context(folder.held() if leads else quiet())
            session.restore(folder)  # before anything of the run is changed: it may be damaged
            running.enter_context(failed if leads else nullcontext())
            record = running.enter_context(recorded_status(folder) if leads else nullcontext(lambda status, why: None))
            audience.check("Nothing was trained.")
            folder = folder if write_changes is None or not leads else write_changes()
            services = services_of(request) if leads else []
            sender = running.enter_context(Sender(services, request, folder, announcer(progress)))
            hearing: list[Any] = [*SupportWatch.of(request.settings), sender]
            if bar is not None:
                running.enter_context(bar)
                hearing.append(bar)
            outcome = session.train(folder, hearing, audience)
            status = outcome.status(request.run.final_eval_episodes > 0)
            record(status, outcome.why)
            sender.ends(status)
            session.ranks.any(False)  # all wait until the run is whole
    except BaseException:
        audience.on_end(replace(begun, time=_reached(folder)))
        raise
    finally:
        session.close()
    if session.unlearned is not None and leads:
        warn(session.unlearned)
    ended = replace(
        begun,
        finished=status == FINISHED,
        time=outcome.time,
        evaluation=None if request.vary else outcome.evaluation,  # each set of settings has its own
        stopped_by=outcome.stopped_by,
        status=status,
        dropped=_dropped(folder) if leads else (),
        interrupted=outcome.interrupted,
    )
    audience.on_end(ended)
    audience.leave()
    audience.check(f"The run is whole: {folder.name}")
    return ended


def _bar(session: Session | SharedOut) -> Any:
    """What shows how far a session is."""
    if isinstance(session, SharedOut):
        return JobsProgress(session.num_jobs)
    request = session.request
    return ProgressListener(request.budget, request.unit, list(map(name_of, request.vary)))


def _as_begun(session: Session | SharedOut, folder: RunFolder) -> Run:
    """The run before this process trains it."""
    request, done = session.request, saved_time(folder)
    here = only_here(request.env.env_id) if request.env.local else None
    begun = Run(folder.path, False, request.unit, done, None, session.trainable, status="running")
    return replace(begun, only_here=here, name=folder.name)


def _reached(folder: RunFolder) -> int:
    """How far a run that failed is saved; 0 where even that cannot be read."""
    try:
        return saved_time(folder)
    except (RlabError, OSError):
        return 0
