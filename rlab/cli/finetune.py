"""`rlab finetune RUN [ENV]`: from a trained or pretrained policy to further learning, in the same env or another."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rlab.agents import load_agent
from rlab.cli.flags import HELP, given, parse
from rlab.cli.help import Page
from rlab.cli.train import agent_page, carry_out, value_of
from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.jobs.request import (
    FROM_START,
    NETWORK_SETTINGS,
    Defaults,
    Request,
    Start,
    check_budget,
    check_trust,
    command_words,
    data_of,
    defaults_for,
    foreign_agent_module,
    stated,
)
from rlab.learning.finetune_config import FinetuneConfig
from rlab.runs.config import RunConfig, SourceConfig
from rlab.runs.folder import RunFolder, is_run
from rlab.trust import Trust

if TYPE_CHECKING:
    from rlab.jobs.saved import SavedPolicy

USAGE = "rlab finetune RUN [ENV] [--strategy STRATEGY] [--agent AGENT] [settings]"
# What the values of a pretrained network mean, and what holds it to its demonstrations while these are at hand.
LESSON = ("gamma", "demonstration_loss", "demonstration_weight", "margin")
# Of the learning rate from scratch: with the whole of it PPO of CartPole-v1 fell from 500 to an IQM of 203 in 20 000
# env steps after cloning, with this share no seed of 20 fell at all.
RATE = 0.3


@dataclass(frozen=True, kw_only=True)
class BeginOptions:
    """What to go on with and in which env, where to put it, and how to report."""

    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    agent: str | None = None  # None: the one that trained RUN, or that it was pretrained for
    member: int | None = None  # training seed of the one to go on with; None: every seed goes on with its own
    experiment: str | None = None  # NAME or FILE of tuned settings; none: the agent's plain defaults
    out: str | None = None  # the run folder; None: a fresh one under runs/
    trust: bool = False  # run layers, envs and wrappers of others that RUN names
    json: bool = False  # how the run ended and its final evaluation as one JSON object on standard output


SCHEMAS = (BeginOptions, FinetuneConfig, RunConfig, SourceConfig)
PAGE = Page(
    USAGE,
    "Go on from a trained or pretrained policy, in the same env or another.",
    ("rlab finetune runs/my-run", "rlab finetune runs/my-run CartPole-v1 --env-kwargs gravity=12 --strategy gradual"),
    (
        "RUN: a run or policy folder; ENV: a Gymnasium id, by default the run's own with its wrappers.",
        "The agent that goes on has settings of its own, and defaults that RUN decides: rlab finetune RUN --help.",
    ),
    command="rlab finetune",
)


def run(argv: list[str]) -> int:
    """Parse, fine-tune, report."""
    request, options = read_request(argv)
    from rlab import api

    return carry_out(request, options.out, options.json, partial(api.start, trust=options.trust))


def read_request(argv: list[str]) -> tuple[Request, BeginOptions]:
    """The request and options that the words after `finetune` ask for."""
    if argv and argv[0] in HELP:
        parse(argv[:1], SCHEMAS, prog="rlab finetune", page=PAGE)
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"finetune needs a run first: {USAGE}")
    from rlab.jobs.saved import open_policy  # torch takes its time

    source, words = argv[0], argv[1:]
    env_id = words.pop(0) if words and not words[0].startswith("-") else None
    saved = open_policy(source, "--trust" in words)
    member = value_of(words, "--member")
    env = saved.env if env_id is None else EnvSpec.parse(env_id)
    agent = value_of(words, "--agent") or next_agent(saved, "--trust" in words)
    start = finetuning_defaults(saved, agent, env, value_of(words, "--experiment"), None if member is None else 0)
    schemas = (BeginOptions(), FinetuneConfig(), start.run, SourceConfig(), start.settings)
    prog = f"rlab finetune {source}"
    page = agent_page(f"{prog} [ENV] [settings]", agent, start) if HELP & set(words) else None
    options, config, run_config, sources, settings = parse(words, schemas, prog=prog, subject=agent, page=page)
    env = env.changed(options.env_kwargs or None, options.wrapper or None)
    env = replace(env, max_episode_steps=run_config.max_episode_steps or env.max_episode_steps)
    named = given(words, schemas)
    check_budget(agent, named)
    refuse_network_settings(named, source)
    origins = start.origins(named, (sources, config))
    beginning = Start(source, options.member, config)
    return Request(agent, env, run_config, settings, origins, command_words(), sources, beginning), options


def next_agent(saved: "SavedPolicy", trust: Trust) -> str:
    """Who goes on with a policy unless told otherwise.

    Raises:
        RlabError: that is somebody else's code and `trust` is false.
    """
    check_trust(str(saved.folder), foreign_agent_module(saved.agent), trust)
    if data_of(saved.agent) != "dataset":
        return saved.agent
    pretrained_for = _config_of(saved).get("for_agent")
    if pretrained_for is not None:
        return str(pretrained_for)
    return "double_dqn" if saved.policy.spec.head["kind"] == "q" else "ppo"


def finetuning_defaults(
    saved: "SavedPolicy", agent: str, env: EnvSpec, experiment: str | None, member: int | None
) -> Defaults:
    """Where the settings start from: the agent as tuned for the env, but with the discount of the policy that it begins
    with, smaller steps, and no more exploration than it ends with where the policy's head is one that it goes on with.
    An agent that goes on with its own run keeps that run's settings otherwise.

    Args:
        member: the one that every seed begins with; None: as many seeds as the policy has, each with its own.
    """
    start = defaults_for(agent, env.env_id, experiment)
    config = _config_of(saved)
    copied = stated(config, "settings")
    every = config.get("agent") == agent and experiment is None
    start = start.copying(copied, copied if every else LESSON, FROM_START)
    # What decides about networks is the policy; the settings say what it was made with, where that is known.
    start = start.copying(copied, NETWORK_SETTINGS, FROM_START)
    settings = asdict(start.settings)
    careful = {}
    if "learning_rate" in settings and not (every and config.get("start")):  # or it is that of fine-tuning already
        careful["learning_rate"] = RATE * settings["learning_rate"]
    if saved.policy.spec.head["kind"] in getattr(load_agent(agent), "heads", ()):
        careful["epsilon_start"] = settings.get("epsilon_end")
    if saved.acts:  # an encoder's policy is none yet, and nothing of it can be spoiled
        start = start.copying(careful, careful, "fine-tuning")
    seeds = saved.policy.seeds
    if member is None and seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        start = replace(start, run=replace(start.run, seed=seeds[0], seeds=len(seeds)))
    return start


def refuse_network_settings(named: frozenset[str], source: str) -> None:
    """Raise UsageError where a setting is named that the policy decides."""
    wrong = sorted(named & set(NETWORK_SETTINGS))
    if wrong:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise UsageError(f"{flags}: the network is that of {source}. Leave it out, or train from scratch.")


def _config_of(saved: "SavedPolicy") -> dict[str, Any]:
    """The config of the run that a policy is of; empty for a policy folder that stands alone."""
    run = saved.folder.parent
    return RunFolder.open(run).config if is_run(run) else {}
