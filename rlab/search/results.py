"""What `rlab bench` records of a run: its evaluation, the claims of its file, and all that is needed to repeat it."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.experiment_files import Claim, Experiment, shipped_folder
from rlab.machine import hardware
from rlab.runs import files
from rlab.runs.folder import RESULT, RunFolder
from rlab.runs.listing import saved_time
from rlab.runs.status import read_status

STATED_APART = ("command", "origins", "commit", "history")  # of config.json: beside it in the result


def result_of(experiment: Experiment, run: Mapping[str, Any], judged: Evaluation) -> dict[str, Any]:
    """The result of a run that was trained and judged as its file says, as JSON.

    Args:
        run: what `facts_of` says of it.
    """
    return {
        "format": 1,
        "experiment": experiment.name,
        "command": f"rlab bench {named(experiment)}",
        "claims": held(experiment, judged),
        "seeds": list(judged.seeds),
        **run,
        "evaluation": {
            **judged.to_json("policy", experiment.agent, experiment.env),
            "first_seed": judged.first_seed,
        },
    }


def facts_of(run: RunFolder) -> dict[str, Any]:
    """How a run that has ended was carried out, and all that is needed to repeat it."""
    config, done = run.config, saved_time(run)
    status, rest = read_status(run, done, done), files.read_json(run.path / RESULT)
    return {
        "dropped": rest["dropped"],
        "resumed_at": rest["resumed_at"],
        "began": status.began,
        "wall_seconds": round(status.wall_seconds or 0.0, 1),
        "commit": config.get("commit"),
        "hardware": hardware(),
        "origins": config["origins"],
        "config": {key: value for key, value in config.items() if key not in STATED_APART},
    }


def named(experiment: Experiment) -> str:
    """How `rlab bench` is asked for this experiment."""
    return experiment.name if experiment.path.parent == shipped_folder() else experiment.path.name


def held(experiment: Experiment, judged: Evaluation) -> list[dict[str, Any]]:
    """The claims of a file with what was found and whether each holds."""
    members = len(judged.seeds)
    found = [(claim, _found(claim, judged)) for claim in experiment.claims]
    return [
        {**asdict(claim), "found": value, "of_seeds": members, "holds": value >= claim.at_least}
        for claim, value in found
    ]


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """One line for each claim, for people, and one on the result that was recorded before."""
    lines = []
    for claim in result["claims"]:
        what = claim["measure"] if claim["threshold"] is None else f"{claim['measure']} {claim['threshold']:g}"
        verdict = "holds" if claim["holds"] else "FAILS"
        lines.append(
            f"{result['experiment']}: {what} is {claim['found']:g}, claimed at least {claim['at_least']:g}: {verdict} "
            f"({claim['of_seeds']} seeds, {result['wall_seconds']:.0f} s)"
        )
    return [*lines, *([result["regression"]["line"]] if result.get("regression") else [])]


def _found(claim: Claim, judged: Evaluation) -> float:
    """What a claim is about, measured."""
    means = judged.per_seed_mean
    plain = {"iqm": judged.iqm, "median": float(statistics.median(means)), "lowest_seed": float(means.min())}
    if claim.threshold is None:
        return plain[claim.measure]
    if claim.measure == "seeds_at_or_above":
        return int((means >= claim.threshold).sum())
    return float((judged.returns >= claim.threshold).mean())
