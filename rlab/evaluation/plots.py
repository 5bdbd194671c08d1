"""Pictures of results. They need matplotlib, the extra `plot`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlab.errors import UsageError, pip_install
from rlab.evaluation.learning_curves import efficiency_curve
from rlab.evaluation.stats import Interval

Curve = tuple[np.ndarray, np.ndarray]  # when [T], and each member's value then [S, T]
OTHERS: Any = {"color": "0.75", "markersize": 5, "zorder": 1}


def save_curves(path: Path | str, curves: Mapping[str, Curve], x_label: str, y_label: str, title: str = "") -> None:
    """Draw the IQM over members of every curve, with its 95 % interval as a band, into a PNG or SVG file.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = _figure()
    axes = figure.add_subplot()
    for name, (when, values) in curves.items():
        curve = efficiency_curve(when, values)
        (drawn,) = axes.plot(curve.when, curve.iqm, label=f"{name} ({curve.runs} seeds)")
        if curve.runs > 1:
            axes.fill_between(curve.when, curve.low, curve.high, alpha=0.12, color=drawn.get_color(), linewidth=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title or "IQM over seeds with its 95 % interval", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": "rlab"} if str(path).endswith(".png") else None)


@dataclass(frozen=True)
class Point:
    """The cost and the value of one choice."""

    name: str
    cost: float  # above 0
    value: Interval
    on_front: bool  # no other choice has a higher value at the same or a lower cost
    chosen: bool


def check_drawing() -> None:
    """Raise UsageError where matplotlib is not installed: before the work whose results are to be drawn."""
    _figure()


def save_front(
    path: Path | str,
    points: Sequence[Point],
    others: Sequence[tuple[float, float]],
    labels: tuple[str, str],
    limits: tuple[float | None, float | None],
    title: str = "",
    front_label: str = "Pareto front",
    others_label: str = "screened only",
) -> None:
    """Draw value against cost, with intervals and the front as a line, into a PNG or SVG file.

    Those on the front and the chosen one have numbers, which the legend explains. What is far below all that matters is
    an arrow at the lower edge.

    Args:
        points: one or more; one of them at least is on the front.
        others: `(cost, value)` of choices that were measured more briefly; small dots without intervals.
        labels: of the axes of cost, which is logarithmic, and value.
        limits: the highest cost and the lowest value allowed; None: no line.
        front_label, others_label: what the legend calls them.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = _figure()
    figure.set_size_inches(9.0, 4.6)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    lowest = lower_edge(points, limits[1])
    values = [*_ends(points), *(value for _, value in others), *([] if limits[1] is None else [limits[1]])]
    margin = 0.08 * ((max(values) - lowest) or 1.0)
    edge = lowest - margin  # where the arrows are
    _draw_points(axes, points, others, lowest, edge, others_label)
    _draw_lines(axes, points, [cost for cost, _ in others], limits, edge, front_label)
    axes.set_ylim(edge - margin / 2, max(values) + margin)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")  # room for no more
    axes.tick_params(axis="x", which="both", length=4, labelsize="small")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    _name(figure, axes, points, lowest, edge)
    figure.savefig(path, dpi=120, metadata={"Software": "rlab"} if str(path).endswith(".png") else None)


def lower_edge(points: Sequence[Point], least: float | None) -> float:
    """The value below which nothing is drawn to scale: what is on the front, the chosen one's interval and `least` are
    above it, but where `least` is above 0 nothing below 0 is, unless what was chosen is there itself."""
    lows = [point.value.estimate for point in points if point.on_front]
    lows += [point.value.low for point in points if point.chosen or least is None]
    lowest = min([*lows, *([] if least is None else [least])])
    if least is None or least <= 0.0:
        return lowest
    return max(lowest, min([0.0, *(point.value.estimate for point in points if point.chosen)]))


def _ends(points: Sequence[Point]) -> list[float]:
    return [end for point in points for end in (point.value.low, point.value.high)]


def _draw_points(
    axes: Any,
    points: Sequence[Point],
    others: Sequence[tuple[float, float]],
    lowest: float,
    edge: float,
    others_label: str,
) -> None:
    if others:
        axes.plot([], [], ".", color="0.75", label=others_label)
    if any(value < lowest for value in (*(point.value.estimate for point in points), *(each for _, each in others))):
        axes.plot([], [], "v", color="0.45", markersize=4, label="lower than is drawn")
    for cost, value in others:
        axes.plot(cost, value if value >= lowest else edge, "." if value >= lowest else "v", **OTHERS)
    for point in points:
        color = "tab:red" if point.chosen else "tab:blue" if point.on_front else "0.45"
        mark, size, layer = ("*", 12, 4) if point.chosen else ("o", 4, 3)
        style = {"color": color, "markersize": size, "linewidth": 1, "zorder": layer}
        style |= {"label": "chosen"} if point.chosen else {}
        if point.value.estimate < lowest:
            axes.plot(point.cost, edge, "v", **style)
            continue
        ends = [[point.value.estimate - point.value.low], [point.value.high - point.value.estimate]]
        axes.errorbar(point.cost, point.value.estimate, ends, fmt=mark, capsize=2, **style)


def _draw_lines(
    axes: Any,
    points: Sequence[Point],
    other_costs: Sequence[float],
    limits: tuple[float | None, float | None],
    edge: float,
    front_label: str,
) -> None:
    front = sorted((point.cost, point.value.estimate) for point in points if point.on_front)
    right = max([point.cost for point in points] + list(other_costs))
    costs = [cost for cost, _ in front] + [right if limits[0] is None else max(limits[0], front[-1][0])]
    values = np.maximum.accumulate([edge, *(value for _, value in front), edge])[1:]  # never falling with the cost
    axes.plot(costs, values, color="tab:blue", label=front_label, drawstyle="steps-post", linewidth=1, zorder=2)
    style = {"color": "0.3", "linestyle": ":", "linewidth": 1}
    label = "bounds"
    for line, limit in ((axes.axvline, limits[0]), (axes.axhline, limits[1])):
        if limit is not None:
            line(limit, label=label, **style)
            label = ""  # one entry is enough


def _name(figure: Any, axes: Any, points: Sequence[Point], lowest: float, edge: float) -> None:
    """Number those on the front and the chosen one, by cost, and explain the numbers in a legend beside the axes.

    A number is where none of those before it is, beside its point and within the axes.
    """
    from matplotlib.lines import Line2D

    named = sorted((point for point in points if point.on_front or point.chosen), key=lambda point: point.cost)
    handles, words = axes.get_legend_handles_labels()
    figure.draw_without_rendering()  # pixels are known only then
    heights = [point.value.estimate if point.value.estimate >= lowest else edge for point in named]
    pixels = axes.transData.transform([(point.cost, y) for point, y in zip(named, heights, strict=True)])
    places = list(pixels * 72.0 / figure.dpi)  # in typographic points
    taken = list(places)
    inside = axes.bbox.padded(-8).frozen()
    offsets = [(side * out, up) for out in (7, 16, 25, 34) for side in (1, -1) for up in (7, -8, 16, -17)]
    for number, (point, y, at) in enumerate(zip(named, heights, places, strict=True), start=1):
        color = "tab:red" if point.chosen else "0.2"
        offset = next(
            (
                each
                for each in offsets
                if all(np.hypot(*(at + each - other)) >= 8.5 for other in taken)
                and inside.contains(*((at + each) * figure.dpi / 72.0))
            ),
            offsets[0],
        )
        taken.append(at + np.array(offset))
        how = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": "x-small", "color": color}
        axes.annotate(str(number), (point.cost, y), offset, zorder=5, **how)
        handles.append(Line2D([], [], linestyle="", marker=f"${number}$", color=color, markersize=5))
        words.append(point.name)
    figure.legend(handles, words, loc="outside right upper", frameon=False, fontsize="small")


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"a picture needs matplotlib: {pip_install('plot')}.") from error
    return Figure(figsize=(7.0, 4.2), layout="constrained")
