"""Whether two ways to compute the same differ by more than rounding, which is found by moving what goes in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROUNDINGS = 32  # units in the last place that may be lost: as many as 64 operations in a row, each half a unit
MOVES = 8  # inputs near every input, in opposite pairs

Tensors = Mapping[str, Tensor]  # [n, *field] each
Fields = dict[str, np.ndarray]  # [n, *field] each, float64; bool is 0 and 1


@dataclass(frozen=True)
class Difference:
    """The first element that differs by more than rounding."""

    field: str  # with its element, as `obs[2]`
    row: int
    here: float
    there: float
    allowed: float


def largest_differences(
    function: Callable[[Tensors], Tensors], inputs: Tensors, expected: Fields, coarse: Mapping[str, torch.dtype]
) -> tuple[dict[str, float], Difference | None]:
    """By field the largest difference as a share of what rounding explains, and the first one that is too large.

    Args:
        function: of `inputs`, to fields `[n, *field]`. A result may differ from `expected` by as much as the results
            of inputs that are `ROUNDINGS` units in the last place away, plus `ROUNDINGS` units of its own. The unit of
            an element is that of the largest value which it has in any row. Integers and bool have no unit.
        coarse: by field, a float dtype through which `expected` went, where it is coarser than the field's own.
    """
    results = function(inputs)
    here = {field: _numbers(value) for field, value in results.items()}
    near = {field: np.zeros_like(value) for field, value in here.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(MOVES // 2):
        signs = {field: torch.randint(2, value.shape, generator=generator) * 2 - 1 for field, value in inputs.items()}
        for side in (-1, 1):
            moved = function({field: _moved(value, side * signs[field]) for field, value in inputs.items()})
            for field, result in moved.items():
                near[field] = np.fmax(near[field], np.abs(_numbers(result) - here[field]))
    worst: dict[str, float] = {}
    for field, value in here.items():
        unit = max(_unit(results[field].dtype), _unit(coarse.get(field, torch.bool)))
        other = np.asarray(expected[field], np.float64).reshape(value.shape)
        allowed = near[field] + ROUNDINGS * unit * _scale(np.concatenate([value, other]))
        apart = np.where(value == other, 0.0, np.abs(value - other))
        if not (apart <= allowed).all():  # also where one of them is NaN
            place = tuple(map(int, np.argwhere(~(apart <= allowed))[0]))
            element = "".join(f"[{index}]" for index in place[1:])
            values = float(value[place]), float(other[place]), float(allowed[place])
            return worst, Difference(field + element, place[0], *values)
        worst[field] = float(np.divide(apart, allowed, out=np.zeros_like(apart), where=apart > 0).max(initial=0.0))
    return worst, None


def _numbers(value: Tensor) -> np.ndarray:
    return value.double().numpy()


def _unit(dtype: torch.dtype) -> float:
    """The unit in the last place of 1."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _scale(values: np.ndarray) -> np.ndarray:
    """The largest magnitude `[*field]` over the rows; infinity and NaN do not count."""
    return np.where(np.isfinite(values), np.abs(values), 0.0).max(axis=0)


def _moved(value: Tensor, signs: Tensor) -> Tensor:
    """Every element some units in the last place away."""
    if not value.is_floating_point():
        return value
    scale = torch.as_tensor(_scale(_numbers(value)), dtype=value.dtype)
    return value + ROUNDINGS * _unit(value.dtype) * scale * signs
