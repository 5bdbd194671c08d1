"""What a report is about: the populations that are named or lie in a folder, in groups that were judged alike."""

import functools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlab.envs import EnvSpec
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.report.model import Side, Study, Task
from rlab.jobs.comparable import lost
from rlab.jobs.compare import Compared, comparison_of
from rlab.jobs.evidence import FILE, POLICY_FOLDER, RUN, Evidence, Protocol, read_evidence
from rlab.jobs.report_studies import RUNS, is_study, read_study
from rlab.jobs.varied import paths_of
from rlab.runs.folder import PARTS, RunFolder, is_run, path_of
from rlab.runs.listing import reached, whole_steps
from rlab.runs.logs import read_json_lines
from rlab.runs.policy_folder import POLICY
from rlab.runs.reading import Series, series
from rlab.runs.registry import policy_path
from rlab.runs.status import RUNNING
from rlab.trust import Trust

Source = str | PathLike[str]
RESULTS = "*.result.json"
TRAINING = "train/episode_return"  # a tag of what training reports
MOST_COMPARED = 12  # sides; more are shown and not compared
WHAT = "a run, policy or study folder, a folder of these, an exported file, or a recorded result"


@dataclass(frozen=True)
class Found:
    """What the sources hold."""

    evidence: tuple[Evidence, ...]
    studies: tuple[Study, ...]
    unreadable: tuple[str, ...]  # what lies in a folder and is broken, a line each
    empty: tuple[str, ...]  # folders that hold nothing of it yet


def find(sources: Sequence[Source], trust: Trust = False) -> Found:
    """Everything that the sources name, in their order and each once; of a folder what is directly in it, by name.

    Raises:
        UsageError: a source is not `WHAT`.
        RlabError: what a source names itself is broken.
    """
    found: dict[str, Evidence] = {}
    studies: dict[str, Study] = {}
    unreadable: list[str] = []
    empty: list[str] = []

    def read(source: Source) -> None:
        path = Path(policy_path(source, what=WHAT))
        sets = paths_of(RunFolder.open(path)) if is_run(path) else []
        if sets:  # each set of settings is a run of its own
            for each in sets:
                read(each)
            return
        if not is_study(path):
            found.setdefault(str(path.absolute()), read_evidence(source, trust))
            return
        studies.setdefault(str(path.absolute()), read_study(path))
        for folder, name in RUNS.items():
            run = path / folder
            if is_run(run):
                found[str(run.absolute())] = replace(read_evidence(run, trust), name=f"{name} of {path.name}")

    for source in sources:
        inside = _inside(Path(policy_path(source, what=WHAT)))
        if inside == []:
            empty.append(path_of(source))
        for each in [source] if inside is None else inside:
            try:
                read(each)
            except (RlabError, OSError) as error:
                if inside is None:
                    raise
                unreadable.append(f"{each} is left out: {error}")
    return Found(tuple(found.values()), tuple(studies.values()), tuple(unreadable), tuple(empty))


def _inside(path: Path) -> list[Path] | None:
    """What is in a folder of runs; None where the path is something itself."""
    if not path.is_dir() or _is_one(path) or (path.name == "policy" and is_run(path.parent)):
        return None
    inside = sorted(each for each in path.iterdir() if each.is_dir() and _is_one(each))
    return inside + sorted(path.glob(RESULTS))


def _is_one(path: Path) -> bool:
    return is_run(path) or is_study(path) or (path / POLICY).exists()


def judged_first(found: Found, judge: Any) -> Found:
    """The same, with the returns of policies and files that have none on record: `judge(evidence)` gives them."""
    evidence = (
        judge(each) if each.returns is None and each.kind in (POLICY_FOLDER, FILE) else each for each in found.evidence
    )
    return replace(found, evidence=tuple(evidence))


def tasks_of(evidence: Iterable[Evidence], films: Mapping[str, tuple[bytes, str]] | None = None) -> list[Task]:
    """The populations in groups of one env and one protocol, in the order in which they come; those without returns
    are beside others in their env.

    Args:
        films: a GIF and what it shows, by the path of its population.
    """
    everyone = list(evidence)
    protocols: dict[str, Protocol] = {}  # of each env, the first
    for each in everyone:
        if each.protocol is not None:
            protocols.setdefault(_env_key(each), each.protocol)
    groups: dict[tuple[str, Protocol | None], list[Evidence]] = {}
    for each in everyone:
        groups.setdefault((_env_key(each), each.protocol or protocols.get(_env_key(each))), []).append(each)
    labels = [_env_label(members[0]) for members in groups.values()]
    tasks = []
    for label, ((_, protocol), members) in zip(labels, groups.items(), strict=True):
        if labels.count(label) > 1:
            label += " (not judged)" if protocol is None else f", {protocol}"
        sides = [
            _side(each, name, (films or {}).get(each.path)) for each, name in zip(members, _names(members), strict=True)
        ]
        solved_at = threshold_of(members[0].env)
        task = Task(label, "" if protocol is None else _judged(protocol), sides, threshold=solved_at)
        tasks.append(task if protocol is None else _compared(task, members, protocol))
    return tasks


def _compared(task: Task, members: Sequence[Evidence], protocol: Protocol) -> Task:
    """The task with the comparisons of those that are judged."""
    judged = []
    for side, each in zip(task.sides, members, strict=True):
        if each.returns is not None:
            lengths = np.zeros(each.returns.shape, np.int64)  # not on record everywhere, and not compared
            found = Evaluation(each.seeds, protocol.first_seed, each.returns, lengths, protocol.greedy)
            judged.append(Compared(side.name, (each,), (), found))
    if len(judged) > MOST_COMPARED:
        return replace(task, notes=(f"{len(judged)} sides are not compared: name {MOST_COMPARED} or fewer for that",))
    if len(judged) < 2:
        return task
    comparison = comparison_of(members[0].env, protocol, judged)
    command = shlex.join(["rlab", "compare", *(side.made_of[0].path for side in judged)])
    return replace(task, pairs=comparison.pairs, notes=comparison.notes, compared_by=command)


def threshold_of(env: EnvSpec) -> float | None:
    """The return from which on an env counts as solved, where Gymnasium's registry has one for it as it is."""
    known = gymnasium.registry.get(env.env_id)
    return None if known is None or env.kwargs or env.wrappers or env.max_episode_steps else known.reward_threshold


def _env_key(evidence: Evidence) -> str:
    return json.dumps(evidence.env.to_json(), sort_keys=True)


def _env_label(evidence: Evidence) -> str:
    env = evidence.env
    return env.label + (f", at most {env.max_episode_steps:,} steps" if env.max_episode_steps else "")


def _judged(protocol: Protocol) -> str:
    how = "greedy" if protocol.greedy else "sampled"
    return f"{protocol.episodes:,} episodes for each seed, {how} actions, episode seeds from {protocol.first_seed}."


def _names(group: Sequence[Evidence]) -> list[str]:
    """Short names that tell them apart: those on record, or as much of the end of their paths as it takes."""
    names = [each.name for each in group]
    parts = [Path(each.path).absolute().parts for each in group]
    length = 1
    while len(set(names)) < len(names) and length <= max(map(len, parts)):
        twice = {name for name in names if names.count(name) > 1}
        names = ["/".join(path[-length:]) if name in twice else name for name, path in zip(names, parts, strict=True)]
        length += 1
    return names


def _side(evidence: Evidence, name: str, film: tuple[bytes, str] | None) -> Side:
    settings = evidence.settings
    budget, time = settings.get(evidence.unit), evidence.time
    curve, training = evidence.curve, None
    if evidence.kind == RUN:
        run = RunFolder.open(evidence.path)
        training = _training(run, evidence)
        if evidence.status == RUNNING:
            time = reached(run, evidence.unit, evidence.time or 0)
        if evidence.status == RUNNING and (run.path / PARTS).is_dir():
            curve, training, time = _of_parts(run)
    if budget is not None and evidence.unit == "env_steps":
        budget = whole_steps(budget, settings.get("num_envs", 1))
    return Side(
        name=name,
        path=evidence.path,
        agent=evidence.agent,
        seeds=evidence.seeds,
        returns=evidence.returns,
        curve=curve,
        training=training,
        unit=evidence.unit.replace("_", " "),
        time=time,
        budget=budget,
        status=evidence.status,
        settings=settings,
        origins=evidence.origins,
        versions=evidence.versions,
        hardware=evidence.hardware,
        made_by=evidence.command,
        notes=[f"It {lost(evidence)}."] if evidence.dropped else [],
        film=None if film is None else film[0],
        film_of="" if film is None else film[1],
    )


def _of_parts(run: RunFolder) -> tuple[Series | None, Series | None, int]:
    """Evaluations, returns in training and the clock of a run under way whose members are shared out: of all of them,
    as far as each of its parts has come."""
    parts = [_side(read_evidence(path), path.name, None) for path in (run.path / PARTS).glob("*") if is_run(path)]
    parts.sort(key=lambda part: part.seeds)
    curves, trained = [part.curve for part in parts], [part.training for part in parts]
    return _joined(curves), _joined(trained), min((part.time or 0 for part in parts), default=0)


def _joined(parts: Sequence[Series | None]) -> Series | None:
    """Members of several parts as one, at the moments that all of them have; None where there are none."""
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts):
        return None
    when = functools.reduce(np.intersect1d, [moments for moments, _ in found])
    values = [values[:, np.isin(moments, when)] for moments, values in found]
    return (when, np.concatenate(values)) if len(when) else None


def _training(run: RunFolder, evidence: Evidence) -> Series | None:
    """What the episodes of training returned, of the members of the evidence; None where nothing says so yet."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        return None
    found = series(run.path, evidence.unit, ("metrics",)).get(TRAINING)
    if found is None:
        return None
    in_log = read_json_lines(path)[0]["seeds"]
    return found[0], found[1][[in_log.index(seed) for seed in evidence.seeds]]


def check_any(found: Found, sources: Sequence[Source]) -> None:
    """Raise UsageError where there is nothing to report, or nothing in one of the folders."""
    nothing = not found.evidence and not found.studies
    if nothing or found.empty:
        broken = f" ({found.unreadable[0]})" if nothing and found.unreadable else ""
        where = ", ".join(map(path_of, sources) if nothing else found.empty)
        raise UsageError(f"there is nothing to report in {where}{broken}: name {WHAT}.")
