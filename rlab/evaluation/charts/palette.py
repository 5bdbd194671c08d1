"""Colours of charts and pages, for light and dark backgrounds.

The colours of sides are those of Okabe and Ito 2008, "Color Universal Design", which people with any of the common
kinds of colour blindness can tell apart: the tests look at them with simulated protanopia, deuteranopia and tritanopia.
Each theme uses the five that stand out from its background, by a contrast of 3:1 (WCAG 2.2, 1.4.11). Text in the
colour of a side is mixed with ink until it reaches 4.5:1 (1.4.3). Sides differ by dash and by shape as well, so that a
page in black and white can be read.
"""

from collections.abc import Mapping

Rgb = tuple[float, float, float]
SIDES = 5  # colours; a sixth side has the first colour again, with another dash and shape
TEXT_CONTRAST = 4.5
DASHES: tuple[tuple[float, ...], ...] = ((), (7.0, 3.0), (2.0, 2.5), (9.0, 3.0, 2.0, 3.0))

_LIGHT = {
    "paper": "#ffffff",
    "panel": "#f5f6f7",
    "ink": "#16191d",
    "muted": "#5b636d",
    "grid": "#dfe3e7",
    "axis": "#8b939c",
    "sides": ("#0072b2", "#d55e00", "#009e73", "#c46f9e", "#000000"),  # the fourth is darker than theirs
}
_DARK = {
    "paper": "#14171b",
    "panel": "#1c2026",
    "ink": "#eceff2",
    "muted": "#a3abb5",
    "grid": "#2c323a",
    "axis": "#77808b",
    "sides": ("#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#f0e442"),
}


def rgb(color: str) -> Rgb:
    """`#rrggbb` as numbers from 0 to 1."""
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _readable(color: str, ink: str, paper: str) -> str:
    """The colour, with as much ink as text of it needs."""
    start, end = rgb(color), rgb(ink)
    for part in range(21):
        share = part / 20
        mixed = "#" + "".join(f"{round(255 * (a + (b - a) * share)):02x}" for a, b in zip(start, end, strict=True))
        if contrast(mixed, paper) >= TEXT_CONTRAST:
            return mixed
    return ink


def _theme(names: Mapping[str, object]) -> dict[str, str]:
    colors = {role: str(color) for role, color in names.items() if role != "sides"}
    for index, color in enumerate(names["sides"]):  # type: ignore[arg-type, var-annotated]
        colors[f"side{index}"] = color
        colors[f"side{index}-text"] = _readable(color, colors["ink"], colors["panel"])
    return colors


LIGHT: Mapping[str, str] = _theme(_LIGHT)  # role -> colour
DARK: Mapping[str, str] = _theme(_DARK)


def side_color(index: int) -> str:
    """The role of a side's lines and dots."""
    return f"side{index % SIDES}"


def side_text(index: int) -> str:
    """The role of text about a side."""
    return f"side{index % SIDES}-text"


def side_dash(index: int) -> tuple[float, ...]:
    """The dashes of a side's line: the first is solid, and no two sides of one colour are dashed alike."""
    return DASHES[(index % SIDES + index // SIDES) % len(DASHES)]
