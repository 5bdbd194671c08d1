"""Numbers with their intervals, as a page and as tables have them."""

from collections.abc import Callable
from typing import Any

from rlab.evaluation.charts.scales import number
from rlab.evaluation.stats import Interval, shown_digits, small_digits


def plain(value: float, *beside: float) -> str:
    """A number with as many decimals as it and those beside it need."""
    return number(value, shown_digits(value, *beside))


def fine(value: float, *beside: float) -> str:
    """As `plain`, and with more decimals where all of them are small."""
    return number(value, max(shown_digits(value, *beside), small_digits(value, *beside)))


def with_ends(value: Interval | float | None) -> tuple[str, str]:
    """The estimate and its interval, `("487.1", "[460.2, 500.0]")`; without one the second is empty."""
    if value is None:
        return "", ""
    if not isinstance(value, Interval):
        return plain(value), ""
    three = (value.estimate, value.low, value.high)
    middle, low, high = (number(each, shown_digits(*three)) for each in three)
    return middle, f"[{low}, {high}]"


def joined(value: Interval | float | None) -> str:
    """`487.1 [460.2, 500.0]`."""
    return " ".join(filter(None, with_ends(value)))


def percent(value: Interval | None) -> str:
    """A share with its interval: `87 % [70 %, 97 %]`."""
    if value is None:
        return ""
    middle, low, high = (f"{100 * each:.0f} %" for each in (value.estimate, value.low, value.high))
    return f"{middle} [{low}, {high}]"


def counted(count: int, what: str) -> str:
    """`1 seed`, `10 seeds`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def setting_text(value: Any, write: Callable[[Any], str] = str) -> str:
    """A value of a setting as it is typed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return " ".join(setting_text(each) for each in value) or "none"
    return write(value)
