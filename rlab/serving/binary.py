"""Triton's extension of the protocol for binary tensors: the numbers of a tensor are bytes behind the JSON of a
message, little-endian and row by row, one tensor after another. A header says how long the JSON is.

https://github.com/triton-inference-server/server, `docs/protocol/extension_binary_data.md`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlab.serving.ports import Port
from rlab.serving.web import Refused, Response

Parameters = Mapping[str, Any] | None
LENGTH = b"inference-header-content-length"
SIZE = "binary_data_size"  # a parameter of a tensor that is in binary
WANTED, ALL_WANTED = "binary_data", "binary_data_output"  # parameters of an output that is asked for, and of a request


class Tail:
    """The bytes behind the JSON of a request, of which its inputs take one after another."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, port: Port, size: Any, rows: int) -> np.ndarray:
        """The numbers of an input, `[rows, ...]`.

        Raises:
            Refused: its size is not that of its shape, or there are fewer bytes.
        """
        expected = rows * port.size * port.dtype.itemsize
        if type(size) is not int or size != expected:
            raise Refused(400, f"the input {port.name} has {SIZE} {size!r:.40}; its shape and datatype take {expected}")
        if size > len(self._data):
            raise Refused(400, f"the body ends before the {size} bytes of the input {port.name}")
        data, self._data = self._data[:size], self._data[size:]
        if port.dtype == np.bool_ and np.frombuffer(data, np.uint8).max(initial=0) > 1:
            raise Refused(400, f"the input {port.name} has bytes other than 0 and 1, expected {port.datatype}")
        numbers = np.frombuffer(data, port.dtype.newbyteorder("<"))
        return np.require(numbers, port.dtype, "A").reshape(rows, *port.shape)  # at an address that suits the dtype

    def check_empty(self) -> None:
        """Raise Refused where bytes are left."""
        if self._data:
            raise Refused(400, f"{len(self._data)} bytes behind the JSON belong to no input")


def split(body: bytes, headers: Mapping[bytes, bytes]) -> tuple[bytes, memoryview]:
    """The JSON of a body, and what is behind it.

    Raises:
        Refused: the header is not a length within the body.
    """
    length = headers.get(LENGTH)
    if length is None:
        return body, memoryview(b"")
    if not length.isdigit() or len(length) > 18 or int(length) > len(body):
        told = length.decode("latin-1")
        raise Refused(400, f"Inference-Header-Content-Length is {told!r:.40}; the body has {len(body)} bytes")
    return body[: int(length)], memoryview(body)[int(length) :]


def wanted(parameters: Parameters, asked: Sequence[tuple[str, Parameters]], outputs: Iterable[str]) -> set[str]:
    """The outputs whose numbers go back as bytes.

    Args:
        parameters: of the request.
        asked: the outputs that it asks for, with their parameters; none: the usual ones of all `outputs`.

    Raises:
        Refused: a parameter is neither true nor false.
    """
    usual = _flag(parameters, ALL_WANTED, False)
    if not asked:
        return set(outputs) if usual else set()
    return {name for name, own in asked if _flag(own, WANTED, usual)}


def bytes_of(array: np.ndarray) -> bytes:
    """The numbers of an output."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def joined(json: bytes, behind: Sequence[bytes]) -> Response:
    """An answer with binary outputs."""
    headers = [(LENGTH, str(len(json)).encode())]
    return Response(b"".join((json, *behind)), content_type=b"application/octet-stream", headers=headers)


def _flag(parameters: Parameters, name: str, usual: bool) -> bool:
    found = (parameters or {}).get(name, usual)
    if not isinstance(found, bool):
        raise Refused(400, f"the parameter {name} must be true or false")
    return found
