"""`rlab resume RUN`: go on from the last save, to the end of the budget or of a larger one."""

import contextlib
import json
import sys
from dataclasses import dataclass

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.main import STOPPED


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Which run to go on with, and what changes: its budget, or how it is judged, logged and saved."""

    run: tyro.conf.Positional[str]  # a run folder
    env_steps: int | None = None  # the whole budget per member, those included that the run has had; None: as it was
    updates: int | None = None  # the same for an agent that learns from a dataset
    eval_every: int | None = None  # env steps between evaluations during training; 0: none
    eval_episodes: int | None = None  # greedy episodes per member in each of them
    final_eval_episodes: int | None = None  # greedy episodes per member with the final weights; 0: none
    eval_envs: int | None = None  # envs that judge at once, in all
    eval_alone: bool = False  # close the training envs while judging; --no-eval-alone: do not
    max_episode_steps: int | None = None  # time limit of an env that has none, so that it can be judged
    checkpoint_every: int | None = None  # env steps between checkpoints
    log_every: int | None = None  # env steps between rows of metrics
    trust: bool = False  # run an agent, env or wrapper of others that the folder names
    json: bool = False  # how the run ended and its final evaluation as one JSON object on standard output


SCHEMAS = (ResumeOptions,)
PAGE = Page(
    "rlab resume RUN [settings]",
    "Go on with a run from its last save, to the end of its budget or of a larger one.",
    ("rlab resume runs/my-run", "rlab resume runs/my-run --env-steps 200000"),
)


def run(argv: list[str]) -> int:
    """Parse, resume, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab resume", page=PAGE)
    from rlab.cli.running import go_on
    from rlab.cli.train import run_as_json
    from rlab.runs.folder import RunFolder

    changes = {name: getattr(options, name) for name in given(argv, SCHEMAS) - {"run", "trust", "json"}}
    report = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        done = go_on(options.run, changes, progress=True, trust=options.trust)
        print(done.report())
    if options.json:
        config = RunFolder.open(options.run).config
        print(json.dumps(run_as_json(done, config["agent"], config["env"]["env_id"])), file=report)
    return STOPPED if done.interrupted else 0
