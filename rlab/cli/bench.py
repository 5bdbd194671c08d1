"""`rlab bench FILE...`: run experiment files, record what came out beside them, and hold them to their claims."""

import json
from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.door import clean
from rlab.errors import UsageError
from rlab.jobs.experiment_files import experiment_path, read_experiment


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Which experiments to run."""

    files: tyro.conf.Positional[tuple[str, ...]]  # experiment files, or names from `rlab list experiments`
    seeds: int | None = None  # a trial with fewer or more than the file says; its result is not recorded
    trust: bool = False  # run agents, envs, wrappers and networks from outside rlab that the files name
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
        raise UsageError("bench needs one experiment file or more; `rlab list experiments` names them.")
    experiments = [read_experiment(experiment_path(file)) for file in options.files]
    from rlab.search.bench import record, run_experiment, verdicts

    results = []
    for experiment in experiments:
        seeds = options.seeds or experiment.seeds
        results.append(run_experiment(experiment, seeds, progress=not options.json, trust=options.trust))
        if options.seeds is None:
            record(experiment, results[-1])
        if not options.json:
            where = "not recorded, since --seeds was given" if options.seeds else f"recorded: {experiment.result_path}"
            print(clean("\n".join([*verdicts(results[-1]), where])))
    if options.json:
        print(json.dumps({"format": 1, "results": results}))
    return 0 if all(claim["holds"] for result in results for claim in result["claims"]) else 1
