"""A search for settings, settled before anything is tried: where it starts and looks, and which seeds judge what."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlab.errors import UsageError
from rlab.jobs.defaults import COMMAND_LINE, DEFAULT
from rlab.jobs.inputs import open_inputs
from rlab.jobs.listeners import Audience
from rlab.jobs.log_services import SERVICES
from rlab.jobs.request import BOOKKEEPING, Request
from rlab.jobs.shared_out import session_for
from rlab.jobs.unread import refuse_unread
from rlab.learning.runtime import own_surroundings
from rlab.ranks import ALONE
from rlab.runs.folder import plain_name
from rlab.search.space import Space, changed, fixed_of, space_of
from rlab.search.tune_settings import EPISODES, SEEDS, TuneSettings
from rlab.trust import Trust

STUDIES = "studies"  # where the folders of studies are, unless the user says so
CURVE_POINTS = 10  # evaluations of a trial, unless the user says how often; pruners count in them
SEARCH, FINALISTS, REPORT = "search", "finalists", "report"  # the stages, and the names of their seeds
# What of a run two processes need not agree on that share a study.
FREE = BOOKKEEPING - {"seed", "eval_every", "eval_episodes", "final_eval_episodes", "on_nan"}
Ranges = Mapping[str, Any] | str | Path | None


@dataclass(frozen=True)
class Plan:
    """A search, settled."""

    request: Request  # what it starts from; its seeds are those of the trials
    how: TuneSettings
    space: Space
    folder: Path
    storage: str | None  # None: a file in the folder
    processes: tuple[str, int | None] | None = None  # the engine and how many trials at once; None: in this process

    @property
    def name(self) -> str:
        """Of the study in the database."""
        return self.folder.name

    @property
    def url(self) -> str:
        return self.storage or f"sqlite:///{(self.folder / 'study.db').absolute()}"

    @property
    def trials(self) -> int:
        """How many there will be: of a grid no more than it has points, and the defaults."""
        if self.how.method != "grid":
            return self.how.trials
        return min(self.how.trials, math.prod(map(len, self.space.grid().values())) + 1)

    @cached_property
    def seeds(self) -> dict[str, list[int]]:
        """The training seeds of each stage. They follow one another, so that no two stages share one."""
        first, counts = self.request.run.seed, {SEARCH: self.request.run.seeds}
        counts |= {FINALISTS: self.how.finalist_seeds, REPORT: self.how.report_seeds}
        found = {}
        for stage, count in counts.items():
            found[stage] = list(range(first, first + count))
            first += count
        return found

    def request_for(self, stage: str, values: Mapping[str, Any], trial: int) -> Request:
        """The request of a run of one stage, with what a trial tried.

        Raises:
            UsageError: the settings are invalid together.
        """
        seeds = self.seeds[stage]
        request = changed(self.request, values, f"trial {trial} of {self.name}")
        run = replace(request.run, seed=seeds[0], seeds=len(seeds))
        if stage != SEARCH:
            run = replace(run, final_eval_episodes=self.how.episodes)
        return replace(request, run=run)

    def about(self) -> dict[str, Any]:
        """What all that share the study must have in common."""
        request, how = self.request, self.how
        return {
            "agent": request.agent,
            "env": request.env.to_json(),
            "run": {n: v for n, v in asdict(request.run).items() if n not in FREE},
            "settings": asdict(request.settings),
            "sources": asdict(request.sources),
            "space": self.space.to_json(),
            "method": how.method,
            "finalist_seeds": how.finalist_seeds,
            "report_seeds": how.report_seeds,
            "episodes": how.episodes,
        }


def plan(
    request: Request, how: TuneSettings, ranges: Ranges, out: str | Path | None, storage: str | None, trust: Trust
) -> Plan:
    """Settle a search; nothing is on the disk yet.

    Raises:
        UsageError: the request cannot be carried out, or not in a search.
    """
    run, origins = request.run, request.origins
    if run.devices is not None:
        raise UsageError("--devices shares out one run; a search runs several at once: --jobs N, each with --device.")
    if run.final_eval_episodes == 0 and origins["final_eval_episodes"] != DEFAULT:
        raise UsageError("--final-eval-episodes 0: a search compares trials by their final evaluation.")
    if how.method == "pbt" and (run.jobs is not None or run.engine != "local" or how.vectorised is not None):
        raise UsageError("--method pbt trains one stack in this process; leave --jobs, --engine and --vectorised out.")
    if how.vectorised is not None and (run.jobs is not None or run.engine != "local"):
        raise UsageError(
            "--vectorised trains trials as one stack in this process; leave it or --jobs and --engine out."
        )
    if how.vectorised is not None and (shown := [name for name in SERVICES if name in (run.log or ())]):
        raise UsageError(f"--log {shown[0]} shows runs, not trials that are one stack; leave it or --vectorised out.")
    processes = None if run.jobs is None and run.engine == "local" else (run.engine, run.jobs)
    run = replace(run, jobs=None, engine="local")
    usual: dict[str, Any] = {
        "seeds": SEEDS,
        "final_eval_episodes": EPISODES,
        "eval_every": max(1, request.budget // CURVE_POINTS),
    }
    run = replace(run, **{name: value for name, value in usual.items() if origins[name] == DEFAULT})
    request = _tried(fixed_of(replace(request, run=run), ranges), trust)
    named = [name for name, origin in origins.items() if origin == COMMAND_LINE]
    folder = Path(STUDIES) / plain_name(f"{request.agent}-{request.env.env_id}") if out is None else Path(out)
    return Plan(request, how, space_of(request, ranges, named), folder, storage, processes)


def _tried(request: Request, trust: Trust) -> Request:
    """The request with what nothing reads of it, once everything that it names was opened and made."""
    with own_surroundings(request.run.threads, request.run.seed, request.run.deterministic):
        session = session_for(request, open_inputs(request, None, trust), Audience(), ALONE)
        session.close()
    refuse_unread(session.request.unread, request.origins)
    return replace(request, unread=session.request.unread)
