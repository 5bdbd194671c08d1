"""Runs a policy that `rlab export --format numpy` wrote. It needs NumPy alone: this one file may be copied and used.

    policy = load("policy.npz")
    action, outputs = policy.run(obs)     # obs [B, *obs] in array form

With memory, where `policy.state_size` is not 0, a state comes beside; an episode begins with zeros:

    state = numpy.zeros((len(obs), policy.state_size), numpy.float32)
    action, outputs, state = policy.run(obs, state)

The file is data: the operations that it names are looked up in a table below, and no other code can run.
"""

import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

FORMAT = 1
INTEGER_BITS = {"int8": 8, "int4": 4, "int2": 2}
LIMITS = ("clip",)  # operations whose constants may be infinite: no bound
FLOAT_BYTES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # how sparse weights are read from bytes
Array = np.ndarray
Step = tuple[Callable[..., Array], tuple[str, ...], str]


class NumpyPolicy:
    """`metadata` is the file's; `run` answers a batch of observations."""

    def __init__(self, metadata: dict[str, Any], constants: dict[str, Array], steps: list[Step], values: Any) -> None:
        self.metadata, self._constants, self._steps = metadata, constants, steps
        self.obs_shape, self.obs_dtype = tuple(values["obs"]["shape"]), np.dtype(values["obs"]["dtype"])
        self.state_size = int(values["state"]["shape"][0]) if "state" in values else 0

    def run(self, obs: Array, *state: Array) -> tuple[Array, ...]:
        """The greedy actions `[B, *action]` and the network's outputs `[B, width]` for `obs [B, *obs]`; with memory
        also the next state, for `state [B, state_size]`.

        Raises:
            ValueError: the observations or the state have another shape.
        """
        obs = np.asarray(obs, self.obs_dtype)
        if obs.shape[1:] != self.obs_shape or obs.ndim == 0:
            raise ValueError(f"observations of shape {obs.shape} do not fit; expected [B, *{self.obs_shape}]")
        values = {**self._constants, "obs": obs}
        if self.state_size:
            if len(state) != 1 or np.shape(state[0]) != (len(obs), self.state_size):
                raise ValueError(f"it has memory: run(obs, state) with a state [B, {self.state_size}], zeros at first")
            values["state"] = np.asarray(state[0], np.float32)
        for function, inputs, output in self._steps:
            values[output] = function(*[values[name] for name in inputs])
        given = values["action"], values["outputs"]
        return (*given, values["next_state"]) if self.state_size else given


def read(path: Any) -> dict[str, Array]:
    """The arrays in a `.npz` by name; raises what NumPy does."""
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def load(path: Any, read: Callable[[Any], dict[str, Array]] = read) -> NumpyPolicy:
    """The policy in a `.npz`.

    Args:
        read: gives the arrays in it.

    Raises:
        ValueError: the file is damaged, of a format that this runner does not know, or a number in it is not finite.
    """
    try:
        arrays = read(path)
        description = json.loads(arrays.pop("description").tobytes())
        metadata = description["metadata"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"format {metadata['format']!r}, and this runner reads {FORMAT}")
        constants = {name: _dense(arrays, name, entry) for name, entry in description["constants"].items()}
        free = {name for op in description["operations"] if op["kind"] in LIMITS for name in op["inputs"]}
        for name, values in constants.items():
            if np.isnan(values).any() or (name not in free and not np.isfinite(values).all()):
                raise ValueError(f"the constant {name!r:.80} is NaN or infinite")
        operations = description["operations"]
        for name in {op["inputs"][1] for op in operations if op["kind"] == "linear"}:
            constants[name] = np.ascontiguousarray(constants[name].T)  # laid out once for all
        steps = [_step(op, description["values"]) for op in operations]
        return NumpyPolicy(metadata, constants, steps, description["values"])
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a NumPy policy of rlab: {error}") from error


def _dense(arrays: dict[str, Array], name: str, entry: dict[str, Any]) -> Array:
    """A constant as the numbers meant; weights as float32."""
    stored, kind, shape = arrays[name], entry["kind"], tuple(entry["shape"])
    bits = INTEGER_BITS.get(kind, 8)
    if "kept" in entry:
        stored = _with_zeros(stored, kind, int(np.prod(shape)), entry["kept"])
    elif bits < 8:
        stored = _integers(stored, bits, int(np.prod(shape)))
    if kind == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if kind not in INTEGER_BITS:
        return (stored.astype(np.float32) if kind == "float16" else stored).reshape(shape)
    scale = arrays[f"{name}.scale"].reshape(-1, *(1,) * (len(shape) - 1))
    return np.asarray(stored.reshape(shape).astype(np.float32) * scale)


def _integers(stored: Array, bits: int, count: int) -> Array:
    """Integers of 4 or 2 bits, the first in the lowest bits of the first byte, as int8 `[count]`."""
    fields = (stored[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & (2**bits - 1)
    sign = 2 ** (bits - 1)
    return np.asarray((fields.reshape(-1)[:count].astype(np.int8) ^ sign) - sign)


def _with_zeros(stored: Array, kind: str, size: int, kept: int) -> Array:
    """Sparse weights `[size]`: bytes with one bit for each of them, the first in the lowest bit, followed by the
    `kept` weights whose bit is set."""
    mask, values = np.split(stored, [-(-size // 8)])
    bits = INTEGER_BITS.get(kind, 8)
    values = _integers(values, bits, kept) if bits < 8 else values.view(FLOAT_BYTES.get(kind, "i1"))
    there = np.unpackbits(mask, count=size, bitorder="little").astype(bool)
    if not there.sum() == kept == len(values):
        raise ValueError(f"{len(values)} sparse weights for a mask of {there.sum()}; {kept} are declared")
    dense = np.zeros(size, values.dtype)
    dense[there] = values
    return dense


def _step(op: dict[str, Any], values: dict[str, Any]) -> Step:
    """What one operation runs; settings and shapes are bound."""
    return OPERATIONS[op["kind"]](op["settings"], values[op["output"]]), tuple(op["inputs"]), op["output"]


def _plain(function: Callable[..., Array]) -> Callable[[dict[str, Any], dict[str, Any]], Callable[..., Array]]:
    """An operation without settings."""
    return lambda settings, output: function


def _reshape(settings: dict[str, Any], output: dict[str, Any]) -> Callable[[Array], Array]:
    shape = tuple(output["shape"])
    return lambda x: x.reshape(len(x), *shape)


def _slice(settings: dict[str, Any], output: dict[str, Any]) -> Callable[[Array], Array]:
    part = slice(settings["first"], settings["last"])
    return lambda x: x[:, part]


def _cast(settings: dict[str, Any], output: dict[str, Any]) -> Callable[[Array], Array]:
    dtype = np.dtype(output["dtype"])
    return lambda x: x.astype(dtype)


def _linear(x: Array, weight: Array, bias: Array) -> Array:
    y: Array = x @ weight
    y += bias
    return y


def _conv2d(settings: dict[str, Any], output: dict[str, Any]) -> Callable[..., Array]:
    stride = settings["stride"]

    def run(x: Array, weight: Array, bias: Array) -> Array:
        patches = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
        # [B, C, H', W', k, k] -> [B, H', W', out] -> [B, out, H', W']
        y = np.tensordot(patches[:, :, ::stride, ::stride], weight, axes=((1, 4, 5), (1, 2, 3)))
        return np.moveaxis(y + bias, -1, 1)

    return run


def _layer_norm(settings: dict[str, Any], output: dict[str, Any]) -> Callable[..., Array]:
    epsilon = np.float32(settings["epsilon"])

    def run(x: Array, weight: Array, bias: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        return centred / np.sqrt(variance + epsilon) * weight + bias

    return run


def _softmax(settings: dict[str, Any], output: dict[str, Any]) -> Callable[[Array], Array]:
    size = settings["size"]

    def run(x: Array) -> Array:
        parts = x.reshape(len(x), x.shape[1] // size, size)
        weight = np.exp(parts - parts.max(axis=-1, keepdims=True))
        return np.asarray(weight / weight.sum(axis=-1, keepdims=True)).reshape(x.shape)

    return run


def _elu(settings: dict[str, Any], output: dict[str, Any]) -> Callable[[Array], Array]:
    alpha = np.float32(settings["alpha"])
    return lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _leaky_relu(settings: dict[str, Any], output: dict[str, Any]) -> Callable[[Array], Array]:
    alpha = np.float32(settings["alpha"])
    return lambda x: np.where(x > 0, x, alpha * x)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _attend(settings: dict[str, Any], output: dict[str, Any]) -> Callable[..., Array]:
    """The values `[B, W, d]` mixed by how well their keys fit the query, head by head; those not seen do not count."""
    heads = settings["heads"]

    def run(query: Array, keys: Array, values: Array, seen: Array) -> Array:
        width = query.shape[1] // heads
        fit = (query[:, None] * keys).reshape(*keys.shape[:2], heads, width).sum(axis=-1)  # [B, W, h]
        fit = np.where(seen[..., None] != 0, fit / np.float32(width**0.5), np.float32(-1e30))
        share = np.exp(fit - fit.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        return np.asarray((values.reshape(*share.shape, width) * share[..., None]).sum(axis=1).reshape(query.shape))

    return run


# The error function on [-4, 4] as an odd polynomial over an even one: the coefficients of Eigen's float32 version,
# highest power first. It is 5e-7 off at most.
ERF_OVER: tuple[float, ...] = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
ERF_UNDER: tuple[float, ...] = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
    -1.42647390514189e-02,
)


def erf(x: Array) -> Array:
    """The error function of float32 numbers."""
    x = np.clip(x, np.float32(-4), np.float32(4))
    square = x * x
    return np.asarray(x * _polynomial(ERF_OVER, square) / _polynomial(ERF_UNDER, square))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    y = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y = y * x + np.float32(coefficient)
    return y


def _round_static(x: Array, scale: Any, zero_point: Any) -> Array:
    zero = np.float32(zero_point)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale, np.float32)


def _round_dynamic(x: Array) -> Array:
    low, high = np.float32(min(x.min(initial=0.0), 0.0)), np.float32(max(x.max(initial=0.0), 0.0))
    scale = (high - low) / np.float32(255) if high > low else np.float32(1)
    return _round_static(x, scale, np.rint(np.clip(-low / scale, 0, 255)))


def _choose(settings: dict[str, Any], output: dict[str, Any]) -> Callable[..., Array]:
    """The first of the largest allowed logits of each choice; where a mask allows nothing of it, all is allowed."""
    ends = np.cumsum(settings["sizes"])
    parts = [slice(int(end - size), int(end)) for end, size in zip(ends, settings["sizes"], strict=True)]
    shape = tuple(output["shape"])

    def best(logits: Array, mask: Array | None) -> Array:
        if mask is not None:
            allowed = mask != 0
            logits = np.where(allowed | ~allowed.any(axis=1, keepdims=True), logits, -np.inf)
        return logits.argmax(axis=1)

    def run(logits: Array, mask: Array | None = None) -> Array:
        chosen = [best(logits[:, part], None if mask is None else mask[:, part]) for part in parts]
        return chosen[0].reshape(-1, *shape) if len(chosen) == 1 else np.stack(chosen, axis=1).reshape(-1, *shape)

    return run


# kind -> what gives its function: f(settings, the output's shape and dtype)
OPERATIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Callable[..., Array]]] = {
    "cast": _cast,
    "reshape": _reshape,
    "slice": _slice,
    "channels_first": _plain(lambda x: np.moveaxis(x, -1, 1)),
    "one_hot": _plain(lambda x, element, value: np.asarray(x[:, element] == value, np.float32)),
    "centre": _plain(lambda x, mean: (x.astype(np.float64) - mean).astype(np.float32)),
    "concat": _plain(lambda *parts: np.concatenate(parts, axis=1)),
    "append": _plain(lambda x, constant: np.concatenate([x, np.tile(constant, (len(x), 1))], axis=1)),
    "add": _plain(np.add),
    "subtract": _plain(np.subtract),
    "multiply": _plain(np.multiply),
    "divide": _plain(np.divide),
    "clip": _plain(lambda x, low, high: np.minimum(np.maximum(x, low), high)),
    "relu": _plain(lambda x: np.maximum(x, np.float32(0))),
    "tanh": _plain(np.tanh),
    "sigmoid": _plain(_sigmoid),
    "elu": _elu,
    "gelu": _plain(lambda x: np.asarray(np.float32(0.5) * x * (1 + erf(x * np.float32(0.5**0.5))))),
    "silu": _plain(lambda x: x * _sigmoid(x)),
    "leaky_relu": _leaky_relu,
    "mean": _plain(lambda x: np.asarray(x.mean(axis=1, keepdims=True))),
    "softmax": _softmax,
    "linear": _plain(_linear),
    "conv2d": _conv2d,
    "layer_norm": _layer_norm,
    "attend": _attend,
    "round_static": _plain(_round_static),
    "round_dynamic": _plain(_round_dynamic),
    "choose": _choose,
    "positive": _plain(lambda x: (x > 0).astype(np.int8)),
}
