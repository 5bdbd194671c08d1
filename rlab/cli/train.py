"""`rlab train AGENT ENV`: from nothing to a judged, saved policy."""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rlab.agents import AGENTS, load_agent
from rlab.cli.flags import HELP, given, parse
from rlab.cli.help import Page
from rlab.cli.main import STOPPED
from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.jobs.aliases import check_not_a_policy, check_words
from rlab.jobs.request import (
    DEFAULT,
    UPDATE_PERIODS,
    Defaults,
    Request,
    check_budget,
    command_words,
    data_of,
    defaults_for,
    spec_for,
)
from rlab.jobs.unread import unread_by_kind
from rlab.runs.config import RunConfig, SourceConfig

USAGE = "rlab train AGENT ENV [settings]"
EXAMPLE = "rlab train dqn CartPole-v1 --seeds 10"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train on, where to put it, and how to report."""

    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    out: str | None = None  # the run folder; None: a fresh one under runs/
    experiment: str | None = None  # NAME or FILE of tuned settings; none: the agent's plain defaults
    trust: bool = False  # run layers, envs and wrappers of others that the teacher's folder names
    json: bool = False  # how the run ended and its final evaluation as one JSON object on standard output


SCHEMAS = (TrainOptions, RunConfig, SourceConfig)
PAGE = Page(
    USAGE,
    "Train an agent in an environment: from nothing to a judged, saved policy.",
    (EXAMPLE, "rlab train my_module:MyAgent CartPole-v1"),
    (
        f"AGENT: {', '.join(sorted(AGENTS))}, or one of your own as module:Class; rlab list agents says what they are. "
        "ENV: a Gymnasium id; rlab list envs names those that are installed.",
        "An agent has settings of its own, and an env that it was tuned for may change the defaults: rlab train AGENT "
        "--help, rlab train AGENT ENV --help.",
    ),
    command="rlab train",
)


def agent_page(usage: str, agent: str, defaults: Defaults, further: Sequence[Any] = ()) -> Page:
    """The help page of a verb once its agent is known: what it is, what it leaves unread, where defaults come from."""
    found = load_agent(agent)
    description = (found.__doc__ or "").strip().partition("\n")[0]
    origins = defaults.origins((), further)
    if data_of(agent) == "dataset":
        origins |= {name: "agents that learn from a dataset" for name in UPDATE_PERIODS if origins[name] == DEFAULT}
    return Page(usage, description, origins=origins, hidden=frozenset(unread_by_kind(agent, found)), agent=agent)


def run(argv: list[str]) -> int:
    """Parse, train, report."""
    agent, env_id, rest = _agent_and_env(argv)
    request, options = read_request(agent, env_id, rest)
    from rlab import api  # torch takes its time: after every check of the words

    return carry_out(request, options.out, options.json, partial(api.start, trust=options.trust))


def carry_out(request: Request, out: str | None, as_json: bool, start: Callable[..., Any]) -> int:
    """Train as asked, with a bar, and report for people or as one JSON object; the exit code."""
    report = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        done = start(request, out, progress=True)
        print(done.report())
    if as_json:
        print(json.dumps(run_as_json(done, request.agent, request.env.env_id)), file=report)
    return STOPPED if done.interrupted else 0


def run_as_json(run: Any, agent: str, env_id: str) -> dict[str, Any]:
    """The one object for a run that has ended: where it is, how it stands, how far it came, and what `rlab eval --json`
    would say of its final evaluation; `evaluation` is None where there was none."""
    facts = {"format": 1, "run": run.name, "status": run.status, "clock": {run.unit: run.time}}
    if run.evaluation is None:
        return {**facts, "policy": run.name, "agent": agent, "env_id": env_id, "evaluation": None}
    return {**facts, **run.evaluation.to_json(run.name, agent, env_id)}


def read_request(agent: str, env_id: str, argv: list[str]) -> tuple[Request, TrainOptions]:
    """The request and options that the words after AGENT and ENV ask for."""
    prog = f"rlab train {agent} {env_id}"
    # The experiment decides the defaults of everything else, so it is looked for first.
    chosen = value_of(argv, "--experiment")
    if chosen is None and {"--wrapper", "--env-kwargs"} & {word.partition("=")[0] for word in argv}:
        chosen = "none"  # tuned settings are for the env as it is; --experiment NAME asks for them all the same
    start = defaults_for(agent, env_id, chosen)
    in_force = TrainOptions(experiment="none" if start.experiment is None else start.experiment.name)
    schemas = (in_force, start.run, SourceConfig(), start.settings)
    page = agent_page(f"{prog} [settings]", agent, start) if HELP & set(argv) else None
    options, run_config, sources, settings = parse(argv, schemas, prog=prog, subject=agent, page=page)
    env = EnvSpec(env_id, max_episode_steps=run_config.max_episode_steps)
    env = spec_for(start.experiment, env, options.env_kwargs, options.wrapper)
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


def _agent_and_env(argv: list[str]) -> tuple[str, str, list[str]]:
    """The first two words and the rest; a page of help where that is asked for and no env is named."""
    named = [word for word in argv[:2] if not word.startswith("-")]
    if HELP & set(argv) and len(named) < 2:
        if not argv or argv[0].startswith("-"):
            parse(argv, SCHEMAS, prog="rlab train", page=PAGE)
        start = defaults_for(argv[0], "", "none")
        schemas = (TrainOptions(), start.run, SourceConfig(), start.settings)
        page = agent_page(f"rlab train {argv[0]} ENV [settings]", argv[0], start)
        page = replace(page, command=f"rlab train {argv[0]}")
        parse(argv[1:], schemas, prog=f"rlab train {argv[0]}", page=page)
    check_words(*named) if len(named) == 2 else check_not_a_policy(*named)
    if len(named) < 2:
        raise UsageError(f"train needs an agent and an env first: {USAGE}; for example: {EXAMPLE}")
    return argv[0], argv[1], argv[2:]
