"""Value against cost: choices with their intervals, the front of those that no other beats, and bounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlab.evaluation.charts.frame import SIZE, Frame, frame
from rlab.evaluation.charts.marks import Chart, Dot, Group, Line, Mark, Point, Text
from rlab.evaluation.charts.scales import shortened
from rlab.evaluation.stats import Interval

WIDTH, HEIGHT = 960.0, 460.0
NAMES = 330.0  # pixels at the right for what numbers stand for
STEP = 19.0  # from line to line there
APART = 11.0  # at least, of a number from dots and other numbers
CHOSEN, OTHER, ON_FRONT, OFF = "side1", "axis", "side0", "muted"  # colours


@dataclass(frozen=True)
class Choice:
    """The cost and the value of one choice."""

    name: str
    cost: float  # above 0
    value: Interval
    on_front: bool  # no other choice has a higher value at the same or a lower cost
    chosen: bool


@dataclass(frozen=True)
class Words:
    """What the parts of a front are called."""

    cost: str  # title of the axis
    value: str
    front: str = "Pareto front"
    others: str = "screened only"


def front_chart(
    choices: Sequence[Choice],
    others: Sequence[tuple[float, float]],
    limits: tuple[float | None, float | None],
    words: Words,
    title: str,
) -> Chart:
    """Value against cost, which is logarithmic, with intervals and the front as a line.

    Those on the front and the chosen one have numbers, which are explained at the right. What is far below all that
    matters is an arrow at the lower edge.

    Args:
        choices: one or more; one of them at least is on the front.
        others: `(cost, value)` of choices that were measured more briefly; small dots without intervals.
        limits: the highest cost and the lowest value allowed; None: no line.
    """
    lowest = lower_edge(choices, limits[1])
    values = [end for each in choices for end in (each.value.low, each.value.high)]
    values += [value for _, value in others] + ([] if limits[1] is None else [limits[1]])
    margin = 0.08 * ((max(values) - lowest) or 1.0)
    edge = lowest - margin  # where the arrows are
    costs = [each.cost for each in choices] + [cost for cost, _ in others] + ([] if limits[0] is None else [limits[0]])
    room = (max(costs) / min(costs)) ** 0.04 if max(costs) > min(costs) else 1.2
    across, up = (min(costs) / room, max(costs) * room), (edge - margin / 2, max(values) + margin)
    box, marks = frame(WIDTH, HEIGHT, across, up, (words.cost, words.value), NAMES, logarithmic=True)
    for cost, value in others:
        low = value < lowest
        place = (box.x(cost), box.y(edge if low else value))
        marks.append(Dot(*place, OTHER, 2.5, "down" if low else "circle", opacity=0.7))
    marks += _limits(box, limits)
    marks.append(Line(_steps(choices, costs, limits, box, edge), ON_FRONT, 1.25))
    for each in choices:
        marks += _choice(each, box, lowest, edge)
    named = sorted((each for each in choices if each.on_front or each.chosen), key=lambda each: each.cost)
    places = [(box.x(each.cost), box.y(max(each.value.estimate, edge))) for each in named]
    for number, (each, place) in enumerate(zip(named, number_places(places, box), strict=True), start=1):
        color = f"{CHOSEN}-text" if each.chosen else "ink"
        marks.append(Text(place[0], place[1] + 4.0, str(number), color, 11.0, "middle", halo=True))
    below = any(value < lowest for value in (*(each.value.estimate for each in choices), *(v for _, v in others)))
    marks.append(
        Text(WIDTH - NAMES + 16.0, 14.0, shortened(title, NAMES - 16.0, SIZE, bold=True), bold=True, full=title)
    )
    marks += _key(named, words, bool(others), below, any(limit is not None for limit in limits))
    return Chart(WIDTH, HEIGHT, title, marks)


def lower_edge(choices: Sequence[Choice], least: float | None) -> float:
    """The value below which nothing is drawn to scale: what is on the front, the chosen one's interval and `least` are
    above it, but where `least` is above 0 nothing below 0 is, unless what was chosen is there itself."""
    lows = [each.value.estimate for each in choices if each.on_front]
    lows += [each.value.low for each in choices if each.chosen or least is None]
    lowest = min([*lows, *([] if least is None else [least])])
    if least is None or least <= 0.0:
        return lowest
    return max(lowest, min([0.0, *(each.value.estimate for each in choices if each.chosen)]))


def number_places(places: Sequence[Point], box: Frame) -> list[Point]:
    """The middle of each point's number: beside its point, within the axes, and where none of those before it is."""
    left, top, right, bottom = box.box
    offsets = [(side * out, up) for out in (9, 20, 31, 42) for side in (1, -1) for up in (-10, 10, -21, 21)]
    taken, found = list(places), []
    for x, y in places:
        candidates = [(x + dx, y + dy) for dx, dy in offsets]
        free = (
            (cx, cy)
            for cx, cy in candidates
            if left + 8 <= cx <= right - 8
            and top + 8 <= cy <= bottom - 8
            and all(np.hypot(cx - tx, cy - ty) >= APART for tx, ty in taken)
        )
        found.append(next(free, candidates[0]))
        taken.append(found[-1])
    return found


def _choice(each: Choice, box: Frame, lowest: float, edge: float) -> list[Mark]:
    color = CHOSEN if each.chosen else ON_FRONT if each.on_front else OFF
    x = box.x(each.cost)
    if each.value.estimate < lowest:
        return [Dot(x, box.y(edge), color, 4.0, "down")]
    low, high = box.y(max(each.value.low, edge)), box.y(each.value.high)
    ends: list[Mark] = [Line([(x - 3.0, end), (x + 3.0, end)], color, 1.25) for end in (low, high)]
    shape, size = ("diamond", 6.0) if each.chosen else ("circle", 4.0)
    return [Line([(x, low), (x, high)], color, 1.25), *ends, Dot(x, box.y(each.value.estimate), color, size, shape)]


def _steps(
    choices: Sequence[Choice],
    costs: Sequence[float],
    limits: tuple[float | None, float | None],
    box: Frame,
    edge: float,
) -> list[Point]:
    """The front: the best value for each cost, never falling with the cost."""
    front = sorted((each.cost, max(each.value.estimate, edge)) for each in choices if each.on_front)
    points: list[Point] = []
    best = front[0][1]
    for cost, value in front:
        points.append((box.x(cost), box.y(best)))
        best = max(best, value)
        points.append((box.x(cost), box.y(best)))
    right = max(costs) if limits[0] is None else max(limits[0], front[-1][0])
    return [*points, (box.x(right), box.y(best))]


def _limits(box: Frame, limits: tuple[float | None, float | None]) -> list[Mark]:
    left, top, right, bottom = box.box
    marks: list[Mark] = []
    if limits[0] is not None:
        marks.append(Line([(box.x(limits[0]), top), (box.x(limits[0]), bottom)], "muted", 1.0, (2.0, 3.0)))
    if limits[1] is not None:
        marks.append(Line([(left, box.y(limits[1])), (right, box.y(limits[1]))], "muted", 1.0, (2.0, 3.0)))
    return marks


def _key(named: Sequence[Choice], words: Words, others: bool, below: bool, limits: bool) -> list[Mark]:
    """What symbols and numbers stand for, at the right; of the numbers as many as there is room for."""
    left, size = WIDTH - NAMES + 24.0, SIZE - 0.5
    rows: list[tuple[list[Mark], str, str]] = []

    def row(text: str, color: str, *symbol: Mark) -> None:
        rows.append((list(symbol), text, color))

    def y() -> float:
        return 40.0 + STEP * len(rows) - 4.0

    row(words.front, "ink", Line([(left - 8.0, y()), (left + 8.0, y())], ON_FRONT, 1.5))
    if any(each.chosen for each in named):
        row("chosen", f"{CHOSEN}-text", Dot(left, y(), CHOSEN, 5.5, "diamond"))
    if limits:
        row("bounds", "muted", Line([(left - 8.0, y()), (left + 8.0, y())], "muted", 1.0, (2.0, 3.0)))
    if others:
        row(words.others, "muted", Dot(left, y(), OTHER, 2.5))
    if below:
        row("lower than is drawn", "muted", Dot(left, y(), OFF, 4.0, "down"))
    most = int((HEIGHT - y()) / STEP) - 1
    for number, each in enumerate(named[:most], start=1):
        color = f"{CHOSEN}-text" if each.chosen else "ink"
        row(each.name, color, Text(left, y() + 4.0, str(number), color, 11.0, "middle"))
    marks: list[Mark] = []
    for index, (symbol, text, color) in enumerate(rows):
        short = shortened(text, NAMES - 44.0, size)
        marks.append(Group([*symbol, Text(left + 18.0, 40.0 + STEP * index, short, color, size, full=text)]))
    return marks
