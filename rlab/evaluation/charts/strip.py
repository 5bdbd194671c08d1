"""An episode over its steps: what was said at each, what was done, and what it brought."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rlab.evaluation.charts.frame import SIZE, WIDE, Frame, end_labels, frame, is_narrow, label_room
from rlab.evaluation.charts.marks import Area, Chart, Group, Line, Mark, Reading, Text
from rlab.evaluation.charts.palette import side_color, side_dash
from rlab.evaluation.charts.scales import number, padded, text_width, whole
from rlab.evaluation.stats import shown_digits

MOST_POINTS = 400  # of a line
MOST_READINGS = 120
RIBBON = 12.0  # pixels
TAKEN = "taken"  # the name of the ribbon


@dataclass(frozen=True, eq=False)
class StripOf:
    """T steps."""

    what: str  # the lines are, such as `Q value`
    names: Sequence[str]  # of the lines, [L]
    values: np.ndarray  # [T, L]; NaN where there is nothing
    reward: np.ndarray  # [T]
    taken: np.ndarray | None = None  # [T] which line's option was taken, -1 for another; None: no such row


def strip_chart(strip: StripOf, title: str, width: float = WIDE) -> Chart:
    """Lines above, the options taken between, rewards below, over the same steps."""
    narrow = is_narrow(width)
    upper, lower = (250.0, 150.0) if narrow else (300.0, 160.0)
    steps = len(strip.reward)
    span = (0.0, float(max(steps - 1, 1)))
    values = padded(strip.values[np.isfinite(strip.values)].tolist())
    rewards = padded([0.0, *strip.reward.tolist()])
    left, right = text_width(TAKEN, SIZE) + 10.0, label_room(list(strip.names), width)
    for _ in range(2):  # the second time both know how much room the other's numbers take
        above, marks = frame(width, upper, span, values, ("", strip.what), right, left=left)
        top = upper - 30.0 + (RIBBON + 22.0 if strip.taken is not None else 0.0)
        below, more = frame(width, lower, span, rewards, ("step", "reward"), right, top=top, left=left)
        left = max(above.box[0], below.box[0])
    marks += more
    kept = np.unique(np.linspace(0, steps - 1, min(steps, MOST_POINTS)).round().astype(int))
    lines: list[Mark] = []
    ends = []
    thick = 2.0 if steps < 150 else 1.25
    for index, name in reversed(list(enumerate(strip.names))):
        points = _points(strip.values[:, index], kept, above)
        if len(points) > 1:
            lines.append(Group([Line(points, side_color(index), thick, side_dash(index))], index))
        if points:
            ends.append((index, name, *points[-1]))
    marks.append(Group(lines, clip=(above.box[0], above.box[1] - 2.0, above.box[2] + 1.0, above.box[3])))
    marks += end_labels(width, above.box, ends[::-1])
    if strip.taken is not None:
        marks += _ribbon(strip.taken, above, upper - 22.0)
    points = _points(strip.reward, np.arange(steps) if steps <= 2 * MOST_POINTS else kept, below)
    marks.append(Group([Line(points, "ink", 1.5)] if len(points) > 1 else [], clip=below.box))
    return Chart(width, top + lower, title, marks, _readings(strip, above))


def _points(values: np.ndarray, kept: np.ndarray, box: Frame) -> list[tuple[float, float]]:
    return [(box.x(float(t)), box.y(float(values[t]))) for t in kept if np.isfinite(values[t])]


def _ribbon(taken: np.ndarray, box: Frame, top: float) -> list[Mark]:
    """A band in the colours of the options, under its name."""
    ends = [0, *(np.flatnonzero(np.diff(taken)) + 1).tolist(), len(taken)]
    last = float(max(len(taken) - 1, 1))
    base = top + 10.0
    marks: list[Mark] = [Text(box.box[0] - 8.0, base + 10.5, TAKEN, "muted", SIZE, "end")]
    for first, end in pairwise(ends):
        a, b = box.x(min(float(first), last)), box.x(min(float(end), last))
        corners = [(a, base), (b, base), (b, base + RIBBON), (a, base + RIBBON)]
        option = int(taken[first])
        color = side_color(option) if option >= 0 else "axis"
        marks.append(Area(corners, color, 0.8, crisp=True))
    return marks


def _readings(strip: StripOf, box: Frame) -> list[Reading]:
    moments = np.unique(
        np.linspace(0, len(strip.reward) - 1, min(len(strip.reward), MOST_READINGS)).round().astype(int)
    )
    found = []
    for t in moments.tolist():
        rows = [
            (index, name, number(float(value), shown_digits(float(value))))
            for index, (name, value) in enumerate(zip(strip.names, strip.values[t], strict=True))
            if np.isfinite(value)
        ]
        reward = float(strip.reward[t])
        rows.append((None, "reward", number(reward, shown_digits(reward))))  # type: ignore[arg-type]
        found.append(Reading(box.x(float(t)), None, f"step {whole(t)}", rows))
    return found
