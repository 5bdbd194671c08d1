"""How the settings of a population changed while it trained: a frame for each setting, one below the other."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rlab.evaluation.charts.frame import WIDE, Frame, frame, is_narrow
from rlab.evaluation.charts.marks import Chart, Line, Mark, Reading
from rlab.evaluation.charts.scales import padded, whole

PANEL, NARROW_PANEL = 176.0, 150.0  # pixels
SPARE = 1.15  # of a logarithmic axis, above the highest and below the lowest value

Steps = Sequence[tuple[float, float]]  # a time, and the value from then on


@dataclass(frozen=True, eq=False)
class SettingOf:
    """One setting of every member, and of what became the best one: through all members that it came from."""

    name: str
    members: Sequence[Steps]
    best: Steps
    logarithmic: bool  # all values are above 0


def lineage_chart(settings: Sequence[SettingOf], clock: str, until: float, title: str, width: float = WIDE) -> Chart:
    """Thin lines are members, the thick one is the best.

    Args:
        settings: one or more.
        clock: the title of the axes below.
        until: the time at which training ended.
    """
    height = NARROW_PANEL if is_narrow(width) else PANEL
    left = max(_panel(each, clock, until, width, height, 0.0, 0.0)[0].box[0] for each in settings)
    marks: list[Mark] = []
    for place, each in enumerate(settings):
        box, axes = _panel(each, clock, until, width, height, place * height, left)
        marks += axes
        marks += [Line(_corners(steps, until, box), "muted", 1.0, opacity=0.55) for steps in each.members]
        marks.append(Line(_corners(each.best, until, box), "side0", 2.5))
    readings = [
        Reading(
            box.x(when),
            None,
            f"from {whole(when)} {clock}",
            [(None, s.name, f"{_at(s.best, when):.4g}") for s in settings],
        )
        for when in sorted({when for each in settings for when, _ in each.best})
    ]
    return Chart(width, height * len(settings), title, marks, readings)


def _panel(
    each: SettingOf, clock: str, until: float, width: float, height: float, top: float, left: float
) -> tuple[Frame, list[Mark]]:
    values = [value for steps in (*each.members, each.best) for _, value in steps]
    ends = (min(values) / SPARE, max(values) * SPARE) if each.logarithmic else padded(values)
    titles = (clock, each.name)
    return frame(width, height, (0.0, until), ends, titles, 22.0, top=top, left=left, logarithmic_y=each.logarithmic)


def _corners(steps: Steps, until: float, box: Frame) -> list[tuple[float, float]]:
    ends = [when for when, _ in steps[1:]] + [until]
    pieces = (((when, value), (end, value)) for (when, value), end in zip(steps, ends, strict=True))
    return [(box.x(when), box.y(value)) for when, value in itertools.chain.from_iterable(pieces)]


def _at(steps: Steps, when: float) -> float:
    return next(value for begun, value in reversed(steps) if begun <= when)
