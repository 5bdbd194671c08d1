"""What the JSON of a space must be before the space is made: kinds of values, and bounds of what it counts."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlab.door import clean
from rlab.errors import RlabError

MOST = 2**26  # elements, and values of a discrete one: more than any network takes in
LARGEST = 2**63
KEYS: dict[str, frozenset[str]] = {  # of each kind, which names the space; what may be left out stands in MAY_LACK
    "box": frozenset({"shape", "dtype", "low", "high", "channels", "frames"}),
    "discrete": frozenset({"n", "start"}),
    "multi_discrete": frozenset({"nvec", "start", "shape"}),
    "multi_binary": frozenset({"shape"}),
    "dict": frozenset({"items"}),
    "tuple": frozenset({"items"}),
    "masked": frozenset({"obs", "size"}),
}
MAY_LACK = {"channels", "frames", "start"}


def check_space(data: Any) -> None:
    """Refuse what is not the JSON of one space; the spaces inside it are checked when they are made.

    Raises:
        RlabError: naming the value.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in KEYS:
        known = ", ".join(KEYS)
        raise RlabError(f"unknown kind of space {_shown(kind)}; known: {known}. Is a newer rlab needed?")
    keys = data.keys() - {"kind"}
    for name in sorted(keys - KEYS[kind]) + sorted(KEYS[kind] - keys - MAY_LACK):
        raise RlabError(f"a {kind} space {'has no' if name not in keys else 'cannot have'} {_shown(name)}")
    count = _elements(data["shape"]) if "shape" in data else 1
    for name in ("n", "size", "frames"):
        if name in data and not _whole(data[name], 1, MOST):
            raise RlabError(f"{name} of a space must be a whole number from 1 to {MOST:,}, not {_shown(data[name])}")
    if kind == "box":
        _check_box(data, count)
    for name, least, most in (("nvec", 1, MOST), ("start", -LARGEST, LARGEST)):
        numbers = data.get(name, ())
        if kind == "multi_discrete" and not (_list(numbers, count) and all(_whole(n, least, most) for n in numbers)):
            raise RlabError(f"{name} of a space must be {count} whole numbers, not {_shown(numbers)}")
    if kind == "discrete" and not _whole(data.get("start", 0), -LARGEST, LARGEST):
        raise RlabError(f"start of a space must be a whole number, not {_shown(data['start'])}")
    if "items" in data and not isinstance(data["items"], list | tuple):
        raise RlabError(f"items of a space must be a list, not {_shown(data['items'])}")


def _check_box(data: Mapping[str, Any], count: int) -> None:
    dtype = data["dtype"]
    if not isinstance(dtype, str) or not _is_number_type(dtype):
        raise RlabError(f"dtype of a space must be one of numbers, not {_shown(dtype)}")
    for name in ("low", "high"):
        numbers = data[name] if isinstance(data[name], list | tuple) else [data[name]]
        if isinstance(data[name], list | tuple) and len(numbers) != count:
            raise RlabError(f"{name} of a space must be one number or {count}, not {len(numbers)}")
        if not all(number in ("inf", "-inf") or _number(number) for number in numbers):
            raise RlabError(f"{name} of a space must be numbers, not {_shown(data[name])}")


def _is_number_type(name: str) -> bool:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        return False
    return dtype.kind in "biuf" and dtype.name == name


def _elements(shape: Any) -> int:
    if not isinstance(shape, list | tuple) or not all(_whole(length, 0, MOST) for length in shape) or len(shape) > 32:
        raise RlabError(f"shape of a space must be a list of whole numbers, not {_shown(shape)}")
    if math.prod(shape) > MOST:
        raise RlabError(f"a space of shape {_shown(tuple(shape))} has more than {MOST:,} elements")
    return math.prod(shape)


def _list(values: Any, count: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == count


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value) and abs(value) < 1e309


def _shown(value: Any) -> str:
    return f"{clean(repr(value)):.60}"
