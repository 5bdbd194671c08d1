"""Tables for spreadsheets, which a run writes on request: comma-separated values with one header line.

metrics.csv   one row for each seed at each report: the clock, the seed, then one column a tag
eval.csv      one row for each seed at each evaluation
episodes.csv  one row for each episode that training finished, and after how many seconds, so its bytes differ from run
              to run; those of the other two do not
"""

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlab import door
from rlab.errors import DiskError, RlabError, UsageError
from rlab.runs import files
from rlab.runs.appending import Appender, Trouble, close_all

EVALUATION = ("seed", "return", "return_std", "return_min", "length", "episodes", "final")
EPISODES = (("env_steps", "i8"), ("seed", "i8"), ("env", "i8"), ("return", "f8"), ("length", "i8"), ("time", "f8"))
Row = dict[str, Any]


class CsvLog:
    """`metrics.csv` and `eval.csv`: the rows of the JSON logs beside them in another form.

    They are rewritten from those logs on opening, so that a resumed run has one header, no row twice, and no partial
    line of a process that was killed.
    """

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int],
        unit: str,
        written: Callable[[str], list[Row]],
        trouble: Trouble | None = None,
    ) -> None:
        """Begin with the rows that the JSON logs hold already.

        Args:
            written: the rows of `metrics` or `eval` that are on the disk; raises DiskError while some are not.
            trouble: is told where the disk refuses something later.

        Raises:
            RlabError: the disk refuses.
        """
        self._seeds, self._unit, self._written, self._trouble = tuple(seeds), unit, written, trouble or Trouble()
        rows = written("metrics")
        self._columns: list[str] = [unit, "seed"]
        self._behind = False  # whether the table of metrics has to be written anew
        self._add_columns(rows)
        self._metrics = _File(folder / "metrics.csv", self._columns, self._metric_lines(rows), self._trouble)
        lines = (line for row in written("eval") for line in self._evaluation_lines(row))
        self._evaluations = _File(folder / "eval.csv", (unit, *EVALUATION), lines, self._trouble)

    def metrics(self, row: Row) -> None:
        """A row that `metrics.jsonl` has just got; a tag that is new becomes a column, empty in the rows before."""
        self._behind |= self._add_columns([row])
        if not self._behind:
            self._metrics.append(self._metric_lines([row]))
            return
        try:
            self._write_anew()
        except DiskError as error:
            self._trouble.meet(error)

    def evaluation(self, row: Row) -> None:
        """A row that `eval.jsonl` has just got."""
        self._evaluations.append(self._evaluation_lines(row))

    def close(self) -> None:
        """Raises DiskError where the disk still refuses something."""
        close_all([self._write_anew] * self._behind + [self._metrics.close, self._evaluations.close])

    def _write_anew(self) -> None:
        self._metrics.rewrite(self._columns, self._metric_lines(self._written("metrics")))
        self._behind = False

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
            if None in returns:  # the member was dropped
                continue
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
        """Whoever saves calls `sync`."""

    def sync(self) -> None:
        """Put everything so far on the disk; before a checkpoint, after which the logs must have got as far.

        Raises:
            DiskError: the disk refuses.
        """
        self.on_metrics(0, {})
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
    header, *lines = [line.decode(errors="replace") for line in door.whole_lines(path)] or [""]
    if header and header != ",".join(name for name, _ in EPISODES):
        raise RlabError(f"{path} begins with {header!r:.80}, not with the columns of episodes")
    try:
        return np.loadtxt(lines, dtype=list(EPISODES), delimiter=",", ndmin=1) if lines else np.zeros(0, list(EPISODES))
    except ValueError as error:
        raise RlabError(f"{path} is broken: {error}") from error


class _File:
    """A table on the disk: written whole, then appended to."""

    def __init__(
        self, path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]], trouble: Trouble | None = None
    ) -> None:
        self._path, self._trouble = path, trouble
        files.write_bytes(path, _text([columns, *lines]))
        self._file = Appender(path, trouble)

    def rewrite(self, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
        """Replace the file at once, so that a reader never sees half of it."""
        files.write_bytes(self._path, _text([columns, *lines]))
        self._file.abandon()
        self._file = Appender(self._path, self._trouble)

    def append(self, lines: Iterable[Sequence[Any]]) -> None:
        self._file.append(_text(lines))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def _text(lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)  # None is empty, a float comes back to the bit
    return text.getvalue().encode()
