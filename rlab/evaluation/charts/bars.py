"""Bars of shares, each with its name and its number."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlab.evaluation.charts.frame import LABEL, WIDE, is_narrow
from rlab.evaluation.charts.marks import Area, Chart, Mark, Text
from rlab.evaluation.charts.scales import shortened, text_width

STEP = 34.0  # pixels from bar to bar


@dataclass(frozen=True)
class BarOf:
    """One bar."""

    name: str
    share: float  # from 0 to 1
    text: str


def bars_chart(bars: Sequence[BarOf], title: str, width: float = WIDE) -> Chart:
    """One or more bars, the widest of which has the whole width; on narrow charts names are above them."""
    narrow = is_narrow(width)
    step = STEP + 12.0 if narrow else STEP
    most = max((bar.share for bar in bars), default=0.0) or 1.0
    left = 0.0 if narrow else min(240.0, max(text_width(bar.name, LABEL) for bar in bars) + 14.0)
    room = width - left - max(text_width(bar.text, LABEL) for bar in bars) - 10.0
    marks: list[Mark] = []
    for index, bar in enumerate(bars):
        top = index * step + (20.0 if narrow else 6.0)
        end = left + max(room * bar.share / most, 1.0)
        marks.append(Area([(left, top), (end, top), (end, top + 18.0), (left, top + 18.0)], "side0", 0.85))
        name = shortened(bar.name, width if narrow else left - 14.0, LABEL)
        x, y, anchor = (0.0, top - 5.0, "start") if narrow else (left - 10.0, top + 13.5, "end")
        marks.append(Text(x, y, name, "ink", LABEL, anchor, full=bar.name))  # type: ignore[arg-type]
        marks.append(Text(end + 7.0, top + 13.5, bar.text, "muted", LABEL))
    return Chart(width, len(bars) * step + 4.0, title, marks)
