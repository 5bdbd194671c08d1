"""A second reading of the Open Inference Protocol, which shares nothing with the server's.

It says of every body whether it is right, wrong, or left to the server (`EITHER`): there the protocol is silent.
"""

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

RIGHT, WRONG, EITHER = "right", "wrong", "either"
INTEGERS = {f"{sign}INT{bits}": np.iinfo(f"{sign}int{bits}".lower()) for sign in ("", "U") for bits in (8, 16, 32, 64)}
FLOAT32_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Port:
    """One input or output of a policy: `shape` is that of a row."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    low: float = -2.0  # what correct requests are drawn from
    high: float = 2.0


@dataclass(frozen=True)
class Target:
    """A served policy."""

    model: str
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...] = ("action",)
    most_rows: int = 64  # that a correct request of these tests has


@dataclass(frozen=True)
class Verdict:
    """What a body is, why, and the arrays and the id of one that can be answered."""

    kind: str
    why: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    id: Any = None


def judged(target: Target, body: bytes) -> Verdict:
    """A body, read by the rules of the Open Inference Protocol."""
    repeated = False

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated |= len({key for key, _ in found}) < len(found)
        return dict(found)

    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_int=_whole_number, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        return Verdict(WRONG, f"not JSON: {error}")
    found = _judged(target, value)
    if found.kind == RIGHT and repeated:
        return replace(found, kind=EITHER, why="a key comes twice")
    return found


def _judged(target: Target, value: Any) -> Verdict:
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), list):
        return Verdict(WRONG, "no list of inputs")
    doubts = [key for key in value if key not in ("id", "inputs", "outputs")]
    if "id" in value and not isinstance(value["id"], str):
        doubts.append("id")
        if value["id"] is not None:
            return Verdict(WRONG, "the id is not a string")
    if re.search("[\ud800-\udfff]", str(value.get("id"))) or len(str(value.get("id"))) > 200:
        doubts.append("half a character or very many")
    inputs = value["inputs"]
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in inputs):
        return Verdict(WRONG, "an input is not an object with a name")
    if sorted(each["name"] for each in inputs) != sorted(port.name for port in target.inputs):
        return Verdict(WRONG, "inputs are missing, unknown or there twice")
    named, arrays = {each["name"]: each for each in inputs}, {}
    for port in target.inputs:
        array = _array(port, named[port.name])
        if isinstance(array, str):
            return Verdict(WRONG, f"{port.name}: {array}")
        arrays[port.name], doubt = array
        doubts += [doubt] * bool(doubt) + sorted(set(named[port.name]) - {"name", "shape", "datatype", "data"})
    if len({len(array) for array in arrays.values()}) > 1:
        return Verdict(WRONG, "inputs differ in their rows")
    if (wrong := _outputs(target, value.get("outputs", []))) is not None:
        return Verdict(WRONG, wrong)
    doubts += ["outputs"] * (value.get("outputs", 1) in (None, [])) + ["outputs"] * any(
        set(each) != {"name"} for each in value.get("outputs") or []
    )
    asked = [each["name"] for each in value.get("outputs") or []]
    doubts += ["outputs"] * bool(asked and "action" not in asked) + ["outputs"] * (len(set(asked)) < len(asked))
    return Verdict(EITHER if doubts else RIGHT, ", ".join(map(str, doubts)), arrays, value.get("id"))


def _outputs(target: Target, outputs: Any) -> str | None:
    if outputs is None:
        return None
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        return "outputs are not a list of objects"
    if not all(each.get("name") in target.outputs for each in outputs if isinstance(each.get("name"), str)):
        return "an output is unknown"
    return None if all(isinstance(each.get("name"), str) for each in outputs) else "an output has no name"


def _array(port: Port, given: dict[str, Any]) -> tuple[np.ndarray, str] | str:
    """The array and what is in doubt about it, or what is wrong."""
    if given.get("datatype") != port.datatype:
        return "another datatype"
    shape, doubt = given.get("shape"), ""
    if not isinstance(shape, list) or not all(type(n) is int or (type(n) is float and n.is_integer()) for n in shape):
        return "the shape is not a list of whole numbers"
    if any(type(n) is float for n in shape):
        doubt = "a float in the shape"
    if tuple(shape[1:]) != port.shape or not shape or shape[0] < 0:
        return "another shape"
    if shape[0] == 0:
        doubt = "no rows"
    if not isinstance(given.get("data"), list):
        return "no data"
    flat: list[Any] = []
    depth = _flatten(given["data"], flat)
    if depth is None or len(flat) != math.prod(map(int, shape)):
        return "the data do not fit the shape"
    if depth > 1 and not _nested(given["data"], [int(n) for n in shape]):
        doubt = "odd nesting"
    numbers = _numbers(port.datatype, flat)
    if isinstance(numbers, str):
        return numbers
    array = np.array(numbers[0], port.datatype.replace("FP", "float").lower()).reshape([int(n) for n in shape])
    return array, doubt or numbers[1]


def _numbers(datatype: str, flat: list[Any]) -> tuple[list[Any], str] | str:
    if any(type(each) not in (int, float) for each in flat):
        return "not all data are numbers"
    if datatype.startswith("FP"):
        most = FLOAT32_MOST if datatype == "FP32" else math.inf
        try:
            values = [float(each) for each in flat]
        except OverflowError:
            return "a number out of range"
        return (values, "") if all(abs(each) < math.inf and abs(each) <= most for each in values) else "not finite"
    if any(type(each) is float and not each.is_integer() for each in flat):
        return "not all data are whole numbers"
    low, high = INTEGERS[datatype].min, INTEGERS[datatype].max
    if not all(low <= each <= high for each in flat):
        return "a number out of range"
    return [int(each) for each in flat], "a float among integers" * any(type(each) is float for each in flat)


def _flatten(data: list[Any], flat: list[Any], depth: int = 1) -> int | None:
    """Fills `flat` row by row; how deep the lists are, None where lists and numbers lie beside each other."""
    if depth > 20:
        return None
    inner = [each for each in data if isinstance(each, list)]
    if not inner:
        flat += data
        return depth
    if len(inner) < len(data):
        return None
    depths = {_flatten(each, flat, depth + 1) for each in data}
    return depths.pop() if len(depths) == 1 else None


def _nested(data: Any, shape: list[int]) -> bool:
    """Whether the lists are exactly those of the shape."""
    if not shape:
        return not isinstance(data, list)
    return isinstance(data, list) and len(data) == shape[0] and all(_nested(each, shape[1:]) for each in data)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _whole_number(digits: str) -> int:
    """Python refuses to read more than 4300 digits; what is as large is out of every range."""
    return int(digits) if len(digits) < 400 else 10**400
