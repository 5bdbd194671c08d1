"""Between a stack `[S, ...]` and plain `torch.nn` modules, which other tools know how to compress and export."""

import copy
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from rlab.errors import RlabError
from rlab.networks.adapters import LoraConv2d, LoraLinear, StackedLoraConv2d, StackedLoraLinear
from rlab.networks.branches import Pick, PickImage
from rlab.networks.layers import (
    ACTIVATIONS,
    LogStd,
    StackedConv2d,
    StackedDropout,
    StackedFlatten,
    StackedLayerNorm,
    StackedLinear,
    StackedLogStd,
    StackedTanh,
    Streams,
)
from rlab.networks.quantized import COMPRESSED_LAYERS
from rlab.networks.sequences import LastGRU, StackedEmbedding, StackedGRU
from rlab.networks.sparse import SPARSE_LAYERS
from rlab.networks.spec import StackedNetwork
from rlab.networks.usual import with_usual_torch

_STACKED_OF: dict[type[nn.Module], Any] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    nn.LayerNorm: StackedLayerNorm,
    nn.Dropout: StackedDropout,
    nn.Flatten: StackedFlatten,
    nn.Tanh: StackedTanh,
    LogStd: StackedLogStd,
    nn.Embedding: StackedEmbedding,
    LastGRU: StackedGRU,
    LoraLinear: StackedLoraLinear,
    LoraConv2d: StackedLoraConv2d,
    **{layer: layer for layer in COMPRESSED_LAYERS},
    **{layer: layer for layer in SPARSE_LAYERS},
}

_UNCHANGED = (*ACTIVATIONS.values(), Pick, PickImage)  # serve stacks and plain networks alike


@with_usual_torch
def unstack(network: nn.Module, member: int) -> nn.Module:
    """Member `member` as a plain module with equal outputs: `[S, B, ...]` becomes `[B, ...]`.

    Weights are copied, and so is the mode, training or evaluation.

    Raises:
        RlabError: a layer of someone else's has no method `unstack(member)`.
    """
    with torch.random.fork_rng(devices=[]):  # plain layers draw weights when they are made, before they get theirs
        return _unstack(network, member).train(network.training)


@with_usual_torch
def stack(networks: Sequence[nn.Module]) -> nn.Module:
    """The way back: plain modules of one shape become the members of a stack, in order.

    Weights are copied, and so is the mode of the first one. Dropout comes back without random streams: such a stack can
    be evaluated; to train it, copy its parameters into one that `build` has made.

    Raises:
        RlabError: there are no networks, they differ in more than their weights, or a layer has no stacked counterpart.
    """
    if not networks:
        raise RlabError("a stack needs one network or more.")
    first = repr(networks[0]).splitlines()  # torch's repr states every layer with its settings
    for network in networks[1:]:
        for expected, found in zip_longest(first, repr(network).splitlines(), fillvalue="nothing"):
            if expected != found:
                raise RlabError(f"only networks alike can be stacked; one has {found.strip()} for {expected.strip()}.")
    return _stack(networks).train(networks[0].training)


def _unstack(network: nn.Module, member: int) -> nn.Module:
    if isinstance(network, StackedNetwork):
        return nn.Sequential(*(_unstack(layer, member) for layer in network))
    if isinstance(network, Streams):
        return network.rebuilt([_unstack(stream, member) for stream in network.streams().values()])
    if isinstance(network, _UNCHANGED):
        return copy.deepcopy(network)
    way_out: Callable[[int], nn.Module] | None = getattr(network, "unstack", None)
    if way_out is not None:
        return way_out(member)
    raise RlabError(f"{type(network).__name__} has no way out of the stack; give it a method unstack(member).")


def _stack(networks: Sequence[nn.Module]) -> nn.Module:
    first = networks[0]
    if isinstance(first, nn.Sequential):
        return StackedNetwork(*(_stack(layers) for layers in zip(*networks, strict=True)))
    if isinstance(first, Streams):
        every = zip(*(network.streams().values() for network in networks if isinstance(network, Streams)), strict=True)
        return first.rebuilt([_stack(streams) for streams in every])
    if type(first) in _STACKED_OF:
        stacked: nn.Module = _STACKED_OF[type(first)].stack(networks)
        return stacked
    if isinstance(first, _UNCHANGED):
        return copy.deepcopy(first)
    known = ", ".join(kind.__name__ for kind in _STACKED_OF)
    raise RlabError(f"{type(first).__name__} has no stacked counterpart; known: {known}.")
