"""A map over two numbers: the colour of each cell is an option, or how large a number is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from rlab.evaluation.charts.frame import LABEL, SIZE, WIDE, Frame, frame, is_narrow
from rlab.evaluation.charts.marks import Area, Chart, Dot, Group, Mark, Reading, Text
from rlab.evaluation.charts.palette import SIDES, side_color
from rlab.evaluation.charts.scales import number, shortened, text_width
from rlab.evaluation.stats import shown_digits

LEVELS = 10  # of colour, of a number
STRENGTH = (0.72, 0.36, 0.18)  # of the colours of the first SIDES options, of the next, and of all others
MOST_DOTS = 150
READ = 11  # places along each axis that can be read
LEGEND = 24.0  # pixels of a line of the legend


@dataclass(frozen=True, eq=False)
class CellsOf:
    """Values at the middles of cells that are evenly spaced."""

    x: np.ndarray  # [C]
    y: np.ndarray  # [R], growing upwards
    values: np.ndarray  # [R, C]; of options integers from 0
    titles: tuple[str, str]  # of x and y
    name: str  # of the values
    options: Sequence[str] = ()  # names; (): the values are numbers
    about_zero: bool = False  # numbers below 0 have another colour than those above
    dots: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))  # [M, 2] places of interest


def cells_chart(cells: CellsOf, title: str, width: float = WIDE) -> Chart:
    """The map, with a legend below it; options of some size are named where they are."""
    lines = _wrapped(_legend(cells), width) if cells.options else [[]]
    height = 330.0 if is_narrow(width) else 430.0
    half_x, half_y = (cells.x[1] - cells.x[0]) / 2, (cells.y[1] - cells.y[0]) / 2
    x_range = (float(cells.x[0] - half_x), float(cells.x[-1] + half_x))
    y_range = (float(cells.y[0] - half_y), float(cells.y[-1] + half_y))
    box, axes = frame(width, height, x_range, y_range, cells.titles, 22.0)
    marks: list[Mark] = list(_painted(cells, box))
    shown = cells.dots[np.unique(np.linspace(0, len(cells.dots) - 1, min(len(cells.dots), MOST_DOTS)).astype(int))]
    dots = [Dot(box.x(float(x)), box.y(float(y)), "ink", 1.4, opacity=0.45) for x, y in shown]
    marks = [*axes, Group([*marks, *dots], clip=box.box), *(_names(cells, box) if cells.options else [])]
    for row, line in enumerate(lines):
        top = height + 6.0 + LEGEND * row
        marks += _legend_line(line, top) if cells.options else _ramp(cells, top)
    return Chart(width, height + 10.0 + LEGEND * len(lines), title, marks, _readings(cells, box))


def _levels(cells: CellsOf) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """The level of each cell, and the colour and opacity of each level."""
    if cells.options:
        shades = [(side_color(i), STRENGTH[min(i // SIDES, len(STRENGTH) - 1)]) for i in range(len(cells.options))]
        return cells.values.astype(int), shades
    low, high = float(cells.values.min()), float(cells.values.max())
    if cells.about_zero:
        most = max(abs(low), abs(high)) or 1.0
        level = np.clip(np.rint(cells.values / most * LEVELS), -LEVELS, LEVELS).astype(int) + LEVELS
        return level, [("side0" if i > 0 else "side1", 0.85 * abs(i) / LEVELS) for i in range(-LEVELS, LEVELS + 1)]
    share = (cells.values - low) / ((high - low) or 1.0)
    return np.minimum((share * LEVELS).astype(int), LEVELS - 1), [("side0", 0.85 * i / LEVELS) for i in range(LEVELS)]


def _painted(cells: CellsOf, box: Frame) -> Iterator[Area]:
    """Rectangles of neighbours of one level: runs of a row, and equal runs of rows above each other."""
    level, shades = _levels(cells)
    rows, columns = level.shape
    left, top, right, bottom = box.box
    xs = np.linspace(left, right, columns + 1)
    ys = np.linspace(bottom, top, rows + 1)
    open_runs: dict[tuple[int, int, int], int] = {}  # (first column, last + 1, level) -> first row
    for row in range(rows + 1):
        runs = _runs(level[row]) if row < rows else set()
        for run in [each for each in open_runs if each not in runs]:
            first = open_runs.pop(run)
            color, opacity = shades[run[2]]
            a, b, low, high = xs[run[0]], xs[run[1]], ys[first], ys[row]
            if opacity:
                yield _box(a, high, b, low, color, opacity)
        for run in runs:
            open_runs.setdefault(run, row)


def _runs(level: np.ndarray) -> set[tuple[int, int, int]]:
    ends = [0, *(np.flatnonzero(np.diff(level)) + 1).tolist(), len(level)]
    return {(a, b, int(level[a])) for a, b in pairwise(ends)}


def _names(cells: CellsOf, box: Frame) -> list[Mark]:
    """The name of each option that fills a fiftieth of the map or more, at a cell deep inside."""
    marks: list[Mark] = []
    for option, name in enumerate(cells.options):
        inside = cells.values.astype(int) == option
        if inside.sum() * 50 < inside.size:
            continue
        while True:  # peel off the edge until nothing is left
            padded = np.pad(inside, 1)
            smaller = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
            if not smaller.any():
                break
            inside = smaller
        places = np.argwhere(inside)
        row, column = places[len(places) // 2]
        half = text_width(name, LABEL, bold=True) / 2 + 3.0
        x = min(max(box.x(float(cells.x[column])), box.box[0] + half), box.box[2] - half)
        marks.append(Text(x, box.y(float(cells.y[row])) + 4.5, name, "ink", LABEL, "middle", bold=True, halo=True))
    return marks


Entry = tuple[str, float, str]  # colour, opacity and text


def _legend(cells: CellsOf) -> list[Entry]:
    """The options that there are."""
    _, shades = _levels(cells)
    return [(*shades[i], cells.options[i]) for i in np.unique(cells.values.astype(int))]


def _ramp(cells: CellsOf, top: float) -> list[Mark]:
    """All levels of a number, between the lowest and the highest."""
    _, shades = _levels(cells)
    low, high = float(cells.values.min()), float(cells.values.max())
    if cells.about_zero:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    first = _number(low, high)
    x = text_width(first, SIZE) + 8.0
    size = 12.0
    end = x + size * len(shades)
    marks: list[Mark] = [Text(0.0, top + 11.5, first, "muted", SIZE)]
    marks.append(_box(x - 1.0, top, end + 1.0, top + 14.0, "axis"))
    marks.append(_box(x, top + 1.0, end, top + 13.0, "paper"))
    for index, (color, opacity) in enumerate(shades):
        if opacity:
            marks.append(_box(x + size * index, top + 1.0, x + size * (index + 1), top + 13.0, color, opacity))
    return [*marks, Text(end + 8.0, top + 11.5, _number(high, low), "muted", SIZE)]


def _box(left: float, top: float, right: float, bottom: float, color: str, opacity: float = 1.0) -> Area:
    return Area([(left, top), (right, top), (right, bottom), (left, bottom)], color, opacity, crisp=True)


def _number(value: float, beside: float) -> str:
    return number(value, shown_digits(value, beside))


def _wrapped(entries: Sequence[Entry], width: float) -> list[list[Entry]]:
    """The entries in lines that are not wider than the chart."""
    lines: list[list[Entry]] = [[]]
    used = 0.0
    for entry in entries:
        size = _entry_width(entry)
        if lines[-1] and used + size > width:
            lines.append([])
            used = 0.0
        lines[-1].append((entry[0], entry[1], shortened(entry[2], width - 40.0, SIZE)))
        used += size
    return lines


def _entry_width(entry: Entry) -> float:
    return 22.0 + text_width(entry[2], SIZE) + 14.0


def _legend_line(line: Sequence[Entry], top: float) -> list[Mark]:
    marks: list[Mark] = []
    x = 0.0
    for entry in line:
        color, opacity, text = entry
        marks.append(_box(x, top, x + 14.0, top + 14.0, color, opacity))
        marks.append(Text(x + 20.0, top + 11.5, text, "muted", SIZE))
        x += _entry_width(entry)
    return marks


def _readings(cells: CellsOf, box: Frame) -> list[Reading]:
    rows, columns = (np.unique(np.linspace(0, count - 1, READ).round().astype(int)) for count in cells.values.shape)
    found = []
    for row in rows:
        for column in columns:
            value = cells.values[row, column]
            text = cells.options[int(value)] if cells.options else _number(float(value), float(value))
            x, y = float(cells.x[column]), float(cells.y[row])
            heading = f"{cells.titles[0]} {_number(x, x)}, {cells.titles[1]} {_number(y, y)}"
            side = int(value) if cells.options else None
            found.append(Reading(box.x(x), box.y(y), heading, [(side, cells.name, text)]))
    return found
