"""`rlab finetune RUN [ENV]`: from a trained or pretrained policy to further learning, in the same env or another."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from rlab.cli.flags import HELP, given, parse
from rlab.cli.request import NETWORK_SETTINGS, Defaults, Request, Start, command_words, data_of, defaults_for
from rlab.cli.saved import SavedPolicy, open_policy
from rlab.cli.train import carry_out, value_of
from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.learning.finetuning import FinetuneConfig
from rlab.runs.config import SourceConfig
from rlab.runs.folder import RunFolder, is_run

USAGE = "rlab finetune RUN [ENV] [--strategy STRATEGY] [--agent AGENT] [settings]"
# What the values of a pretrained network mean, and what holds it to its demonstrations while these are at hand.
LESSON = ("gamma", "demonstration_loss", "demonstration_weight", "margin")
FROM_START = "start"  # the origin of what the policy that a run begins with decides


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What to go on with and in which env, where to put it, and how to report."""

    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    agent: str | None = None  # None: the one that trained RUN; after pretraining double_dqn for Q values, else ppo
    member: int | None = None  # training seed of the one to go on with; None: every seed goes on with its own
    experiment: str | None = None  # NAME or FILE of tuned settings; none: the agent's plain defaults
    out: str | None = None  # the run folder; None: a fresh one under runs/
    trust: bool = False  # run layers, envs and wrappers of others that RUN names
    json: bool = False  # the final evaluation as one JSON object on standard output


def run(argv: list[str]) -> int:
    """Parse, fine-tune, report."""
    request, options = read_request(argv)
    from rlab import api

    return carry_out(request, options.out, options.json, partial(api.start, trust=options.trust))


def read_request(argv: list[str]) -> tuple[Request, FinetuneOptions]:
    """The request and options that the words after `finetune` ask for."""
    if not argv or argv[0] in HELP:
        print(f"usage: {USAGE}\n`rlab finetune RUN --help` lists the settings.")
        raise SystemExit(0 if argv else 2)
    if argv[0].startswith("-"):
        raise UsageError(f"finetune needs a run first: {USAGE}")
    source, words = argv[0], argv[1:]
    env_id = words.pop(0) if words and not words[0].startswith("-") else None
    saved = open_policy(source, "--trust" in words)
    member = value_of(words, "--member")
    env = saved.env if env_id is None else EnvSpec.parse(env_id)
    agent = value_of(words, "--agent") or next_agent(saved)
    start = finetuning_defaults(saved, agent, env, value_of(words, "--experiment"), None if member is None else 0)
    schemas = (FinetuneOptions(), FinetuneConfig(), start.run, SourceConfig(), start.settings)
    prog = f"rlab finetune {source}"
    options, config, run_config, sources, settings = parse(words, schemas, prog=prog, subject=agent)
    if options.wrapper or options.env_kwargs:
        env = EnvSpec.parse(env.env_id, options.env_kwargs, options.wrapper, env.max_episode_steps)
    env = replace(env, max_episode_steps=run_config.max_episode_steps or env.max_episode_steps)
    named = given(words, schemas)
    refuse_network_settings(named, source)
    origins = start.origins(named, (sources, config))
    beginning = Start(source, options.member, config)
    return Request(agent, env, run_config, settings, origins, command_words(), sources, beginning), options


def next_agent(saved: SavedPolicy) -> str:
    """Who goes on with a policy unless told otherwise."""
    if data_of(saved.agent) != "dataset":
        return saved.agent
    return "double_dqn" if saved.policy.spec.head["kind"] == "q" else "ppo"


def finetuning_defaults(
    saved: SavedPolicy, agent: str, env: EnvSpec, experiment: str | None, member: int | None
) -> Defaults:
    """Where the settings start from: the agent as tuned for the env, but with the discount of the policy it begins
    with, and with no more exploration than it ends with. An agent that goes on with its own run keeps its settings.

    Args:
        member: the one that every seed begins with; None: as many seeds as the policy has, each with its own.
    """
    start = defaults_for(agent, env.env_id, experiment)
    config = _config_of(saved)
    copied = config.get("settings", {})
    every = config.get("agent") == agent and experiment is None
    start = start.copying(copied, copied if every else LESSON, FROM_START)
    # What decides about networks is the policy; the settings say what it was made with, where that is known.
    start = start.copying(copied, NETWORK_SETTINGS, FROM_START)
    end = asdict(start.settings).get("epsilon_end")
    start = start.copying({"epsilon_start": end}, ("epsilon_start",), "fine-tuning")
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


def _config_of(saved: SavedPolicy) -> dict[str, Any]:
    """The config of the run that a policy is of; empty for a policy folder that stands alone."""
    run = saved.folder.parent
    return RunFolder.open(run).config if is_run(run) else {}
