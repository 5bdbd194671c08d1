"""`rlab tune --method pbt`: population-based training (Jaderberg et al. 2017). One stack of members, each with settings
of its own, is trained once; from time to time the worst take over the best, weights and settings, and change the latter
a little.

The best member was chosen by its luck, too: its weights were found once and by no seed that could be repeated. What can
be repeated is the schedule of settings that led to it. So it is trained again, with fresh weights on seeds that chose
nothing, and that is the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlab.agents import load_agent
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.report.numbers import counted
from rlab.evaluation.stats import too_narrow
from rlab.jobs.defaults import DEFAULT
from rlab.jobs.evolution import LINEAGE, Explore, schedule_of
from rlab.jobs.report_studies import BRED, POPULATION, REPLAY
from rlab.jobs.request import Request
from rlab.jobs.resume import continue_run
from rlab.jobs.running import Run, start
from rlab.learning.novelty_config import pays_for_novelty
from rlab.learning.per_member import settings_per_member
from rlab.machine import hardware, versions
from rlab.runs import files
from rlab.runs.folder import is_run
from rlab.search.plan import REPORT, SEARCH, Plan
from rlab.search.space import Space
from rlab.search_ranges import Range
from rlab.trust import Trust

MEMBERS = 10  # unless the user says otherwise
ROUNDS = 20  # evaluations, behind each of which the worst take over the best, unless the user says how often
SHARE = 0.2  # of the members that do; Jaderberg et al. 2017, section 4.1
BY = "Jaderberg et al. 2017: truncation selection, factors 0.8 and 1.2"


@dataclass(frozen=True)
class Bred:
    """A population that was trained, and its schedule on fresh seeds. `facts` is what `population.json` holds."""

    path: Path  # the folder of the study
    facts: Mapping[str, Any]

    @property
    def schedule(self) -> list[list[Any]]:
        """The settings that the best member's weights were learned with: pairs of a time and the settings from then."""
        return [list(each) for each in self.facts["winner"]["schedule"]]

    @property
    def evaluation(self) -> dict[str, Any]:
        """The schedule on seeds that chose nothing, as `rlab eval --json` has it."""
        return dict(self.facts["winner"]["evaluation"])

    def report(self) -> str:
        """The result for people."""
        facts, winner = self.facts, self.facts["winner"]
        found, seeds = winner["evaluation"], facts["seeds"]["report"]
        interval = "" if found["ci95"] is None else " [{:.4g}, {:.4g}]".format(*found["ci95"])
        lines = [f"{'from':>12}  settings of the best member, seed {winner['seed']}"]
        lines += [f"{at:>12,}  {', '.join(f'{n}={v:.4g}' for n, v in own.items())}" for at, own in self.schedule]
        lines += [
            f"the population: {facts['exploits']} times one took another over; its best member returned "
            f"{winner['population_return']:.4g} in the final evaluation, whose episodes did not choose it; its weights "
            "cannot be found again on other seeds",
            f"{found['iqm']:.4g}{interval} IQM of its schedule on {counted(len(seeds), 'training seed')} that chose "
            f"nothing, {seeds[0]} to {seeds[-1]}"
            + ("" if found["ci95"] is None else ", 95 % interval for other seeds"),
            *([f"({narrow})"] if (narrow := too_narrow(len(seeds))) else []),
            f"policies: {self.path / POPULATION}, {self.path / REPLAY}",
        ]
        return "\n".join(lines)


def carry_out(plan: Plan, progress: bool, trust: Trust) -> Bred:
    """Train the population and then its best member's schedule, from where they are.

    Raises:
        UsageError: nothing that is searched can differ from member to member.
        RlabError: a run failed.
    """
    request, evolution = population_of(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    population = _run(replace(request, evolution=evolution), plan.folder / POPULATION, progress, trust)
    rows = _lineage(population.path)
    winner = best_member(population)
    schedule = schedule_of(evolution["population"], rows, winner)
    again = plan.request_for(REPORT, {}, winner)
    again = replace(again, run=replace(again.run, eval_every=request.run.eval_every))
    follows = {"population": [schedule[0][1]] * again.run.seeds, "schedule": schedule}
    replayed = _run(replace(again, evolution=follows), plan.folder / REPLAY, progress, trust)
    return Bred(plan.folder, _written(plan, evolution, population, rows, winner, schedule, replayed))


def population_of(plan: Plan) -> tuple[Request, dict[str, Any]]:
    """The request of the population, and the settings of its members at first with how they change: the first has those
    that the search starts from, the others are drawn.

    Raises:
        UsageError: nothing that is searched can differ from member to member.
    """
    request, ranges = plan.request, breedable(plan.request, plan.space)
    if pays_for_novelty(request.settings):
        raise UsageError("--method pbt: members do not take over what novelty has learned; leave --novelty out.")
    run, origins = request.run, request.origins
    usual: dict[str, Any] = {"seeds": MEMBERS, "eval_every": max(1, request.budget // ROUNDS)}
    run = replace(run, **{name: value for name, value in usual.items() if origins[name] == DEFAULT})
    run = replace(run, final_eval_episodes=plan.how.episodes)
    if run.seeds < 2:
        raise UsageError("--method pbt needs a population: --seeds 10, the members of which two or more are compared.")
    explore = Explore(ranges)
    defaults = {name: getattr(request.settings, name) for name in ranges}
    drawn = (explore.drawn(np.random.default_rng([run.seed, member])) for member in range(1, run.seeds))
    how = {"share": SHARE, "factors": list(explore.factors)}
    return replace(request, run=run), {"population": [defaults, *drawn], **how, "ranges": ranges}


def breedable(request: Request, space: Space) -> dict[str, dict[str, Any]]:
    """The ranges of the settings that are searched and may differ from member to member while they train.

    Raises:
        UsageError: there are none.
    """
    able = settings_per_member(load_agent(request.agent))
    found = {
        name: {"low": each.space.low, "high": each.space.high, "scale": each.space.scale}
        for name, each in space.parameters.items()
        if name in able and isinstance(each.space, Range) and not each.whole and each.setting.default is not None
    }
    if not found:
        raise UsageError(
            f"--method pbt changes settings while members train, and nothing that is searched can: of {request.agent} "
            f"those are {', '.join(able) or 'none'}. Give some of them a range: --ranges FILE.toml."
        )
    return found


def best_member(run: Run) -> int:
    """The member with the highest mean return in the last evaluation during training, whose episodes are others than
    those of the final one."""
    _, returns = run.curve()
    last = returns[:, -1]
    if not np.isfinite(last).any():
        raise RlabError(f"{run.name}: no member of the population could be judged.")
    return int(np.nanargmax(last))


def _run(request: Request, folder: Path, progress: bool, trust: Trust) -> Run:
    """The run of a request from where its folder is, finished.

    Raises:
        KeyboardInterrupt: it was interrupted, and is saved.
    """
    if is_run(folder):
        run = continue_run(folder, {}, progress, trust, allow_version_change=True)
    else:
        run = start(request, folder, progress, trust)
    if run.interrupted:
        raise KeyboardInterrupt(f"{run.name} is saved")
    if not run.finished or run.evaluation is None:
        raise RlabError(f"{run.name} did not end: {run.report()}")
    return run


def _lineage(run: Path) -> list[dict[str, Any]]:
    path = run / LINEAGE
    return list(files.read_json(path)["rows"]) if path.is_file() else []


def _written(
    plan: Plan,
    evolution: Mapping[str, Any],
    population: Run,
    rows: list[dict[str, Any]],
    winner: int,
    schedule: list[list[Any]],
    replayed: Run,
) -> dict[str, Any]:
    """Write `population.json`, and give what it holds."""
    request, judged = plan.request, _judged(population)
    first, members = population.config["run"]["seed"], len(evolution["population"])
    seed = first + winner
    found = _judged(replayed).to_json("policy", request.agent, request.env.env_id)
    own = judged.returns[judged.seeds.index(seed)].mean() if seed in judged.seeds else np.nan
    facts = {
        "format": 1,
        "status": "finished",
        **plan.about(),
        "how": BY,
        "evolution": dict(evolution),
        "unit": request.unit,
        "budget": request.budget,
        "seeds": {SEARCH: list(range(first, first + members)), REPORT: plan.seeds[REPORT]},
        "exploits": len(rows),
        "lineage": f"{POPULATION}/{LINEAGE}",
        "population_returns": judged.per_seed_mean.tolist(),
        "command": request.command,
        "hardware": hardware(),
        "versions": versions(),
        "winner": {
            "member": winner,
            "seed": seed,
            "settings": schedule[-1][1],
            "schedule": schedule,
            "population_return": float(own),
            "evaluation": found,
        },
    }
    files.write_json(plan.folder / BRED, facts)
    return facts


def _judged(run: Run) -> Evaluation:
    assert run.evaluation is not None  # `_run` gives no other
    return run.evaluation
