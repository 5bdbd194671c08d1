"""`rlab pretrain bc|encoder DATASET`: a policy, or the body of one, from demonstrations alone."""

from dataclasses import asdict, dataclass, replace
from functools import partial

from rlab.agents import load_agent
from rlab.cli.flags import HELP, given, parse
from rlab.cli.help import Page
from rlab.cli.train import agent_page, carry_out, value_of
from rlab.envs import EnvSpec
from rlab.errors import RlabError, UsageError, unknown
from rlab.experience.minari_files import read_dataset
from rlab.jobs.request import (
    NETWORK_SETTINGS,
    Defaults,
    Request,
    check_budget,
    check_trust,
    command_words,
    defaults_for,
)
from rlab.jobs.unread import OF_ENV_LOOPS
from rlab.runs.config import RunConfig, SourceConfig
from rlab.trust import Trust

USAGE = "rlab pretrain bc|encoder DATASET [--env ENV] [--agent AGENT] [settings]"
METHODS = ("bc", "encoder")
# What clones for agents whose network gives Q values, chosen by experiments/value_pretraining.py: CQL's loss with
# 10-step targets loses least when learning goes on online.
VALUE_CLONER, VALUE_SETTINGS = "cql", {"n_step": 10}


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """For what to pretrain, where to put it, and how to report."""

    env: str | None = None  # None: the env that the dataset was recorded in
    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    agent: str = "ppo"  # whose network to pretrain; fine-tuning goes on with it
    out: str | None = None  # the run folder; None: a fresh one under runs/
    trust: bool = False  # run envs and wrappers of others that the dataset names
    json: bool = False  # how the run ended and its final evaluation as one JSON object on standard output


SCHEMAS = (PretrainOptions, RunConfig, SourceConfig)
PAGE = Page(
    USAGE,
    "Learn a policy (bc), or the body of one (encoder), from demonstrations alone.",
    ("rlab pretrain bc data", "rlab pretrain encoder data --agent ppo --updates 5000"),
    ("What learns has settings of its own: rlab pretrain bc --help, rlab pretrain encoder --help.",),
    hidden=frozenset({*OF_ENV_LOOPS, "dataset", "demonstration_share"}),
    command="rlab pretrain",
)


def run(argv: list[str]) -> int:
    """Parse, pretrain, report."""
    method, dataset, words = _method_and_dataset(argv)
    request, options = read_request(method, dataset, words)
    from rlab import api

    return carry_out(request, options.out, options.json, partial(api.start, trust=options.trust))


def read_request(method: str, dataset: str, argv: list[str]) -> tuple[Request, PretrainOptions]:
    """The request and options that the words after the dataset ask for."""
    agent = value_of(argv, "--agent") or PretrainOptions.agent
    learner = learner_for(method, agent)
    helping = bool(HELP & set(argv))
    named = value_of(argv, "--env")
    spec = None if named is None else EnvSpec.parse(named)
    env = None if helping else env_for(dataset, spec, "--trust" in argv)
    start = pretraining_defaults(method, agent, "" if env is None else env.env_id)
    schemas = (PretrainOptions(), start.run, SourceConfig(dataset=dataset), start.settings)
    prog = f"rlab pretrain {method} {dataset}"
    page = _learner_page(f"{prog} [settings]", learner, start) if helping else None
    options, run_config, sources, settings = parse(argv, schemas, prog=prog, subject=learner, page=page)
    assert env is not None  # --help has left by now
    env = env.changed(options.env_kwargs or None, options.wrapper or None)
    env = replace(env, max_episode_steps=run_config.max_episode_steps or env.max_episode_steps)
    if sources.dataset != dataset:
        raise UsageError(f"--dataset {sources.dataset} contradicts {dataset}, the word behind {method}; leave it out.")
    named_settings = given(argv, schemas)
    check_budget(learner, named_settings)
    origins = start.origins(named_settings, (sources,))
    return Request(learner, env, run_config, settings, origins, command_words(), sources, None, agent), options


def learner_for(method: str, agent: str) -> str:
    """The agent that pretrains a network for `agent`.

    Raises:
        UsageError: the method or the agent does not exist.
    """
    if method not in METHODS:
        raise unknown("method of pretraining", method, METHODS)
    values = "q" in getattr(load_agent(agent), "heads", ())
    return VALUE_CLONER if method == "bc" and values else method


def env_for(dataset: str, named: EnvSpec | None, trust: Trust) -> EnvSpec:
    """The env that was named, or else the one that the dataset was recorded in.

    Raises:
        UsageError: neither is known.
        RlabError: the dataset is broken, or names code of others and `trust` is false.
    """
    if named is not None:
        return named
    recorded = read_dataset(dataset).env
    if recorded is None:
        raise UsageError(f"{dataset} does not say which env it was recorded in; name it: --env ENV.")
    try:
        env = EnvSpec.from_json(recorded)
    except RlabError as error:
        raise RlabError(f"{dataset}: {error}") from error
    check_trust(dataset, env.foreign_modules, trust)
    return env


def pretraining_defaults(method: str, agent: str, env_id: str) -> Defaults:
    """The learner's defaults with the network, the scaling and the discount of `agent` as tuned for the env."""
    tuned = defaults_for(agent, env_id, None)
    learner = defaults_for(learner_for(method, agent), env_id, None)
    learner = learner.copying(asdict(tuned.settings), (*NETWORK_SETTINGS, "gamma"), f"agent {agent}")
    values = learner_for(method, agent) == VALUE_CLONER
    return learner.copying(VALUE_SETTINGS, VALUE_SETTINGS, "pretraining") if values else learner


def _learner_page(usage: str, learner: str, defaults: Defaults) -> Page:
    page = agent_page(usage, learner, defaults)
    return replace(page, hidden=page.hidden | {"dataset"})  # it is the word behind the method


def _method_and_dataset(argv: list[str]) -> tuple[str, str, list[str]]:
    if argv and argv[0] in HELP:
        parse(argv[:1], SCHEMAS, prog="rlab pretrain", page=PAGE)
    if not argv:
        raise UsageError(f"pretrain needs a method and a dataset: {USAGE}")
    if argv[0] not in METHODS:
        raise unknown("method of pretraining", argv[0], METHODS)
    if len(argv) < 2 or (argv[1].startswith("-") and argv[1] not in HELP):
        raise UsageError(f"pretrain {argv[0]} needs a dataset: {USAGE}")
    if argv[1] in HELP:
        return argv[0], "DATASET", argv[1:]
    return argv[0], argv[1], argv[2:]
