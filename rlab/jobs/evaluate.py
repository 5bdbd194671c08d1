"""`rlab.evaluate`: judging a trained population, one member of it, or an exported file."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from rlab.envs import EnvLike, EpisodeMaker, given_again
from rlab.envs.watch import ENV_TIMEOUT
from rlab.errors import UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.evaluate import evaluate as judge_episodes
from rlab.jobs.aliases import answering
from rlab.jobs.export import open_file
from rlab.jobs.judging import FINAL_EPISODE_SEED, warn_if_seen
from rlab.jobs.observing import ObsRecorder
from rlab.jobs.saved import SavedPolicy, check_can_sample, has_exported_name, open_policy
from rlab.learning.runtime import own_surroundings
from rlab.networks.obs_features import MOST_FEATURES, can_be_watched
from rlab.networks.own import Builder, standing_in
from rlab.runs.folder import RunFolder, is_run
from rlab.runs.observed import LEAST_EPISODES, save_observed
from rlab.runs.policy_folder import check_can_change
from rlab.runs.registry import policy_path
from rlab.trust import Trust


@answering
def evaluate(
    run: str | PathLike[str] | SavedPolicy,
    *,
    episodes: int = 100,
    seed: int = FINAL_EPISODE_SEED,
    member: int | None = None,
    stochastic: bool = False,
    wrappers: Sequence[str] | None = None,
    max_episode_steps: int | None = None,
    envs: int | None = None,
    env_timeout: float = ENV_TIMEOUT,
    record_observed: bool = False,
    env: EnvLike | None = None,
    network: Builder | None = None,
    trust: Trust = False,
) -> Evaluation:
    """Judge the policy of a run or policy folder, or an exported file, in the env that it was trained in.

    Args:
        run: its path, an object that has one, such as a `Run`, or the name of a published policy, such as
            `cartpole@best`; or what `open_judged` returned.
        episodes: per member.
        stochastic: sample actions as in training, instead of the greedy ones.
        wrappers: around the env in place of those that it was trained with; None: the same.
        max_episode_steps: the time limit of the env in place of its own; None: as it was trained.
        envs: instances of the env at once, in all; None: 10 per member and 64 in all, native ones apart.
        env_timeout: seconds for each constructor, reset, step and close of an env.
        record_observed: keep what the policy observes in these episodes beside it, in place of what is recorded there:
            a server tells drift by it.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        network: the function that made the network, where only the process that trained could find it.
        seed: of the first episode; episode k has `seed + k`, the same for every member and policy.
        member: training seed of the one to judge; None: all.
        trust: allow layers, envs and wrappers from outside rlab that the folder names; it runs their code.

    Raises:
        UsageError: no such member, seeds that training may have used, or `record_observed` of an exported file, of
            sampled actions, or where nothing can be recorded.
        RlabError: the folder is missing or broken.
    """
    with standing_in(network):
        saved = run if isinstance(run, SavedPolicy) else open_judged(run, trust, env)
    policy: Any = saved.policy if member is None else _only(saved, member)
    spec = replace(saved.env, timeout=env_timeout)
    if wrappers is not None or max_episode_steps is not None:
        spec = spec.changed(None, wrappers, max_episode_steps)
    if stochastic:
        check_can_sample(policy)
    if saved.where.is_dir():
        warn_if_seen(saved.where, seed, episodes)
    maker = EpisodeMaker(spec, envs)
    with own_surroundings(threads=1):
        if not record_observed:
            return judge_episodes(policy, maker, episodes, seed, greedy=not stochastic)
        _check_recordable(saved, episodes, stochastic)
        recorder = ObsRecorder(policy.spec.obs_space, policy.seeds)
        found = judge_episodes(policy, maker, episodes, seed, on_step=recorder)
    with RunFolder.open(saved.where.parent).held() if is_run(saved.where.parent) else nullcontext():
        save_observed(saved.where, list(recorder.references().values()))
    return found


def open_judged(run: str | PathLike[str], trust: Trust, env: EnvLike | None = None) -> SavedPolicy:
    """The policy of a run or policy folder, or an exported file in its runtime, which gives greedy actions too.

    Raises:
        UsageError: the file can run code and `trust` is false, or a runtime is missing.
        RlabError: it is missing, broken, or names code from outside rlab and `trust` is false.
    """
    path = policy_path(run)
    if not Path(path).is_file() and (Path(path).is_dir() or not has_exported_name(path)):
        return open_policy(path, trust, env)
    runner, spec = open_file(path, trust)
    spec = spec if env is None else given_again(spec, env)
    agent = str(runner.metadata.get("agent") or "unknown")
    return SavedPolicy(cast(Any, runner), agent, spec, Path(path), Path(path).absolute())


def _check_recordable(saved: SavedPolicy, episodes: int, stochastic: bool) -> None:
    """Refuse to record what cannot be recorded, before anything is played."""
    flag = "--record-observed"
    if not saved.where.is_dir():
        raise UsageError(f"{flag} writes beside a policy, and {saved.folder} is an exported file: name its run.")
    check_can_change(saved.where)
    if stochastic:
        raise UsageError(f"{flag} records what greedy actions lead to, which servers answer; leave --stochastic out.")
    if episodes < LEAST_EPISODES:
        raise UsageError(f"{flag} needs {LEAST_EPISODES} episodes or more, not {episodes}; 100 say enough.")
    if not can_be_watched(saved.policy.spec.obs_space):
        raise UsageError(f"{flag}: observations {saved.policy.spec.obs_space} have more than {MOST_FEATURES} features.")


def _only(saved: SavedPolicy, member: int) -> Any:
    """The policy of one member alone; an exported file holds no other."""
    if saved.where.is_dir():
        return saved.policy.only(member)
    if member not in saved.policy.seeds:
        only = saved.policy.seeds[0]
        raise UsageError(f"no member with training seed {member}; {saved.folder} holds {only} alone.")
    return saved.policy
