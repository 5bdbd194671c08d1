"""`rlab bench`: training what an experiment file says, and holding the result to the file's claims."""

import statistics
import time
from dataclasses import asdict
from typing import Any

from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.jobs.experiment_files import Claim, Experiment
from rlab.jobs.foreign_code import check_trust
from rlab.jobs.request import train_request
from rlab.jobs.running import start
from rlab.machine import hardware
from rlab.runs import files
from rlab.trust import Trust


def run_experiment(experiment: Experiment, seeds: int, progress: bool = False, trust: Trust = False) -> dict[str, Any]:
    """Train with the file's settings over `seeds` training seeds and judge the final weights; the result as JSON."""
    check_trust(str(experiment.path), experiment.foreign_modules(), trust)
    settings = {"seed": experiment.seed, "seeds": seeds, "final_eval_episodes": experiment.episodes}
    env = EnvSpec.parse(experiment.env)
    request = train_request(experiment.agent, env, (), (), str(experiment.path), settings, trust=trust)
    began = time.perf_counter()
    done = start(request, None, progress=progress, trust=trust)
    seconds = time.perf_counter() - began
    if done.evaluation is None:
        raise UsageError(f"{experiment.path} was interrupted; nothing was recorded. Its run: {done.name}")
    report = done.evaluation.to_json("policy", experiment.agent, experiment.env)
    return {
        "format": 1,
        "experiment": experiment.name,
        "command": f"rlab bench experiments/{experiment.path.name}",
        "claims": [_held(claim, report) for claim in experiment.claims],
        "wall_seconds": round(seconds, 1),
        "hardware": hardware(),
        "config": {key: value for key, value in request.to_json().items() if key not in ("command", "origins")},
        "evaluation": report,
    }


def record(experiment: Experiment, result: dict[str, Any]) -> None:
    """Write a result beside its file."""
    files.write_json(experiment.result_path, result)


def verdicts(result: dict[str, Any]) -> list[str]:
    """One line for each claim, for people."""
    lines = []
    for claim in result["claims"]:
        what = claim["measure"] if claim["threshold"] is None else f"{claim['measure']} {claim['threshold']:g}"
        verdict = "holds" if claim["holds"] else "FAILS"
        lines.append(
            f"{result['experiment']}: {what} is {claim['found']:g}, claimed at least {claim['at_least']:g}: {verdict} "
            f"({claim['of_seeds']} seeds, {result['wall_seconds']:.0f} s)"
        )
    return lines


def _held(claim: Claim, report: dict[str, Any]) -> dict[str, Any]:
    """A claim with the number that was found and whether it holds."""
    found = _found(claim, report)
    return {**asdict(claim), "found": found, "of_seeds": len(report["per_seed"]), "holds": found >= claim.at_least}


def _found(claim: Claim, report: dict[str, Any]) -> float:
    """What a claim is about, measured."""
    means = [member["return_mean"] for member in report["per_seed"]]
    plain = {"iqm": float(report["iqm"]), "median": float(statistics.median(means)), "lowest_seed": min(means)}
    if claim.threshold is None:
        return float(plain[claim.measure])
    if claim.measure == "seeds_at_or_above":
        return sum(mean >= claim.threshold for mean in means)
    returns = [value for member in report["per_seed"] for value in member["returns"]]
    return sum(value >= claim.threshold for value in returns) / len(returns)
