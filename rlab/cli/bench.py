"""`rlab bench FILE...`: run experiment files, record what came out beside them, and hold them to their claims."""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.errors import UsageError
from rlab.jobs.experiment_files import Claim, Experiment, experiment_path, read_experiment


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Which experiments to run."""

    files: tyro.conf.Positional[tuple[str, ...]]  # experiment files, or names from `rlab list experiments`
    seeds: int | None = None  # a trial with fewer or more than the file says; its result is not recorded
    json: bool = False  # one JSON object on standard output


SCHEMAS = (BenchOptions,)
PAGE = Page(
    "rlab bench FILE ... [settings]",
    "Run experiment files, record what came out beside them, and hold them to their claims.",
    ("rlab bench dqn-CartPole-v1 --seeds 3",),
)


def run(argv: list[str]) -> int:
    """Run each file; 1 where a claim fails."""
    (options,) = parse(argv, SCHEMAS, prog="rlab bench", page=PAGE)
    if not options.files:
        raise UsageError("bench needs one experiment file or more; `rlab list experiments` names what there is.")
    experiments = [read_experiment(experiment_path(file)) for file in options.files]
    results = []
    for experiment in experiments:
        result = run_experiment(experiment, options.seeds or experiment.seeds, quiet=options.json)
        if options.seeds is None:
            _record(experiment.result_path, result)
        results.append(result)
        if not options.json:
            where = "not recorded, since --seeds was given" if options.seeds else f"recorded: {experiment.result_path}"
            print("\n".join([*_verdicts(result), where]))
    if options.json:
        print(json.dumps({"format": 1, "results": results}))
    return 0 if all(claim["holds"] for result in results for claim in result["claims"]) else 1


def run_experiment(experiment: Experiment, seeds: int, quiet: bool = False) -> dict[str, Any]:
    """Train with the file's settings over `seeds` training seeds and judge the final weights; the result as JSON."""
    from rlab import api
    from rlab.envs import EnvSpec
    from rlab.jobs.request import request_from_keywords
    from rlab.runs.folder import hardware

    spec = EnvSpec.parse(experiment.env, experiment.env_kwargs, experiment.wrapper)
    keywords = {"seed": experiment.seed, "seeds": seeds, "final_eval_episodes": experiment.episodes}
    request = request_from_keywords(experiment.agent, spec, str(experiment.path), keywords)
    began = time.perf_counter()
    done = api.start(request, None, progress=not quiet)
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


def _held(claim: Claim, report: dict[str, Any]) -> dict[str, Any]:
    """A claim with the number that was found and whether it holds."""
    found = _found(claim, report)
    return {**asdict(claim), "found": found, "of_seeds": len(report["per_seed"]), "holds": found >= claim.at_least}


def _found(claim: Claim, report: dict[str, Any]) -> float:
    """What a claim is about, measured."""
    means = [member["return_mean"] for member in report["per_seed"]]
    if claim.measure == "iqm":
        return float(report["iqm"])
    if claim.measure == "median":
        return float(statistics.median(means))
    if claim.measure == "lowest_seed":
        return min(means)
    assert claim.threshold is not None
    if claim.measure == "seeds_at_or_above":
        return sum(mean >= claim.threshold for mean in means)
    returns = [value for member in report["per_seed"] for value in member["returns"]]
    return sum(value >= claim.threshold for value in returns) / len(returns)


def _verdicts(result: dict[str, Any]) -> list[str]:
    lines = []
    for claim in result["claims"]:
        what = claim["measure"] if claim["threshold"] is None else f"{claim['measure']} {claim['threshold']:g}"
        verdict = "holds" if claim["holds"] else "FAILS"
        lines.append(
            f"{result['experiment']}: {what} is {claim['found']:g}, claimed at least {claim['at_least']:g}: {verdict} "
            f"({claim['of_seeds']} seeds, {result['wall_seconds']:.0f} s)"
        )
    return lines


def _record(path: Path, result: dict[str, Any]) -> None:
    from rlab.runs import files

    files.write_json(path, result)
