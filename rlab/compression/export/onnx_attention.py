"""Attention over a window in the nodes of ONNX."""

from typing import Any

from rlab.compression.export.graph import Operation


def attend(writer: Any, op: Operation) -> None:
    """The values mixed by the softmax of how well keys fit the query, head by head: axes [B, h, W, d]."""
    (query, keys, values, seen), heads, name = op.inputs, op.settings["heads"], op.output
    window, features = writer.graph.values[keys].shape
    width = features // heads

    def by_head(x: str, part: str, rows: int) -> str:
        split = writer.node("Reshape", (x, writer.shape(-1, rows, heads, width)), f"{name}_{part}_split")
        return writer.node("Transpose", (split,), f"{name}_{part}", perm=[0, 2, 1, 3])

    q, k, v = by_head(query, "query", 1), by_head(keys, "keys", window), by_head(values, "values", window)
    turned = writer.node("Transpose", (k,), f"{name}_turned", perm=[0, 1, 3, 2])
    fit = writer.node("MatMul", (q, turned), f"{name}_fit")  # [B, h, 1, W]
    scaled = writer.node("Div", (fit, writer.scalar(f"{name}_root", width**0.5)), f"{name}_scaled")
    rows = writer.node("Reshape", (seen, writer.shape(-1, 1, 1, window)), f"{name}_rows")
    bits = writer.node("Cast", (rows,), f"{name}_bits", to=writer.types.BOOL)
    known = writer.node("Where", (bits, scaled, writer.scalar("unseen", -1e30)), f"{name}_known")
    share = writer.node("Softmax", (known,), f"{name}_share", axis=-1)
    mixed = writer.node("MatMul", (share, v), f"{name}_mixed")  # [B, h, 1, d]
    writer.node("Reshape", (mixed, writer.shape(-1, features)), op.output)
