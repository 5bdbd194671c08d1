"""Unstructured pruning after training: single weights set to zero, and layers that do not store them.

Zeros do not make a network faster: the kernels that run it multiply by them as by any number. They save bytes, with
`packed`. To be faster, prune neurons (`rlab.compression.neuron_pruning`). Which weights go, and how they stay 0 while a
network learns, is in `rlab.learning.sparsity`.
"""

from typing import Any, TypeVar, cast

import safetensors.torch
import torch
from torch import nn

from rlab.compression.float_layers import built_like, float_weight
from rlab.compression.quantized_layers import CompressedLayer, HalfLayer, QuantizedLayer, replaced
from rlab.compression.sparse_layers import SPARSE_OF, SparseConv2d, SparseLayer, SparseLinear, present
from rlab.errors import RlabError
from rlab.learning.sparsity import apply_masks, weight_masks
from rlab.networks.describe import with_network
from rlab.networks.layers import is_float_layer, is_stacked
from rlab.networks.merging import merged
from rlab.networks.policy import Policy

Whole = TypeVar("Whole", bound=nn.Module)


def prune_weights(network: nn.Module, share: float, scope: str = "layer") -> nn.Module:
    """A copy whose weights of the smallest magnitude are 0; see `weight_masks`. Adapters are merged first.

    Raises:
        UsageError: as `weight_masks`.
    """
    pruned = merged(network)
    apply_masks(pruned, weight_masks(pruned, share, scope))
    return pruned


@torch.no_grad()
def packed(whole: Whole) -> Whole:
    """A copy of a policy, or of a network, whose layers have the same weights and store only those that are not 0.

    Linear layers and convolutions change, in float or in fewer bits, where a file of one member is smaller for it; all
    others stay, also those with a setting that no sparse layer has (padding). See `sparse_layers`.
    """
    if isinstance(whole, Policy):
        return cast(Whole, with_network(whole, packed(whole.network)))
    names = {layer: name for name, layer in whole.named_modules()}
    return cast(Whole, replaced(whole, lambda layer: _smaller(layer, names[layer])))


@torch.no_grad()
def sparse_layer(layer: nn.Module) -> SparseLayer | None:
    """A linear layer or convolution, in float or in fewer bits, as one that stores only its weights that are not 0.

    It may be larger than the original where few weights are 0. None for any other layer, and for one with a setting
    that no sparse layer has.
    """
    if is_float_layer(layer):
        if layer.get_parameter("weight").dtype != torch.float32:  # the only floats that come back as they were
            return None
        stored, lead = float_weight(layer), int(is_stacked(layer))
    elif type(layer) in SPARSE_OF:
        assert isinstance(layer, QuantizedLayer | HalfLayer)
        stored = layer.weight if isinstance(layer, HalfLayer) else layer.integers()
        lead = len(layer.lead)
    else:
        return None
    kept = int(present(stored).flatten(lead).sum(dim=-1).max())
    try:
        new = _sparse_like(layer, kept)
    except RlabError:  # padding and the like
        return None
    new.keep(stored)
    return new


def _sparse_like(layer: nn.Module, kept: int) -> SparseLayer:
    """A sparse layer with all of another one but its weights."""
    if is_float_layer(layer):
        return built_like(layer, SparseLinear, SparseConv2d, kept=kept)[0]
    assert isinstance(layer, CompressedLayer)
    kind: Any = SPARSE_OF[type(layer)]
    new: SparseLayer = kind(layer.members, **layer.settings(), kept=kept, init=layer.init, gain=layer.gain)
    new.to(layer.bias.device)
    for key, tensor in layer.state_dict().items():
        if key != "weight":
            new.state_dict()[key].copy_(tensor)
    return new


def _smaller(layer: nn.Module, name: str) -> SparseLayer | None:
    """The sparse layer that takes the place of one of this name; None where that stays."""
    new = sparse_layer(layer)
    return new if new is not None and _file_bytes(new, new, name) < _file_bytes(layer, new, name) else None


def _file_bytes(layer: nn.Module, like: SparseLayer, name: str) -> int:
    """What a layer takes in a weights file of one member, the words that describe its tensors included."""
    at = (0,) * len(like.lead)
    tensors = {f"network.{name}.{key}": tensor[at].contiguous() for key, tensor in layer.state_dict().items()}
    return len(safetensors.torch.save(tensors))
