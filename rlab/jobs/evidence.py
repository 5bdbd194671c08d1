"""What is on the disk of one population: whatever is named to be compared or reported, in one form.

A run folder, a policy folder, an exported file and a result that `rlab bench` recorded differ in what they hold: a
result has returns and no policy, a policy has no curve. `Evidence` says what there is, and None where there is nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rlab.door import check_counts
from rlab.envs import EnvSpec
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.compress import name_of, weights_sha256
from rlab.jobs.evaluate import open_judged
from rlab.jobs.experiment_files import experiment_path, shipped_folder
from rlab.jobs.judging import FINAL_EPISODE_SEED
from rlab.jobs.recording import final_evaluation
from rlab.jobs.request import BOOKKEEPING, stated
from rlab.jobs.saved import has_exported_name
from rlab.jobs.versions import evaluation_of
from rlab.learning.dropping import Dropped
from rlab.runs import files
from rlab.runs.folder import PARTS, RunFolder, is_run, read_vouched
from rlab.runs.listing import clock_unit, policy_facts, saved_time
from rlab.runs.logs import read_json_lines
from rlab.runs.policy_folder import POLICY
from rlab.runs.reading import curve
from rlab.runs.registry import policy_path
from rlab.runs.schema import MOST_MEMBERS, check_config
from rlab.runs.state_schema import fitting
from rlab.runs.status import read_status
from rlab.runs.versions import Version, read_version
from rlab.trust import Trust

RUN, POLICY_FOLDER, FILE, RESULT = "run", "policy", "file", "result"  # kinds
WHAT = (
    "a run or policy folder, a published policy (NAME@best), an exported file, or a recorded result (NAME.result.json, "
    "or the experiment's name)"
)
PACKAGES = ("rlab", "torch", "numpy", "gymnasium", "python")  # of what a run was computed with; the rest is hardware


@dataclass(frozen=True)
class Protocol:
    """How a policy was judged."""

    episodes: int  # per member
    first_seed: int  # of the episodes; episode k has `first_seed + k`
    greedy: bool = True  # False: actions were sampled as in training

    def covers(self, other: "Protocol") -> bool:
        """Whether every episode of the other one is among its episodes."""
        return (
            self.greedy == other.greedy
            and self.first_seed <= other.first_seed
            and other.first_seed + other.episodes <= self.first_seed + self.episodes
        )

    def __str__(self) -> str:
        sampled = "" if self.greedy else ", sampled actions"
        return f"{self.episodes} episodes from seed {self.first_seed}{sampled}"


@dataclass(frozen=True)
class Parent:
    """The policy that another one was made of, as the latter records it."""

    name: str
    weights_sha256: str
    how: str  # `compressed`, `fine-tuned` or `exported`
    same_members: bool = True  # the member of a training seed was made of the parent's member of that seed


@dataclass(frozen=True, eq=False)
class Evidence:
    """One population: what it is, how it came about, and what it reached."""

    path: str  # as it was named
    kind: str  # RUN, POLICY_FOLDER, FILE or RESULT
    name: str  # for people
    agent: str
    env: EnvSpec  # with its wrappers and time limit
    seeds: tuple[int, ...]  # training seeds of the members, without those that were dropped: the rows of what follows
    dropped: tuple[int, ...] = ()  # training seeds that it went on without, since their numbers were not finite
    protocol: Protocol | None = None  # of `returns`
    returns: np.ndarray | None = None  # [S, E] of the final weights; None: to be judged first
    curve: tuple[np.ndarray, np.ndarray] | None = None  # evaluations during training: when [T], in `unit`, and [S, T]
    unit: str = "env_steps"  # or updates
    time: int | None = None  # how far it was trained, in that unit and per member; None: not on record
    status: str | None = None  # of a run, see `rlab.runs.status`
    settings: Mapping[str, Any] = field(default_factory=dict)  # those in force, of run, sources, start and agent
    origins: Mapping[str, str] = field(default_factory=dict)  # setting -> default, command line, experiment NAME
    weights_sha256: str | None = None  # of its weights file; None: of a result, and of a run that has saved nothing
    parent: Parent | None = None
    commit: str | None = None  # of rlab's own repository
    versions: Mapping[str, str | None] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    wall_seconds: float | None = None  # that training and judging took
    command: str | None = None

    @property
    def can_be_judged(self) -> bool:
        """Whether there is a policy to judge."""
        return self.kind != RESULT


def read_evidence(source: str | PathLike[str], trust: Trust = False) -> Evidence:
    """Everything that is recorded of one population. Nothing is judged.

    Args:
        source: its path, an object that has one, such as a `Run`, or the name of a shipped experiment, whose recorded
            result it stands for.
        trust: allow layers and envs from outside rlab that a policy names, and exported files that can run code.

    Raises:
        UsageError: it is none of these, or needs trust.
        RlabError: it is damaged.
    """
    path = policy_path(source, what=WHAT)
    place = Path(path)
    if place.is_dir():
        inside = place.resolve()
        whole = inside.parent if inside.name == "policy" and is_run(inside.parent) else place
        return _of_policy(path, trust) if (place / POLICY).exists() and whole is place else _of_run(whole, path)
    if place.is_file() and has_exported_name(path):
        return _of_file(path, trust)
    return _of_result(path, _result_path(path))


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in force that a `config.json` states, by name."""
    start = {name: value for name, value in stated(config, "start").items() if name not in ("run", "member")}
    return {**stated(config, "run"), **stated(config, "sources"), **start, **stated(config, "settings")}


def different_settings(of: Sequence[Evidence]) -> dict[str, list[Any]]:
    """The settings that not all of these have in common, with the value of each; those that change what is learned, and
    that all of them record."""
    known = set.intersection(*(set(each.settings) for each in of)) - BOOKKEEPING - {"seeds"}
    values = {name: [each.settings[name] for each in of] for name in sorted(known)}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _of_run(folder: Path, path: str) -> Evidence:
    run = RunFolder.open(folder)
    config, unit, done = run.config, clock_unit(run), saved_time(run)
    first, count = config["run"]["seed"], config["run"]["seeds"]
    facts = policy_facts(run)
    dropped = _dropped(facts, run.path)
    everyone = range(first, first + count)
    judged = final_evaluation(run)
    seeds = tuple(seed for seed in everyone if seed not in dropped) if judged is None else judged.seeds
    weights, status = weights_of(run, "policy"), read_status(run, done, config["run"][unit])
    return Evidence(
        path=path,
        kind=RUN,
        name=run.path.name,
        agent=config["agent"],
        env=EnvSpec.from_json(config["env"]),
        seeds=seeds,
        dropped=dropped,
        protocol=None if judged is None else _protocol_of(judged),
        returns=None if judged is None else judged.returns,
        curve=_curve(run, unit, seeds),
        unit=unit,
        time=done,
        status=status.status,
        commit=config.get("commit"),
        wall_seconds=status.wall_seconds,
        settings=settings_of(config),
        origins=config.get("origins", {}),
        weights_sha256=weights,
        parent=_fine_tuned(run),
        command=config.get("command"),
        **_computed_with(config),
    )


def _of_policy(path: str, trust: Trust) -> Evidence:
    version = read_version(Path(path))
    if version is not None:
        return _of_version(path, version)
    saved = open_judged(path, trust)
    extra = files.read_json(saved.folder / POLICY).get("extra", {})
    parent, unit = extra.get("parent"), "updates" if "updates" in extra and "env_steps" not in extra else "env_steps"
    compressed = {name: extra[name] for name in ("steps", "updates") if parent is not None and name in extra}
    return Evidence(
        path=path,
        kind=POLICY_FOLDER,
        name=name_of(saved),
        agent=saved.agent,
        env=saved.env,
        seeds=tuple(saved.policy.seeds),
        unit=unit,
        time=extra.get(unit) if parent is None else None,
        settings=compressed,
        weights_sha256=weights_sha256(saved),
        parent=None if parent is None else Parent(parent["folder"], parent["weights_sha256"], "compressed"),
    )


def _of_version(path: str, version: Version) -> Evidence:
    judged, config = evaluation_of(Path(path), version), version.config or {}
    step = version.lineage[0]
    made_of, weights = step.version or step.name, step.weights_sha256
    known = made_of is not None and weights is not None
    process = _computed_with({"computed_with": dict(version.computed_with)})
    return Evidence(
        path=path,
        kind=POLICY_FOLDER,
        name=version.label,
        agent=version.agent,
        env=EnvSpec.from_json(version.env),
        seeds=version.seeds,
        dropped=version.dropped,
        protocol=_protocol_of(judged),
        returns=judged.returns,
        unit=version.unit,
        time=version.time,
        settings=settings_of(config) if config else {"steps": list(step.steps)} if step.steps else {},
        origins=config.get("origins", {}),
        weights_sha256=version.weights_sha256,
        parent=Parent(str(made_of), str(weights), step.how, step.same_members) if known else None,
        commit=config.get("commit"),
        versions=process["versions"],
        hardware=process["hardware"],
        wall_seconds=version.wall_seconds,
        command=config.get("command"),
    )


def _of_file(path: str, trust: Trust) -> Evidence:
    saved = open_judged(path, trust)
    runner: Any = saved.policy
    made_of = runner.metadata.get("parent_sha256")
    return Evidence(
        path=path,
        kind=FILE,
        name=Path(path).name,
        agent=saved.agent,
        env=saved.env,
        seeds=tuple(runner.seeds),
        settings={"quantized": runner.quantized},
        weights_sha256=None,
        parent=Parent("a policy", made_of, "exported") if isinstance(made_of, str) else None,
        versions={"rlab": runner.metadata.get("rlab")},
    )


def _of_result(path: str, place: Path) -> Evidence:
    result = files.read_json(place)
    if not {"experiment", "evaluation", "config"} <= result.keys():
        raise UsageError(f"{place} is not a result of rlab bench, of an experiment file; compare {WHAT}.")
    try:
        config, found = result["config"], result["evaluation"]
        check_config(config, place)
        rows = found["per_seed"]
        returns = np.array([row["returns"] for row in rows], np.float64)
        seeds = tuple(row["seed"] for row in rows)
        for seed in seeds:
            check_counts(place, 10**15, seed=seed)
        first = found.get("first_seed", FINAL_EPISODE_SEED)
        check_counts(place, MOST_MEMBERS, first_seed=first)
        if returns.ndim != 2 or 0 in returns.shape or not np.isfinite(returns).all() or len(set(seeds)) < len(seeds):
            raise ValueError(f"returns of {len(seeds)} seeds with the shape {returns.shape}")
        unit = config.get("unit", "env_steps")
        of_process = _computed_with(config)
        return Evidence(
            path=path,
            kind=RESULT,
            name=str(result["experiment"]),
            agent=config["agent"],
            env=EnvSpec.from_json({"kwargs": {}, "wrappers": [], "max_episode_steps": None, **config["env"]}),
            seeds=seeds,
            dropped=_dropped(result, place),
            protocol=Protocol(returns.shape[1], first, bool(found.get("greedy", True))),
            returns=returns,
            unit=unit,
            time=config["run"].get(unit),
            settings=settings_of(config),
            origins=dict(result.get("origins", {})),
            versions=of_process["versions"],
            hardware=dict(result.get("hardware", {})) | of_process["hardware"],
            commit=result.get("commit"),
            wall_seconds=result.get("wall_seconds"),
            command=str(result["command"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RlabError(f"{place} is not a whole result ({type(error).__name__}: {error}). Was it edited?") from error


def _result_path(path: str) -> Path:
    """The recorded result that is named by its file, its experiment file, or its shipped experiment."""
    if path.endswith(".json") and Path(path).is_file():
        return Path(path)
    named = path.endswith(".toml") or (shipped_folder() / f"{path}.toml").is_file()
    if not named:
        raise UsageError(
            f"{path!r:.200} is not there, or is not {WHAT}. `rlab list runs` shows the runs that are here."
        )
    found = experiment_path(path).with_suffix(".result.json")
    if not found.is_file():
        raise UsageError(f"{path} has no recorded result yet: rlab bench {path} records one.")
    return found


def weights_of(run: RunFolder, part: str) -> str | None:
    """The checksum of the weights in one of the policy folders of a run; None where there is none."""
    path = run.path / part / POLICY
    if not path.exists():
        return None
    with fitting(str(path)):
        return str(files.parse_json(read_vouched(run.path, f"{part}/{POLICY}"), path)["weights"]["sha256"])


def _fine_tuned(run: RunFolder) -> Parent | None:
    """The policy that a run began with, of which it keeps a copy."""
    began, weights = run.config.get("start"), weights_of(run, "start")
    if not began or weights is None:
        return None
    return Parent(Path(str(began.get("run"))).name, weights, "fine-tuned", began.get("member") is None)


def _curve(run: RunFolder, unit: str, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """The evaluations during training, of these members; None where there are none yet."""
    path = run.path / "eval.jsonl"
    if not path.is_file():
        return _curve_of_parts(run, unit, seeds)
    when, values = curve(run.path, unit, "eval/return")
    if not len(when):
        return None
    in_log = read_json_lines(path)[0]["seeds"]
    with fitting(str(path)):
        return when, values[[in_log.index(seed) for seed in seeds]]


def _curve_of_parts(run: RunFolder, unit: str, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """The same of a run in several processes, whose parts are not yet put together: at the times that all of them have
    been judged at."""
    curves = []
    for path in filter(is_run, (run.path / PARTS).glob("*")):
        part = RunFolder.open(path)
        first, count = part.config["run"]["seed"], part.config["run"]["seeds"]
        own = tuple(seed for seed in seeds if first <= seed < first + count)
        curves.append((own, _curve(part, unit, own)))
    known = [(own, *found) for own, found in curves if found is not None]
    if not known or len(known) < len(curves) or sum(len(own) for own, _, _ in known) < len(seeds):
        return None
    shared = sorted(set.intersection(*(set(when.tolist()) for _, when, _ in known)))
    rows = {
        seed: row[np.isin(when, shared)] for own, when, values in known for seed, row in zip(own, values, strict=True)
    }
    return (np.array(shared), np.stack([rows[seed] for seed in seeds])) if shared else None


def _dropped(facts: Mapping[str, Any], where: Path) -> tuple[int, ...]:
    """The training seeds of the members that a run went on without."""
    return tuple(each.seed for each in Dropped.from_json(facts.get("dropped", []), where))


def _protocol_of(judged: Evaluation) -> Protocol:
    return Protocol(judged.episodes, judged.first_seed, judged.greedy)


def _computed_with(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The versions and the hardware on record; older records have versions alone."""
    known = config.get("computed_with") or config.get("versions") or {}
    versions = {name: known[name] for name in PACKAGES if name in known}
    return {"versions": versions, "hardware": {name: value for name, value in known.items() if name not in PACKAGES}}


def to_json(evidence: Evidence) -> dict[str, Any]:
    """What is on record of one population as plain data, without its returns and its curve."""
    left_out = ("returns", "curve", "env", "protocol", "parent")
    plain = {name: value for name, value in vars(evidence).items() if name not in left_out}
    return {
        **plain,
        "seeds": list(evidence.seeds),
        "env": evidence.env.to_json(),
        "protocol": None if evidence.protocol is None else asdict(evidence.protocol),
        "parent": None if evidence.parent is None else asdict(evidence.parent),
        "origins": dict(evidence.origins),
        "versions": dict(evidence.versions),
        "hardware": dict(evidence.hardware),
    }
