"""`rlab bench`: training what experiment files say, and holding the results to the claims and to what is on record."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rlab.door import MOST_TOML, read_file
from rlab.engines.choice import job_engine
from rlab.errors import UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.evidence import read_evidence
from rlab.jobs.experiment_files import Experiment, experiment_path, list_experiments, read_experiment
from rlab.jobs.foreign_code import check_trust
from rlab.jobs.jobs_progress import JobsProgress
from rlab.jobs.signals import stop_on_signal
from rlab.machine import commit, versions
from rlab.runs import files, locks
from rlab.runs.folder import ROOT, claim_folder, fresh_folder
from rlab.search.bench_jobs import BenchJobs, BenchRequest
from rlab.search.regression import WORSE
from rlab.search.results import held, verdicts
from rlab.trust import Trust

BENCH = "bench.json"  # what a bench was asked for, in its folder
Named = str | PathLike[str]


@dataclass(frozen=True)
class Bench:
    """What became of the experiments of a bench."""

    folder: str | None  # None: nothing was trained
    results: tuple[dict[str, Any], ...]
    failed: dict[str, str]  # experiment -> why it has no result
    not_recorded: dict[str, str]  # experiment -> why its result is not recorded
    interrupted: bool = False
    accepted: bool = False  # what is worse than on record is recorded all the same

    @property
    def success(self) -> bool:
        """Whether every experiment was run, every claim holds, and nothing is worse than on record."""
        holds = all(claim["holds"] for result in self.results for claim in result["claims"])
        worse = [result for result in self.results if (result.get("regression") or {}).get("verdict") == WORSE]
        return holds and not self.failed and (self.accepted or not worse)

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab bench --json` prints."""
        return {"format": 1, **vars(self), "results": list(self.results), "success": self.success}

    def summary(self) -> str:
        """The verdicts for people."""
        lines = []
        for result in self.results:
            lines += verdicts(result)
            if reason := self.not_recorded.get(result["experiment"]):
                lines.append(f"{result['experiment']}: not recorded: {reason}")
        lines += [f"{name}: NOT RUN: {why}" for name, why in self.failed.items()]
        if self.interrupted:
            lines.append(f"interrupted with {len(self.results)} done; the same command goes on from {self.folder}")
        return "\n".join(lines)


def bench(
    *named: Named,
    every: bool = False,
    seeds: int | None = None,
    jobs: int = 1,
    engine: str = "local",
    out: str | Path | None = None,
    accept_worse: bool = False,
    trust: Trust = False,
    progress: bool = False,
) -> Bench:
    """Run experiments, hold them to their claims and to their recorded results, and record what came out.

    A bench that was interrupted goes on where it stopped, exactly: its runs are run folders in one folder.

    Args:
        named: experiment files, or names of those that come with rlab.
        every: all that come with rlab, in their place.
        seeds: a trial with fewer or more than the files say; it is not recorded.
        jobs: how many experiments run at once, each in a process of its own.
        engine: where they run, `local` or `ray`.
        out: the folder of the bench; None: that of the same bench, where it was interrupted, else a fresh one.
        accept_worse: record a result that is worse than the one on record, too.
        trust: run code from outside rlab that the files name.
        progress: show how far they are.

    Raises:
        UsageError: nothing is named, or the only experiment cannot be run.
        RlabError: a file is broken, or needs trust.
    """
    found = _experiments(named, every)
    for each in found:
        check_trust(str(each.path), each.foreign_modules(), trust)
    request = BenchRequest(found, seeds, accept_worse, trust)
    path, name, goes_on = _folder(request, out)
    with ExitStack() as stack:
        stack.enter_context(locks.held(path, name))
        on = stack.enter_context(closing(job_engine(engine, jobs)))
        running = BenchJobs(request, path, name)
        running.shows = stack.enter_context(JobsProgress(running.to_do)) if progress else None
        if goes_on and running.shows is not None:
            running.shows.say(f"goes on with {name}: {running.to_do} of {len(found)} to do")
        stop = stack.enter_context(stop_on_signal())
        on.run(running.jobs(), running.hear, stop)
        missing = len(found) - len(running.results) - len(running.failed)
    if len(found) == 1 and running.errors:
        raise running.errors[0]
    if not missing:
        files.write_json(path / BENCH, {**_identity(request), "finished": True})
    results = tuple(running.results[each.name] for each in found if each.name in running.results)
    return Bench(name, results, running.failed, running.not_recorded, bool(missing), accept_worse)


def hold_recorded(*named: Named, every: bool = False) -> Bench:
    """Hold recorded results to the claims as the files state them now; nothing is trained.

    Raises:
        UsageError: nothing is named.
        RlabError: a file is broken.
    """
    results, failed = [], {}
    for each in _experiments(named, every):
        if not each.result_path.is_file():
            failed[each.name] = "it has no recorded result"
            continue
        known = read_evidence(each.result_path)
        assert known.returns is not None
        assert known.protocol is not None
        lengths = np.zeros(known.returns.shape, np.int64)
        judged = Evaluation(known.seeds, known.protocol.first_seed, known.returns, lengths)
        results.append({**files.read_json(each.result_path), "claims": held(each, judged), "regression": None})
    return Bench(None, tuple(results), failed, {})


def _experiments(named: Sequence[Named], every: bool) -> tuple[Experiment, ...]:
    if every == bool(named):
        raise UsageError("bench needs experiment files, or --all; `rlab list experiments` names those of rlab.")
    found = list_experiments() if every else [read_experiment(experiment_path(str(each))) for each in named]
    if len({each.name for each in found}) < len(found):
        raise UsageError("two of these experiments have the same name; bench them apart.")
    return tuple(found)


def _identity(request: BenchRequest) -> dict[str, Any]:
    """What tells a bench from others: it goes on where the same one was interrupted."""
    contents = {each.name: files.sha256(read_file(each.path, MOST_TOML, follow=True)) for each in request.experiments}
    return {"experiments": contents, "seeds": request.seeds, "commit": commit(), "versions": versions()}


def _folder(request: BenchRequest, out: str | Path | None) -> tuple[Path, str, bool]:
    """The folder of a bench, its name, and whether it is that of the same one, which was interrupted; else a fresh one.

    Raises:
        UsageError: there is another bench, or something else, in `out`.
    """
    identity = _identity(request)
    candidates = sorted(Path(ROOT).glob(f"bench-*/{BENCH}"), reverse=True) if out is None else [Path(out) / BENCH]
    for known in candidates:
        if not known.is_file():
            continue
        asked = files.read_json(known)
        if not asked.pop("finished", False) and asked == {"format": files.FORMAT, **identity}:
            if out is not None or locks.is_held(known.parent) is not True:
                return known.parent.absolute(), str(known.parent), True
        elif out is not None:
            raise UsageError(f"{out} is of another bench, or one that is finished; name a new folder with --out.")
    if out is not None:
        claim_folder(Path(out))
        path = Path(out)
    else:
        path = fresh_folder(f"bench-{time.strftime('%Y%m%d-%H%M%S')}")
    files.write_json(path / BENCH, {**identity, "finished": False})
    return path.absolute(), str(path), False
