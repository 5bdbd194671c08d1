"""Between a stack `[S, ...]` and plain `torch.nn` modules, which other tools know how to compress and export."""

import copy
from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch
from torch import nn

from rlab.errors import RlabError
from rlab.networks.branches import Streams
from rlab.networks.registry import kind_of
from rlab.networks.spec import StackedNetwork
from rlab.networks.torch_defaults import with_usual_torch


@with_usual_torch
def unstack(network: nn.Module, member: int) -> nn.Module:
    """Member `member` as a plain module with equal outputs: `[S, B, ...]` becomes `[B, ...]`.

    Weights are copied, and so is the mode, training or evaluation.

    Raises:
        RlabError: a layer from outside rlab has no method `unstack(member)`.
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
    way_out: Callable[[int], nn.Module] | None = getattr(network, "unstack", None)
    if way_out is not None:
        return way_out(member)
    if _is_shared(network):
        return copy.deepcopy(network)
    raise RlabError(
        f"{type(network).__name__} cannot leave its stack: give its class a method unstack(member) that makes "
        "the layer of one member."
    )


def _stack(networks: Sequence[nn.Module]) -> nn.Module:
    first = networks[0]
    if isinstance(first, nn.Sequential):
        return StackedNetwork(*(_stack(layers) for layers in zip(*networks, strict=True)))
    if isinstance(first, Streams):
        every = zip(*(network.streams().values() for network in networks if isinstance(network, Streams)), strict=True)
        return first.rebuilt([_stack(streams) for streams in every])
    kind = kind_of(first)
    way_in = None if kind is None or type(first) is not kind.plain else getattr(kind.stacked, "stack", None)
    if way_in is not None:
        stacked: nn.Module = way_in(networks)
        return stacked
    if _is_shared(first):
        return copy.deepcopy(first)
    raise RlabError(
        f"{type(first).__name__} has no stacked counterpart. A layer of your own has one where the class that its kind "
        "names has `plain`, the class of one member's layer, and a class method stack(modules)."
    )


def _is_shared(layer: nn.Module) -> bool:
    """Whether a layer without weights of its own serves stacks and plain networks alike."""
    kind = kind_of(layer)
    return kind is not None and kind.stacked is kind.plain
