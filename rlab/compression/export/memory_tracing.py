"""One step of layers with memory as the operations of `graph`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from rlab.compression.export.graph import STATE, InexpressibleError, Tracer
from rlab.compression.export.member_step import Part
from rlab.compression.linear_units import LinearUnit
from rlab.networks.attention import Attention
from rlab.networks.memory import is_recurrent

Parts = dict[str, str]  # the values that are a layer's state, by the layer's own names
Inner = Callable[[Tracer, nn.Module, str], str]  # notes down what a layer without memory makes of a value


def trace_step(
    tracer: Tracer, network: nn.Module, places: dict[str, Part], x: str, inner: Inner
) -> tuple[str, list[str]]:
    """Note one step of a member's network, of which units are `opened`, down: its outputs, and the parts of the next
    state in their order.

    Raises:
        InexpressibleError: a layer with memory cannot be expressed in these operations.
    """
    following: Parts = {}
    for name, layer in network.named_children():
        if not is_recurrent(layer):
            x = inner(tracer, layer, x)
            continue
        if type(layer) not in RECURRENT:
            raise InexpressibleError(type(layer).__name__)
        own = {part.removeprefix(f"{name}."): at for part, at in places.items() if part.startswith(f"{name}.")}
        before = {part: tracer.reshape(tracer.slice(STATE, at.first, at.last), at.shape) for part, at in own.items()}
        x, after = RECURRENT[type(layer)](tracer, layer, x, before, inner)
        following |= {f"{name}.{part}": value for part, value in after.items()}
    flat = ((following[name], part) for name, part in places.items())
    return x, [tracer.reshape(value, (part.last - part.first,)) for value, part in flat]


def _unit(tracer: Tracer, layer: LinearUnit, x: str, state: Parts, inner: Inner) -> tuple[str, Parts]:
    now, before = inner(tracer, layer.inputs, x), inner(tracer, layer.hidden, state["hidden"])
    return (_gru if layer.cell == "gru" else _lstm)(tracer, layer.size, now, before, state)


def _gru(tracer: Tracer, width: int, now: str, before: str, state: Parts) -> tuple[str, Parts]:
    hidden = state["hidden"]
    sums = tracer.add("add", (tracer.slice(now, 0, 2 * width), tracer.slice(before, 0, 2 * width)), (2 * width,))
    gates = tracer.unary("sigmoid", sums)
    kept = tracer.add("multiply", (tracer.slice(before, 2 * width, 3 * width), tracer.slice(gates, 0, width)), (width,))
    new = tracer.unary("tanh", tracer.add("add", (kept, tracer.slice(now, 2 * width, 3 * width)), (width,)))
    change = tracer.add("subtract", (hidden, new), (width,))
    stays = tracer.add("multiply", (change, tracer.slice(gates, width, 2 * width)), (width,))
    after = tracer.add("add", (stays, new), (width,))  # new + z (h - new)
    return after, {"hidden": after}


def _lstm(tracer: Tracer, width: int, now: str, before: str, state: Parts) -> tuple[str, Parts]:
    sums = tracer.add("add", (now, before), (4 * width,))
    enter, forget, new, leave = (tracer.slice(sums, i * width, (i + 1) * width) for i in range(4))  # torch's order
    kept = tracer.add("multiply", (tracer.unary("sigmoid", forget), state["cell"]), (width,))
    more = tracer.add("multiply", (tracer.unary("sigmoid", enter), tracer.unary("tanh", new)), (width,))
    cell = tracer.add("add", (kept, more), (width,))
    hidden = tracer.add("multiply", (tracer.unary("sigmoid", leave), tracer.unary("tanh", cell)), (width,))
    return hidden, {"hidden": hidden, "cell": cell}


def _attention(tracer: Tracer, layer: Attention, x: str, state: Parts, inner: Inner) -> tuple[str, Parts]:
    window, features = layer.window, layer.features
    older = tracer.reshape(state["inputs"], ((window - 1) * features,))
    inputs, ones = tracer.concat([older, x]), tracer.constant(np.ones(window - 1, np.float32))
    seen = tracer.slice(tracer.add("append", (state["seen"], ones), (2 * window - 2,)), 0, window)
    rows = tracer.reshape(inputs, (window, features))
    normed = inner(tracer, layer.norm, rows)
    last = tracer.slice(tracer.reshape(normed, (window * features,)), (window - 1) * features, window * features)
    with torch.no_grad():
        places = layer.place(layer.waves)
    keys = tracer.with_constant("add", inner(tracer, layer.key, normed), places)
    query, values = inner(tracer, layer.query, last), inner(tracer, layer.value, normed)
    mixed = tracer.add("attend", (query, keys, values, seen), (features,), heads=layer.heads)
    y = tracer.add("add", (inner(tracer, layer.output, mixed), x), (features,))
    return y, {
        "inputs": tracer.slice(inputs, features, window * features),
        "seen": tracer.slice(seen, 1, window),
    }


# plain layer with memory -> what notes one step down: the output and the parts of the next state
RECURRENT: dict[type[nn.Module], Callable[[Tracer, Any, str, Parts, Inner], tuple[str, Parts]]] = {
    LinearUnit: _unit,
    Attention: _attention,
}
