"""`rlab train AGENT ENV`: from nothing to a judged, saved policy."""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlab.agents import AGENTS
from rlab.cli.flags import HELP, given, parse
from rlab.cli.main import STOPPED
from rlab.cli.request import Request, check_budget, command_words, defaults_for, spec_for
from rlab.errors import UsageError
from rlab.runs.config import SourceConfig

USAGE = "rlab train AGENT ENV [settings]; for example: rlab train dqn CartPole-v1 --seeds 10"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train on, where to put it, and how to report."""

    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    out: str | None = None  # the run folder; None: a fresh one under runs/
    experiment: str | None = None  # NAME or FILE of tuned settings; none: the agent's plain defaults
    trust: bool = False  # run layers, envs and wrappers of others that the teacher's folder names
    json: bool = False  # the final evaluation as one JSON object on standard output


def run(argv: list[str]) -> int:
    """Parse, train, report."""
    words, rest = _agent_and_env(argv)
    agent, env_id = words
    request, options = read_request(agent, env_id, rest)
    from rlab import api  # torch takes its time: after every check of the words

    return carry_out(request, options.out, options.json, partial(api.start, trust=options.trust))


def carry_out(request: Request, out: str | None, as_json: bool, start: Callable[..., Any]) -> int:
    """Train as asked, with a bar, and report for people or as one JSON object; the exit code."""
    report = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        done = start(request, out, progress=True)
        print(done.report())
    if as_json and done.evaluation is not None:
        evaluation = done.evaluation.to_json(str(done.path), request.agent, request.env.env_id)
        print(json.dumps(evaluation), file=report)
    return 0 if done.finished else STOPPED


def read_request(agent: str, env_id: str, argv: list[str]) -> tuple[Request, TrainOptions]:
    """The request and options that the words after AGENT and ENV ask for."""
    prog = f"rlab train {agent} {env_id}"
    # The experiment decides the defaults of everything else, so it is looked for first.
    chosen = value_of(argv, "--experiment")
    if chosen is None and {"--wrapper", "--env-kwargs"} & {word.partition("=")[0] for word in argv}:
        chosen = "none"  # tuned settings are for the env as it is; --experiment NAME asks for them all the same
    start = defaults_for(agent, env_id, chosen)
    schemas = (TrainOptions(), start.run, SourceConfig(), start.settings)
    options, run_config, sources, settings = parse(argv, schemas, prog=prog, subject=agent)
    env = spec_for(start.experiment, env_id, options.env_kwargs, options.wrapper, run_config.max_episode_steps)
    named = given(argv, schemas)
    check_budget(agent, named)
    origins = start.origins(named, (sources,))
    return Request(agent, env, run_config, settings, origins, command_words(), sources), options


def value_of(argv: list[str], wanted: str) -> str | None:
    """The value that the words give to one flag, before they are parsed; None where it is not among them."""
    for index, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag == wanted:
            return value if equals else next(iter(argv[index + 1 :]), None)
    return None


def _agent_and_env(argv: list[str]) -> tuple[tuple[str, str], list[str]]:
    words = argv[:2]
    if len(words) == 2 and words[0] in AGENTS and words[1] in HELP:  # the agent's own settings, whatever the env
        start = defaults_for(words[0], "", "none")
        schemas = (TrainOptions(), start.run, SourceConfig(), start.settings)
        parse(["--help"], schemas, prog=f"rlab train {words[0]} ENV")
    if {"--help", "-h"} & set(words):
        print(f"usage: {USAGE}\n`rlab list agents` and `rlab list envs` name what there is; "
              "`rlab train AGENT --help` lists the settings of an agent.")
        raise SystemExit(0)
    if len(words) < 2 or any(word.startswith("-") for word in words):
        raise UsageError(f"train needs an agent and an env first: {USAGE}")
    return (words[0], words[1]), argv[2:]
