"""`rlab bench FILE...`: run experiment files, hold them to their claims and to what is on record, and record them."""

from dataclasses import dataclass
from typing import Literal

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.main import STOPPED
from rlab.cli.shared import show
from rlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Which experiments to run."""

    files: tyro.conf.Positional[tuple[str, ...]] = ()  # experiment files, or names from `rlab list experiments`
    all: bool = False  # every experiment that comes with rlab, in their place
    seeds: int | None = None  # a trial with fewer or more than the file says; its result is not recorded
    recorded: bool = False  # train nothing: hold the recorded results to the claims as the files state them now
    jobs: int = 1  # experiments that run at once, each in a process of its own
    engine: Literal["local", "ray"] = "local"  # where they run: on this machine, or on a Ray cluster
    out: str | None = None  # folder of the runs; None: that of the same bench if it was interrupted, else a fresh one
    accept_worse: bool = False  # record a result that is worse than the one on record, too
    trust: bool = False  # run agents, envs, wrappers and networks from outside rlab that the files name
    json: bool = False  # one JSON object on standard output


SCHEMAS = (BenchOptions,)
PAGE = Page(
    "rlab bench FILE ... [settings]",
    "Run experiment files, hold the results to their claims and to what is on record, and record them.",
    ("rlab bench dqn-CartPole-v1 --seeds 3", "rlab bench --all --jobs 4", "rlab bench --all --recorded"),
)
OF_TRAINING = frozenset({"seeds", "jobs", "engine", "out", "accept_worse", "trust"})


def run(argv: list[str]) -> int:
    """Run the files; 1 where a claim fails, a result is worse than on record, or an experiment could not be run."""
    (options,) = parse(argv, SCHEMAS, prog="rlab bench", page=PAGE)
    from rlab.search.bench import bench, hold_recorded

    if options.recorded:
        if unread := given(argv, SCHEMAS) & OF_TRAINING:
            raise UsageError(f"--recorded trains nothing; leave out --{min(unread).replace('_', '-')}.")
        done = hold_recorded(*options.files, every=options.all)
    else:
        settings = {name: getattr(options, name) for name in OF_TRAINING}
        done = bench(*options.files, every=options.all, progress=True, **settings)
    code = show(options.json, done.to_json, done.summary, done.success)
    return STOPPED if done.interrupted else code
