"""What a chart is made of: lines, areas, dots and texts in pixels, from the upper left corner.

A colour is a role, such as `ink` or `side2`, which `palette` turns into a colour of the light or the dark theme.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
SHAPES = ("circle", "diamond", "square", "triangle")  # in the order in which sides take them


@dataclass(frozen=True)
class Line:
    """Straight pieces from point to point."""

    points: Sequence[Point]
    color: str
    width: float = 1.0
    dash: Sequence[float] = ()
    opacity: float = 1.0


@dataclass(frozen=True)
class Area:
    """A filled polygon without an edge."""

    points: Sequence[Point]
    color: str
    opacity: float = 1.0
    crisp: bool = False  # without smoothed edges, so that neighbours meet without a seam


@dataclass(frozen=True)
class Dot:
    """One of `SHAPES`, or a triangle that points down, around a centre."""

    x: float
    y: float
    color: str
    radius: float = 3.0
    shape: str = "circle"
    hollow: bool = False
    opacity: float = 1.0


@dataclass(frozen=True)
class Text:
    """One line of text; `y` is its baseline."""

    x: float
    y: float
    text: str
    color: str = "ink"
    size: float = 12.0
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False
    halo: bool = False  # a border of the background's colour, where lines may run behind it
    full: str = ""  # the whole text, where `text` had to be shortened


@dataclass(frozen=True)
class Group:
    """Marks that belong together."""

    marks: Sequence["Mark"]
    side: int | None = None  # whose they are: a page can hide a side
    on_demand: bool = False  # single seeds: a page shows them when asked, a file has them faintly
    clip: Box | None = None


Mark = Line | Area | Dot | Text | Group


@dataclass(frozen=True)
class Reading:
    """What a page says of the place that the pointer, or the arrow keys, have reached."""

    x: float
    y: float | None  # None: everything at this x
    heading: str
    rows: Sequence[tuple[int | None, str, str]]  # side, name, value


@dataclass(frozen=True)
class Chart:
    """A finished layout."""

    width: float
    height: float
    title: str  # what it is called where it cannot be seen
    marks: Sequence[Mark]
    readings: Sequence[Reading] = field(default=())


def corners(dot: Dot) -> list[Point]:
    """The corners of a dot that is not a circle; its area is about that of the circle."""
    x, y, r = dot.x, dot.y, dot.radius
    if dot.shape == "square":
        a = 0.89 * r
        return [(x - a, y - a), (x + a, y - a), (x + a, y + a), (x - a, y + a)]
    if dot.shape == "diamond":
        a = 1.25 * r
        return [(x, y - a), (x + a, y), (x, y + a), (x - a, y)]
    up = 1.0 if dot.shape == "triangle" else -1.0
    return [(x, y - up * 1.3 * r), (x + 1.2 * r, y + up * 0.8 * r), (x - 1.2 * r, y + up * 0.8 * r)]
