"""`rlab.collect`: recording a dataset of a trained policy or of random actions, and joining datasets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.envs import EnvLike, EnvSpec, EpisodeMaker, env_spec, make_episodes
from rlab.envs.watch import ENV_TIMEOUT
from rlab.errors import RlabError, UsageError
from rlab.evaluation.record import check_request, record, uniform_action
from rlab.experience.dataset import Dataset
from rlab.experience.minari_files import check_can_write, read_dataset, write_dataset
from rlab.experience.recordings import in_words, recording_at
from rlab.jobs.judging import COLLECTED_EPISODE_SEED, warn_if_for_judging
from rlab.jobs.request import A_DATASET
from rlab.jobs.saved import check_can_sample, open_policy
from rlab.learning.runtime import own_surroundings
from rlab.networks.policy import Policy
from rlab.networks.spaces import Space
from rlab.runs.folder import path_of
from rlab.trust import Trust


@dataclass(frozen=True)
class Collected:
    """A dataset that was written."""

    path: Path
    dataset: Dataset = field(repr=False)
    dropped: int = 0  # episodes that returned too little

    def __fspath__(self) -> str:
        """So that it can be given wherever the path of a dataset can."""
        return str(self.path)

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab collect --json` prints."""
        return {"format": 1, "path": str(self.path), **self.dataset.summary(), "dropped": self.dropped}

    def report(self) -> str:
        """The dataset for people."""
        facts = self.dataset.summary()
        dropped = f", {self.dropped} more returned too little and were dropped" if self.dropped else ""
        parts = self.dataset.facts.get("joined", ())
        recorded = [f"recording {part['name']}: {in_words(part['recorded'])}\n" for part in parts if "recorded" in part]
        return "".join(recorded) + (
            f"{facts['episodes']} episodes, {facts['transitions']} transitions{dropped}\n"
            f"return {facts['return_mean']:.1f} on average, from {facts['return_min']:.1f} to "
            f"{facts['return_max']:.1f}; {facts['terminated']} terminated, {facts['truncated']} truncated\n"
            f"dataset: {self.path} (Minari id {facts['name']})"
        )


def collect(
    run: str | PathLike[str],
    out: str | Path,
    *,
    episodes: int = 100,
    seed: int = COLLECTED_EPISODE_SEED,
    member: int | None = None,
    all_members: bool = False,
    noise: float = 0.0,
    stochastic: bool = False,
    min_return: float | None = None,
    envs: int | None = None,
    env_timeout: float = ENV_TIMEOUT,
    env: EnvLike | None = None,
    trust: Trust = False,
) -> Collected:
    """Record episodes of a trained policy in the env that it was trained in.

    Args:
        run: a run folder (its final policy) or a policy folder.
        out: the new folder of the dataset.
        episodes: how many are played; all are kept unless `min_return` says otherwise.
        seed: of the first episode; episode k starts from `seed + k`.
        member: training seed of the one that plays; None: the first.
        all_members: all play, in turns.
        noise: probability of a uniformly random action at each step.
        stochastic: sample actions as in training, where otherwise the greedy ones are taken.
        min_return: episodes that return less are dropped.
        envs: instances of the env at once, in all, at least one per member that plays; None: 10 per member and 64 in
            all, native ones apart.
        env_timeout: seconds for each constructor, reset, step and close of an env.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        trust: allow an env, wrappers and layers from outside rlab that the folder names; it runs their code.

    Raises:
        UsageError: anything in the request that cannot be; nothing has been played then.
        RlabError: the folder is broken, an episode failed, none returned enough, or the disk refuses.
    """
    if all_members and member is not None:
        raise UsageError("a member and all members cannot both play; leave out --member or --all-members.")
    saved = open_policy(run, trust, env)
    policy = saved.policy if all_members else saved.policy.only(saved.policy.seeds[0] if member is None else member)
    if stochastic:
        check_can_sample(policy)
    how = {"agent": saved.agent, "members": list(policy.seeds), "greedy": not stochastic, "noise": noise}
    spaces = policy.spec.obs_space, policy.spec.action_space
    spec = replace(saved.env, timeout=env_timeout)
    return _recorded(policy, spec, spaces, out, how, episodes, seed, min_return, envs)


def collect_random(
    env: EnvLike,
    out: str | Path,
    *,
    episodes: int = 100,
    seed: int = COLLECTED_EPISODE_SEED,
    min_return: float | None = None,
    envs: int | None = None,
    env_timeout: float = ENV_TIMEOUT,
) -> Collected:
    """Record episodes of uniformly random actions; arguments and errors are those of `collect`."""
    spec = replace(env_spec(env), timeout=env_timeout)
    with own_surroundings(threads=1):
        probe = make_episodes(spec, 1)
        probe.close()
    how = {"agent": "random", "members": [], "greedy": False, "noise": 1.0}
    return _recorded(None, spec, (probe.obs_space, probe.action_space), out, how, episodes, seed, min_return, envs)


def merge_datasets(paths: Sequence[str | PathLike[str]], out: str | Path) -> Collected:
    """Write the episodes of several datasets, one after the other, as one.

    The recording of a server may stand alone: what it holds by now is written as a dataset that stays as it is.

    Raises:
        UsageError: one of them is missing, their spaces differ, or there is something at `out`.
        RlabError: one of them is broken.
    """
    folders = [path_of(path, A_DATASET) for path in paths]
    for folder in folders:
        if not Path(folder).exists():
            raise UsageError(f"there is no dataset {folder}; `rlab list datasets` shows those that are here.")
    if len(folders) < 2 and not any(recording_at(Path(folder)) for folder in folders):
        raise UsageError("to merge takes two datasets or more, or the recording of a server.")
    datasets = [read_dataset(folder) for folder in folders]
    _check_different(folders, datasets)
    joined = Dataset.joined(datasets, Path(out).name)
    env = EnvSpec.from_json(joined.env) if joined.env else None
    # Joining files must not run code from outside rlab, and looking up such an env would import it.
    return _written(out, joined, None if env is not None and env.foreign_modules else env)


def _check_different(paths: Sequence[str | Path], datasets: Sequence[Dataset]) -> None:
    """Refuse to count an episode twice: recordings of one policy overlap unless each uses its own seeds."""
    seen: dict[bytes, int] = {}  # which of the datasets an episode is in
    for place, dataset in enumerate(datasets):
        for index, episode in enumerate(dataset.episodes):
            first = seen.setdefault(episode.obs.tobytes() + episode.action.tobytes(), place)
            if first != place:
                raise UsageError(
                    f"episode {index} of {paths[place]} is also in {paths[first]}; record one with another --seed."
                )


def _recorded(
    policy: Policy | None,
    env: EnvSpec,
    spaces: tuple[Space, Space],
    out: str | Path,
    how: dict[str, Any],
    episodes: int,
    seed: int,
    min_return: float | None,
    envs: int | None,
) -> Collected:
    check_request(episodes, seed, how["noise"])
    if how["noise"]:
        uniform_action(*spaces)  # refuses what cannot be drawn
    check_can_write(out, *spaces)
    warn_if_for_judging(seed, episodes)
    with own_surroundings(threads=1):
        played = record(
            policy, EpisodeMaker(env, envs), spaces, episodes, seed, greedy=how["greedy"], noise=how["noise"]
        )
    dataset = Dataset(Path(out).name, *spaces, played, env.to_json())
    kept = dataset if min_return is None else _good_ones(dataset, min_return)
    facts = {**how, "first_episode_seed": seed, "played": episodes, "min_return": min_return}
    facts["return_mean"] = float(kept.returns.mean())
    return _written(out, replace(kept, facts=facts), env, episodes - len(kept.episodes))


def _good_ones(dataset: Dataset, min_return: float) -> Dataset:
    good = (dataset.returns >= min_return).nonzero()[0]
    if not len(good):
        raise RlabError(
            f"none of the {len(dataset.episodes)} episodes returned {min_return} or more, the best "
            f"{dataset.returns.max():.1f}; nothing was written. Lower --min-return."
        )
    return dataset.subset(good)


def _written(out: str | Path, dataset: Dataset, env: EnvSpec | None, dropped: int = 0) -> Collected:
    name = write_dataset(out, dataset, None if env is None else _gymnasium_spec(env))
    return Collected(Path(out), replace(dataset, name=name), dropped)


def _gymnasium_spec(env: EnvSpec) -> str | None:
    """Gymnasium's own JSON of the env, for others who read the dataset; None where it cannot name the env."""
    if env.wrappers or env.local:
        return None  # it would make another env than the one that was played, or none
    found = env.check()
    kwargs, limit = {**found.kwargs, **env.kwargs}, env.max_episode_steps or found.max_episode_steps
    try:
        return replace(found, kwargs=kwargs, max_episode_steps=limit).to_json()
    except (TypeError, ValueError):  # it is made by a function, which has no name
        return None
