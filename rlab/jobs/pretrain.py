"""`rlab.pretrain`: a policy, or the body of one, from demonstrations alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.agents import AGENTS, load_agent
from rlab.envs import EnvLike, EnvSpec, env_spec
from rlab.errors import RlabError, UsageError, unknown
from rlab.experience.minari_files import read_dataset
from rlab.jobs.defaults import NETWORK_SETTINGS, Defaults, defaults_for
from rlab.jobs.foreign_code import check_trust
from rlab.jobs.own_networks import named_network
from rlab.jobs.request import A_DATASET, Request, complete
from rlab.jobs.running import Run, start, unless_interrupted
from rlab.runs.folder import path_of
from rlab.trust import Trust

METHODS = ("bc", "encoder")
# What clones for agents whose network gives Q values, chosen by experiments/value_pretraining.py: CQL's loss with
# 10-step targets loses least when learning goes on online.
VALUE_CLONER, VALUE_SETTINGS = "cql", {"n_step": 10}


def pretrain(
    method: str,
    dataset: str | PathLike[str],
    *,
    env: EnvLike | None = None,
    agent: str = "ppo",
    out: str | Path | None = None,
    progress: bool = False,
    trust: Trust = False,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Learn a policy (`method` `"bc"`), or the body of one (`"encoder"`), from demonstrations alone.

    Args:
        dataset: a folder of demonstrations, such as `collect` writes.
        env: as for `train`; None takes the env that the dataset was recorded in.
        agent: whose network to pretrain: its tuned settings for the env give the layers, the scaling and the discount.
        out, progress, listeners: as for `train`.
        trust: allow an env or wrappers from outside rlab that the dataset names; it runs their code.
        settings: fields of `RunConfig` (`updates=5_000`), of `SourceConfig` and of the learner's config.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed, or the dataset is broken.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.
    """
    dataset = path_of(dataset, A_DATASET)
    spec = env_for(dataset, None if env is None else env_spec(env), trust)
    request = pretrain_request(method, dataset, spec, agent, named_network(settings))
    return unless_interrupted(start(request, out, progress, trust, listeners))


def pretrain_request(
    method: str, dataset: str, spec: EnvSpec, agent: str, settings: Mapping[str, Any], command: str | None = None
) -> Request:
    """What `rlab.pretrain` and `rlab pretrain` ask for; `settings` as for `complete`.

    Raises:
        UsageError: anything in the request that cannot be.
    """
    learner, defaults = learner_for(method, agent), pretraining_defaults(method, agent, spec.env_id)
    words = repr(method), f"env={spec.env_id!r}", f"agent={agent!r}"
    request = complete(learner, spec, defaults, {**settings, "dataset": dataset}, "pretrain", words, command=command)
    return replace(request, for_agent=agent)


def learner_for(method: str, agent: str) -> str:
    """The agent that pretrains a network for `agent`.

    Raises:
        UsageError: the method or the agent does not exist.
    """
    if method not in METHODS:
        if method in AGENTS:
            named: Any = load_agent(method)
            words = (
                f"train {method} ENV --dataset DATASET"
                if named.data == "dataset"
                else f"pretrain bc DATASET --agent {method}"
            )
            raise UsageError(
                f"{method} is an agent and no method of pretraining, as {' and '.join(METHODS)} are: rlab {words}"
            )
        raise unknown("method of pretraining", method, METHODS)
    from rlab.learning.contract import heads_of  # torch takes its time; the agent's module has it already

    values = "q" in heads_of(load_agent(agent))
    return VALUE_CLONER if method == "bc" and values else method


def env_for(dataset: str, named: EnvSpec | None, trust: Trust) -> EnvSpec:
    """The env that was named, or else the one that the dataset was recorded in.

    Raises:
        UsageError: neither is known.
        RlabError: the dataset is broken, or names code from outside rlab and `trust` is false.
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


def _only_squashed(agent: str) -> bool:
    """Whether an agent goes on with continuous policies whose actions pass a tanh, and with no others."""
    from rlab.learning.contract import heads_of

    heads = set(heads_of(load_agent(agent)))
    return "gaussian" not in heads and bool(heads & {"squashed_gaussian", "deterministic"})


def pretraining_defaults(method: str, agent: str, env_id: str) -> Defaults:
    """The learner's defaults with the network, the scaling and the discount of `agent` as tuned for the env."""
    tuned = defaults_for(agent, env_id, None)
    learner = defaults_for(learner_for(method, agent), env_id, None)
    learner = learner.copying(asdict(tuned.settings), (*NETWORK_SETTINGS, "gamma"), f"agent {agent}")
    if _only_squashed(agent):
        learner = learner.copying({"squash": True}, ("squash",), f"agent {agent}")
    values = learner_for(method, agent) == VALUE_CLONER
    return learner.copying(VALUE_SETTINGS, VALUE_SETTINGS, "pretraining") if values else learner
