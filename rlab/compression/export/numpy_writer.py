"""A graph as one `.npz`: arrays of numbers, and the operations as JSON in an array of bytes. It holds no objects."""

import io
import json
from typing import Any

import numpy as np

from rlab.compression.export.bit_packing import packed, without_zeros
from rlab.compression.export.graph import INTEGER_BITS, Constant, Graph, Value

DESCRIPTION = "description"  # the array that holds the JSON


def write_numpy(graph: Graph, metadata: str) -> bytes:
    """The content of the file, for `numpy_runner`; `metadata` is JSON."""
    arrays: dict[str, np.ndarray] = {}
    for name, constant in graph.constants.items():
        arrays[name] = _stored(constant)
        if constant.scale is not None:
            arrays[f"{name}.scale"] = constant.scale
    arrays[DESCRIPTION] = np.frombuffer(json.dumps(describe(graph, metadata)).encode(), np.uint8)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def describe(graph: Graph, metadata: str) -> dict[str, Any]:
    """All but the numbers."""
    return {
        "metadata": json.loads(metadata),
        "values": {name: _value(value) for name, value in graph.values.items()},
        "constants": {name: _constant(constant) for name, constant in graph.constants.items()},
        "operations": [
            {"kind": op.kind, "inputs": list(op.inputs), "output": op.output, "settings": op.settings}
            for op in graph.operations
        ],
    }


def _stored(constant: Constant) -> np.ndarray:
    """Numbers as the file holds them; sparse weights as bytes, those of their mask and then those of their values.

    One array for both, since each takes some 250 bytes of a `.npz`. Deflating makes zeros small too, so this saves
    little: at 80 % zeros, 9 % of a policy of 64-64 in float and 5 % in int8, 15 % of the weights of 256-256 in both.
    """
    bits = INTEGER_BITS.get(constant.kind, 8)
    if not constant.sparse:
        return packed(constant.values, bits)
    mask, kept = without_zeros(constant.values)
    values = packed(kept, bits)
    return np.concatenate([mask, values.astype(values.dtype.newbyteorder("<")).view(np.uint8)])


def _constant(constant: Constant) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": constant.kind, "shape": list(constant.values.shape)}
    return entry | {"kept": len(without_zeros(constant.values)[1])} if constant.sparse else entry


def _value(value: Value) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": value.dtype}
