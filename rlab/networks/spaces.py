"""Observation and action spaces as plain data: what a policy folder can carry without Gymnasium."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlab.errors import RlabError
from rlab.types import Json

Bounds = float | tuple[float, ...]


@dataclass(frozen=True)
class Box:
    """Arrays of one shape. A 3-D Box with channels last, uint8 or bool, is an image.

    `low` and `high` are one number where all elements share it, else one number per element in row-major order.
    """

    shape: tuple[int, ...]
    dtype: str
    low: Bounds
    high: Bounds

    @property
    def is_image(self) -> bool:
        """Height, width and channels of uint8 or bool."""
        return len(self.shape) == 3 and self.dtype in ("uint8", "bool")

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "box",
            "shape": list(self.shape),
            "dtype": self.dtype,
            "low": _bounds_to_json(self.low),
            "high": _bounds_to_json(self.high),
        }


@dataclass(frozen=True)
class Discrete:
    """The integers `start .. start + n - 1`."""

    n: int
    start: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"kind": "discrete", "n": self.n, "start": self.start}


Space = Box | Discrete


def space_from_json(data: Json) -> Space:
    """The space that `to_json` wrote.

    Raises:
        RlabError: the kind is not one that this version knows.
    """
    if data["kind"] == "box":
        return Box(
            tuple(data["shape"]), data["dtype"], _bounds_from_json(data["low"]), _bounds_from_json(data["high"])
        )
    if data["kind"] == "discrete":
        return Discrete(data["n"], data["start"])
    raise RlabError(f"unknown kind of space {data['kind']!r}; known: box, discrete. Is a newer rlab needed?")


def _bounds_to_json(bounds: Bounds) -> Any:
    if isinstance(bounds, tuple):
        return [_bounds_to_json(b) for b in bounds]
    return str(bounds) if math.isinf(bounds) else bounds  # JSON has no infinity


def _bounds_from_json(bounds: float | str | Sequence[float | str]) -> Bounds:
    if isinstance(bounds, (list, tuple)):
        return tuple(float(b) for b in bounds)
    return float(bounds)  # type: ignore[arg-type]
