"""Where the values of a graph lie in the C functions, and how constant arrays are written."""

import numpy as np

from rlab.compression.export.bit_packing import packed, without_zeros
from rlab.compression.export.c_kernels import SPARSE, WEIGHTS, whole_bytes
from rlab.compression.export.graph import ACTION, INTEGER_BITS, NEXT_STATE, OBS, OUTPUTS, STATE, Graph, Operation

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "bool": "uint8_t",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Memory:
    """Which floats of the work array are taken, and how many were at most."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[int, int]] = {}
        self.most = 0

    def take(self, name: str, size: int) -> int:
        """The first gap that is large enough."""
        offset = 0
        for start, end in sorted(self.taken.values()):
            if start - offset >= size:
                break
            offset = max(offset, end)
        self.taken[name] = (offset, offset + size)
        self.most = max(self.most, offset + size)
        return offset

    def free(self, name: str) -> None:
        self.taken.pop(name, None)


class Layout:
    """Where each value is, as a C expression, and which kernels and layouts of weights the statements need."""

    def __init__(self, graph: Graph, prefix: str) -> None:
        self.graph, self.prefix, self.memory = graph, prefix, Memory()
        self.kernels: dict[str, None] = {}
        self._places: dict[str, str] = {OBS: "obs", STATE: "state"}
        # the values that the action and the outputs are views of are written where these belong
        self._given = {self._behind(ACTION): "action", self._behind(OUTPUTS): "outputs", NEXT_STATE: NEXT_STATE}
        self._last_use = self._last_uses()
        self._clock = -1

    def kernel(self, name: str) -> str:
        """The full name of a kernel, which the header will hold."""
        self.kernels[name] = None
        return f"{self.prefix}_{name}"

    def start(self, op: Operation) -> str:
        """A place for an operation's output; memory that is not read any more is freed."""
        self._clock += 1
        for name in [name for name in self.memory.taken if self._last_use.get(name, -1) < self._clock]:
            self.memory.free(name)
        if op.output in self._given:
            place = self._given[op.output]
        elif self.graph.values[op.output].dtype != "float32":
            place = "action"  # of the values before the action only one at a time has another type
        else:
            place = f"(work + {self.memory.take(op.output, self.graph.values[op.output].size)})"
        self._places[op.output] = place
        return place

    def scratch(self, name: str, size: int) -> str:
        """Memory for the operation that has just been started."""
        return f"(work + {self.memory.take(name, size)})"

    def view(self, op: Operation, offset: int) -> str:
        """The output is a part of the input's memory; no statement is needed."""
        self._clock += 1
        self._places[op.output] = f"({self.place(op.inputs[0])} + {offset})" if offset else self.place(op.inputs[0])
        return ""

    def place(self, name: str) -> str:
        """A pointer to a value or constant."""
        return f"{self.prefix}_{name}" if name in self.graph.constants else self._places[name]

    def size(self, name: str) -> int:
        """The number of elements of a value or constant."""
        constants = self.graph.constants
        return constants[name].values.size if name in constants else self.graph.values[name].size

    def definition(self, name: str) -> str:
        """The definition of a constant, and of its mask and scale."""
        constant = self.graph.constants[name]
        ctype = WEIGHTS[constant.kind][0] if constant.kind in WEIGHTS else C_TYPES[constant.kind]
        stored, bits, text = constant.values, INTEGER_BITS.get(constant.kind, 8), ""
        if constant.sparse:
            mask, stored = without_zeros(stored)
            stored = packed(stored if stored.size else np.zeros(1, stored.dtype), bits)  # no array of C's is empty
            text = array_text(f"{self.prefix}_{name}_mask", "uint8_t", mask)
        elif bits < 8:
            stored = packed(whole_bytes(stored.reshape(len(stored), -1), bits), bits)
        if constant.kind == "float16":
            stored = stored.view(np.uint16)
        text += array_text(f"{self.prefix}_{name}", ctype, stored)
        if constant.scale is not None:
            text += array_text(f"{self.prefix}_{name}_scale", "float", constant.scale)
        return text

    def weight_kernel(self, family: str, name: str) -> str:
        """The full name of the kernel, `linear` or `conv2d`, for these weights."""
        constant = self.graph.constants[name]
        return self.kernel(f"{SPARSE if constant.sparse else ''}{family}_{constant.kind}")

    def weights(self, name: str) -> str:
        """Pointers to the mask of sparse weights, to the weights and to their scale, as arguments."""
        constant, place = self.graph.constants[name], self.place(name)
        mask = f"{place}_mask, " if constant.sparse else ""
        return f"{mask}{place}, " + ("(const float *)0" if constant.scale is None else f"{place}_scale")

    def _behind(self, name: str) -> str:
        """The value that reshaped ones show."""
        producers = {op.output: op for op in self.graph.operations}
        while name in producers and producers[name].kind == "reshape":
            name = producers[name].inputs[0]
        return name

    def _last_uses(self) -> dict[str, int]:
        """When the memory of each value is read for the last time, views counted with what they show."""
        roots: dict[str, str] = {}
        uses: dict[str, int] = {}
        for time, op in enumerate(self.graph.operations):
            for name in op.inputs:
                uses[roots.get(name, name)] = time
            if op.kind in ("reshape", "slice"):
                roots[op.output] = roots.get(op.inputs[0], op.inputs[0])
        return uses


def array_text(name: str, ctype: str, values: np.ndarray) -> str:
    """The definition of a constant array."""
    flat = values.reshape(-1)
    word = float_text if flat.dtype == np.float32 else double_text if flat.dtype == np.float64 else integer_text
    words = [word(value) for value in flat.tolist()]
    lines = [", ".join(words[i : i + 8]) for i in range(0, len(words), 8)]
    return f"static const {ctype} {name}[{len(words)}] = {{\n  " + ",\n  ".join(lines) + "};\n"


def float_text(value: float) -> str:
    """A float32 as C reads it, exactly."""
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def double_text(value: float) -> str:
    """A float64 as C reads it, exactly."""
    if np.isinf(value):
        return float_text(value)
    text = repr(value)
    return text if "." in text or "e" in text else f"{text}.0"


def integer_text(value: int) -> str:
    """An integer or a bit; the smallest int64 has no literal."""
    return str(int(value)) if value > -(2**63) else "INT64_MIN"
