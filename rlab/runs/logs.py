"""The logs of a run: rows of JSON, one a line, and TensorBoard's curves."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlab import door
from rlab.errors import RlabError
from rlab.places import warn
from rlab.runs import files
from rlab.runs.appending import Appender, Trouble, close_all
from rlab.runs.events import EventLog
from rlab.runs.tables import CsvLog

Row = dict[str, Any]
LOGS = ("metrics", "eval", "timing")
CLOCK_TAGS = "time/"  # how the tags begin whose values depend on the wall clock


class JsonLines:
    """An append-only file of JSON objects, one a line, after a header line with the format number.

    A line counts once its newline is there: what a killed writer left of its last line is cut off on opening and
    passed over on reading.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], trouble: Trouble | None = None) -> None:
        """Open for appending; `header` goes into a new file only.

        Raises:
            RlabError: the file is of another format, or the disk refuses.
        """
        self.path, self._trouble = path, trouble
        content = files.read_bytes(path) if path.exists() else b""
        whole = _whole_lines(content)
        if not whole:
            files.write_bytes(path, _line({"format": files.FORMAT, **header}))
        else:
            _parse_line(path, 1, whole.partition(b"\n")[0])
            if len(whole) < len(content):
                files.write_bytes(path, whole)
        self._file = Appender(path, trouble)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row, and hand it to the operating system at once: it outlives this process."""
        self._file.append(_line(row))

    def rows(self) -> list[Row]:
        """All rows. Raises DiskError while the disk refuses some."""
        self._file.sync()
        return read_json_lines(self.path)[1]

    def truncate_after(self, unit: str, time: int) -> None:
        """Drop what a resumed run will write again: rows whose `unit` is above `time`, and the final evaluation."""
        header, rows = read_json_lines(self.path)
        kept = [row for row in rows if time_of(row, unit, self.path) <= time and not row.get("final")]
        if len(kept) < len(rows):
            files.write_bytes(self.path, b"".join(map(_line, [header, *kept])))
            self._file.abandon()
            self._file = Appender(self.path, self._trouble)

    def sync(self) -> None:
        """Make all rows so far outlive a power cut. Raises DiskError where the disk refuses."""
        self._file.sync()

    def close(self) -> None:
        """Raises DiskError where the disk still refuses something."""
        self._file.close()


def read_json_lines(path: Path) -> tuple[Row, list[Row]]:
    """The header and the rows of such a file, without what is left of a last line that was cut off.

    Raises:
        RlabError: it is missing, has another format, or a line is broken; the message names it.
    """
    rows = [_parse_line(path, number, line) for number, line in enumerate(door.whole_lines(path), 1)]
    if not rows:
        raise RlabError(f"{path} is empty; a header line with format {files.FORMAT} is expected")
    return rows[0], rows[1:]


def time_of(row: Row, unit: str, path: Path) -> int:
    """When a row was written, by the run's clock. Raises RlabError where it does not say."""
    found = row.get(unit)
    if type(found) is not int or found < 0:
        raise RlabError(f"{path}: the {unit} of a row must be a whole number, not {door.clean(repr(found)):.40}")
    return found


def last_row(path: Path) -> Row | None:
    """The last whole row; None where there is none yet. Raises RlabError as `read_json_lines` does."""
    line = door.last_whole_line(path) if path.exists() else b""
    row = _parse_line(path, None, line) if line else {}
    return None if "format" in row or not row else row


class MetricsLog:
    """The listener that writes: `metrics.jsonl`, `eval.jsonl`, `timing.jsonl` and TensorBoard events.

    Nothing in `metrics.jsonl` and `eval.jsonl` depends on the clock, so equal runs write equal bytes there.
    """

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int],
        *,
        iqm: Callable[[np.ndarray], float],
        summarise: Callable[[np.ndarray], tuple[float, float, float]],
        resume_at: int | None = None,
        judgement_due: bool = False,
        unit: str = "env_steps",
        tables: bool = False,
    ) -> None:
        """Open the logs of the run in `folder`.

        Args:
            folder: the run folder.
            seeds: one training seed per member.
            iqm: the interquartile mean of `[n]` values; used on every metric, so it should be quick.
            summarise: the IQM of `[S]` mean returns and the ends of its 95 % interval (NaN where there is none).
            resume_at: the time of the checkpoint from which the run is resumed; later rows are dropped.
            judgement_due: whether the policy of that time will be judged again.
            unit: what the run's clock counts, and the name of that column.
            tables: write `metrics.csv` and `eval.csv`, too.
        """
        self._summarise, self._unit = summarise, unit
        self._num_members = len(seeds)
        trouble = Trouble()
        if resume_at is not None and resume_at > 0:
            _say_what_is_gone(folder, resume_at, unit)
        self._metrics, self._evaluations, self._timing = (
            JsonLines(folder / f"{name}.jsonl", {"seeds": list(seeds)}, trouble) for name in LOGS
        )
        if resume_at is not None:
            for log in self._logs:
                log.truncate_after(unit, resume_at)
            if judgement_due:
                self._evaluations.truncate_after(unit, resume_at - 1)
        written = dict(zip(LOGS, self._logs, strict=True))
        self._tables = CsvLog(folder, seeds, unit, lambda name: written[name].rows(), trouble) if tables else None
        self._events = EventLog(folder, seeds, iqm, resume_at, judgement_due, trouble)

    def on_start(self, settings: Mapping[str, Any], origins: Mapping[str, str], compared: Mapping[str, Any]) -> None:
        """Show the settings, and where each came from, in TensorBoard; `compared` are those that tell runs apart."""
        self._events.settings(settings, origins, compared)

    def on_metrics(self, env_steps: int, metrics: Mapping[str, Any]) -> None:
        """One row. Each value is `[S]` (NaN: nothing to report for that member) or one number for the population.

        Raises:
            ValueError: a value has another shape.
        """
        arrays = {tag: self._checked(tag, value) for tag, value in metrics.items()}
        timing = {tag: array for tag, array in arrays.items() if tag.startswith(CLOCK_TAGS)}
        steady = {tag: array for tag, array in arrays.items() if tag not in timing}
        for log, part in ((self._metrics, steady), (self._timing, timing)):
            if part:
                row = {self._unit: env_steps} | {tag: strict(array.tolist()) for tag, array in part.items()}
                log.write(row)
                if self._tables is not None and log is self._metrics:
                    self._tables.metrics(row)
        self._events.metrics(env_steps, arrays)

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """An evaluation during training: returns and lengths `[S, E]` of E episodes per member."""
        self._evaluation(env_steps, returns, lengths, final=False)

    def on_final_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """The evaluation of the final weights, which is what the run reports; `[S, E]` each."""
        self._evaluation(env_steps, returns, lengths, final=True)

    def on_film(self, env_steps: int, film: bytes, size: tuple[int, int]) -> None:
        """An animated GIF of a greedy episode, and its height and width; TensorBoard alone shows it."""
        self._events.film(env_steps, film, size)

    def sync(self) -> None:
        """Put everything so far on the disk; before a checkpoint, after which the logs must have got as far.

        Raises:
            DiskError: the disk refuses.
        """
        for log in self._logs:
            log.sync()

    def on_save(self, env_steps: int) -> None:
        """Whoever saves calls `sync`."""

    def close(self) -> None:
        """Raises DiskError where the disk still refuses something; never because of curves."""
        self._events.close()
        # The tables may be written anew from the logs.
        close_all([*([] if self._tables is None else [self._tables.close]), *(log.close for log in self._logs)])

    @property
    def _logs(self) -> tuple[JsonLines, JsonLines, JsonLines]:
        return self._metrics, self._evaluations, self._timing

    def _checked(self, tag: str, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.shape not in ((), (self._num_members,)):
            raise ValueError(f"metric {tag!r} has shape {array.shape}; it must be () or ({self._num_members},)")
        return array

    def _evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray, final: bool) -> None:
        means = returns.mean(axis=1)
        iqm, low, high = map(float, self._summarise(means[~np.isnan(means)]))  # without members that were dropped
        row = {
            self._unit: env_steps,
            "iqm": strict(iqm),
            "ci95": [low, high] if math.isfinite(low) and math.isfinite(high) else None,
            "returns": strict(returns.tolist()),
            "lengths": lengths.tolist(),
        }
        row |= {"final": True} if final else {}
        self._evaluations.write(row)
        if self._tables is not None:
            self._tables.evaluation(row)
        self._events.evaluation(env_steps, returns, lengths, (iqm, low, high), final)


def _say_what_is_gone(folder: Path, resume_at: int, unit: str) -> None:
    """Warn of logs that a run has lost which goes on from this time."""
    gone = [f"{name}.jsonl" for name in LOGS if not (folder / f"{name}.jsonl").exists()]
    if gone:
        warn(f"{folder} has lost {', '.join(gone)}: what follows begins at {resume_at:,} {unit.replace('_', ' ')}")


def strict(value: Any) -> Any:
    """Numbers and nested lists of them as strict JSON takes them: what is not finite becomes None."""
    if isinstance(value, list):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _parse_line(path: Path, number: int | None, line: bytes) -> Row:
    """A row; `number` is None for the last one."""
    where = f"{path}, {'the last line' if number is None else f'line {number}'}"
    row = door.parse_json(line, where)
    if not isinstance(row, dict):
        raise RlabError(f"{where} is not a JSON object")
    if number == 1:
        files.check_format(row, path)
    return row
