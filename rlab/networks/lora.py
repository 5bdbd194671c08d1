"""Adapters into a network and out of it again: specs with LoRA layers, and networks whose adapters are merged."""

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from rlab.errors import UsageError
from rlab.networks.adapters import LORA_LAYERS
from rlab.networks.layers import Streams
from rlab.networks.policy import Policy
from rlab.networks.spec import LayerSpec, NetworkSpec, are_streams, is_stream

Change = Callable[[str, LayerSpec], LayerSpec]
LORA_KINDS = {"linear": "lora_linear", "conv2d": "lora_conv2d"}
PLAIN_KINDS = {lora: plain for plain, lora in LORA_KINDS.items()}


def with_lora(spec: NetworkSpec, rank: int, alpha: float, plain: Collection[str] = ()) -> NetworkSpec:
    """Every linear layer and convolution with an adapter beside it, those inside other layers too.

    A layer whose smaller side is below the rank takes as much rank as it has, with alpha / rank as everywhere.

    Args:
        plain: names of layers that stay as they are, such as `network.4` or `network.3.value.0`.

    Raises:
        UsageError: every layer's smaller side is below the rank, or there is nothing to adapt.
    """
    adapting = [layer for name, layer in named_layers(spec) if layer.kind in LORA_KINDS and name not in plain]
    most = [_smaller_side(layer) for layer in adapting]
    if not most:
        raise UsageError("LoRA needs a linear layer or a convolution that is not fresh; this network has none.")
    if not 1 <= rank <= max(most):
        raise UsageError(f"LoRA rank {rank} does not fit: the layers' smaller sides are {', '.join(map(str, most))}.")

    def adapted(name: str, layer: LayerSpec) -> LayerSpec:
        if layer.kind not in LORA_KINDS or name in plain:
            return layer
        own = min(rank, _smaller_side(layer))
        return LayerSpec(LORA_KINDS[layer.kind], {**layer.args, "rank": own, "alpha": alpha * own / rank})

    return changed(spec, adapted)


def merged_spec(spec: NetworkSpec) -> NetworkSpec:
    """The plain kinds of all layers; what `merged` makes of a network has this spec."""

    def plain(name: str, layer: LayerSpec) -> LayerSpec:
        if layer.kind not in PLAIN_KINDS:
            return layer
        args = {key: value for key, value in layer.args.items() if key not in ("rank", "alpha")}
        return LayerSpec(PLAIN_KINDS[layer.kind], args)

    return changed(spec, plain)


def merged(network: nn.Module) -> nn.Module:
    """A copy in which adapters are part of their layers, with equal outputs; for stacks and plain networks."""
    return _merged(network).train(network.training)


def merge_policy(policy: Policy) -> Policy:
    """A copy of the policy without adapters, with equal outputs."""
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
    return NetworkSpec(_changed(spec.layers, "network", change))


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


def _smaller_side(layer: LayerSpec) -> int:
    """Of the layer's weights as a matrix `[in, out]`."""
    args = layer.args
    if layer.kind == "linear":
        return int(min(args["in_features"], args["out_features"]))
    return int(min(args["in_channels"] * args["kernel_size"] ** 2, args["out_channels"]))


def _merged(network: nn.Module) -> nn.Module:
    if isinstance(network, nn.Sequential):  # a StackedNetwork is one
        return type(network)(*(_merged(layer) for layer in network))
    if isinstance(network, Streams):
        return network.rebuilt([_merged(stream) for stream in network.streams().values()])
    if isinstance(network, LORA_LAYERS):
        return network.merge()
    return copy.deepcopy(network)
