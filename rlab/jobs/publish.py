"""`rlab.publish`: a policy becomes a numbered version of a model, with a card, in a local registry or on the hub."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.envs import EnvLike, EpisodeMaker
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.evaluate import evaluate as judge_episodes
from rlab.jobs.aliases import answering
from rlab.jobs.comparable import in_words
from rlab.jobs.evidence import RUN, Evidence, read_evidence
from rlab.jobs.judging import FINAL_EPISODE_SEED
from rlab.jobs.observing import ObsRecorder
from rlab.jobs.recording import final_evaluation
from rlab.jobs.saved import SavedPolicy, open_policy
from rlab.jobs.versions import evaluation_of, evaluation_to_json, returned_of
from rlab.learning.runtime import own_surroundings
from rlab.machine import computed_with
from rlab.places import warn
from rlab.runs import files
from rlab.runs.folder import RunFolder, path_of
from rlab.runs.model_card import card
from rlab.runs.observed import ObsReference, load_observed, save_observed
from rlab.runs.policies import save_policy
from rlab.runs.policy_folder import POLICY
from rlab.runs.registry import (
    HUB,
    add_version,
    check_alias,
    check_name,
    models_folder,
    move_aliases,
    pinned,
    published_with,
    resolve,
)
from rlab.runs.versions import CARD, EVALUATION, PRETRAINED, TAKEN, TRAINED, VERSION, Step, Version, read_version
from rlab.runs.weights import STEM, SUFFIX
from rlab.trust import Trust

EPISODES = 100  # of a policy that has not been judged yet, per member


@dataclass(frozen=True)
class Published:
    """A version of a model, and where it is."""

    version: Version
    path: Path  # its folder
    aliases: tuple[str, ...]  # that this call moved to it
    hub: str | None = None  # hf:USER/NAME@COMMIT where it was pushed to
    new: bool = True  # false: the version was there, and its aliases were moved or it was pushed

    def __fspath__(self) -> str:
        """So that it can be given wherever the path of a policy can."""
        return str(self.path)

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab publish --json` prints."""
        return {
            "format": 1,
            "model": self.version.label,
            "path": str(self.path),
            "aliases": list(self.aliases),
            "hub": self.hub,
            "new": self.new,
            "version": self.version.to_json(),
        }

    def summary(self) -> str:
        """The result for people."""
        version, found = self.version, self.version.returned
        interval = "" if found.ci95 is None else f" [{found.ci95[0]:.4g}, {found.ci95[1]:.4g}]"
        lines = [
            f"{version.label}: {version.agent} on {version.env['env_id']}, IQM {found.iqm:.4g}{interval}, "
            f"{version.lineage[0]}: {self.path}"
        ]
        lines += [f"{version.name}@{alias} is version {version.version} now" for alias in self.aliases]
        lines += [f"on the hub: {self.hub}"] if self.hub else []
        named = f"{version.name}@{self.aliases[0]}" if self.aliases else version.label
        return "\n".join([*lines, f"use it: rlab serve {named}"])


def _warn_of_unfinished(evidence: Evidence) -> None:
    """Say that a run was to learn on, which its return alone does not show."""
    total = evidence.settings.get(evidence.unit)
    if evidence.kind == RUN and evidence.time is not None and isinstance(total, int) and evidence.time < total:
        done = f"{evidence.time:,} of {total:,} {in_words(evidence.unit)}"
        warn(f"{evidence.path} is {evidence.status}, after {done}; what is published is its policy of then")


@answering
def publish(
    run: str | PathLike[str],
    name: str | None = None,
    *,
    alias: str | Sequence[str] = (),
    member: int | None = None,
    to: str | None = None,
    private: bool = False,
    models: str | Path | None = None,
    episodes: int = EPISODES,
    envs: int | None = None,
    env: EnvLike | None = None,
    trust: Trust = False,
) -> Published:
    """Make a policy the next version of a model, or move aliases to a version that is there.

        rlab.publish("runs/my-run", "cartpole", alias="best")
        rlab.publish("cartpole@2", alias="best")  # back to version 2

    A version holds the policy, what it returned, where it comes from and a model card, and never changes.

    Args:
        run: a run or policy folder, or a published policy (`NAME@3`, `hf:USER/NAME`).
        name: of the model; None: that of the version in `run`, or NAME of `to`.
        alias: names such as `best` that mean this version from now on.
        member: training seed of the one to publish; None: all.
        to: `hf:USER/NAME`: push the version to the Hugging Face hub, too (extra `hub`).
        private: whether a repository that has to be made there is for its owner alone.
        models: the folder of the registry; None: that of the variable RLAB_MODELS, else `models`.
        episodes: per member, that a policy without an evaluation on record is judged by.
        envs, env, trust: as for `evaluate`.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the folder is broken, an episode failed, the disk or the hub refuses. What was published before the
            hub refused stays published.
    """
    root, aliases = models_folder(models), [alias] if isinstance(alias, str) else list(alias)
    repository = _repository(to)
    _check(name, aliases, repository, private, episodes)
    source = pinned(path_of(run), root)
    path = resolve(source, root)
    there = _there(path, root, name, member)
    if there is not None:
        if not aliases and repository is None:
            raise UsageError(f"{there.label} is published already: name what should change, --alias ALIAS or --to.")
        if aliases:
            move_aliases(root, there.name, there.version, aliases)
        done = Published(there, path, tuple(aliases), new=False)
    else:
        chosen = name or (repository or "").rpartition("/")[2]
        if not chosen:
            raise UsageError(f"publish needs the name of the model: rlab publish {path_of(run)} NAME.")
        check_name(chosen)
        draft, contents = _prepared(path, source, chosen, member, root, episodes, envs, env, trust)
        number = add_version(root, chosen, contents, aliases)
        done = Published(replace(draft, version=number), root / chosen / str(number), tuple(aliases))
    return done if repository is None else replace(done, hub=_pushed(done, repository, private))


def _check(name: str | None, aliases: Sequence[str], repository: str | None, private: bool, episodes: int) -> None:
    """Raise UsageError for words that cannot be, before any work."""
    if private and repository is None:
        raise UsageError("--private is for repositories on the hub: --to hf:USER/NAME.")
    for alias in aliases:
        check_alias(alias)
    if name is not None:
        check_name(name)
    if episodes < 1:
        raise UsageError(f"--episodes {episodes} must be 1 or more.")


def _repository(to: str | None) -> str | None:
    """The repository in `hf:USER/NAME`."""
    if to is None:
        return None
    if not to.startswith(HUB):
        raise UsageError(f"--to {to}: a policy is pushed to the Hugging Face hub alone: --to hf:USER/NAME.")
    from rlab.runs.hub import repository_of

    return repository_of(to.removeprefix(HUB))


def _there(path: Path, root: Path, name: str | None, member: int | None) -> Version | None:
    """The version that a folder is in this registry, where no new one is asked for."""
    version = None if member is not None else read_version(path)
    if version is None or path.resolve() != (root / version.name / str(version.version)).resolve():
        return None
    return version if name in (None, version.name) else None


def _prepared(
    path: Path,
    source: str,
    name: str,
    member: int | None,
    root: Path,
    episodes: int,
    envs: int | None,
    env: EnvLike | None,
    trust: Trust,
) -> tuple[Version, Any]:
    """What version.json will say but for the number, and what makes the files of a version of its number."""
    saved = open_policy(path, trust, env)
    evidence = read_evidence(path, trust)
    _warn_of_unfinished(evidence)
    before = read_version(path)
    chosen = saved if member is None else replace(saved, policy=saved.policy.only(member))
    judged, observed = _judged(evidence, chosen, before, episodes, envs)
    kept = _policy_files(chosen, evidence, observed, whole=member is None)
    weights = next(files.sha256(data) for file, data in kept.items() if file.endswith(SUFFIX))
    config = RunFolder.open(_run_of(path)).config if evidence.kind == RUN else before.config if before else None
    draft = Version(
        name=name,
        version=0,
        published=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        source=evidence.name if source == str(path) else source,
        agent=saved.agent,
        env=saved.env.to_json(),
        seeds=judged.seeds,
        dropped=evidence.dropped if member is None else (),
        unit=evidence.unit,
        time=evidence.time,
        weights_sha256=weights,
        lineage=_lineage(evidence, before, config, root, taken=len(evidence.seeds) > len(judged.seeds)),
        returned=returned_of(judged),
        config=config,
        computed_with={**evidence.versions, **evidence.hardware} or computed_with("cpu"),
        wall_seconds=evidence.wall_seconds,
    )
    lengths = judged.lengths.mean(axis=1)
    rows = zip(judged.seeds, judged.per_seed_mean.tolist(), lengths.tolist(), strict=True)
    members = {seed: (mean, length) for seed, mean, length in rows}
    spec = saved.policy.spec.to_json()

    def contents(number: int) -> Mapping[str, bytes]:
        version = replace(draft, version=number)
        return {
            **kept,
            EVALUATION: files.to_json(evaluation_to_json(judged), path / EVALUATION),
            VERSION: files.to_json(version.to_json(), path / VERSION),
            CARD: card(version, spec, members).encode(),
        }

    return draft, contents


def _judged(
    evidence: Evidence, saved: SavedPolicy, before: Version | None, episodes: int, envs: int | None
) -> tuple[Evaluation, list[ObsReference]]:
    """The evaluation on record, of the members that are published, and what they observed in it; where there is none
    they are judged now."""
    found = None
    if before is not None:
        found = evaluation_of(saved.where, before)
    elif evidence.kind == RUN and evidence.returns is not None:
        found = final_evaluation(RunFolder.open(_run_of(saved.where)))
    if found is None:
        recorder = ObsRecorder(saved.policy.spec.obs_space, saved.policy.seeds)
        with own_surroundings(threads=1):
            envs_of = EpisodeMaker(saved.env, envs)
            judged = judge_episodes(saved.policy, envs_of, episodes, FINAL_EPISODE_SEED, on_step=recorder)
        return judged, list(recorder.references().values())
    seeds, observed = tuple(saved.policy.seeds), load_observed(saved.where)
    rows = [found.seeds.index(seed) for seed in seeds]
    judged = replace(found, seeds=seeds, returns=found.returns[rows], lengths=found.lengths[rows])
    return judged, [observed[seed] for seed in seeds if seed in observed]


def _run_of(path: Path) -> Path:
    """The run folder that was named by itself or by its `policy/`."""
    return path.parent if (path / POLICY).exists() else path


def _policy_files(
    saved: SavedPolicy, evidence: Evidence, observed: Sequence[ObsReference], whole: bool
) -> dict[str, bytes]:
    """The files of a policy and of what it observed, by name.

    Args:
        whole: whether the policy has all members of the folder, whose bytes are taken then.

    Raises:
        RlabError: it has been replaced since it was looked at, by a run that goes on.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "policy"
        if whole:
            folder.mkdir()
            for name, content in _as_it_is(saved, evidence).items():
                files.write_bytes(folder / name, content)
        else:
            extra = files.read_json(saved.where / POLICY).get("extra", {})
            save_policy(folder, saved.policy, {name: value for name, value in extra.items() if name != "dropped"})
        save_observed(folder, observed)
        return {path.name: files.read_bytes(path) for path in folder.iterdir()}


def _as_it_is(saved: SavedPolicy, evidence: Evidence) -> dict[str, bytes]:
    path = saved.where / POLICY

    def read() -> dict[str, bytes]:
        content = files.read_bytes(path)
        entry = files.parse_json(content, path)["weights"]
        return {POLICY: content, entry["name"]: files.read_checked(saved.where, entry, STEM, SUFFIX, path)}

    found = files.settled(read, lambda: files.identity(path))
    if evidence.weights_sha256 not in [files.sha256(content) for content in found.values()]:
        raise RlabError(f"{saved.folder} was saved anew while it was being published: its run goes on. Publish again.")
    return found


def _lineage(
    evidence: Evidence, before: Version | None, config: Mapping[str, Any] | None, root: Path, taken: bool
) -> tuple[Step, ...]:
    """The steps in the life of a policy, the last one first; those of its parent are added where that was published."""
    if before is not None:
        steps = before.lineage
    elif evidence.parent is None:
        steps = (Step(how=PRETRAINED if evidence.unit == "updates" else TRAINED),)
    else:
        parent = evidence.parent
        older = published_with(root, parent.weights_sha256, parent.name)
        step = Step(
            how=parent.how,
            name=parent.name,
            weights_sha256=parent.weights_sha256,
            version=None if older is None else older.label,
            same_members=parent.same_members,
            steps=tuple(map(str, evidence.settings.get("steps", ()))) if config is None else (),
        )
        steps = (step, *(() if older is None else older.lineage))
    if not taken:
        return steps
    label = before.label if before is not None else None
    return (Step(how=TAKEN, name=evidence.name, weights_sha256=evidence.weights_sha256, version=label), *steps)


def _pushed(done: Published, repository: str, private: bool) -> str:
    """Push a version; gives where it is."""
    from rlab.runs.hub import push

    label = done.version.label
    try:
        commit = push(done.path, repository, f"{done.version.name}, version {done.version.version}", private)
    except RlabError as error:
        again = f"{label} is published here all the same; push it again: rlab publish {label} --to {HUB}{repository}"
        raise type(error)(f"{str(error).rstrip('.')}. {again}") from error
    return f"{HUB}{repository}@{commit}"
