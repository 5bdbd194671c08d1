"""The logs of a run as arrays and tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlab.errors import UsageError, pip_install, unknown
from rlab.runs.logs import CLOCK_TAGS, read_json_lines, time_of
from rlab.runs.state_schema import fitting

Series = tuple[np.ndarray, np.ndarray]  # when [T], in the run's unit, and values [S, T]


def series(folder: Path, unit: str, logs: Sequence[str] = ("metrics", "timing", "eval")) -> dict[str, Series]:
    """Everything that a run logged, by tag: what training reported, then the evaluations, means over their episodes.

    What all members share has the same value for each of them; NaN where a member had nothing to report.

    Args:
        logs: those of the files that are read.

    Raises:
        RlabError: a log is missing or broken.
    """
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    members = 1
    for name in logs:
        path = folder / f"{name}.jsonl"
        header, rows = read_json_lines(path)
        with fitting(str(path)):
            members = len(header["seeds"])
            for row in rows:
                when = time_of(row, unit, path)
                for tag, value in _values(row, unit, name == "eval"):
                    values = np.broadcast_to(np.array(value, float), members)  # None becomes NaN
                    found.setdefault(tag, []).append((when, values))
    return {
        tag: (np.array([when for when, _ in points]), np.stack([values for _, values in points], axis=1))
        for tag, points in found.items()
    }


def curve(folder: Path, unit: str, tag: str) -> Series:
    """The values of one tag.

    Raises:
        UsageError: the run logged no such tag.
        RlabError: a log is missing or broken.
    """
    found = series(folder, unit)
    if tag == "eval/return" and tag not in found:  # never judged during training: an empty curve
        members = len(read_json_lines(folder / "eval.jsonl")[0]["seeds"])
        return np.zeros(0, int), np.zeros((members, 0))
    if tag not in found:
        raise unknown(f"metric of {folder}", tag, found)
    return found[tag]


def to_frame(folder: Path, unit: str) -> Any:
    """Everything that a run logged as a tidy pandas table: one row for each clock, seed and metric that has a value.

    Raises:
        UsageError: pandas is not installed.
        RlabError: a log is missing or broken.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise UsageError(f"run.to_frame() needs pandas: {pip_install('pandas')}; run.curve() does not.") from error
    seeds = read_json_lines(folder / "metrics.jsonl")[0]["seeds"]
    parts = []
    for tag, (when, values) in series(folder, unit).items():
        keys = {unit: np.tile(when, len(seeds)), "seed": np.repeat(seeds, len(when))}
        parts.append(pd.DataFrame({**keys, "metric": tag, "value": values.ravel()}))
    empty = pd.DataFrame({unit: [], "seed": [], "metric": [], "value": []})
    return pd.concat(parts, ignore_index=True).dropna(ignore_index=True) if parts else empty


def drawn(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard draws of a run but for curves of time: the points `(clock, value)` of every curve, by folder and
    tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    found: dict[str, list[tuple[int, float]]] = {}
    for place in sorted({path.parent for path in folder.glob("**/events.out.*")}):
        events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith(CLOCK_TAGS):
                points = [(event.step, event.value) for event in events.Scalars(tag)]
                found[str(place.relative_to(folder) / tag)] = points
    return found


def _values(row: dict[str, Any], unit: str, evaluation: bool) -> Iterator[tuple[str, Any]]:
    if not evaluation:
        yield from ((tag, value) for tag, value in row.items() if tag != unit)
        return
    kind = "final" if row.get("final") else "eval"
    returns = np.mean(np.array(row["returns"], float), axis=1)  # NaN of members that were dropped
    yield f"{kind}/return", returns
    yield f"{kind}/length", np.where(np.isnan(returns), np.nan, np.mean(row["lengths"], axis=1))
