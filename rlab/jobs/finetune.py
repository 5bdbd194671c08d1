"""`rlab.finetune`: from a trained or pretrained policy to further learning, in the same env or another."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.agents import load_agent
from rlab.envs import EnvLike, EnvSpec, env_spec
from rlab.errors import UsageError
from rlab.jobs.defaults import FROM_START, NETWORK_SETTINGS, Defaults, data_of, defaults_for
from rlab.jobs.foreign_code import check_trust, foreign_agent_module, foreign_network_module
from rlab.jobs.request import Request, Start, complete, stated
from rlab.jobs.running import Run, start, unless_interrupted
from rlab.jobs.saved import TRAINED_WITH, SavedPolicy, config_of, open_policy
from rlab.networks.own import Builder, standing_in
from rlab.runs.folder import path_of
from rlab.runs.registry import pinned
from rlab.trust import Trust

# Of the learning rate from scratch: with the whole of it PPO of CartPole-v1 fell from 500 to an IQM of 203 in 20 000
# env steps after cloning, with this share no seed of 20 fell at all.
RATE = 0.3


def finetune(
    run: str | PathLike[str],
    env: EnvLike | None = None,
    *,
    agent: str | None = None,
    member: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    experiment: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    trust: Trust = False,
    network: Builder | None = None,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Go on from a trained or pretrained policy, in the same env or another.

    Args:
        run: a run or policy folder, or the name of a published policy, such as `cartpole@best`.
        env: as for `train`; None takes the run's own, with its keywords and wrappers where no others are given.
        agent: the one that continues; None: the one that trained the run, or after pretraining `double_dqn` or `ppo`.
        member: the training seed that every learner begins with; None: each begins with its own.
        env_kwargs, wrappers, experiment, out, progress, listeners: as for `train`.
        network: the function that made the network, where only the process that trained could find it.
        settings: fields of `FinetuneConfig` (`strategy="gradual"`), `RunConfig`, `SourceConfig` and the agent's config.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed, or the folder is broken.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.
    """
    name = pinned(path_of(run))
    with standing_in(network):
        spec = None if env is None else env_spec(env)
        saved = open_policy(name, trust, spec)
        spec = (spec or saved.env).changed(env_kwargs or None, wrappers or None)
        agent = agent or next_agent(saved, trust)
        request = finetune_request(name, saved, spec, agent, member, experiment, settings, trust=trust)
        return unless_interrupted(start(request, out, progress, trust, listeners))


def finetune_request(
    name: str,
    saved: SavedPolicy,
    spec: EnvSpec,
    agent: str,
    member: int | None,
    experiment: str | None,
    settings: Mapping[str, Any],
    command: str | None = None,
    trust: Trust = False,
) -> Request:
    """What `rlab.finetune` and `rlab finetune` ask for.

    Args:
        name: of the folder that `saved` was opened from.
        settings: those that are named, as for `complete`.

    Raises:
        UsageError: anything in the request that cannot be.
    """
    refuse_network_settings(frozenset(settings), name)
    defaults = finetuning_defaults(saved, agent, spec, experiment, member, trust)
    words = repr(name), repr(spec.env_id), f"agent={agent!r}", f"member={member!r}"
    return complete(agent, spec, defaults, settings, "finetune", words, Start(name, member), command)


def next_agent(saved: SavedPolicy, trust: Trust) -> str:
    """The agent that continues with a policy by default.

    Raises:
        RlabError: it is code from outside rlab and `trust` is false.
    """
    check_trust(str(saved.folder), foreign_agent_module(saved.agent), trust)
    if data_of(saved.agent) != "dataset":
        return saved.agent
    pretrained_for = config_of(saved).get("for_agent")
    if pretrained_for is not None:
        check_trust(str(saved.folder), foreign_agent_module(str(pretrained_for)), trust)
        return str(pretrained_for)
    return "double_dqn" if saved.policy.head.distils_as == "q" else "ppo"


def finetuning_defaults(
    saved: SavedPolicy, agent: str, env: EnvSpec, experiment: str | None, member: int | None, trust: Trust = False
) -> Defaults:
    """Where the settings start from: the agent as tuned for the env, but with the discount of the policy that it begins
    with, smaller steps, and no more exploration than it ends with where the policy's head is one that it goes on with.
    An agent that goes on with its own run keeps that run's settings otherwise.

    Args:
        member: the one that every seed begins with; None: as many seeds as the policy has, each with its own.
    """
    from rlab.learning.contract import heads_of  # torch takes its time; the policy has it already

    start = defaults_for(agent, env.env_id, experiment, trust)
    config = config_of(saved)
    copied = stated(config, "settings") or saved.trained_with
    check_trust(str(saved.folder), foreign_network_module(copied), trust)
    every = config.get("agent") == agent and experiment is None
    start = start.copying(copied, copied if every else TRAINED_WITH, FROM_START)
    share = stated(config, "run").get("sparsity", 0.0)
    if every and share:  # zeros stay zeros
        origins = {**start.copied, "sparsity": FROM_START}
        start = replace(start, run=replace(start.run, sparsity=share), copied=origins)
    # What decides about networks is the policy; the settings say what it was made with, where that is known.
    start = start.copying(copied, NETWORK_SETTINGS, FROM_START)
    settings = asdict(start.settings)
    careful = {}
    if "learning_rate" in settings and not (every and config.get("start")):  # or it is that of fine-tuning already
        careful["learning_rate"] = RATE * settings["learning_rate"]
    if saved.policy.spec.head["kind"] in heads_of(load_agent(agent)):
        careful["epsilon_start"] = settings.get("epsilon_end")
    if saved.acts:  # the policy of an encoder has never been trained: large steps can spoil nothing
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
