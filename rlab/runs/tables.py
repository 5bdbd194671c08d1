"""Tables for spreadsheets, which a run writes on request: comma-separated values with one header line.

metrics.csv   one row for each seed at each report: the clock, the seed, then one column a tag
eval.csv      one row for each seed at each evaluation
episodes.csv  one row for each episode that training finished, and after how many seconds, so its bytes differ from run
              to run; those of the other two do not
"""

import csv
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.runs import files

EVALUATION = ("seed", "return", "return_std", "return_min", "length", "episodes", "final")
EPISODES = (("env_steps", "i8"), ("seed", "i8"), ("env", "i8"), ("return", "f8"), ("length", "i8"), ("time", "f8"))
Row = dict[str, Any]


class CsvLog:
    """`metrics.csv` and `eval.csv`: the rows of the JSON logs beside them in another form.

    They are rewritten from those logs on opening, so that a resumed run has one header, no row twice, and no partial
    line of a process that was killed.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], unit: str, written: Callable[[str], list[Row]]) -> None:
        """Begin with the rows that the JSON logs hold already.

        Args:
            written: the rows of `metrics` or `eval` that are on the disk.

        Raises:
            RlabError: the disk refuses.
        """
        self._seeds, self._unit, self._written = tuple(seeds), unit, written
        rows = written("metrics")
        self._columns: list[str] = [unit, "seed"]
        self._add_columns(rows)
        self._metrics = _File(folder / "metrics.csv", self._columns, self._metric_lines(rows))
        lines = (line for row in written("eval") for line in self._evaluation_lines(row))
        self._evaluations = _File(folder / "eval.csv", (unit, *EVALUATION), lines)

    def metrics(self, row: Row) -> None:
        """A row that `metrics.jsonl` has just got; a tag that is new becomes a column, empty in the rows before."""
        if self._add_columns([row]):
            self._metrics.rewrite(self._columns, self._metric_lines(self._written("metrics")))
        else:
            self._metrics.append(self._metric_lines([row]))

    def evaluation(self, row: Row) -> None:
        """A row that `eval.jsonl` has just got."""
        self._evaluations.append(self._evaluation_lines(row))

    def close(self) -> None:
        self._metrics.close()
        self._evaluations.close()

    def _add_columns(self, rows: Iterable[Row]) -> bool:
        new = [tag for tag in dict.fromkeys(tag for row in rows for tag in row) if tag not in self._columns]
        self._columns += new
        return bool(new)

    def _metric_lines(self, rows: Iterable[Row]) -> Iterator[list[Any]]:
        for row in rows:
            for index, seed in enumerate(self._seeds):
                values = (row.get(tag) for tag in self._columns[2:])
                yield [row[self._unit], seed, *(v[index] if isinstance(v, list) else v for v in values)]

    def _evaluation_lines(self, row: Row) -> Iterator[list[Any]]:
        for seed, returns, lengths in zip(self._seeds, row["returns"], row["lengths"], strict=True):
            judged = np.mean(returns), np.std(returns), np.min(returns), np.mean(lengths)
            yield [row[self._unit], seed, *map(float, judged), len(returns), bool(row.get("final"))]


class Finished(Protocol):
    """An episode that ended, as `EpisodeLog` needs it."""

    @property
    def seed(self) -> int: ...
    @property
    def env(self) -> int: ...
    @property
    def episode_return(self) -> float: ...
    @property
    def length(self) -> int: ...
    @property
    def env_steps(self) -> int: ...


class EpisodeLog:
    """The listener that writes `episodes.csv`: one line for each episode that ended, in order of time.

    The last column is the seconds since training began; a resumed run counts on from the last line that it keeps.
    """

    def __init__(self, folder: Path, resume_at: int) -> None:
        """Open it; lines after the env step `resume_at` are dropped, which a resumed run writes again.

        Raises:
            RlabError: the disk refuses, or the file that is there is broken.
        """
        path = folder / "episodes.csv"
        kept = read_episodes(folder) if path.exists() else np.zeros(0, list(EPISODES))
        kept = kept[kept["env_steps"] <= resume_at]
        self._began = time.perf_counter() - (float(kept["time"][-1]) if len(kept) else 0.0)
        self._file = _File(path, [name for name, _ in EPISODES], kept.tolist())
        self._waiting: list[list[Any]] = []

    def on_episodes(self, episodes: Sequence[Finished]) -> None:
        """These ended in one vector step."""
        seconds = round(time.perf_counter() - self._began, 3)
        self._waiting += [[e.env_steps, e.seed, e.env, e.episode_return, e.length, seconds] for e in episodes]

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        """Write what has come together since the last report."""
        self._file.append(self._waiting)
        self._waiting.clear()

    def on_evaluation(self, env_steps: int, returns: Any, lengths: Any) -> None:
        """Evaluation episodes are not episodes of training."""

    def on_save(self, env_steps: int) -> None:
        """After a checkpoint the logs must have got as far."""
        self.on_metrics(env_steps, {})
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def read_episodes(folder: Path) -> np.ndarray:
    """The lines of `episodes.csv` as a structured array with the fields `EPISODES`; a cut-off last line is left out.

    Raises:
        UsageError: the run did not keep its episodes.
        RlabError: the file is broken.
    """
    path = folder / "episodes.csv"
    if not path.exists():
        raise UsageError(f"{folder} kept no episodes; train with --log-episodes (log_episodes=True) to have them.")
    content = files.read_bytes(path)
    header, *lines = content[: content.rfind(b"\n") + 1].decode(errors="replace").splitlines() or [""]
    if header and header != ",".join(name for name, _ in EPISODES):
        raise RlabError(f"{path} begins with {header!r:.80}, not with the columns of episodes")
    try:
        return np.loadtxt(lines, dtype=list(EPISODES), delimiter=",", ndmin=1) if lines else np.zeros(0, list(EPISODES))
    except ValueError as error:
        raise RlabError(f"{path} is broken: {error}") from error


class _File:
    """A table on the disk: written whole, then appended to."""

    def __init__(self, path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self.rewrite(columns, lines)

    def rewrite(self, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
        """Replace the file at once, so that a reader never sees half of it."""
        self.close()
        files.write_bytes(self._path, _text([columns, *lines]))
        self._file = files.appending(self._path)

    def append(self, lines: Iterable[Sequence[Any]]) -> None:
        assert self._file is not None
        files.append(self._file, _text(lines), self._path)

    def sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _text(lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)  # None is empty, a float comes back to the bit
    return text.getvalue().encode()
