"""The three stages of a search: trials, finalists on fresh seeds, the winner's report on others again. All take what
comes next from a database, so that several processes can share each of them."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from rlab.door import without_password
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.report.numbers import counted
from rlab.evaluation.stats import iqm
from rlab.jobs.experiment_files import read_experiment
from rlab.jobs.report_studies import STUDY
from rlab.machine import hardware, versions
from rlab.runs import files
from rlab.runs.folder import plain_name
from rlab.search.executors import Executor, Result, Task
from rlab.search.plan import FINALISTS, REPORT, SEARCH, Plan
from rlab.search.results import result_of
from rlab.search.samplers import FOUND, ITEM, OWNER, importance_of, pruner_of, sampler_of
from rlab.search.space import Space
from rlab.search.study import STATES, Asked, Trials, opened_storage, worker_in
from rlab.search.tune_progress import TuneProgress
from rlab.search.tuned import Tuned, claims_of, experiment_text, write_history

POLL = 2.0  # seconds between two looks at what other processes are doing
HOPELESS = 5  # trials that fail before any works, after which the search ends
WHAT = {SEARCH: "trial", FINALISTS: "finalist", REPORT: "winner"}


def carry_out(plan: Plan, executor: Executor, progress: bool) -> Tuned:
    """All stages, from where they are."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with opened_storage(plan.url) as storage, worker_in(plan.folder) as worker:

        def stage(name: str, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> Trials:
            in_database = plan.name if name == SEARCH else f"{plan.name}/{name}"
            return Trials(storage, in_database, plan.folder, worker, plan.about(), sampler, pruner)

        method, space = plan.how.method, plan.space
        with stage(SEARCH, sampler_of(method, space, plan.request.run.seed), pruner_of(method)) as trials:
            _write(plan, "searching")
            if trials.is_new:
                trials.queue(space.start(), {"start": True, "settings": space.defaults()})
            Stage(plan, SEARCH, trials, executor, space, plan.trials, progress).run()
            tried, importance = trials.counted(), importance_of(trials.study, space)
        write_history(plan.folder, [row_of(trial) for trial in tried])  # what other processes tried, too
        _write(plan, "choosing", importance=importance)
        with stage(FINALISTS) as trials:
            chosen = _finalists(tried, plan.how.finalists)
            _queue_missing(trials, [_item(each) for each in chosen])
            Stage(plan, FINALISTS, trials, executor, None, len(chosen), progress).run()
            finalists = _judged(trials, chosen)
        winner = max(finalists, key=lambda each: each["key"])
        with stage(REPORT) as trials:
            _queue_missing(trials, [winner["item"]])
            Stage(plan, REPORT, trials, executor, None, 1, progress).run()
            reported = _of(trials, winner["item"])
    return _finish(plan, len(tried), finalists, winner, reported, importance)


class Stage:
    """One of them: takes trials, has them carried out and records how they ended.

    Args:
        space: None: only what was queued is tried.
        total: how many there will be in all processes.
    """

    def __init__(
        self, plan: Plan, name: str, trials: Trials, executor: Executor, space: Space | None, total: int, shown: bool
    ) -> None:
        self._plan, self._name, self._trials, self._executor = plan, name, trials, executor
        self._space, self._total = space, total
        self._asked: dict[Task, tuple[Asked, dict[str, Any]]] = {}  # what runs here, with its settings
        ended = sum(trial.state.is_finished() for trial in trials.counted())
        self._progress = TuneProgress(WHAT[name], total, ended, executor.at_once, shown)

    def run(self) -> None:
        """Until all trials have ended, those of other processes, too."""
        said = False
        with self._progress:
            while True:
                self._trials.take_up_lost()
                self._executor.run(self._tasks(), self._on_point, self._on_end)
                if self._is_over():
                    return
                if not said and not self._trials.waiting():
                    self._progress.say(f"waits for what other processes try ({self._plan.name})")
                    said = True
                time.sleep(0.0 if self._trials.waiting() else POLL)

    def _is_over(self) -> bool:
        begun = len(self._trials.counted()) >= (1 if self._space is None else self._total)
        return begun and self._trials.all_ended()

    def _tasks(self) -> Iterator[Task]:
        most = None if self._space is None else self._total
        while (asked := self._trials.ask(self._space, most)) is not None:
            item = asked.item
            values = item.get("settings") or self._plan.space.settings(asked.stored)
            number = item.get("trial", asked.number)
            label = f"{WHAT[self._name]} {number}" + (" (defaults)" if item.get("start") else "")
            try:
                request = self._plan.request_for(self._name, values, number)
            except UsageError as error:
                self._record(asked, values, label, Result("failed", error=str(error)))
                continue
            folder = {SEARCH: f"trials/{asked.folder}", FINALISTS: f"finalists/{number:04d}", REPORT: "winner"}
            task = Task(label, request, self._plan.folder / folder[self._name])
            self._asked[task] = asked, values
            yield task

    def _on_point(self, task: Task, when: int, returns: np.ndarray) -> bool:
        asked, _ = self._asked[task]
        value = _iqm_of(returns.mean(axis=1))
        if value is None:
            return True
        self._progress.under_way(task.label, when / task.request.budget, value)
        if self._space is None or asked.item.get("start"):
            return True  # the defaults are judged whatever they are worth
        point = max(1, round(when / task.request.run.eval_every))  # a rollout may end some steps later
        return self._trials.goes_on(asked, point, value)

    def _on_end(self, task: Task, result: Result) -> None:
        asked, values = self._asked.pop(task)
        self._record(asked, values, task.label, result)
        if self._space is not None and result.status != "failed" and not self._plan.how.keep_trials:
            shutil.rmtree(task.folder, ignore_errors=True)

    def _record(self, asked: Asked, values: Mapping[str, Any], label: str, result: Result) -> None:
        found: dict[str, Any] = {"settings": values, "seconds": round(result.seconds, 1)}
        if result.curve is not None:
            found["curve"] = {"when": result.curve[0].tolist(), "returns": _plain(result.curve[1])}
        if result.evaluation is not None:
            found |= {"value": result.evaluation.iqm, "per_seed": result.evaluation.per_seed_mean.tolist()}
            if self._space is None:
                found |= {"evaluation": _as_json(result.evaluation), "record": dict(result.record or {})}
            self._trials.tell(asked, "done", found)
            line = f"{label}: {result.evaluation.iqm:.4g}"
        elif result.status == "stopped":
            self._trials.tell(asked, "pruned", found)
            line = f"{label}: stopped early"
        else:
            self._trials.tell(asked, "failed", {**found, "failed": result.error})
            line = f"{label}: failed: {result.error}"
        counted = self._trials.counted()
        if self._space is not None:
            write_history(self._plan.folder, [row_of(trial) for trial in counted])
        ended = sum(trial.state.is_finished() for trial in counted)
        self._progress.ended(f"{line} ({result.seconds:.0f} s)", result.seconds, ended, _best(counted))
        _check_hope(counted)


def row_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as plain data."""
    item, found = trial.user_attrs.get(ITEM, {}), found_of(trial)
    return {
        "trial": trial.number,
        "state": STATES.get(trial.state, "under way"),
        "start": bool(item.get("start")),
        "value": trial.value,
        "settings": found.get("settings", item.get("settings", {})),
        **{name: found.get(name) for name in ("per_seed", "curve", "seconds", "failed")},
        "worker": trial.user_attrs.get(OWNER, {}).get("worker"),
        "began": None if trial.datetime_start is None else trial.datetime_start.isoformat(timespec="seconds"),
    }


def found_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """What was found of a trial; `{}` while it has not ended."""
    found: Mapping[str, Any] = trial.user_attrs.get(FOUND, {})
    return found


def _finalists(trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """The best trials, and the one with the defaults where it worked; of equal ones those whose other seeds and whose
    curves are better.

    Raises:
        RlabError: none has worked.
    """
    done = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: (*_key(t), -t.number))
    if not done:
        raise RlabError("no trial has worked; rlab tune AGENT ENV --space shows where they were looked for.")
    best = done[-most:][::-1]
    return best + [t for t in done[:-most] if t.user_attrs.get(ITEM, {}).get("start")]


def _key(trial: FrozenTrial) -> tuple[float, float, float]:
    """What is better: the IQM over seeds, which where all balance to the end is the same; then all seeds, then when
    they learned it."""
    found = found_of(trial)
    curve = (found.get("curve") or {}).get("returns", [])
    points = [value for member in curve for value in member if value is not None]
    over_time = float(np.mean(points)) if points else 0.0
    return float(trial.value or 0.0), float(np.mean(found["per_seed"])), over_time


def _item(trial: FrozenTrial) -> dict[str, Any]:
    start = bool(trial.user_attrs.get(ITEM, {}).get("start"))
    return {"trial": trial.number, "start": start, "settings": found_of(trial)["settings"], "value": trial.value}


def _queue_missing(trials: Trials, items: Sequence[Mapping[str, Any]]) -> None:
    queued = {trial.user_attrs.get(ITEM, {}).get("trial") for trial in trials.counted()}
    for item in items:
        if item["trial"] not in queued:
            trials.queue({}, item=item)


def _of(trials: Trials, item: Mapping[str, Any]) -> FrozenTrial:
    """The trial of a later stage that judged this one; the first, where two processes queued it."""
    return next(t for t in trials.counted() if t.user_attrs.get(ITEM, {}).get("trial") == item["trial"])


def _judged(trials: Trials, chosen: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """The finalists that could be judged.

    Raises:
        RlabError: none could.
    """
    of = [(_item(each), _of(trials, _item(each))) for each in chosen]
    found = [{"item": item, "trial": trial, "key": _key(trial)} for item, trial in of if trial.value is not None]
    if not found:
        raise RlabError(f"no finalist could be judged; the last one failed: {found_of(of[-1][1]).get('failed')}")
    return found


def _finish(
    plan: Plan,
    tried: int,
    finalists: Sequence[Mapping[str, Any]],
    winner: Mapping[str, Any],
    reported: FrozenTrial,
    importance: Mapping[str, float] | None,
) -> Tuned:
    """Write the winner as an experiment file with its result, and all that was found."""
    if reported.value is None:
        raise RlabError(f"the winner could not be judged: {found_of(reported).get('failed')}")
    item, judged = winner["item"], _evaluation(found_of(reported)["evaluation"])
    request = plan.request_for(REPORT, item["settings"], item["trial"])
    path = plan.folder / f"{plain_name(f'{request.agent}-{request.env.env_id}')}.toml"
    trials, seeds = counted(tried, "trial"), counted(len(plan.seeds[SEARCH]), "seed")
    about = f"Found by rlab tune ({plan.how.method}, {trials} of {seeds})"
    bench = {"seed": request.run.seed, "seeds": request.run.seeds, "episodes": plan.how.episodes}
    files.write_bytes(path, experiment_text(request, about, bench, claims_of(judged)).encode())
    experiment = read_experiment(path)
    files.write_json(experiment.result_path, result_of(experiment, found_of(reported)["record"], judged))
    evaluation = judged.to_json("policy", request.agent, request.env.env_id)
    facts = {
        "importance": importance,
        "finalists": [_finalist(each["item"], each["trial"]) for each in finalists],
        "winner": {**item, "experiment": path.name, "run": "winner", "evaluation": evaluation},
    }
    return Tuned(plan.folder, _write(plan, "finished", **facts))


def _finalist(item: Mapping[str, Any], trial: FrozenTrial) -> dict[str, Any]:
    found = found_of(trial)
    return {
        **{name: item[name] for name in ("trial", "start", "settings")},
        "search_iqm": item["value"],
        "iqm": trial.value,
        "ci95": None if (interval := _evaluation(found["evaluation"]).ci95) is None else list(interval),
        "per_seed": found["per_seed"],
        "run": f"finalists/{item['trial']:04d}",
    }


def _write(plan: Plan, status: str, **found: Any) -> dict[str, Any]:
    """Write `study.json`, and give what it holds."""
    facts = {
        "format": 1,
        "status": status,
        **plan.about(),
        "study": plan.name,
        "trials": plan.trials,
        "unit": plan.request.unit,
        "seeds": plan.seeds,
        "storage": None if plan.storage is None else without_password(plan.storage),
        "command": plan.request.command,
        "hardware": hardware(),
        "versions": versions(),
        "importance": None,
        "finalists": [],
        "winner": None,
        **found,
    }
    files.write_json(plan.folder / STUDY, facts)
    return facts


def _as_json(judged: Evaluation) -> dict[str, Any]:
    return {
        "seeds": list(judged.seeds),
        "first_seed": judged.first_seed,
        "returns": judged.returns.tolist(),
        "lengths": judged.lengths.tolist(),
    }


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    returns, lengths = np.array(data["returns"], np.float64), np.array(data["lengths"], np.int64)
    return Evaluation(tuple(data["seeds"]), data["first_seed"], returns, lengths)


def _iqm_of(means: np.ndarray) -> float | None:
    """The IQM of the members that still learn; None where there are none."""
    means = means[np.isfinite(means)]
    return iqm(means) if len(means) else None


def _plain(returns: np.ndarray) -> list[list[float | None]]:
    return [[float(value) if np.isfinite(value) else None for value in member] for member in returns]


def _best(trials: Sequence[FrozenTrial]) -> str:
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not done:
        return ""
    best = max(done, key=_key)
    return f"{best.value:.4g} (trial {best.user_attrs.get(ITEM, {}).get('trial', best.number)})"


def _check_hope(trials: Sequence[FrozenTrial]) -> None:
    """Raise RlabError where the first trials all failed."""
    failed = [found_of(trial)["failed"] for trial in trials if "failed" in found_of(trial)]
    worked = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    if not worked and len(failed) >= HOPELESS:
        raise RlabError(f"the first {len(failed)} trials all failed, the last one: {failed[-1]}")
