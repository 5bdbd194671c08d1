"""The Python way: `run = rlab.train("dqn", "CartPole-v1", seeds=10)`, then `rlab.load(run.path)`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.cli.finetune import finetuning_defaults, next_agent, refuse_network_settings
from rlab.cli.pretrain import env_for, learner_for, pretraining_defaults
from rlab.envs import EnvLike, EpisodeMaker, env_spec
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.evaluate import evaluate as judge_episodes
from rlab.jobs.aliases import answering, check_words
from rlab.jobs.check import check
from rlab.jobs.collect import collect, collect_random
from rlab.jobs.collect import merge as merge_datasets
from rlab.jobs.compress import compress
from rlab.jobs.experiment_files import find_experiment
from rlab.jobs.export import export_member as export
from rlab.jobs.judging import FINAL_EPISODE_SEED, warn_of_seen
from rlab.jobs.own_networks import named_network
from rlab.jobs.play import Played, play
from rlab.jobs.request import A_DATASET, Start, complete, request_from_keywords, spec_for
from rlab.jobs.resume import CHANGEABLE
from rlab.jobs.running import Run, go_on, start, unless_interrupted
from rlab.jobs.saved import check_can_sample, open_policy
from rlab.jobs.search import search
from rlab.learning.listeners import FinishedEpisode, Listener
from rlab.learning.runtime import own_surroundings
from rlab.networks.own import Builder, standing_in
from rlab.networks.policy import MemberPolicy
from rlab.runs.folder import hardware, path_of, versions
from rlab.runs.policies import load_policy
from rlab.trust import Trust, in_force

__all__ = [
    "FinishedEpisode",
    "Listener",
    "Played",
    "Run",
    "check",
    "collect",
    "collect_random",
    "compress",
    "evaluate",
    "export",
    "finetune",
    "hardware",
    "load",
    "merge_datasets",
    "play",
    "pretrain",
    "resume",
    "search",
    "train",
    "versions",
]


def train(
    agent: str,
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    out: str | Path | None = None,
    experiment: str | None = None,
    progress: bool = False,
    trust: Trust = False,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Train a population and judge it.

    Args:
        agent: a registered name, or `their.module:Class`.
        env: a Gymnasium id, `module:Id`, or a class or function that makes an env, which gets `env_kwargs`. What no
            other process finds (a lambda, a class in a notebook) is given again: `evaluate(run, env=MyEnv)`.
        env_kwargs: keywords of the env, plain data (`rlab.envs.plain`) that it is given again in every later use.
        wrappers: names from `rlab.envs.WRAPPERS`, or `their.module:Wrapper`, innermost first.
        out: the run folder; None makes a fresh one under `runs/`.
        experiment: the name or file of the tuned settings to start from; None takes the one for this agent and env if
            there is one and the env is not changed by keywords or wrappers, `"none"` the plain defaults.
        progress: show a bar, as the command line does.
        trust: allow code of others that the folder of a teacher names: True, or the names of modules. Those that the
            working folder's `.rlab-trust` lists (`rlab trust my_envs`) are allowed without.
        listeners: objects with some of the methods of `rlab.Listener`, which hear what the run does and may stop it.
        settings: fields of `RunConfig` (`seeds=10`, `env_steps=50_000`), of `SourceConfig` (`teacher="runs/good"`) and
            of the agent's config (`gamma=0.9`); they are listed below. `network` may also be a function that makes the
            network's body, a plain `torch.nn.Module` or a `NetworkSpec`, out of those of `shape`, `obs_space` and
            `settings` that it asks for.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed; what was saved stays.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.

    Settings of every run: `env_steps`, `updates`, `seed`, `seeds`, `num_envs`, `vector`, `max_episode_steps`,
    `eval_every`, `eval_episodes`, `final_eval_episodes`, `eval_envs`, `eval_alone`, `checkpoint_every`, `log_every`,
    `log`, `film_every`, `log_episodes`, `device`, `threads`.
    Of what else it learns from: `dataset`, `dataset_episodes`, `demonstration_share`, `teacher`, `teacher_member`,
    `teacher_weight`, `teacher_fraction`, `teacher_temperature`.
    Of an agent, with meanings and defaults of all: `rlab train dqn --help-all`.
    """
    check_words(agent, env)
    settings = named_network(settings)
    base = env_spec(env)
    if experiment is None and (env_kwargs or base.kwargs or wrappers):
        experiment = "none"
    spec = spec_for(find_experiment(agent, base.env_id, experiment), base, env_kwargs or {}, wrappers)
    request = request_from_keywords(agent, spec, experiment, settings)
    return unless_interrupted(start(request, out, progress, trust, listeners))


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
        trust: allow an env or wrappers of others that the dataset names, which run their code.
        settings: fields of `RunConfig` (`updates=5_000`), of `SourceConfig` and of the learner's config.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed, or the dataset is broken.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.
    """
    dataset = path_of(dataset, A_DATASET)
    spec = env_for(dataset, None if env is None else env_spec(env), trust)
    defaults = pretraining_defaults(method, agent, spec.env_id)
    settings = {**named_network(settings), "dataset": dataset}
    words = repr(method), f"env={spec.env_id!r}", f"agent={agent!r}"
    request = complete(learner_for(method, agent), spec, defaults, settings, "pretrain", words)
    return unless_interrupted(start(replace(request, for_agent=agent), out, progress, trust, listeners))


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
        run: a run or policy folder.
        env: as for `train`; None takes the run's own, with its keywords and wrappers where no others are given.
        agent: who goes on; None takes the one that trained the run, or after pretraining `double_dqn` or `ppo`.
        member: the training seed that every learner begins with; None: each begins with its own.
        env_kwargs, wrappers, experiment, out, progress, listeners: as for `train`.
        network: the function that made the network, where only the process that trained could find it.
        settings: fields of `FinetuneConfig` (`strategy="gradual"`), `RunConfig`, `SourceConfig` and the agent's config.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed, or the folder is broken.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.
    """
    name = path_of(run)
    with standing_in(network):
        spec = None if env is None else env_spec(env)
        saved = open_policy(name, trust, spec)
        spec = (spec or saved.env).changed(env_kwargs or None, wrappers or None)
        agent = agent or next_agent(saved, trust)
        refuse_network_settings(frozenset(settings), name)
        defaults = finetuning_defaults(saved, agent, spec, experiment, member)
        words = repr(name), repr(spec.env_id), f"agent={agent!r}", f"member={member!r}"
        request = complete(agent, spec, defaults, settings, "finetune", words, Start(name, member))
        return unless_interrupted(start(request, out, progress, trust, listeners))


@answering
def evaluate(
    run: str | PathLike[str],
    *,
    episodes: int = 100,
    seed: int = FINAL_EPISODE_SEED,
    member: int | None = None,
    stochastic: bool = False,
    wrappers: Sequence[str] | None = None,
    max_episode_steps: int | None = None,
    envs: int | None = None,
    env: EnvLike | None = None,
    network: Builder | None = None,
    trust: Trust = False,
) -> Evaluation:
    """Judge the policy of a run or policy folder in the env that it was trained in, as `rlab eval` does.

    Args:
        episodes: per member.
        stochastic: sample actions as in training, instead of the greedy ones.
        wrappers: around the env in place of those that it was trained with; None: the same.
        max_episode_steps: the time limit of the env in place of its own; None: as it was trained.
        envs: instances of the env at once, in all; None: 10 per member and 64 in all, native ones apart.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        network: the function that made the network, where only the process that trained could find it.
        seed: of the first episode; episode k has `seed + k`, the same for every member and policy.
        member: training seed of the one to judge; None: all.
        trust: allow layers, envs and wrappers of others that the folder names, which run their code.

    Raises:
        UsageError: no such member, or seeds that training may have used.
        RlabError: the folder is missing or broken.
    """
    with standing_in(network):
        saved = open_policy(run, trust, env)
    policy = saved.policy if member is None else saved.policy.only(member)
    spec = saved.env
    if wrappers is not None or max_episode_steps is not None:
        spec = spec.changed(None, wrappers, max_episode_steps)
    if stochastic:
        check_can_sample(policy)
    warn_of_seen(saved.where, seed, episodes)
    with own_surroundings(threads=1):
        return judge_episodes(policy, EpisodeMaker(spec, envs), episodes, seed, greedy=not stochastic)


@answering
def load(
    path: str | PathLike[str],
    seed: int | None = None,
    trust: Trust = False,
    *,
    sample_seed: int = 0,
    network: Builder | None = None,
) -> MemberPolicy:
    """The policy of one member of a run or policy folder, as plain `torch.nn` modules on the CPU.

    `policy(obs)` takes `[*obs]` or `[B, *obs]`: NumPy gives NumPy, which `env.step` accepts, and torch gives torch.
    `policy(obs, greedy=False)` samples as in training; `policy.reseed(7)` begins the random stream of
    seed 7 anew.

    Args:
        seed: the training seed of the member; None takes the first.
        sample_seed: of the stream that `greedy=False` draws from: the same seed gives the same actions.
        trust: allow layers written by others, which run their code.
        network: the function that made the network, where only the process that trained could find it.

    Raises:
        RlabError: the folder is missing, broken or not ours.
        UsageError: no member has that training seed.
    """
    with standing_in(network):
        policy = load_policy(path_of(path), in_force(trust)).policy.member(seed)
    policy.reseed(sample_seed)
    return policy


@partial(answering, settings=CHANGEABLE)
def resume(
    path: str | PathLike[str],
    *,
    progress: bool = False,
    trust: Trust = False,
    env: EnvLike | None = None,
    network: Builder | None = None,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Go on with a run from its last save, with fresh episodes; a finished one too, where it gets more budget.

    The clock, the optimizer, the replay and the random streams go on. What depends on the share of the budget that is
    used, such as exploration or a learning rate that falls, follows the new budget from where the clock is. A finished
    run without more budget is returned as it is.

    Args:
        progress: show a bar, as the command line does.
        env: makes the env where only the process that began the run can: `env=MyEnv`.
        network: the function that made the network, where only the process that trained could find it.
        listeners: as for `train`; those that it had before are not kept.
        trust: allow an agent, env or wrapper of others that the folder names, which runs their code.
        settings: what changes: the budget, `env_steps` or `updates`; and what does not touch learning: `eval_every`,
            `eval_episodes`, `final_eval_episodes`, `eval_envs`, `eval_alone`, `checkpoint_every`, `log_every`, `log`,
            `log_episodes`, `film_every`; and `max_episode_steps`, where the env has no time limit, so that episodes
            without an end can be judged.

    Raises:
        RlabError: the folder is broken, has lost its checkpoint, or names code of others and `trust` is false.
        UsageError: a setting that cannot change, or a budget that is used up already.
        KeyboardInterrupt: Ctrl+C or SIGTERM, after a save; a second Ctrl+C does not wait for it.
    """
    with standing_in(network):
        return unless_interrupted(go_on(path, settings, progress, trust, listeners, env))
