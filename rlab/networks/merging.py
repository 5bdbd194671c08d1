"""Layers that an ordinary layer with equal outputs can replace, such as low-rank adapters; and walks through a spec."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from rlab.networks.branches import Streams
from rlab.networks.policy import Policy
from rlab.networks.registry import kind_of, known_kind
from rlab.networks.spec import LayerSpec, NetworkSpec, are_streams, is_stream

Change = Callable[[str, LayerSpec], LayerSpec]


def merged_spec(spec: NetworkSpec) -> NetworkSpec:
    """The spec of what `merged` makes of a network of this one."""

    def plain(name: str, layer: LayerSpec) -> LayerSpec:
        kind = known_kind(layer.kind)
        return layer if kind is None or kind.merges_to is None else LayerSpec(*kind.merges_to(layer.args))

    return changed(spec, plain)


def merges(layer: nn.Module) -> bool:
    """Whether `merged` puts another layer in the place of this one."""
    kind = kind_of(layer)
    return kind is not None and kind.merges_to is not None


def merged(network: nn.Module) -> nn.Module:
    """A copy with ordinary layers wherever a layer merges into one, such as adapters; outputs in evaluation are equal.

    For stacks and plain networks.
    """
    return _merged(network).train(network.training)


def merge_policy(policy: Policy) -> Policy:
    """A copy of the policy with a merged network."""
    spec = replace(policy.spec, network=merged_spec(policy.spec.network))
    plain = Policy(spec, copy.deepcopy(policy.preprocess), merged(policy.network), policy.seeds)
    return plain.train(policy.training)


def named_layers(spec: NetworkSpec) -> list[tuple[str, LayerSpec]]:
    """Every layer that holds no others, by the name that its tensors have in a policy's state dict."""
    found: list[tuple[str, LayerSpec]] = []

    def note(name: str, layer: LayerSpec) -> LayerSpec:
        found.append((name, layer))
        return layer

    changed(spec, note)
    return found


def changed(spec: NetworkSpec, change: Change) -> NetworkSpec:
    """The spec with `change(name, layer)` in the place of every layer that holds no others."""
    return replace(spec, layers=_changed(spec.layers, "network", change))


def _changed(layers: Iterable[LayerSpec], prefix: str, change: Change) -> tuple[LayerSpec, ...]:
    found = []
    for index, layer in enumerate(layers):
        name = f"{prefix}.{index}"
        streams: dict[str, Any] = {}
        for key, value in layer.args.items():
            if is_stream(value):
                streams[key] = _changed(value, f"{name}.{key}", change)
            elif are_streams(value):
                streams[key] = tuple(_changed(each, f"{name}.{key}.{i}", change) for i, each in enumerate(value))
        found.append(LayerSpec(layer.kind, {**layer.args, **streams}) if streams else change(name, layer))
    return tuple(found)


def _merged(network: nn.Module) -> nn.Module:
    if isinstance(network, nn.Sequential):  # a StackedNetwork is one
        return type(network)(*(_merged(layer) for layer in network))
    if isinstance(network, Streams):
        return network.rebuilt([_merged(stream) for stream in network.streams().values()])
    if merges(network):
        plain: nn.Module = network.merge()  # type: ignore[operator]
        return plain
    return copy.deepcopy(network)
