"""`rlab pretrain bc|encoder DATASET`: a policy, or the body of one, from demonstrations alone."""

from dataclasses import dataclass

from rlab.cli.flags import command_words, parse
from rlab.cli.help import Page
from rlab.cli.main import HELP
from rlab.cli.shared import read_settings, train, value_of
from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.jobs.request import Request
from rlab.jobs.unread import OF_ENV_LOOPS
from rlab.runs.config import RunConfig, SourceConfig

USAGE = "rlab pretrain bc|encoder DATASET [--env ENV] [--agent AGENT] [settings]"


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """For what to pretrain, where to put it, and how to report."""

    env: str | None = None  # None: the env that the dataset was recorded in
    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    agent: str = "ppo"  # whose network to pretrain; fine-tuning goes on with it
    out: str | None = None  # the run folder; None: a fresh one under runs/
    trust: bool = False  # run envs and wrappers from outside rlab that the dataset names
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
    if argv and argv[0] in HELP:
        parse(argv[:1], SCHEMAS, prog="rlab pretrain", page=PAGE)
    if not argv:
        raise UsageError(f"pretrain needs a method and a dataset: {USAGE}")
    method, dataset, words = argv[0], "DATASET", argv[1:]
    if words and not words[0].startswith("-"):
        dataset = words.pop(0)
    elif not HELP & set(words):
        raise UsageError(f"pretrain {method} needs a dataset: {USAGE}")
    return train(*read_request(method, dataset, words))


def read_request(method: str, dataset: str, argv: list[str]) -> tuple[Request, PretrainOptions]:
    """The request and options that the words after the dataset ask for."""
    from rlab.jobs.pretrain import env_for, learner_for, pretrain_request, pretraining_defaults  # torch takes its time

    agent = value_of(argv, "--agent") or PretrainOptions.agent
    learner = learner_for(method, agent)
    named = value_of(argv, "--env")
    env = (
        None
        if HELP & set(argv)
        else env_for(dataset, None if named is None else EnvSpec.parse(named), "--trust" in argv)
    )
    start = pretraining_defaults(method, agent, "" if env is None else env.env_id)
    prog, sources = f"rlab pretrain {method} {dataset}", SourceConfig(dataset=dataset)  # the word after the method
    options, settings = read_settings(argv, (PretrainOptions(),), start, prog=prog, agent=learner, sources=sources)
    assert env is not None  # --help has left by now
    if settings.get("dataset", dataset) != dataset:
        raise UsageError(
            f"--dataset {settings['dataset']} contradicts {dataset}, the word after {method}; leave it out."
        )
    env = env.changed(options.env_kwargs or None, options.wrapper or None)
    return pretrain_request(method, dataset, env, agent, settings, command_words()), options
