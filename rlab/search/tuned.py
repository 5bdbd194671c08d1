"""What a search found, as plain data in the folder of its study: `study.json`, `history.jsonl`, and the winner as an
experiment file with its recorded result."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.report.numbers import counted
from rlab.evaluation.stats import too_narrow
from rlab.jobs.defaults import agent_config
from rlab.jobs.report_studies import HISTORY, read_history
from rlab.jobs.request import BOOKKEEPING, BUDGETS, Request
from rlab.runs import files
from rlab.runs.config import RunConfig


@dataclass(frozen=True)
class Tuned:
    """A search that has ended. `facts` is what `study.json` holds; docs/tune.md has its keys."""

    path: Path  # the folder of the study
    facts: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The winner's settings, of those that were searched; `{}` where the defaults won."""
        return dict(self.facts["winner"]["settings"])

    @property
    def experiment(self) -> Path:
        """The winner as an experiment file: `rlab train AGENT ENV --experiment FILE`."""
        return self.path / str(self.facts["winner"]["experiment"])

    @property
    def evaluation(self) -> dict[str, Any]:
        """The winner on the seeds that chose nothing, as `rlab eval --json` has it."""
        return dict(self.facts["winner"]["evaluation"])

    def history(self) -> list[dict[str, Any]]:
        """Every trial, in the order in which they were proposed."""
        return read_history(self.path)

    def report(self) -> str:
        """The result for people."""
        facts, winner = self.facts, self.facts["winner"]
        lines = [f"{'trial':>9} {'search':>10} {'fresh seeds':>12}  settings"]
        for each in facts["finalists"]:
            name = "defaults" if each["start"] else str(each["trial"])
            mark = "  <- chosen" if each["trial"] == winner["trial"] else ""
            found = f"{each['search_iqm']:>10.4g} {each['iqm']:>12.4g}"
            lines.append(f"{name:>9} {found}  {_shown(each['settings'], facts['space'])}{mark}")
        if facts["importance"]:
            shares = (f"{name} {share:.0%}" for name, share in list(facts["importance"].items())[:5])
            lines += ["", f"what mattered most for being among the best: {', '.join(shares)}"]
        seeds, found = facts["seeds"], winner["evaluation"]
        interval = "" if found["ci95"] is None else " [{:.4g}, {:.4g}]".format(*found["ci95"])
        lines += [
            "",
            f"searched on {_span(seeds['search'])}, chosen on {_span(seeds['finalists'])}, reported on "
            f"{_span(seeds['report'])}",
            f"{found['iqm']:.4g}{interval} IQM of {counted(len(found['per_seed']), 'training seed')} that chose nothing"
            + ("" if found["ci95"] is None else ", 95 % interval for other seeds")
            + ("; the plain defaults won" if winner["start"] else ""),
            *([f"({narrow})"] if (narrow := too_narrow(len(found["per_seed"]))) else []),
            f"train with it: rlab train {facts['agent']} {facts['env']['env_id']} --experiment {self.experiment}",
        ]
        return "\n".join(lines)


def write_history(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `history.jsonl`: a header and one row for each trial."""
    lines = [{"format": 1}, *rows]
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    files.write_bytes(folder / HISTORY, text.encode())


def experiment_text(request: Request, about: str, bench: Mapping[str, int], claims: Sequence[Mapping[str, Any]]) -> str:
    """An experiment file with the settings of a request: those that are not the plain defaults."""
    plain, unread = asdict(agent_config(request.agent)), request.unread.keys()
    settings = {n: v for n, v in asdict(request.settings).items() if v != plain[n] and n not in unread}
    run, usual = asdict(request.run), asdict(RunConfig())
    watched = {"eval_every"}  # of the settings that only watch a run, the one that a curve needs
    kept = [n for n in run if n not in (BOOKKEEPING - watched) | {"seeds", *BUDGETS} and n not in unread]
    of_run = {request.unit: request.budget, **{n: run[n] for n in kept if run[n] != usual[n]}}
    env = request.env
    head = {"format": 1, "about": about, "agent": request.agent, "env": env.env_id}
    if env.kwargs:
        head["env_kwargs"] = [f"{name}={json.dumps(value)}" for name, value in env.kwargs.items()]
    if env.wrappers:
        head["wrapper"] = [_wrapper(name, args) for name, args in env.wrappers]
    tables = [_table(head), "[run]\n" + _table(of_run), "[settings]\n" + _table(settings), "[bench]\n" + _table(bench)]
    return "\n\n".join([*tables, *("[[claim]]\n" + _table(claim) for claim in claims)]) + "\n"


def claims_of(judged: Evaluation) -> list[dict[str, Any]]:
    """What a result is held to: an IQM of at least the lower end of its interval, in four digits."""
    if judged.ci95 is None:
        return []
    low = judged.ci95[0]
    step = 10.0 ** (math.floor(math.log10(abs(low))) - 3) if low else 1.0
    return [{"measure": "iqm", "at_least": float(f"{math.floor(low / step) * step:.12g}")}]


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {_toml(value)}" for name, value in values.items())


def _toml(value: Any) -> str:
    """A value as TOML; JSON writes texts and numbers alike."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return '"None"' if value is None else json.dumps(value)


def _wrapper(name: str, args: Mapping[str, Any]) -> str:
    words = ",".join(f"{key}={json.dumps(value)}" for key, value in args.items())
    return f"{name}:{words}" if words else name


def _shown(settings: Mapping[str, Any], space: Mapping[str, Any]) -> str:
    """The settings that are not where the search started."""
    changed = {name: value for name, value in settings.items() if value != space[name]["start"]}
    return ", ".join(f"{name}={' '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in changed.items())


def _span(seeds: Sequence[int]) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
