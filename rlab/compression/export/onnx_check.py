"""What an `.onnx` of somebody else must not hold, found without running it: data outside of the file, numbers that are
not finite, and operations that may never end or draw random numbers.

An `.onnx` is a message of Protocol Buffers (https://protobuf.dev/programming-guides/encoding), whose field numbers are
those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). The package onnx is not needed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlab.errors import RlabError

DEPTH = 20  # of graphs in graphs
# An `if` may hide what one of its branches does from a look at one run.
ENDLESS = {"Loop", "Scan", "If", "SequenceMap"}
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
LIMITS = {"Clip", "Where", "Min", "Max"}  # operations whose constants may be infinite: "no bound", "never chosen"
FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}  # TensorProto.data_type
BFLOAT16 = 16
# message -> field number -> the message inside it
PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


def check_onnx(content: bytes, path: object) -> None:
    """Look through the file.

    Raises:
        RlabError: naming what it must not hold, or that it is not a whole message.
    """
    found = _Found()
    try:
        found.look(memoryview(content), "model", 0)
    except (ValueError, IndexError) as error:
        raise RlabError(f"{path} is not a complete ONNX file ({error}). Was it damaged?") from error
    if found.external:
        raise RlabError(f"{path} keeps numbers in other files, which are not read: they must be in this one")
    for kind in sorted(found.operations & ENDLESS):
        raise RlabError(f"{path} has an operation {kind}, which may never end; --trust runs it without limits")
    for kind in sorted(found.operations & RANDOM):
        raise RlabError(f"{path} has an operation {kind}, which draws random numbers; --trust runs it")
    for name, is_nan in found.broken.items():
        if is_nan or name not in found.limits:
            raise RlabError(f"{path} holds a constant {name!r:.80} that is NaN or infinite")


class _Found:
    """What a file holds: kinds of operations, constants that are not finite, inputs that may be infinite."""

    def __init__(self) -> None:
        self.external = False
        self.operations: set[str] = set()
        self.limits: set[str] = set()
        self.broken: dict[str, bool] = {}  # name -> whether it holds NaN

    def look(self, data: memoryview, kind: str, depth: int) -> None:
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        if kind == "tensor":
            self._tensor(data)
            return
        inside, node = PARTS[kind], []
        for number, value in _fields(data):
            if kind == "node":
                node.append((number, value))
            if number in inside:
                self.look(_message(value), inside[number], depth + 1)
            if kind == "attribute" and number in (2, 7):
                self._numbers("of an operation", _floats(value, "<f4"))
        if kind == "node":
            self._node(node)

    def _node(self, fields: list[tuple[int, Any]]) -> None:
        kinds = {str(_message(value), "utf8", "replace") for number, value in fields if number == 4}
        self.operations |= kinds
        if kinds & LIMITS:
            self.limits |= {str(_message(value), "utf8", "replace") for number, value in fields if number == 1}

    def _tensor(self, data: memoryview) -> None:
        fields = list(_fields(data))
        by_number = dict(fields)
        self.external |= any(number == 13 or (number == 14 and value != 0) for number, value in fields)
        name, dtype = str(_message(by_number.get(8, memoryview(b""))), "utf8", "replace"), by_number.get(2, 0)
        for number, value in fields:
            if number == 9 and dtype in FLOATS:
                self._numbers(name, _floats(value, FLOATS[dtype]))
            elif number == 9 and dtype == BFLOAT16:
                self._numbers(name, (_floats(value, "<u2").astype(np.uint32) << 16).view(np.float32))
            elif number in (4, 10):
                self._numbers(name, _floats(value, "<f4" if number == 4 else "<f8"))

    def _numbers(self, name: str, numbers: np.ndarray) -> None:
        if not np.isfinite(numbers).all():
            self.broken[name] = self.broken.get(name, False) or bool(np.isnan(numbers).any())


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a message: their numbers, and an int (varint), 4 or 8 bytes, or the bytes of what has a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            length, at = _varint(data, at)
        if length is None:
            raise ValueError(f"a field of the unknown kind {wire}")
        if length > len(data) - at:
            raise ValueError("it ends early")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 10 bytes")


def _message(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a number where a message is expected")
    return value


def _floats(value: Any, dtype: str) -> np.ndarray:
    return np.frombuffer(_message(value), dtype)  # ValueError where the bytes are not whole numbers
