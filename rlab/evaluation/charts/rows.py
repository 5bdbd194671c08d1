"""Rows of values beside one another: each side's seeds as dots, with its interval; differences around zero."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlab.evaluation.charts.frame import LABEL, SIZE, WIDE, is_narrow
from rlab.evaluation.charts.marks import SHAPES, Chart, Dot, Group, Line, Mark, Reading, Text
from rlab.evaluation.charts.palette import side_color, side_text
from rlab.evaluation.charts.scales import Scale, number, padded, shortened, text_width, tick_texts, ticks
from rlab.evaluation.stats import Interval, shown_digits

NOTE = 11.0  # size of the smaller letters
MOST_NAME = 220.0  # pixels
MOST_DOTS = 400  # of a row


@dataclass(frozen=True, eq=False)
class RowOf:
    """One row: an estimate with its interval where there is one, and the single values that it comes from."""

    side: int
    name: str
    value: Interval | float
    dots: np.ndarray = field(default_factory=lambda: np.empty(0))  # [S]
    dot_names: Sequence[str] = ()  # of each dot, such as `seed 3`
    note: str = ""  # in smaller letters below the name
    digits: int | None = None  # behind the point; None: as many as people care for

    @property
    def text(self) -> str:
        """`487.1 [460.2, 500.0]`."""
        if not isinstance(self.value, Interval):
            return self.number(self.value)
        ends = (self.value.estimate, self.value.low, self.value.high)
        middle, low, high = (self.number(end, *ends) for end in ends)
        return f"{middle} [{low}, {high}]"

    def number(self, value: float, *beside: float) -> str:
        """A value of this row, with as many decimals as it and those beside it need."""
        return number(value, shown_digits(value, *beside) if self.digits is None else self.digits)


def rows_chart(
    rows: Sequence[RowOf], axis: str, title: str, width: float = WIDE, zero: bool = False, shapes: bool = True
) -> Chart:
    """The rows from top to bottom, with one axis below them all.

    Args:
        rows: one or more.
        axis: the title of the axis.
        zero: a line at 0, which the axis covers, for differences.
        shapes: whether sides have shapes of their own.
    """
    narrow = is_narrow(width)
    step, top = (74.0, 8.0) if narrow else (58.0, 8.0)
    height = top + step * len(rows) + 44.0
    names = 0.0 if narrow else min(MOST_NAME, max(_name_width(row) for row in rows)) + 22.0
    numbers = 0.0 if narrow else max(text_width(row.text, LABEL) for row in rows) + 18.0
    low, high = padded([*_values(rows), *([0.0] if zero else [])], 0.03)
    values = ticks(low, high, 4 if narrow else 7)
    texts = tick_texts(values)
    edge = text_width(texts[-1] if texts else "", SIZE) / 2 + 2.0
    left, right, floor = max(names, edge), width - max(numbers, edge), top + step * len(rows)
    scale = Scale(low, high, left, right)
    marks: list[Mark] = []
    for value, text in zip(values, texts, strict=True):
        marks.append(Line([(scale(value), top), (scale(value), floor)], "grid"))
        marks.append(Text(scale(value), floor + 17.0, text, "muted", SIZE, "middle"))
    if zero:
        marks.append(Line([(scale(0.0), top), (scale(0.0), floor)], "axis", 1.25))
    marks.append(Text(right, floor + 36.0, axis, "muted", SIZE, "end"))
    readings: list[Reading] = []
    for index, row in enumerate(rows):
        middle = top + step * index + (48.0 if narrow else step / 2)
        shape = SHAPES[row.side % len(SHAPES)] if shapes else "circle"
        drawn, found = _row(row, middle, scale, shape)
        marks.append(Group([*_names(row, middle, width, left), *drawn], row.side))
        readings += found
    return Chart(width, height, title, marks, readings)


def _name_width(row: RowOf) -> float:
    return max(text_width(row.name, LABEL, bold=True), text_width(row.note, NOTE))


def _values(rows: Sequence[RowOf]) -> list[float]:
    ends = [[row.value.low, row.value.high] if isinstance(row.value, Interval) else [row.value] for row in rows]
    return [*(value for each in ends for value in each), *(float(dot) for row in rows for dot in row.dots)]


def _names(row: RowOf, middle: float, width: float, left: float) -> list[Mark]:
    color = side_text(row.side)
    if is_narrow(width):
        room = width - text_width(row.text, LABEL) - 12.0
        name = shortened(row.name, room, LABEL, bold=True)
        above = middle - 27.0
        return [
            Text(0.0, above, name, color, LABEL, bold=True, halo=True, full=row.name),
            Text(width, above, row.text, "ink", LABEL, "end", halo=True),
        ]
    name = shortened(row.name, MOST_NAME, LABEL, bold=True)
    base = middle + (4.5 if not row.note else -2.0)
    marks: list[Mark] = [
        Text(0.0, base, name, color, LABEL, bold=True, full=row.name),
        Text(width, middle + 4.5, row.text, "ink", LABEL, "end"),
    ]
    return [*marks, Text(0.0, base + 15.0, row.note, "muted", NOTE)] if row.note else marks


def _row(row: RowOf, middle: float, scale: Scale, shape: str) -> tuple[list[Mark], list[Reading]]:
    color, readings = side_color(row.side), list[Reading]()
    marks: list[Mark] = []
    kept = np.unique(np.linspace(0, len(row.dots) - 1, min(len(row.dots), MOST_DOTS)).round().astype(int))
    xs = [scale(float(row.dots[index])) for index in kept] if len(row.dots) else []
    for index, x, up in zip(kept, xs, _stacked(xs), strict=False):
        marks.append(Dot(x, middle + up, color, 3.4, shape, opacity=0.42))
        name = row.dot_names[index] if len(row.dot_names) else ""
        value = float(row.dots[index])
        readings.append(Reading(x, middle + up, row.name, [(row.side, name, row.number(value))]))
    estimate = row.value.estimate if isinstance(row.value, Interval) else row.value
    at = scale(estimate)
    if isinstance(row.value, Interval):
        low, high = scale(row.value.low), scale(row.value.high)
        marks.append(Line([(low, middle), (high, middle)], color, 3.0))
        marks += [Line([(end, middle - 5.0), (end, middle + 5.0)], color, 1.5) for end in (low, high)]
    marks.append(Line([(at, middle - 14.0), (at, middle + 14.0)], "paper", 6.0))
    marks.append(Line([(at, middle - 13.0), (at, middle + 13.0)], color, 3.5))
    return marks, readings


def _stacked(xs: Sequence[float], apart: float = 5.0, most: float = 18.0) -> list[float]:
    """How far each dot is moved up or down so that close ones are seen side by side: a heap at each place."""
    heaps: dict[int, int] = {}
    moved = []
    for x in xs:
        place = round(x / apart)
        count = heaps.get(place, 0)
        heaps[place] = count + 1
        level = (count + 1) // 2 * (1 if count % 2 else -1)
        moved.append(max(-most, min(most, level * apart)))
    return moved
