"""The way back from a network to its spec: what `build` would need to make layers like these."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from rlab.errors import RlabError
from rlab.networks.adapters import StackedLoraConv2d, StackedLoraLinear
from rlab.networks.branches import Branches, Pick, PickImage
from rlab.networks.layers import (
    ACTIVATIONS,
    Dueling,
    StackedConv2d,
    StackedDropout,
    StackedFlatten,
    StackedLayerNorm,
    StackedLinear,
    StackedLogStd,
    StackedTanh,
)
from rlab.networks.own import OwnBody
from rlab.networks.policy import Policy
from rlab.networks.quantized import COMPRESSED_LAYERS, CompressedLayer
from rlab.networks.sequences import StackedEmbedding, StackedGRU
from rlab.networks.sparse import SPARSE_LAYERS
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork
from rlab.networks.stacking import stack


def spec_of(network: nn.Module) -> NetworkSpec:
    """The spec from which `build` makes a network of the same layers and shapes; for stacks and plain networks.

    A network that `build` made gives its own spec back, but for what only fresh weights depend on: a plain layer no
    longer knows its initialisation, which is then `pytorch`, and no layer knows where its `log_std` started.

    Raises:
        RlabError: the network is no sequence of layers, or a layer or one of its settings has no place in a spec.
    """
    if type(network) is nn.Sequential:
        return spec_of(stack([network]))  # refuses what a stack, and so a spec, does not know
    if not isinstance(network, StackedNetwork):
        raise RlabError(f"{type(network).__name__} has no spec; a StackedNetwork or an nn.Sequential of layers has.")
    return NetworkSpec(tuple(_layer(layer) for layer in network))


def with_network(policy: Policy, network: nn.Module) -> Policy:
    """The policy with another stack in the place of its network, and a spec that says so; the rest is copied.

    Raises:
        RlabError: the network has no spec.
    """
    spec = replace(policy.spec, network=spec_of(network))
    return Policy(spec, copy.deepcopy(policy.preprocess), network, policy.seeds).train(policy.training)


def _layer(layer: nn.Module) -> LayerSpec:
    if isinstance(layer, Dueling):
        streams = {"value": spec_of(layer.value).layers, "advantage": spec_of(layer.advantage).layers}
        return LayerSpec("dueling", streams)
    if isinstance(layer, Branches):
        return LayerSpec("branches", {"branches": tuple(spec_of(branch).layers for branch in layer.branches)})
    if isinstance(layer, (*COMPRESSED_LAYERS, *SPARSE_LAYERS)):
        return LayerSpec(str(layer.kind), {**layer.settings(), **_fresh(layer)})
    if type(layer) in _ARGUMENTS:
        kind, arguments = _ARGUMENTS[type(layer)]
        return LayerSpec(kind, arguments(layer))
    for kind, activation in ACTIVATIONS.items():
        if type(layer) is activation:
            if repr(layer) != repr(activation()):  # torch's repr states every setting of a layer
                raise RlabError(f"{layer} has a setting that a spec cannot hold; it knows {activation()} alone.")
            return LayerSpec(kind)
    hint = ""
    if isinstance(layer, CompressedLayer):
        hint = " Convert it first."
    elif isinstance(layer, StackedNetwork):
        hint = " A sequence inside another one: put its layers into the outer one."
    raise RlabError(f"{type(layer).__name__} has no kind in a network's spec.{hint}")


def _fresh(layer: Any) -> dict[str, Any]:
    """How fresh weights are drawn; a gain of 1 goes without saying."""
    return {"init": layer.init} if layer.gain == 1.0 else {"init": layer.init, "gain": layer.gain}


def _linear(layer: Any) -> dict[str, Any]:
    _, in_features, out_features = layer.weight.shape
    return {"in_features": in_features, "out_features": out_features, **_fresh(layer)}


def _conv2d(layer: Any) -> dict[str, Any]:
    _, out_channels, in_channels, kernel_size, _ = layer.weight.shape
    channels = {"in_channels": in_channels, "out_channels": out_channels}
    return {**channels, "kernel_size": kernel_size, "stride": layer.stride, **_fresh(layer)}


def _adapter(layer: Any) -> dict[str, Any]:
    return {"rank": layer.rank, "alpha": layer.alpha}


def _embedding(layer: Any) -> dict[str, Any]:
    _, tokens, features = layer.weight.shape
    return {"num_embeddings": tokens, "features": features, "padding_index": layer.padding_index}


def _gru(layer: Any) -> dict[str, Any]:
    _, in_features, _ = layer.weight_ih.shape
    return {"in_features": in_features, "hidden": layer.weight_hh.shape[1], "sequence": layer.sequence}


# stacked layer -> its kind and the arguments of its builder
_ARGUMENTS: dict[type[nn.Module], tuple[str, Callable[[Any], dict[str, Any]]]] = {
    StackedLinear: ("linear", _linear),
    StackedConv2d: ("conv2d", _conv2d),
    StackedLayerNorm: ("layer_norm", lambda layer: {"features": layer.weight.shape[-1]}),
    StackedDropout: ("dropout", lambda layer: {"p": layer.p}),
    StackedFlatten: ("flatten", lambda layer: {}),
    StackedLogStd: ("log_std", lambda layer: {"features": layer.log_std.shape[-1]}),
    StackedEmbedding: ("embedding", _embedding),
    StackedGRU: ("gru", _gru),
    StackedLoraLinear: ("lora_linear", lambda layer: {**_linear(layer), **_adapter(layer)}),
    StackedLoraConv2d: ("lora_conv2d", lambda layer: {**_conv2d(layer), **_adapter(layer)}),
    StackedTanh: ("tanh", lambda layer: {}),
    OwnBody: ("own", lambda layer: {"builder": layer.builder, "given": layer.given}),
    Pick: ("pick", lambda layer: {"ranges": layer.ranges}),
    PickImage: ("pick_image", lambda layer: {"first": layer.first, "shape": layer.shape, "channels": layer.channels}),
}
