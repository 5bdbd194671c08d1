"""`rlab finetune RUN [ENV]`: from a trained or pretrained policy to further learning, in the same env or another."""

from dataclasses import dataclass

from rlab.cli.flags import command_words, parse
from rlab.cli.help import Page
from rlab.cli.main import HELP
from rlab.cli.shared import read_settings, train, value_of
from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.jobs.request import Request
from rlab.learning.finetune_config import FinetuneConfig
from rlab.runs.config import RunConfig, SourceConfig

USAGE = "rlab finetune RUN [ENV] [--strategy STRATEGY] [--agent AGENT] [settings]"


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What to go on with and in which env, where to put it, and how to report."""

    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    agent: str | None = None  # None: the one that trained RUN, or that it was pretrained for
    member: int | None = None  # training seed of the one to go on with; None: every seed goes on with its own
    experiment: str | None = None  # NAME or FILE of tuned settings; none: the agent's plain defaults
    out: str | None = None  # the run folder; None: a fresh one under runs/
    trust: bool = False  # run layers, envs and wrappers from outside rlab that RUN names
    json: bool = False  # how the run ended and its final evaluation as one JSON object on standard output


SCHEMAS = (FinetuneOptions, FinetuneConfig, RunConfig, SourceConfig)
PAGE = Page(
    USAGE,
    "Go on from a trained or pretrained policy, in the same env or another.",
    ("rlab finetune runs/my-run", "rlab finetune runs/my-run CartPole-v1 --env-kwargs gravity=12 --strategy gradual"),
    (
        "RUN: a run or policy folder, or a published policy (NAME@best).",
        "ENV: a Gymnasium id, by default the run's own with its wrappers.",
        "The agent that goes on has settings of its own, and defaults that RUN decides: rlab finetune RUN --help.",
    ),
    command="rlab finetune",
)


def run(argv: list[str]) -> int:
    """Parse, fine-tune, report."""
    return train(*read_request(argv))


def read_request(argv: list[str]) -> tuple[Request, FinetuneOptions]:
    """The request and options that the words after `finetune` ask for."""
    if argv and argv[0] in HELP:
        parse(argv[:1], SCHEMAS, prog="rlab finetune", page=PAGE)
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"finetune needs a run first: {USAGE}")
    from rlab.jobs.finetune import finetune_request, finetuning_defaults, next_agent  # torch takes its time
    from rlab.jobs.saved import open_policy
    from rlab.runs.registry import pinned

    source, words = pinned(argv[0]), argv[1:]
    env_id = words.pop(0) if words and not words[0].startswith("-") else None
    saved = open_policy(source, "--trust" in words)
    member, experiment = value_of(words, "--member"), value_of(words, "--experiment")
    env = saved.env if env_id is None else EnvSpec.parse(env_id)
    agent = value_of(words, "--agent") or next_agent(saved, "--trust" in words)
    first = None if member is None else 0
    start = finetuning_defaults(saved, agent, env, experiment, first, "--trust" in words)
    own, prog = (FinetuneOptions(), FinetuneConfig()), f"rlab finetune {source}"
    options, settings = read_settings(words, own, start, prog=prog, agent=agent, usage="[ENV] [settings]")
    env = env.changed(options.env_kwargs or None, options.wrapper or None)
    words_typed = command_words()
    member = options.member
    request = finetune_request(source, saved, env, agent, member, experiment, settings, words_typed, options.trust)
    return request, options
