"""Between a stack `[S, ...]` and plain `torch.nn` modules, which other tools know how to compress and export."""

from collections.abc import Sequence

from torch import nn

from rlab.errors import RlabError
from rlab.networks.layers import (
    ACTIVATIONS,
    Dueling,
    StackedConv2d,
    StackedDropout,
    StackedFlatten,
    StackedLayerNorm,
    StackedLinear,
)
from rlab.networks.spec import StackedNetwork

_STACKED_OF: dict[type[nn.Module], type] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    nn.LayerNorm: StackedLayerNorm,
    nn.Dropout: StackedDropout,
    nn.Flatten: StackedFlatten,
}


def unstack(network: nn.Module, member: int) -> nn.Module:
    """Member `member` as a plain module with equal outputs: `[S, B, ...]` becomes `[B, ...]`. Weights are copied."""
    if isinstance(network, StackedNetwork):
        return nn.Sequential(*(unstack(layer, member) for layer in network))
    if isinstance(network, Dueling):
        return Dueling(unstack(network.value, member), unstack(network.advantage, member))
    if hasattr(network, "unstack"):
        plain: nn.Module = network.unstack(member)
        return plain
    if isinstance(network, tuple(ACTIVATIONS.values())):
        return type(network)()
    raise RlabError(f"{type(network).__name__} has no way out of the stack; give it a method unstack(member).")


def stack(networks: Sequence[nn.Module]) -> nn.Module:
    """The way back: plain modules of one shape become the members of a stack, in order. Weights are copied.

    Raises:
        RlabError: a layer has no stacked counterpart.
    """
    first = networks[0]
    if isinstance(first, nn.Sequential):
        return StackedNetwork(*(stack(layers) for layers in zip(*networks, strict=True)))  # type: ignore[arg-type]
    if isinstance(first, Dueling):
        return Dueling(stack([n.value for n in networks]), stack([n.advantage for n in networks]))  # type: ignore[misc]
    if type(first) in _STACKED_OF:
        stacked: nn.Module = _STACKED_OF[type(first)].stack(networks)
        return stacked
    if isinstance(first, tuple(ACTIVATIONS.values())):
        return type(first)()
    raise RlabError(f"{type(first).__name__} has no stacked counterpart; known: {', '.join(t.__name__ for t in _STACKED_OF)}.")
