"""Bodies of requests and answers of the Open Inference Protocol, version 2: JSON, and tensors in binary behind it.

https://github.com/kserve/open-inference-protocol, `specification/protocol/inference_rest.md`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np

from rlab.serving import binary
from rlab.serving.ports import Port
from rlab.serving.web import Refused, Response, to_json

MOST_TEXT = 256  # characters of a request's id
T = TypeVar("T")
NOT_NUMBERS = re.compile(rb"[:,\[]\s*-?(?:NaN|Infinity)")
NESTED = re.compile(rb"\s*\[\s*\[")
KINDS: dict[str, Any] = {"b": bool, "i": int, "u": int, "f": float}  # of dtypes -> of numbers in JSON
NO_DATA, NOTHING = msgspec.Raw(), memoryview(b"")


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    """An input of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = NO_DATA
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A request."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that fits the model: `inputs` by name, `[B, ...]` each with the same B."""

    id: str
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str]  # the names asked for; none: the usual ones
    parameters: Mapping[str, Any]
    in_binary: Collection[str]  # the outputs whose numbers go back as bytes


_body = msgspec.json.Decoder(Body)
_decoders: dict[tuple[type, int], msgspec.json.Decoder[Any]] = {}


def decoded(decoder: msgspec.json.Decoder[T], json: bytes, what: str) -> T:
    """A body that is to be `what`; raises Refused where it is not."""
    try:
        return decoder.decode(json)
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "; NaN and Infinity are not numbers in JSON" if NOT_NUMBERS.search(json) else ""
        raise Refused(400, f"the body is not {what}: {error}"[:300] + hint) from None


def parse(
    json: bytes,
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    most_rows: int,
    behind: memoryview = NOTHING,
) -> Asked:
    """A request for a model with these ports.

    Args:
        behind: the bytes of its binary inputs.

    Raises:
        Refused: with one line about the first thing that does not fit.
    """
    found = decoded(_body, json, "an inference request")
    if len(found.id) > MOST_TEXT:
        raise Refused(400, f"the id has {len(found.id)} characters; at most {MOST_TEXT} are taken")
    arrays: dict[str, np.ndarray] = {}
    tail = binary.Tail(behind)
    rows = None
    for tensor in found.inputs:
        port = inputs.get(tensor.name)
        if port is None:
            raise Refused(400, f"unknown input {tensor.name!r:.80}; the inputs are {', '.join(inputs)}")
        if tensor.name in arrays:
            raise Refused(400, f"the input {tensor.name} is there twice")
        rows = _rows(tensor, port, rows, most_rows)
        arrays[tensor.name] = _array(tensor, tail, port, rows)
    tail.check_empty()
    names = [wanted.name for wanted in found.outputs or ()]
    for name in names:
        if name not in outputs:
            raise Refused(400, f"unknown output {name!r:.80}; the outputs are {', '.join(outputs)}")
    if len(set(names)) < len(names):
        raise Refused(400, "an output is asked for twice")
    asked = [(wanted.name, wanted.parameters) for wanted in found.outputs or ()]
    in_binary = binary.wanted(found.parameters, asked, outputs)
    return Asked(found.id, arrays, names, found.parameters or {}, in_binary)


def answer(
    name: str, version: str, id: str, outputs: Sequence[tuple[Port, np.ndarray]], in_binary: Collection[str] = ()
) -> Response:
    """An answer with these outputs, `[B, ...]` each, some `in_binary`."""
    described, behind = [], []
    for port, array in outputs:
        facts: dict[str, Any] = {"name": port.name, "datatype": port.datatype, "shape": array.shape}
        if port.name in in_binary:
            behind.append(binary.bytes_of(array))
            facts["parameters"] = {binary.SIZE: len(behind[-1])}
        else:
            facts["data"] = array.ravel().tolist()
        described.append(facts)
    json = to_json({"model_name": name, "model_version": version, "id": id, "outputs": described})
    return binary.joined(json, behind) if behind else Response(json)


def _rows(tensor: Tensor, port: Port, rows: int | None, most: int) -> int:
    """The rows of an input, whose shape and datatype fit."""
    if tensor.datatype != port.datatype:
        raise Refused(400, f"the input {port.name} has datatype {tensor.datatype!r:.40}, expected {port.datatype}")
    if tuple(tensor.shape[1:]) != port.shape or not tensor.shape:
        expected = ", ".join(["rows", *map(str, port.shape)])
        raise Refused(400, f"the input {port.name} has shape {tensor.shape!s:.80}, expected [{expected}]")
    if not 1 <= tensor.shape[0] <= most:
        told = min(max(tensor.shape[0], -1e300), 1e300)  # a float may not hold it
        raise Refused(400, f"the input {port.name} has {told:.12g} rows; 1 to {most} are taken")
    if rows not in (None, tensor.shape[0]):
        raise Refused(400, f"the inputs differ in their rows: {rows} and {tensor.shape[0]}")
    return tensor.shape[0]


def _array(tensor: Tensor, tail: binary.Tail, port: Port, rows: int) -> np.ndarray:
    """The numbers of an input as `[rows, ...]`, in its own dtype where they are binary, else in that of its JSON."""
    size = (tensor.parameters or {}).get(binary.SIZE)
    if (size is None) == (not tensor.data):
        what = "no data" if size is None else f"data and {binary.SIZE}; only one can be"
        raise Refused(400, f"the input {port.name} has {what}")
    if size is not None:
        return tail.take(port, size, rows)
    return numbers(f"the input {port.name}", tensor.data, port, rows)


def numbers(what: str, data: msgspec.Raw | bytes, port: Port, rows: int) -> np.ndarray:
    """JSON as numbers `[rows, ...]` of a port, flat or nested, in its own dtype: float64, int64, uint64 or bool.

    Args:
        what: it is, for messages.

    Raises:
        Refused: it is something else.
    """
    nested = NESTED.match(data) is not None
    try:
        values = _decoder(KINDS[port.dtype.kind], len(port.shape) + 1 if nested else 1).decode(data)
        array = np.array(values, np.uint64 if port.dtype == np.uint64 else None if values else port.dtype)
    except RecursionError:
        raise Refused(400, f"the data of {what} are nested too deeply") from None
    except (msgspec.DecodeError, OverflowError, ValueError) as error:
        raise Refused(400, f"the data of {what} are not {port.datatype}: {error}"[:300]) from None
    if array.dtype.kind == "O" or array.size != rows * port.size or (nested and array.shape != (rows, *port.shape)):
        wanted = [rows, *port.shape]
        raise Refused(400, f"the data of {what} are not {rows * port.size} numbers of the shape {wanted}")
    return array.reshape(rows, *port.shape)


def _decoder(kind: type, rank: int) -> "msgspec.json.Decoder[Any]":
    """Reads lists of numbers in lists, `rank` deep."""
    if (kind, rank) not in _decoders:
        hint: Any = kind
        for _ in range(rank):
            hint = list[hint]
        _decoders[kind, rank] = msgspec.json.Decoder(hint)
    return _decoders[kind, rank]
