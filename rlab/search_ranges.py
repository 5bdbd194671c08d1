"""Where `rlab tune` looks for the value of a setting, written beside its default in a config:

learning_rate: float = searched(1e-3, 1e-5, 1e-2, "log")  # of the optimizer

A field that is declared again with a plain default keeps the range of the class that it inherits from. A range whose
source is not given is that of rl-baselines3-zoo's samplers (`rl_zoo3/hyperparams_opt.py`, 2.0 to 2.7) or lies in it.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from rlab.errors import UsageError, unknown

T = TypeVar("T")
Scale = Literal["linear", "log", "powers", "one_minus"]  # one_minus: log of 1 - value; powers: of two
ZOO = "rl-baselines3-zoo"
SEARCH = "search"  # the key in a field's metadata


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers where the setting is one.

    Raises:
        UsageError: it is empty, not finite, or beyond what its scale can express.
    """

    low: float
    high: float
    scale: Scale = "linear"
    source: str = ZOO

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise unknown("scale", self.scale, get_args(Scale))
        where = f"the range {self.low:g} .. {self.high:g}"
        if not -math.inf < self.low < self.high < math.inf:
            raise UsageError(f"{where} is invalid: low must be below high, and both finite.")
        if self.scale == "log" and self.low <= 0.0:
            raise UsageError(f"{where} is invalid: a log scale begins above 0.")
        if self.scale == "one_minus" and self.high >= 1.0:
            raise UsageError(f"{where} is invalid: the scale one_minus, of 1 - value, ends below 1.")
        if self.scale == "powers" and not all(
            value >= 1 and value == 2 ** round(math.log2(value)) for value in (self.low, self.high)
        ):
            raise UsageError(f"{where} is invalid: on the scale powers both ends are 1, 2, 4, 8 ...")

    def nearest(self, value: float) -> float:
        """The value of the range that is nearest to a number, on the scale."""
        inside = min(max(value, self.low), self.high)
        return 2.0 ** round(math.log2(inside)) if self.scale == "powers" else inside


@dataclass(frozen=True)
class Choices:
    """A few values.

    Raises:
        UsageError: there are fewer than two.
    """

    values: tuple[Any, ...]
    source: str = ZOO

    def __post_init__(self) -> None:
        if len(set(self.values)) < max(2, len(self.values)):
            raise UsageError(f"the choices {list(self.values)} are invalid: two or more different values are needed.")


def searched(default: T, low: float, high: float, scale: Scale = "linear", source: str = ZOO) -> T:
    """A field of a config with a default and the range that is worth searching."""
    return dataclasses.field(default=default, metadata={SEARCH: Range(low, high, scale, source)})


def chosen(default: T, *others: T, source: str = ZOO) -> T:
    """A field of a config with a default and the other values that are worth trying."""
    return dataclasses.field(default=default, metadata={SEARCH: Choices((default, *others), source)})


def unsearched(default: T) -> T:
    """A field of a config that is not searched, although a class that it inherits from gives a range."""
    return dataclasses.field(default=default, metadata={SEARCH: None})


def ranges_of(config: type) -> dict[str, Range | Choices]:
    """What is worth searching of a config, by setting, in the order of its fields."""
    found = {}
    for field in dataclasses.fields(config):
        stated = (
            each.__dataclass_fields__.get(field.name) for each in config.__mro__ if dataclasses.is_dataclass(each)
        )
        ranges = [own.metadata[SEARCH] for own in stated if own is not None and SEARCH in own.metadata]
        if ranges and ranges[0] is not None:
            found[field.name] = ranges[0]
    return found
