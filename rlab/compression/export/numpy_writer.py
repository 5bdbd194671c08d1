"""A graph as one `.npz`: arrays of numbers, and the operations as JSON in an array of bytes. It holds no objects."""

import io
import json
from typing import Any

import numpy as np

from rlab.compression.export.graph import INTEGER_BITS, Graph, Value
from rlab.compression.export.packing import packed

DESCRIPTION = "description"  # the array that holds the JSON


def write_numpy(graph: Graph, metadata: str) -> bytes:
    """The content of the file, for `numpy_runner`; `metadata` is JSON."""
    arrays: dict[str, np.ndarray] = {}
    for name, constant in graph.constants.items():
        arrays[name] = packed(constant.values, INTEGER_BITS.get(constant.kind, 8))
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
        "constants": {n: {"kind": c.kind, "shape": list(c.values.shape)} for n, c in graph.constants.items()},
        "operations": [
            {"kind": op.kind, "inputs": list(op.inputs), "output": op.output, "settings": op.settings}
            for op in graph.operations
        ],
    }


def _value(value: Value) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": value.dtype}
