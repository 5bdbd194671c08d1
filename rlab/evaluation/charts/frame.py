"""What charts with two axes share: the frame with its ticks and titles, and labels at the ends of lines."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlab.evaluation.charts.marks import Box, Group, Line, Mark, Text
from rlab.evaluation.charts.palette import side_color, side_text
from rlab.evaluation.charts.scales import LogScale, Scale, log_ticks, shortened, spread, text_width, tick_texts, ticks

WIDE, NARROW = 880.0, 360.0  # pixels: a chart of a page on a desk and on a phone
SIZE = 12.5  # of text
LABEL = 13.0  # of the names at the ends of lines
GAP = 17.0  # between the baselines of such names
MOST_LABEL = 190.0  # pixels of a name


@dataclass(frozen=True)
class Frame:
    """The place of the data, and the maps to it."""

    box: Box
    x: Scale
    y: Scale


def is_narrow(width: float) -> bool:
    """Whether there is no room beside the data for names."""
    return width < 560.0


def label_room(names: Sequence[str], width: float) -> float:
    """What is left at the right for names; they are within the data where the chart is narrow."""
    if is_narrow(width) or not names:
        return 22.0
    return min(MOST_LABEL, max(text_width(name, LABEL, bold=True) for name in names)) + 24.0


def frame(
    width: float,
    height: float,
    x: tuple[float, float],
    y: tuple[float, float],
    titles: tuple[str, str],
    right: float,
    percent: bool = False,
    logarithmic: bool = False,
    counts: bool = False,
    top: float = 0.0,
    left: float = 0.0,
    logarithmic_y: bool = False,
) -> tuple[Frame, list[Mark]]:
    """The axes: hairlines across for the values of y, which are named at the left, and ticks below for those of x.

    Args:
        x, y: the lowest and highest value.
        titles: of x, at the lower right, and of y, above.
        right: pixels to the right of the data.
        percent: y is a share, named in percent.
        logarithmic: x is, and above 0.
        counts: x is a whole number.
        top: where the frame begins; `height` is its own.
        left: pixels to the left of the data, at least: frames below each other line up.
        logarithmic_y: y is, and above 0.
    """
    values_y = log_ticks(*y, most=4) if logarithmic_y else ticks(*y, most=6)
    texts_y = [f"{text} %" for text in tick_texts([100 * v for v in values_y])] if percent else tick_texts(values_y)
    texts_y = [f"{value:g}" for value in values_y] if logarithmic_y else texts_y
    left = max([left, *(text_width(text, SIZE) + 12.0 for text in texts_y)])
    box = (left, top + 28.0, width - right, top + height - 46.0)
    to_x = (LogScale if logarithmic else Scale)(*x, box[0], box[2])
    to_y = (LogScale if logarithmic_y else Scale)(*y, box[3], box[1])
    marks: list[Mark] = [Text(0.0, top + 14.0, titles[1], "muted", SIZE)]
    for value, text in zip(values_y, texts_y, strict=True):
        marks.append(Line([(box[0], to_y(value)), (box[2], to_y(value))], "grid"))
        marks.append(Text(box[0] - 8.0, to_y(value) + 4.0, text, "muted", SIZE, "end"))
    values_x = log_ticks(*x) if logarithmic else ticks(*x, most=4 if is_narrow(width) else 8)
    values_x = [value for value in values_x if not counts or value == round(value)]
    texts_x = [f"{value:g}" for value in values_x] if logarithmic else tick_texts(values_x)
    for value, text in zip(values_x, texts_x, strict=True):
        marks.append(Line([(to_x(value), box[3]), (to_x(value), box[3] + 5.0)], "axis"))
        marks.append(Text(to_x(value), box[3] + 19.0, text, "muted", SIZE, "middle"))
    marks.append(Line([(box[0], box[3]), (box[2], box[3])], "axis"))
    marks.append(Text(box[2], top + height - 8.0, titles[0], "muted", SIZE, "end"))
    return Frame(box, to_x, to_y), marks


def end_labels(width: float, box: Box, ends: Sequence[tuple[int, str, float, float]]) -> list[Mark]:
    """Names of sides beside the ends of their lines, kept apart; within the data where the chart is narrow.

    Args:
        ends: of each line the side, its name and where it ends in pixels.
    """
    places = spread([y for *_, y in ends], GAP, box[1] + 8.0, box[3] - 4.0)
    if is_narrow(width):
        places = spread([y - 10.0 for *_, y in ends], GAP, box[1] + 8.0, box[3] - 8.0)
    marks: list[Mark] = []
    for (side, name, x, y), place in zip(ends, places, strict=True):
        if is_narrow(width):
            short = shortened(name, box[2] - box[0] - 20.0, LABEL, bold=True)
            text = Text(box[2] - 2.0, place, short, side_text(side), LABEL, "end", True, True, name)
            marks.append(Group([text], side))
            continue
        short = shortened(name, MOST_LABEL, LABEL, bold=True)
        link = [(x + 3.0, y), (box[2] + 8.0, y), (box[2] + 16.0, place), (box[2] + 19.0, place)]
        text = Text(box[2] + 23.0, place + 4.5, short, side_text(side), LABEL, bold=True, full=name)
        marks.append(Group([Line(link, side_color(side), 1.0, opacity=0.6), text], side))
    return marks
