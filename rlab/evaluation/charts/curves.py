"""Lines over a clock: learning curves with their bands, and shares over thresholds."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlab.evaluation.charts.frame import GAP, LABEL, WIDE, Frame, end_labels, frame, is_narrow, label_room
from rlab.evaluation.charts.marks import Area, Chart, Dot, Group, Line, Mark, Reading, Text
from rlab.evaluation.charts.palette import side_color, side_dash, side_text
from rlab.evaluation.charts.scales import number, padded, shortened, whole
from rlab.evaluation.learning_curves import efficiency_curve
from rlab.evaluation.stats import shown_digits

MOST_SEEDS = 100  # lines of single seeds of a side; with more, every so manieth is drawn
MOST_POINTS = 400  # of a line: more than there are pixels to tell apart
MOST_READINGS = 120  # places that can be read


@dataclass(frozen=True, eq=False)
class CurveOf:
    """The line of one side, with its interval at every point."""

    side: int  # gives colour, dash and shape
    name: str
    when: np.ndarray  # [T], growing
    middle: np.ndarray  # [T]; NaN where there is nothing
    low: np.ndarray | None = None  # [T], of the interval; None: there is none, as with a single seed
    high: np.ndarray | None = None
    members: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # [S, T], single seeds


Series = tuple[np.ndarray, np.ndarray]  # when [T], and each member's value then [S, T]


def curve_of(side: int, name: str, data: Series) -> CurveOf | None:
    """The IQM over members at every moment at which all of them have a value, with its 95 % interval; None where there
    is no such moment."""
    when, values = data
    whole = np.isfinite(values).all(axis=0)
    if not whole.any():
        return None
    found = efficiency_curve(when[whole], values[:, whole])
    low, high = (found.low, found.high) if found.runs > 1 else (None, None)
    return CurveOf(side, name, found.when, found.iqm, low, high, values[:, whole])


def curves_chart(
    curves: Sequence[CurveOf],
    titles: tuple[str, str],
    title: str,
    width: float = WIDE,
    percent: bool = False,
    steps: bool = False,
) -> Chart:
    """Every side's line within its band, its name at its end, and its single seeds on demand.

    Args:
        curves: one or more, with one point or more each.
        titles: of the axes.
        title: what the chart is called.
        percent: values are shares.
        steps: each value holds until the next point.
    """
    height = 330.0 if is_narrow(width) else 430.0
    first, last = (float(end([end(each.when) for each in curves])) for end in (min, max))
    first = 0.0 if 0.0 < first < 0.3 * last or 0.0 < first == last else first
    span = (first, last) if last > first else (first - 0.5, first + 0.5)
    y = (-0.02, 1.04) if percent else padded(_seen(curves))
    right = 22.0 if steps else label_room([each.name for each in curves], width)
    box, marks = frame(width, height, span, y, titles, right, percent)
    drawn: list[Mark] = []
    dots: list[Mark] = []  # curves of one point, which may lie on the edge of the plot: never cut off there
    for each in reversed(curves):  # the first side is on top
        points = _points(each.when, each.middle, box.x, box.y, steps)
        dash = side_dash(each.side)
        seeds = [Line(line, side_color(each.side), 1.0) for line in _seeds(each, box.x, box.y)]
        drawn.append(Group([Group(seeds, on_demand=True)], each.side))
        if each.low is not None and each.high is not None:
            band = _points(each.when, each.high, box.x, box.y, steps)
            band += reversed(_points(each.when, each.low, box.x, box.y, steps))
            drawn.append(Group([Area(band, side_color(each.side), 0.16)] if len(band) > 2 else [], each.side))
        if len(points) == 1:
            dots.append(Group([Dot(*points[0], side_color(each.side), 4.0)], each.side))
        elif points:
            drawn.append(Group([Line(points, side_color(each.side), 2.25, dash)], each.side))
    room = (box.box[0], box.box[1] - 2.0, box.box[2] + 1.0, box.box[3])
    marks.append(Group(drawn, clip=room))
    marks += dots
    marks += _falling_labels(curves, box) if steps else _labels(curves, box, width)
    return Chart(width, height, title, marks, _readings(curves, box.x, titles[0], percent))


def _labels(curves: Sequence[CurveOf], box: Frame, width: float) -> list[Mark]:
    """Names at the ends of lines, of as many as there is room for."""
    lines = [(each, _points(each.when, each.middle, box.x, box.y, False)) for each in curves]
    ends = [(each.side, each.name, *points[-1]) for each, points in lines if points]
    most = max(1, int((box.box[3] - box.box[1]) / GAP))
    return end_labels(width, box.box, ends[:most])


def _falling_labels(curves: Sequence[CurveOf], box: Frame) -> list[Mark]:
    """Names of lines that fall from 1 to 0, each beside its own at a height of its own."""
    marks: list[Mark] = []
    for rank, each in enumerate(curves):
        level = 0.93 - 0.86 * (rank + 0.5) / len(curves)
        under = np.flatnonzero(each.middle < level)
        at = box.x(float(each.when[under[0] if len(under) else -1]))
        left = at > (box.box[0] + box.box[2]) / 2
        room = (at - box.box[0] if left else box.box[2] - at) - 10.0
        name = shortened(each.name, room, LABEL, bold=True)
        x, anchor = (at - 8.0, "end") if left else (at + 8.0, "start")
        text = Text(x, box.y(level) + 4.5, name, side_text(each.side), LABEL, anchor, True, True, each.name)  # type: ignore[arg-type]
        marks.append(Group([text], each.side))
    return marks


def _seen(curves: Sequence[CurveOf]) -> list[float]:
    """The values that the axis covers: lines and bands whole, and all but the utmost of the single seeds."""
    values = [each.middle for each in curves]
    values += [end for each in curves for end in (each.low, each.high) if end is not None]
    members = [each.members[np.isfinite(each.members)] for each in curves]
    values += [np.quantile(each, [0.02, 0.98]) for each in members if each.size]
    return [float(value) for each in values for value in each]


def _thinned(count: int, most: int) -> np.ndarray:
    """Places `0 .. count - 1`, at most `most` of them, the first and the last included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _points(when: np.ndarray, values: np.ndarray, x, y, steps: bool) -> list[tuple[float, float]]:  # type: ignore[no-untyped-def]
    kept = _thinned(len(when), MOST_POINTS)
    places = [(x(float(t)), y(float(v))) for t, v in zip(when[kept], values[kept], strict=True) if np.isfinite(v)]
    if not steps:
        return places
    corners = [(right, height) for (_, height), (right, _) in itertools.pairwise(places)]
    return [point for pair in zip(places, [*corners, places[-1]], strict=True) for point in pair] if places else []


def _seeds(each: CurveOf, x, y) -> list[list[tuple[float, float]]]:  # type: ignore[no-untyped-def]
    chosen = each.members[_thinned(len(each.members), MOST_SEEDS)] if len(each.members) > 1 else []
    lines = [_points(each.when, member, x, y, False) for member in chosen]
    return [line for line in lines if len(line) > 1]


def _readings(curves: Sequence[CurveOf], x, clock: str, percent: bool) -> list[Reading]:  # type: ignore[no-untyped-def]
    """At every moment at which a side has a value, what all have there or had last."""
    moments = np.unique(np.concatenate([each.when for each in curves]))
    moments = moments[_thinned(len(moments), MOST_READINGS)]
    found = []
    for moment in moments:
        rows = []
        for each in curves:
            at = int(np.searchsorted(each.when, moment, side="right")) - 1
            if at >= 0 and np.isfinite(each.middle[at]):
                rows.append((each.side, shortened(each.name, 200.0, 13.0), value_text(each, at, percent)))
        heading = number(float(moment), shown_digits(moment)) if percent else whole(float(moment))
        found.append(
            Reading(x(float(moment)), None, f"{heading} {clock}" if not percent else f"{clock} {heading}", rows)
        )
    return found


def value_text(curve: CurveOf, at: int, percent: bool = False) -> str:
    """A point with its interval, such as `487.1 [460.2, 500.0]`."""
    ends = [] if curve.low is None or curve.high is None else [float(curve.low[at]), float(curve.high[at])]
    values = [float(curve.middle[at]), *(end for end in ends if np.isfinite(end))]
    texts = (
        [number(100 * v, 0) + " %" for v in values] if percent else [number(v, shown_digits(*values)) for v in values]
    )
    return texts[0] if len(texts) < 3 else f"{texts[0]} [{texts[1]}, {texts[2]}]"
