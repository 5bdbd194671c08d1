"""What a run logs as rows of plain numbers in the order of its clock, as services such as MLflow and W&B show them.

A service that has received a row has received all rows before it, so that one mark says what it still lacks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlab.runs.logs import read_json_lines, time_of

METRICS, EVALUATION, FINAL = range(3)  # in the order in which a run logs them at one time
Mark = tuple[int, int]  # when a row was logged, by the run's clock, and which of these it is
NOTHING: Mark = (-1, METRICS)  # before all rows
# With several seeds each has these curves of its own, `seed-3/eval/return`; of all others there is one.
OF_EACH_SEED = frozenset({"train/episode_return", "eval/return", "final/return"})
IQM = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class LoggedRow:
    """What was logged at once."""

    mark: Mark
    values: dict[str, float]  # by tag; finite

    @property
    def time(self) -> int:
        return self.mark[0]


@dataclass(frozen=True)
class LoggedRun:
    """What a service is told about a run."""

    key: str  # hexadecimal digits that no other run has
    name: str
    folder: Path
    unit: str  # what its clock counts
    project: str | None  # None: as the service's own settings say, else `rlab`
    config: dict[str, Any]  # every setting in force by name
    tags: tuple[str, ...]
    command: str


class Service(Protocol):
    """A service that shows runs. Its functions raise whatever they fail with."""

    name: str  # of the setting `log` and of the extra that it needs
    title: str

    def check(self) -> None:
        """Whether it can be used, before there is a run."""
        ...

    def begin(self, run: LoggedRun) -> tuple[Mark, str]:
        """Begin a run there, or go on with the one of this key, also after a failure: the last row of it that was
        received, and where people find it."""
        ...

    def send(self, rows: Sequence[LoggedRow]) -> None:
        """Rows in their order."""
        ...

    def end(self, status: str, files: Mapping[str, Path]) -> None:
        """The process that trains is done with the run, which stands so; keep these files, by their place there."""
        ...


def metrics_row(time: int, metrics: Mapping[str, Any], seeds: Sequence[int], iqm: IQM) -> LoggedRow:
    """Values are `[S]`, or one number that all members share; NaN or None is nothing to report."""
    values = {tag: np.asarray(value, np.float64) for tag, value in metrics.items()}
    return LoggedRow((time, METRICS), _numbers(values, seeds, iqm))


def evaluation_row(time: int, row: Mapping[str, Any], seeds: Sequence[int], iqm: IQM) -> LoggedRow:
    """A row of `eval.jsonl`: the IQM with its interval, and the mean return of each member."""
    kind, mark = ("final", FINAL) if row.get("final") else ("eval", EVALUATION)
    means = np.array(row["returns"], np.float64).mean(axis=1)  # NaN of members that were dropped
    lengths = np.where(np.isnan(means), np.nan, np.mean(row["lengths"], axis=1))
    values = _numbers({f"{kind}/return": means, f"{kind}/length": lengths}, seeds, iqm)
    ends = zip((f"{kind}/return_low", f"{kind}/return_high"), row.get("ci95") or (), strict=False)
    return LoggedRow((time, mark), values | {tag: float(end) for tag, end in ends})


def logged_rows(folder: Path, unit: str, iqm: IQM, after: Mark = NOTHING) -> list[LoggedRow]:
    """What a run has in its folder after this mark, in order.

    Raises:
        RlabError: a log is missing or broken.
    """
    reported: dict[int, dict[str, Any]] = {}
    for name in ("metrics", "timing"):
        path = folder / f"{name}.jsonl"
        header, rows = read_json_lines(path)
        for row in rows:
            when = time_of(row, unit, path)
            if (when, METRICS) > after:
                reported.setdefault(when, {}).update({tag: value for tag, value in row.items() if tag != unit})
    seeds = header["seeds"]
    found = [metrics_row(when, metrics, seeds, iqm) for when, metrics in reported.items()]
    path = folder / "eval.jsonl"
    found += [evaluation_row(time_of(row, unit, path), row, seeds, iqm) for row in read_json_lines(path)[1]]
    return sorted((row for row in found if row.mark > after), key=lambda row: row.mark)


def _numbers(values: Mapping[str, np.ndarray], seeds: Sequence[int], iqm: IQM) -> dict[str, float]:
    found = {}
    for tag, value in values.items():
        present = value[np.isfinite(value)]
        if present.size:
            found[tag] = float(iqm(present)) if value.ndim else float(value)
        if tag in OF_EACH_SEED and value.ndim and len(seeds) > 1:
            found |= {f"seed-{seed}/{tag}": float(each) for seed, each in zip(seeds, value, strict=True)}
    return {tag: value for tag, value in found.items() if math.isfinite(value)}
