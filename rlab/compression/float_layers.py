"""The linear layers and convolutions of a network that have weights in float, and what may stand in their places."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlab.compression.quantized_layers import CompressedLayer, plain_layer, replaced
from rlab.compression.sequences import Features, run
from rlab.errors import RlabError, UsageError
from rlab.networks.branches import Streams
from rlab.networks.layers import FLOAT_LAYERS, StackedConv2d, StackedLinear, WeightLayer, is_float_layer, is_stacked
from rlab.networks.memory import initial_state
from rlab.networks.merging import merged

Linear = TypeVar("Linear", bound=CompressedLayer)
Conv2d = TypeVar("Conv2d", bound=CompressedLayer)


def quantizable(network: nn.Module) -> nn.Module:
    """The network as it can be quantized: a copy without adapters.

    Raises:
        UsageError: it is quantized already, or it has no linear layer or convolution.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, CompressedLayer):
            found = f"layer {name!r} is {type(layer).__name__}"
            raise UsageError(f"the network is already quantized ({found}); start from the one in full precision.")
    network = merged(network)
    if not any(is_float_layer(layer) for layer in network.modules()):
        raise UsageError("the network has no linear layer and no convolution that could be quantized.")
    return network


def first_layers(network: nn.Module) -> set[nn.Module]:
    """The float layers that read the network's input: one, or one in each stream of a dueling or branched network."""
    if isinstance(network, Streams):
        return {layer for stream in network.streams().values() for layer in first_layers(stream)}
    if is_float_layer(network):
        return {network}
    found = (first_layers(child) for child in network.children())
    return next((layers for layers in found if layers), set())


class _Observer(WeightLayer):
    """Replaces a layer and passes its inputs to `note` before it calls it."""

    def __init__(self, layer: nn.Module, note: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__()
        self.members = len(layer.get_parameter("bias")) if is_stacked(layer) else None
        self.held = (layer,)  # no child: the mode of the network that runs is not the layer's
        self.note = note

    def forward(self, x: Tensor) -> Tensor:
        (layer,) = self.held
        self.note(layer, x)
        y: Tensor = layer.forward(x)
        return y


@torch.no_grad()
def observe(network: nn.Module, features: Features, note: Callable[[nn.Module, Tensor], None]) -> None:
    """Run the network on `features` in evaluation mode and call `note(layer, x)` with what enters each linear layer
    and convolution, in float or compressed, in the order of the forward; behind memory once for some or each of the
    steps."""

    def change(layer: nn.Module) -> nn.Module | None:
        return _Observer(layer, note) if is_float_layer(layer) or isinstance(layer, CompressedLayer) else None

    run(replaced(network, change).eval(), features, partial(initial_state, network))


def float_weight(layer: nn.Module) -> Tensor:
    """The weights of a float layer, `[..., out, in, ...]`, as one member's lie in memory, so that sums over them add up
    in the same order."""
    assert isinstance(layer, FLOAT_LAYERS)
    weight = layer.weight.detach()
    return weight.transpose(1, 2).contiguous() if isinstance(layer, StackedLinear) else weight


@torch.no_grad()
def built_like(
    layer: nn.Module, linear: Callable[..., Linear], conv2d: Callable[..., Conv2d], **options: Any
) -> tuple[Linear | Conv2d, Tensor]:
    """A compressed layer with the shape and biases of a float one, and the float weights `[..., out, in, ...]` that go
    into it.

    Raises:
        RlabError: the layer has a setting that a compressed one lacks, such as padding or no bias.
    """
    weight = float_weight(layer)
    members, stride = None, 1
    if is_stacked(layer):
        members, options = weight.shape[0], {"init": layer.init, "gain": layer.gain, **options}
    if isinstance(layer, nn.Conv2d | StackedConv2d):
        stride = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
    if members is None:
        known = plain_layer(weight.shape, stride)
        if repr(layer) != repr(known):  # torch's repr states every setting of a layer
            raise RlabError(f"{layer} cannot be compressed as {known}; it has settings that such a layer lacks.")
    if isinstance(layer, nn.Linear | StackedLinear):
        out_features, in_features = weight.shape[-2:]
        new: Linear | Conv2d = linear(members, in_features, out_features, **options)
    else:
        out_channels, in_channels, kernel_size, _ = weight.shape[-4:]
        new = conv2d(members, in_channels, out_channels, kernel_size, stride, **options)
    new.to(weight.device)
    new.bias.copy_(layer.get_parameter("bias").reshape(new.bias.shape))
    return new, weight
