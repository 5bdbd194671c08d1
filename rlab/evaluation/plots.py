"""Pictures of results. They need matplotlib, the extra `plot`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.evaluation.stats import Interval, stratified_bootstrap

Curve = tuple[np.ndarray, np.ndarray]  # when [T], and each member's value then [S, T]
REPS = 2_000  # of the bootstrap at each point: a curve is read by eye


def save_curves(
    path: Path | str, curves: Mapping[str, Curve], x_label: str, y_label: str, title: str = ""
) -> None:
    """Draw the IQM over members of every curve, with its 95 % interval as a band, into a PNG or SVG file.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = _figure()
    axes = figure.add_subplot()
    for name, (when, values) in curves.items():
        line = [stratified_bootstrap(column, reps=REPS) if len(column) > 1 else None for column in values.T]
        middle = [column[0] if i is None else i.estimate for i, column in zip(line, values.T, strict=True)]
        (drawn,) = axes.plot(when, middle, label=f"{name} ({len(values)} seeds)")
        if len(values) > 1:
            low, high = [i.low for i in line if i], [i.high for i in line if i]
            axes.fill_between(when, low, high, alpha=0.12, color=drawn.get_color(), linewidth=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title or "IQM over seeds with its 95 % interval", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": "rlab"} if str(path).endswith(".png") else None)


@dataclass(frozen=True)
class Point:
    """What one choice costs, and what it is worth."""

    name: str
    cost: float  # above 0
    value: Interval
    on_front: bool  # no other choice costs no more and is worth more
    chosen: bool


def check_drawing() -> None:
    """Raise UsageError where matplotlib is not installed: before the work that a picture is to be made of."""
    _figure()


def save_front(
    path: Path | str,
    points: Sequence[Point],
    others: Sequence[tuple[float, float]],
    labels: tuple[str, str],
    limits: tuple[float | None, float | None],
    title: str = "",
) -> None:
    """Draw value against cost, with intervals and the front as a line, into a PNG or SVG file.

    Args:
        points: one or more; one of them at least is on the front.
        others: `(cost, value)` of what was looked at more briefly; small dots without intervals.
        labels: of the axes of cost, which is logarithmic, and value.
        limits: the most that a choice may cost and the least that it must be worth; None: no line.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = _figure()
    axes = figure.add_subplot()
    if others:
        axes.plot(*zip(*others, strict=True), ".", color="0.75", label="screened only", zorder=1)
    front = sorted((point.cost, point.value.estimate) for point in points if point.on_front)
    right = max([point.cost for point in points] + [cost for cost, _ in others])
    front.append((right if limits[0] is None else limits[0], front[-1][1]))  # nothing that costs more is worth more
    steps = {"drawstyle": "steps-post", "linewidth": 1, "zorder": 2}
    axes.plot(*zip(*front, strict=True), color="tab:blue", label="Pareto front", **steps)
    for point in points:
        ends = [[point.value.estimate - point.value.low], [point.value.high - point.value.estimate]]
        color = "tab:red" if point.chosen else "tab:blue" if point.on_front else "0.45"
        mark, size, layer = ("*", 12, 4) if point.chosen else ("o", 4, 3)
        axes.errorbar(
            point.cost,
            point.value.estimate,
            ends,
            fmt=mark,
            color=color,
            capsize=2,
            markersize=size,
            linewidth=1,
            zorder=layer,
        )
    most, least = limits
    if most is not None:
        axes.axvline(most, color="0.3", linestyle=":", linewidth=1)
    if least is not None:
        axes.axhline(least, color="0.3", linestyle=":", linewidth=1)
    _name(axes, points)
    axes.set_xscale("log")
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", which="both", length=4, labelsize="small")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": "rlab"} if str(path).endswith(".png") else None)


def _name(axes: Any, points: Sequence[Point]) -> None:
    """The names of those on the front and of the chosen one, below their points."""
    for point in points:
        if point.on_front or point.chosen:
            axes.annotate(
                point.name,
                (point.cost, point.value.low),
                (0, -7),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="top",
                fontsize="x-small",
                color="tab:red" if point.chosen else "0.2",
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
            )


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError('a picture needs matplotlib: pip install "rlab[plot]".') from error
    return Figure(figsize=(7.0, 4.2), layout="constrained")
