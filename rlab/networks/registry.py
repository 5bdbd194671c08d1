"""The open registry of layers: one row for each kind that a network's spec, and so a policy folder, may name.

The module that defines a layer's classes registers its row. A layer from outside rlab is named `their.module:Layer`
and needs trust; its row is made from what the class offers, see `LayerKind.of`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from rlab.errors import RlabError, unknown
from rlab.trust import Trust, trusted

# Kinds of rlab's own that another room registers -> the module that does, imported when a spec first names the kind.
# `networks` knows their names alone: so a policy folder that holds such layers loads in any process, and no caller has
# to know what to import first. `tests/house/test_architecture.py` keeps this the only place in `networks` that names
# another room.
PROVIDERS: dict[str, str] = {
    **dict.fromkeys(("lora_linear", "lora_conv2d"), "rlab.learning.adapters"),
    **dict.fromkeys(
        ("quantized_linear", "quantized_conv2d", "half_linear", "half_conv2d"), "rlab.compression.quantized_layers"
    ),
    **dict.fromkeys(
        ("sparse_linear", "sparse_conv2d", "sparse_quantized_linear", "sparse_quantized_conv2d"),
        "rlab.compression.sparse_layers",
    ),
    "linear_unit": "rlab.compression.linear_units",
}


@dataclass(frozen=True)
class LayerKind:
    """One kind of layer: how it is built, how it leaves a stack and comes back, and how it is described.

    A layer that serves stacks and plain networks alike has one class for both. Where that class has no `stack` and
    `unstack`, the layer has no weights of its own and is copied.
    """

    name: str  # in a spec
    build: Callable[..., nn.Module]  # build(members, **args) gives the layer of a stack
    stacked: type[nn.Module] | None = None  # its class; None: of a builder function, unknown
    plain: type[nn.Module] | None = None  # class of one member's layer; None: it cannot be stacked again
    settings: Callable[[Any], dict[str, Any]] | None = None  # of a stacked layer: the arguments that build it
    # From the arguments to the kind and arguments of an ordinary layer with equal outputs in evaluation, which the
    # method `merge` of both classes gives. Pruning, quantizing and exporting work on merged networks.
    merges_to: Callable[[dict[str, Any]], tuple[str, dict[str, Any]]] | None = None

    @classmethod
    def of(cls, name: str, layer: Callable[..., nn.Module], plain: type[nn.Module] | None = None) -> "LayerKind":
        """The row of a class, from the parts that it offers; a builder function offers none.

        `layer(members, **args)` builds it, and a layer with weights has `initialise(generators)`. What else it may
        offer: `unstack(member)`, which gives an object of `plain` (an attribute of the class, where it is not given
        here), and the class method `stack(modules)`; `settings()`; the static method `merges_to(args)` with
        the method `merge()`.
        """
        stacked = layer if isinstance(layer, type) else None
        plain = getattr(layer, "plain", None) if plain is None else plain
        return cls(name, layer, stacked, plain, getattr(layer, "settings", None), getattr(layer, "merges_to", None))


_by_name: dict[str, LayerKind] = {}
_by_class: dict[type[nn.Module], LayerKind] = {}


def register(kind: LayerKind) -> None:
    """Add a row, or replace the one of this name.

    Raises:
        RlabError: one of its classes belongs to a layer of another kind.
    """
    for found in filter(None, {kind.stacked, kind.plain}):
        known = _by_class.get(found, kind)  # a class may be reached by two names: its first one stays in specs
        if known.stacked is not kind.stacked:
            raise RlabError(f"layer {kind.name!r}: {found.__name__} is already the class of {known.name!r} layers.")
        _by_class.setdefault(found, kind)
    _by_name[kind.name] = kind


def register_shared(name: str, layer: type[nn.Module], settings: Callable[[Any], dict[str, Any]]) -> None:
    """Add the row of a layer that serves stacks and plain networks: without own weights, built as `layer(**args)`."""
    register(LayerKind(name, lambda members, **args: layer(**args), layer, layer, settings))


def layer_kind(name: str, trust: Trust = False) -> LayerKind:
    """The row of a kind: one of rlab's, or `their.module:Layer`, whose module is imported where `trust` allows it.

    Raises:
        UsageError: the kind is unknown, or there is no such module or class.
        RlabError: it is code from outside rlab and `trust` is false.
    """
    if ":" in name:
        layer = trusted("layer", name, trust)
        if name not in _by_name or _by_name[name].build is not layer:
            register(LayerKind.of(name, layer))
    elif name not in _by_name:
        if name not in PROVIDERS:
            raise unknown("kind of layer", name, {*_by_name, *PROVIDERS})
        importlib.import_module(PROVIDERS[name])
    return _by_name[name]


def known_kind(name: str) -> LayerKind | None:
    """The row of a kind of rlab's, or of a layer from outside that this process has built already; else None."""
    return _by_name.get(name) if ":" in name else layer_kind(name)


def kind_of(layer: nn.Module) -> LayerKind | None:
    """The row of a layer, stacked or plain; None for one that no spec can name.

    By its very class: a class derived from a known one may compute something else.
    """
    return _by_class.get(type(layer))
