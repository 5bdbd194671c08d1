"""A graph as one ONNX file, written with `onnx.helper`: integer weights stay integers, read by DequantizeLinear
nodes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, product
from string import ascii_lowercase
from typing import Any

import numpy as np

from rlab.compression.export.bit_packing import OFFSET, packed, unsigned
from rlab.compression.export.graph import INTEGER_BITS, Graph, Operation
from rlab.compression.export.onnx_attention import attend
from rlab.errors import UsageError, pip_install

# The first operator set with 4-bit integers, and the first with 2-bit ones, each with its version of the file format.
OPSET, OPSET_INT2 = (21, 10), (25, 13)
BATCH = "batch"
METADATA = "rlab"  # the key of our metadata


def write_onnx(graph: Graph, metadata: str) -> bytes:
    """The content of the file; `metadata` is JSON.

    Raises:
        UsageError: the package onnx is not installed.
    """
    onnx = require_onnx()
    writer = _Writer(graph, onnx)
    for operation in graph.operations:
        NODES[operation.kind](writer, operation)
    opset, ir_version = OPSET_INT2 if writer.has_int2 else OPSET
    helper = onnx.helper
    _shorten_names(writer.nodes, writer.tensors, [name for names in graph.ports for name in names])
    inputs, outputs = ([writer.info(name) for name in names] for names in graph.ports)
    whole = helper.make_graph(writer.nodes, "policy", inputs, outputs, writer.tensors)
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="rlab"
    )
    helper.set_model_props(model, {METADATA: metadata})
    content: bytes = model.SerializeToString()
    return content


def folds_weights(graph: Graph) -> bool:
    """Whether onnxruntime should make floats of integer weights once, when it opens the file.

    Not so where rounded inputs meet convolutions: from their Q/DQ nodes it makes integer convolutions.
    """
    rounded = {op.output for op in graph.operations if op.kind in ("round_static", "round_dynamic")}
    return not any(op.kind == "conv2d" and op.inputs[0] in rounded for op in graph.operations)


def require_onnx() -> Any:
    """The package onnx.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError(f"ONNX files need the package onnx: {pip_install('onnx')}") from None
    return onnx


def _shorten_names(nodes: Sequence[Any], tensors: Sequence[Any], ports: Sequence[str]) -> None:
    """Call everything but the file's inputs and outputs a, b, c ...: in a file of a few kB long names are felt."""
    short, fresh = {name: name for name in ports}, _letters()
    for tensor in tensors:
        short[tensor.name] = next(fresh)
        tensor.name = short[tensor.name]
    for node in nodes:
        node.input[:] = [short[name] for name in node.input]
        for name in node.output:
            short[name] = short.get(name) or next(fresh)
        node.output[:] = [short[name] for name in node.output]
        if node.op_type == "Slice":  # of which onnxruntime 1.20 makes nodes that are called after them
            node.name = node.output[0]


def _letters() -> Iterator[str]:
    """a to z, aa to zz, and so on: C identifiers, as ONNX requires."""
    return ("".join(letters) for length in count(1) for letters in product(ascii_lowercase, repeat=length))


class _Writer:
    """The nodes and tensors so far; names are those of the graph. Most nodes have none: what they give has one."""

    def __init__(self, graph: Graph, onnx: Any) -> None:
        self.graph, self.helper, self.types = graph, onnx.helper, onnx.TensorProto
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._tensor_names: set[str] = set()
        self.has_int2 = False
        self.rounded: dict[str, tuple[str, str, str]] = {}  # a rounded value -> its integers, scale and zero point
        rounded = {op.output for op in graph.operations if op.kind in ("round_static", "round_dynamic")}
        # The constants that rounded values meet: in onnxruntime integers multiply integers there.
        self.beside_rounded = {name for op in graph.operations if rounded & {*op.inputs} for name in op.inputs}

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Note one node; its inputs are tensors or what other nodes give."""
        self.nodes.append(self.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def tensor(self, name: str, values: np.ndarray, dtype: str | None = None) -> str:
        """Note a tensor once; `dtype` is ONNX's, by default that of the values."""
        if name not in self._tensor_names:
            self._tensor_names.add(name)
            kind = dtype or self.dtype(values.dtype.name)
            raw = np.ascontiguousarray(packed(values, 8 * values.itemsize if dtype is None else _bits(dtype))).tobytes()
            code = getattr(self.types, kind)
            self.tensors.append(self.helper.make_tensor(name, code, values.shape, raw, raw=True))
        return name

    def input(self, name: str) -> str:
        """The name of a value, or of a constant as numbers that nodes compute with."""
        if name not in self.graph.constants:
            return name
        constant = self.graph.constants[name]
        if constant.kind in INTEGER_BITS:
            assert constant.scale is not None
            scale = self.tensor(f"{name}_scale", constant.scale)
            if name in self.beside_rounded and constant.kind == "int8":
                stored = self.tensor(f"{name}_integers", unsigned(constant.values))
                offsets = self.tensor(f"{name}_offsets", np.full(constant.scale.shape, OFFSET, np.uint8))
                return self._once("DequantizeLinear", (stored, scale, offsets), name, axis=0)
            stored = self.tensor(f"{name}_integers", constant.values, self._integers(constant.kind))
            return self._once("DequantizeLinear", (stored, scale), name, axis=0)
        if constant.kind in ("float16", "bfloat16"):
            stored = self.tensor(f"{name}_half", constant.values, constant.kind.upper())
            return self._once("Cast", (stored,), name, to=self.types.FLOAT)
        return self.tensor(name, constant.values)

    def factors(self, name: str, values: np.ndarray, kind: str) -> list[str]:
        """A tensor of integers that rounded inputs are multiplied by, and its zero point where it is not 0; in the file
        they take the bits that their kind has."""
        if kind == "int8":
            return [self.tensor(name, unsigned(values)), self.scalar("offset", OFFSET, "uint8")]
        stored = self.tensor(f"{name}_stored", values, self._integers(kind))
        return [self._once("Cast", (stored,), name, to=self.types.INT8)]

    def _integers(self, kind: str) -> str:
        """ONNX's name of a kind of integers."""
        if kind == "int2" and not folds_weights(self.graph):
            # onnxruntime 1.32 makes a QLinearConv of rounded inputs and 2-bit weights, and has none that takes them
            return "INT4"
        self.has_int2 |= kind == "int2"
        return kind.upper()

    def dtype(self, name: str) -> str:
        """ONNX's name of a dtype of NumPy."""
        return {"float32": "FLOAT", "float64": "DOUBLE"}.get(name, name.upper())

    def info(self, name: str) -> Any:
        """The file's description of one of its inputs or outputs."""
        value = self.graph.values[name]
        return self.helper.make_tensor_value_info(name, getattr(self.types, self.dtype(value.dtype)), self.rows(name))

    def rows(self, name: str) -> list[Any]:
        """The shape of a value, batch first."""
        return [BATCH, *self.graph.values[name].shape]

    def shape(self, *shape: int) -> str:
        """A tensor that holds a shape or other indices."""
        return self.tensor(f"shape_{'_'.join(map(str, shape))}", np.array(shape, np.int64))

    def scalar(self, name: str, value: float, dtype: str = "float32") -> str:
        """A tensor that holds one number."""
        return self.tensor(name, np.array(value, dtype))

    def _once(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        if output not in self._tensor_names:
            self._tensor_names.add(output)
            self.node(kind, inputs, output, **attributes)
        return output


def _bits(dtype: str) -> int:
    return {"INT8": 8, "INT4": 4, "INT2": 2}.get(dtype, 16)


def _simple(kind: str, *settings: str, **fixed: Any) -> Callable[[_Writer, Operation], None]:
    """One node of the same inputs, with some of the operation's settings and fixed numbers as attributes."""

    def write(writer: _Writer, op: Operation) -> None:
        attributes = {**fixed, **{name: op.settings[name] for name in settings}}
        writer.node(kind, [writer.input(name) for name in op.inputs], op.output, **attributes)

    return write


def _cast(writer: _Writer, op: Operation) -> None:
    dtype = writer.graph.values[op.output].dtype
    writer.node("Cast", op.inputs, op.output, to=getattr(writer.types, writer.dtype(dtype)))


def _reshape(writer: _Writer, op: Operation) -> None:
    # -1 is the batch; where there are no rows, it could be anything
    shape = writer.graph.values[op.output].shape
    writer.node("Reshape", (op.inputs[0], writer.shape(-1, *shape)), op.output)


def _slice(writer: _Writer, op: Operation) -> None:
    first, last = op.settings["first"], op.settings["last"]
    edges = (writer.shape(first), writer.shape(last), writer.shape(1))
    writer.node("Slice", (op.inputs[0], *edges), op.output)


def _one_hot(writer: _Writer, op: Operation) -> None:
    x, element, value = op.inputs
    dtype = writer.graph.values[x].dtype
    taken = writer.node("Gather", (x, writer.input(element)), f"{op.output}_taken", axis=1)
    # Floats are compared as they are; integers of all widths as int64, since Equal does not take each of them.
    compared = dtype if dtype in ("float32", "float64") else "int64"
    if dtype != compared:
        taken = writer.node("Cast", (taken,), f"{op.output}_integers", to=writer.types.INT64)
    values = writer.tensor(f"{op.output}_values", writer.graph.constants[value].values.astype(compared))
    equal = writer.node("Equal", (taken, values), f"{op.output}_equal")
    writer.node("Cast", (equal,), op.output, to=writer.types.FLOAT)


def _centre(writer: _Writer, op: Operation) -> None:
    x, mean = op.inputs
    if writer.graph.values[x].dtype != "float64":
        x = writer.node("Cast", (x,), f"{op.output}_doubles", to=writer.types.DOUBLE)
    less = writer.node("Sub", (x, writer.input(mean)), f"{op.output}_less")
    writer.node("Cast", (less,), op.output, to=writer.types.FLOAT)


def _append(writer: _Writer, op: Operation) -> None:
    x, constant = op.inputs
    rows = writer.node("Shape", (x,), f"{op.output}_shape", start=0, end=1)
    rows = writer.node("Concat", (rows, writer.shape(1)), f"{op.output}_column", axis=0)
    expanded = writer.node("Expand", (writer.input(constant), rows), f"{op.output}_rows")
    writer.node("Concat", (x, expanded), op.output, axis=1)


def _clip(writer: _Writer, op: Operation) -> None:
    x, low, high = (writer.input(name) for name in op.inputs)
    if writer.graph.constants[op.inputs[1]].values.ndim == 0:
        writer.node("Clip", (x, low, high), op.output)
    else:
        above = writer.node("Max", (x, low), f"{op.output}_above")
        writer.node("Min", (above, high), op.output)


def _silu(writer: _Writer, op: Operation) -> None:
    sigmoid = writer.node("Sigmoid", op.inputs, f"{op.output}_sigmoid")
    writer.node("Mul", (op.inputs[0], sigmoid), op.output)


def _mean(writer: _Writer, op: Operation) -> None:
    writer.node("ReduceMean", (op.inputs[0], writer.shape(1)), op.output, keepdims=1)


def _softmax(writer: _Writer, op: Operation) -> None:
    size, name = op.settings["size"], op.output
    (d,) = writer.graph.values[name].shape
    parts = writer.node("Reshape", (op.inputs[0], writer.shape(-1, d // size, size)), f"{name}_parts")
    writer.node("Reshape", (writer.node("Softmax", (parts,), f"{name}_shares", axis=-1), writer.shape(-1, d)), name)


def _linear(writer: _Writer, op: Operation) -> None:
    if op.inputs[0] in writer.rounded:
        _linear_of_integers(writer, op)
    elif len(writer.graph.values[op.output].shape) == 2:  # a matrix for each row of the batch, which Gemm does not take
        x, weight, bias = (writer.input(name) for name in op.inputs)
        turned = writer.node("Transpose", (weight,), f"{op.output}_weight")
        product = writer.node("MatMul", (x, turned), f"{op.output}_product")
        writer.node("Add", (product, bias), op.output)
    else:
        writer.node("Gemm", [writer.input(name) for name in op.inputs], op.output, transB=1)


def _linear_of_integers(writer: _Writer, op: Operation) -> None:
    """Rounded inputs times integer weights in integers, which is exact, then both scales and the bias.

    Not Q/DQ nodes around a Gemm: onnxruntime 1.32 has no integer kernel for one with a float bias, and makes floats of
    the weights at each call.
    """
    x, weight, bias = op.inputs
    constant = writer.graph.constants[weight]
    assert constant.scale is not None
    integers, scale, zero_point = writer.rounded[x]
    weights, *offset = writer.factors(f"{weight}_transposed", constant.values.T, constant.kind)
    product = writer.node("MatMulInteger", (integers, weights, zero_point, *offset), f"{op.output}_integers")
    floats = writer.node("Cast", (product,), f"{op.output}_floats", to=writer.types.FLOAT)
    scales = writer.node("Mul", (scale, writer.tensor(f"{weight}_scale", constant.scale)), f"{op.output}_scales")
    scaled = writer.node("Mul", (floats, scales), f"{op.output}_scaled")
    writer.node("Add", (scaled, writer.input(bias)), op.output)


def _conv2d(writer: _Writer, op: Operation) -> None:
    kernel = list(writer.graph.constants[op.inputs[1]].values.shape[2:])
    inputs, stride = [writer.input(name) for name in op.inputs], op.settings["stride"]
    writer.node("Conv", inputs, op.output, kernel_shape=kernel, strides=[stride, stride])


def _round_static(writer: _Writer, op: Operation) -> None:
    x, scale, zero_point = (writer.input(name) for name in op.inputs)
    integers = writer.node("QuantizeLinear", (x, scale, zero_point), f"{op.output}_u8")
    _use_rounded(writer, op, (integers, scale, zero_point))


def _round_dynamic(writer: _Writer, op: Operation) -> None:
    names = [f"{op.output}_{part}" for part in ("u8", "scale", "zero_point")]
    writer.nodes.append(writer.helper.make_node("DynamicQuantizeLinear", list(op.inputs), names))
    _use_rounded(writer, op, (names[0], names[1], names[2]))


def _use_rounded(writer: _Writer, op: Operation, parts: tuple[str, str, str]) -> None:
    """Remember the integers for a linear layer; anything else gets them as floats again."""
    writer.rounded[op.output] = parts
    if any(reader.kind != "linear" for reader in writer.graph.operations if op.output in reader.inputs):
        writer.node("DequantizeLinear", parts, op.output)


def _choose(writer: _Writer, op: Operation) -> None:
    sizes, action = op.settings["sizes"], writer.graph.values[op.output].shape
    allowed = _allowed(writer, op) if len(op.inputs) == 2 else None
    logits = _by_choice(writer, op.inputs[0], op, "logits")
    if len(sizes) > 1:
        real = writer.tensor(f"{op.output}_real", np.arange(max(sizes)) < np.array(sizes)[:, None])
        allowed = real if allowed is None else allowed
    if allowed is not None:
        never = writer.scalar("never", -np.inf)
        logits = writer.node("Where", (allowed, logits, never), f"{op.output}_allowed_logits")
    if len(action) == (len(sizes) > 1):
        writer.node("ArgMax", (logits,), op.output, axis=-1, keepdims=0)
    else:
        best = writer.node("ArgMax", (logits,), f"{op.output}_best", axis=-1, keepdims=0)
        writer.node("Reshape", (best, writer.shape(-1, *action)), op.output)


def _allowed(writer: _Writer, op: Operation) -> str:
    """Bits like the logits: what the mask allows, and everything real where it allows nothing of a choice."""
    sizes, name = op.settings["sizes"], op.output
    bits = writer.node("Cast", (_by_choice(writer, op.inputs[1], op, "mask"),), f"{name}_mask", to=writer.types.BOOL)
    if len(sizes) > 1:
        real = writer.tensor(f"{name}_real", np.arange(max(sizes)) < np.array(sizes)[:, None])
        bits = writer.node("And", (bits, real), f"{name}_mask_real")
    numbers = writer.node("Cast", (bits,), f"{name}_mask_numbers", to=writer.types.FLOAT)
    most = writer.node("ReduceMax", (numbers, writer.shape(-1)), f"{name}_mask_any", keepdims=1)
    none = writer.node("Equal", (most, writer.scalar("zero", 0.0)), f"{name}_mask_none")
    allowed = writer.node("Or", (bits, none), f"{name}_mask_or_all")
    return writer.node("And", (allowed, real), f"{name}_mask_all_real") if len(sizes) > 1 else allowed


def _by_choice(writer: _Writer, x: str, op: Operation, part: str) -> str:
    """`[sum(sizes)]` as `[choices, most options]`, filled up with anything; as it is where there is one choice."""
    sizes = np.array(op.settings["sizes"])
    if len(sizes) == 1:
        return x
    column = np.arange(sizes.max())
    place = np.where(column < sizes[:, None], (np.cumsum(sizes) - sizes)[:, None] + column, 0)
    return writer.node("Gather", (x, writer.tensor(f"{op.output}_place", place)), f"{op.output}_{part}_rows", axis=1)


def _positive(writer: _Writer, op: Operation) -> None:
    bits = writer.node("Greater", (op.inputs[0], writer.scalar("zero", 0.0)), f"{op.output}_bits")
    writer.node("Cast", (bits,), op.output, to=writer.types.INT8)


NODES: dict[str, Callable[[_Writer, Operation], None]] = {
    "cast": _cast,
    "reshape": _reshape,
    "slice": _slice,
    "channels_first": _simple("Transpose", perm=[0, 3, 1, 2]),
    "one_hot": _one_hot,
    "centre": _centre,
    "concat": _simple("Concat", axis=1),
    "append": _append,
    "add": _simple("Add"),
    "subtract": _simple("Sub"),
    "multiply": _simple("Mul"),
    "divide": _simple("Div"),
    "clip": _clip,
    "relu": _simple("Relu"),
    "tanh": _simple("Tanh"),
    "sigmoid": _simple("Sigmoid"),
    "elu": _simple("Elu", "alpha"),
    "gelu": _simple("Gelu"),
    "silu": _silu,
    "leaky_relu": _simple("LeakyRelu", "alpha"),
    "mean": _mean,
    "softmax": _softmax,
    "linear": _linear,
    "conv2d": _conv2d,
    "layer_norm": _simple("LayerNormalization", "epsilon", axis=-1),
    "attend": attend,
    "round_static": _round_static,
    "round_dynamic": _round_dynamic,
    "choose": _choose,
    "positive": _positive,
}
