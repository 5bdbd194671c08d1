"""What `rlab tune` left in the folder of a study, as a report has it."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlab.door import parse_json, read_file, whole_lines
from rlab.envs import EnvSpec
from rlab.errors import RlabError
from rlab.evaluation.report.model import Finalist, Lineage, Study, Trial
from rlab.evaluation.report.numbers import counted
from rlab.evaluation.stats import Interval
from rlab.jobs.evolution import LINEAGE

STUDY, HISTORY = "study.json", "history.jsonl"
BRED = "population.json"  # of a study that was one population, once all of it is there
WINNER, POPULATION, REPLAY = "winner", "population", "replay"  # runs in a study's folder
# Those that a report shows beside it, and how they are called. A population is none of them: its members are relatives,
# for which intervals over seeds would claim too much.
RUNS = {WINNER: "winner", REPLAY: "schedule"}


def is_study(path: Path) -> bool:
    """Whether a folder claims to be one."""
    return any((path / name).is_file() for name in (STUDY, BRED))


def read_study(folder: Path) -> Study:
    """The trials, what mattered, the finalists and the winner; or how the settings of a population changed.

    Raises:
        RlabError: it is missing or damaged.
    """
    path = folder / (STUDY if (folder / STUDY).is_file() else BRED)
    facts = parse_json(read_file(path), path)
    try:
        return _bred(folder, facts) if path.name == BRED else _study(folder, facts, read_history(folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RlabError(f"{path} is not a whole study ({type(error).__name__}: {error}). Was it edited?") from error


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The trials, in the order in which they were proposed; none where none has ended yet.

    Raises:
        RlabError: it is damaged.
    """
    path = folder / HISTORY
    return [parse_json(line, path) for line in whole_lines(path)][1:] if path.is_file() else []


def _study(folder: Path, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Study:
    env, winner = EnvSpec.from_json(facts["env"]), facts["winner"]
    seeds = {stage: [int(seed) for seed in each] for stage, each in facts["seeds"].items()}
    in_order = sorted(seeds.items(), key=lambda each: each[1])  # stages have seeds in the order in which they run
    known = {
        "state": str(facts.get("status", "")),
        "method": str(facts["method"]),
        "trials": f"{len(rows)} of {max(len(rows), int(facts['trials']))}",  # a later command may ask for fewer
        "training seeds": ", ".join(f"{_span(each)} ({stage})" for stage, each in in_order),
        "storage": str(facts["storage"] or "in the folder"),
        "versions": _listed(facts["versions"]),
        "hardware": _listed(facts["hardware"]),
    }
    return Study(
        name=f"{facts['agent']} on {env.label}: {folder.name}",
        objective=f"IQM of {counted(len(seeds['search']), 'seed')}",
        trials=[_trial(row) for row in rows],
        importance={str(name): float(share) for name, share in (facts["importance"] or {}).items()},
        facts={name: value for name, value in known.items() if value},
        finalists=[_finalist(each, winner) for each in facts["finalists"]],
        winner="" if winner is None else _winner(winner),
        made_by=None if facts["command"] is None else str(facts["command"]),
        used_by="" if winner is None else _use(folder, facts, winner),
    )


def _bred(folder: Path, facts: Mapping[str, Any]) -> Study:
    env, seeds, winner = EnvSpec.from_json(facts["env"]), facts["seeds"], facts["winner"]
    returns = [float(each) for each in facts["population_returns"]]
    path = folder / POPULATION / LINEAGE
    rows = parse_json(read_file(path), path)["rows"] if path.is_file() else []
    scales = {str(name): str(each["scale"]) for name, each in facts["evolution"]["ranges"].items()}
    changes = [(int(row["member"]), (int(row["time"]), _numbers(row["settings"], scales))) for row in rows]
    firsts = [(0, _numbers(each, scales)) for each in facts["evolution"]["population"]]
    lineage = Lineage(
        unit=str(facts["unit"]).replace("_", " "),
        until=int(facts["budget"]),
        exploits=int(facts["exploits"]),
        scales=scales,
        members=[[first, *(e for m, e in changes if m == member)] for member, first in enumerate(firsts)],
        best=[(int(when), _numbers(settings, scales)) for when, settings in winner["schedule"]],
    )
    known = {
        "state": str(facts["status"]),
        "method": f"{facts['method']}: {facts['how']}",
        "training seeds": f"{_span(seeds['search'])} (population), {_span(seeds['report'])} (schedule)",
        "members returned": f"{min(returns):.4g} to {max(returns):.4g}",
        "best member": f"seed {int(winner['seed'])}, which returned {float(winner['population_return']):.4g}",
        "versions": _listed(facts["versions"]),
        "hardware": _listed(facts["hardware"]),
    }
    return Study(
        name=f"{facts['agent']} on {env.label}: {folder.name}",
        objective="mean return",
        trials=(),
        importance={},
        facts={name: value for name, value in known.items() if value},
        winner=f"The best member's schedule of settings has {_on_fresh_seeds(winner['evaluation'])}",
        made_by=None if facts["command"] is None else str(facts["command"]),
        lineage=lineage,
    )


def _numbers(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    return {name: float(settings[name]) for name in names}


def _trial(row: Mapping[str, Any]) -> Trial:
    value = None if row["value"] is None else float(row["value"])
    state = f"{row['state']}, the defaults" if row["start"] else str(row["state"])
    return Trial(int(row["trial"]), value, str(row["state"]) == "done", state, dict(row["settings"]))


def _finalist(row: Mapping[str, Any], winner: Mapping[str, Any] | None) -> Finalist:
    ends, chosen = row["ci95"], winner is not None and winner["trial"] == row["trial"]
    fresh = float(row["iqm"])
    value = fresh if ends is None else Interval(fresh, float(ends[0]), float(ends[1]))
    return Finalist(int(row["trial"]), float(row["search_iqm"]), value, chosen, dict(row["settings"]))


def _winner(winner: Mapping[str, Any]) -> str:
    who = "The defaults won" if winner["start"] else f"Trial {int(winner['trial'])} won"
    return f"{who}, with {_on_fresh_seeds(winner['evaluation'])}"


def _on_fresh_seeds(found: Mapping[str, Any]) -> str:
    ends = found["ci95"]
    value, of = f"{float(found['iqm']):.4g}", counted(len(found["per_seed"]), "training seed")
    if ends is None:
        return f"{value}: the IQM of {of} that chose nothing."
    value += f" [{float(ends[0]):.4g}, {float(ends[1]):.4g}]"
    return f"{value}: the IQM of {of} that chose nothing, and its 95 % interval for other seeds."


def _use(folder: Path, facts: Mapping[str, Any], winner: Mapping[str, Any]) -> str:
    words = [facts["agent"], facts["env"]["env_id"], "--experiment", str(folder / str(winner["experiment"]))]
    return shlex.join(["rlab", "train", *map(str, words)])


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _span(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else ", ".join(map(str, seeds))
