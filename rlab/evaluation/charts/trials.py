"""The trials of a search in their order, and the best so far."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlab.evaluation.charts.frame import WIDE, frame, is_narrow
from rlab.evaluation.charts.marks import Chart, Dot, Group, Line, Mark, Reading
from rlab.evaluation.charts.scales import number, padded
from rlab.evaluation.stats import shown_digits


@dataclass(frozen=True)
class TrialOf:
    """One trial that has a value."""

    number: int
    value: float
    whole: bool  # whether it ran to its end
    state: str  # in words
    settings: str  # in words


def trials_chart(trials: Sequence[TrialOf], objective: str, title: str, width: float = WIDE) -> Chart:
    """One or more trials; those that ran to their end are full dots, and the line is the best of them."""
    height = 300.0 if is_narrow(width) else 380.0
    numbers = [each.number for each in trials]
    box, marks = frame(
        width,
        height,
        (min(numbers) - 0.5, max(numbers) + 0.5),
        padded([t.value for t in trials]),
        ("trial", objective),
        22.0,
        counts=True,
    )
    best: list[tuple[float, float]] = []
    drawn: list[Mark] = []
    for each in sorted(trials, key=lambda each: each.number):
        x, y = box.x(each.number), box.y(each.value)
        if each.whole and (not best or y < best[-1][1]):
            best += [(x, best[-1][1])] if best else []
            best.append((x, y))
        drawn.append(Dot(x, y, "side0", 4.0, hollow=not each.whole, opacity=0.75))
    if best:
        best.append((box.x(max(numbers) + 0.5), best[-1][1]))
        marks.append(Line(best, "side1", 2.25))
    marks.append(Group(drawn))
    readings = [
        Reading(
            box.x(each.number),
            box.y(each.value),
            f"trial {each.number}: {number(each.value, shown_digits(each.value))}, {each.state}",
            [(None, "", each.settings)],
        )
        for each in trials
    ]
    return Chart(width, height, title, marks, readings)
