"""One member's whole policy as a list of plain operations on arrays, which every writer of files shares.

The list goes from the observation in array form to the action that `env.step` takes: features and their scaling, the
network, the mask, the greedy choice. The batch axis is left out: shapes are those of one row.

| operation | inputs -> output | settings |
|---|---|---|
| `cast` | x -> x as `dtype` | |
| `reshape`, `slice` | x -> the same numbers; elements `first .. last - 1` of a vector | `first`, `last` |
| `channels_first` | `[H, W, C] -> [C, H, W]` | |
| `one_hot` | x, element `[F]`, value `[F]` -> 1 where `x[element] == value`, else 0 | |
| `concat`, `append` || concatenated vectors; the second of `append` is a constant | ||
| `centre` | x of any numbers, mean `[d]` of float64 -> x - mean, taken in float64 and then rounded to float32 | |
| `add`, `subtract`, `multiply`, `divide` | x, y -> numbers; y is like x, or one number | |
| `clip` | x, low, high -> numbers | |
| `relu`, `tanh`, `sigmoid`, `elu`, `gelu`, `silu`, `leaky_relu` | x -> numbers | `alpha` |
| `mean` | `[d] -> [1]` | |
| `softmax` | `[d] -> [d]`, of each `size` neighbours | `size` |
| `linear` | x `[in]` or `[W, in]`, weight `[out, in]`, bias `[out]` -> `[out]` or `[W, out]` | |
| `conv2d` | x `[C, H, W]`, weight `[out, C, k, k]`, bias `[out]` -> `[out, H', W']` | `stride` |
| `layer_norm` | x `[d]`, weight `[d]`, bias `[d]` -> `[d]` | `epsilon` |
| `attend` | query `[d]`, keys `[W, d]`, values `[W, d]`, seen `[W]` (0: not) -> the values, mixed `[d]` | `heads` |
| `round_static` | x, scale, zero point -> x rounded to u8 and back: QuantizeLinear, then DequantizeLinear of ONNX | |
| `round_dynamic` | x -> likewise, with the range of the whole batch: DynamicQuantizeLinear | |
| `choose` | x `[sum(sizes)]`, perhaps a mask of its shape -> the largest allowed of each choice, int64 | `sizes` |
| `positive` | x -> 1 where x > 0, else 0, int8 | |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from rlab.errors import UsageError

if TYPE_CHECKING:  # what opens a file needs the names below, and not torch, which takes a second
    from torch import Tensor

# The names of what goes into a file and comes out of it; the states `[K]` only with memory, see `member_step`.
OBS, OUTPUTS, ACTION = "obs", "outputs", "action"
STATE, NEXT_STATE = "state", "next_state"
INTEGER_BITS = {"int8": 8, "int4": 4, "int2": 2}  # kinds of constants that have a scale


class InexpressibleError(UsageError):
    """A part of a policy that these operations cannot express; `part` names it, such as `layer LSTM`."""

    def __init__(self, name: str, what: str = "layer") -> None:
        self.part = f"{what} {name}"
        super().__init__(f"the {self.part} cannot be expressed in rlab's own operations.")


@dataclass(frozen=True)
class Value:
    """What an operation gives, for one row of the batch."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers that the file carries, in the form in which it carries them.

    `kind` is the dtype of `values`, or `bfloat16` (its bits as uint16), or one of `INTEGER_BITS`: int8 values within
    that many bits, of which `scale [n]` times row n are the numbers meant. `values` hold the zeros of `sparse` weights
    too; a writer whose files can do without them leaves them out.
    """

    values: np.ndarray
    kind: str
    scale: np.ndarray | None = None
    sparse: bool = False

    def dense(self) -> np.ndarray:
        """The numbers meant; weights as float32."""
        if self.kind == "bfloat16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        if self.scale is not None:
            rows = self.scale.reshape(-1, *(1,) * (self.values.ndim - 1))
            return self.values.astype(np.float32) * rows
        return self.values.astype(np.float32) if self.kind == "float16" else self.values


@dataclass(frozen=True)
class Operation:
    """`output = kind(*inputs)`; inputs are names of values or constants."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations in the order in which they run, from the value `obs` to the values `outputs` and `action`; with memory
    also from `state` to `next_state`."""

    operations: tuple[Operation, ...]
    values: dict[str, Value]
    constants: dict[str, Constant]

    @property
    def ports(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the values that go in, and of those that come out."""
        return ((OBS, STATE), (ACTION, OUTPUTS, NEXT_STATE)) if STATE in self.values else ((OBS,), (ACTION, OUTPUTS))

    @property
    def quantized(self) -> str:
        """`none`, or what is in few bits: the `weights` alone, or the `activations` too."""
        if any(operation.kind in ("round_static", "round_dynamic") for operation in self.operations):
            return "activations"
        return "weights" if any(constant.scale is not None for constant in self.constants.values()) else "none"


class Tracer:
    """Notes operations down one by one; `finished` makes them a graph."""

    def __init__(self, obs: Value, state_size: int = 0) -> None:
        self.operations: list[Operation] = []
        self.values: dict[str, Value] = {OBS: obs} | ({STATE: Value((state_size,))} if state_size else {})
        self.constants: dict[str, Constant] = {}

    def add(
        self, kind: str, inputs: Sequence[str], shape: Sequence[int], dtype: str = "float32", **settings: Any
    ) -> str:
        """Note one operation; gives the name of its output."""
        name = f"{kind}_{len(self.operations)}"
        self.operations.append(Operation(kind, tuple(inputs), name, settings))
        self.values[name] = Value(tuple(shape), dtype)
        return name

    def unary(self, kind: str, x: str, **settings: Any) -> str:
        """An operation whose output has the shape of its input."""
        return self.add(kind, (x,), self.values[x].shape, **settings)

    def constant(
        self,
        values: "np.ndarray | Tensor",
        kind: str | None = None,
        scale: np.ndarray | None = None,
        sparse: bool = False,
    ) -> str:
        """Note numbers; gives their name."""
        array = np.asarray(values) if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
        name = f"constant_{len(self.constants)}"
        self.constants[name] = Constant(np.asarray(array, order="C"), kind or array.dtype.name, scale, sparse)
        return name

    def with_constant(self, kind: str, x: str, values: "np.ndarray | Tensor", dtype: str = "float32") -> str:
        """`x + values` and the like; nothing is noted where it would change nothing."""
        array = np.asarray(values) if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
        if (array == (0 if kind in ("add", "subtract") else 1)).all():
            return x
        return self.add(kind, (x, self.constant(array)), self.values[x].shape, dtype)

    def cast(self, x: str, dtype: str) -> str:
        """x as `dtype`; nothing is noted where it is that."""
        return x if self.values[x].dtype == dtype else self.add("cast", (x,), self.values[x].shape, dtype)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """x in another shape; nothing is noted where it is that."""
        value = self.values[x]
        return x if value.shape == tuple(shape) else self.add("reshape", (x,), shape, value.dtype)

    def slice(self, x: str, first: int, last: int) -> str:
        """The elements `first .. last - 1` of a vector; nothing is noted where these are all."""
        value = self.values[x]
        if (first, last) == (0, value.size):
            return x
        return self.add("slice", (x,), (last - first,), value.dtype, first=first, last=last)

    def concat(self, parts: Sequence[str]) -> str:
        """The vectors, concatenated."""
        return parts[0] if len(parts) == 1 else self.add("concat", parts, (sum(self.values[p].size for p in parts),))

    def again(self, operations: Sequence[Operation], x: str, other: str) -> str:
        """Note these operations down once more, with `other` in the place of the value `x`; gives the last output."""
        names = {x: other}
        for operation in operations:
            value, inputs = self.values[operation.output], [names.get(name, name) for name in operation.inputs]
            last = self.add(operation.kind, inputs, value.shape, value.dtype, **operation.settings)
            names[operation.output] = last
        return last

    def finished(self, outputs: str, action: str, state: Sequence[str] = ()) -> Graph:
        """The graph, with these values under the names that every file gives them; the next `state` in parts."""
        new = {outputs: OUTPUTS, action: ACTION}
        if state:
            new[self.add("concat", state, (sum(self.values[part].size for part in state),))] = NEXT_STATE

        def named(operation: Operation) -> Operation:
            inputs = tuple(new.get(name, name) for name in operation.inputs)
            return replace(operation, inputs=inputs, output=new.get(operation.output, operation.output))

        values = {new.get(name, name): value for name, value in self.values.items()}
        return Graph(tuple(map(named, self.operations)), values, self.constants)
