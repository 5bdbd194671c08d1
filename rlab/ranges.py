"""Checks of the numbers in a dataclass of settings. A setting that is None has no number and passes."""

import math
from collections.abc import Callable
from typing import Any

from rlab.errors import UsageError


def check_counts(settings: Any, *names: str) -> None:
    """Refuse numbers below 1."""
    _refuse(settings, names, "1 or more", lambda number: number >= 1)


def check_at_most(settings: Any, most: int, *names: str) -> None:
    """Refuse numbers above `most`."""
    _refuse(settings, names, f"{most:,} or less", lambda number: number <= most)


def check_positive(settings: Any, *names: str) -> None:
    """Refuse numbers that are not above 0 and finite."""
    _refuse(settings, names, "above 0", lambda number: 0.0 < number < math.inf)


def check_seconds(settings: Any, *names: str) -> None:
    """Refuse time limits that are not above 0 or are more than a day, which would be none."""
    _refuse(settings, names, "above 0 and at most 86400 seconds (a day)", lambda number: 0.0 < number <= 86_400.0)


def check_not_negative(settings: Any, *names: str) -> None:
    """Refuse numbers that are below 0 or not finite."""
    _refuse(settings, names, "0 or more", lambda number: 0.0 <= number < math.inf)


def check_shares(settings: Any, *names: str) -> None:
    """Refuse numbers outside [0, 1]."""
    _refuse(settings, names, "in [0, 1]", lambda number: 0.0 <= number <= 1.0)


def check_shares_below_one(settings: Any, *names: str) -> None:
    """Refuse numbers outside [0, 1)."""
    _refuse(settings, names, "in [0, 1)", lambda number: 0.0 <= number < 1.0)


def check_positive_shares(settings: Any, *names: str) -> None:
    """Refuse numbers outside (0, 1]."""
    _refuse(settings, names, "in (0, 1]", lambda number: 0.0 < number <= 1.0)


def _refuse(settings: Any, names: tuple[str, ...], allowed: str, holds: Callable[[float], bool]) -> None:
    # Every `holds` is written so that NaN, with which all comparisons are false, does not pass.
    for name in names:
        number = getattr(settings, name)
        if number is not None and not holds(number):
            raise UsageError(f"{name} {number} must be {allowed}.")
