"""What a policy sees, chooses and consists of, in a few lines for people."""

from collections.abc import Mapping
from math import prod

from torch import nn

from rlab.networks.branches import Streams
from rlab.networks.layers import StackedConv2d
from rlab.networks.policy import Policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.registry import kind_of
from rlab.networks.spaces import Box, Masked
from rlab.networks.spec import StackedNetwork


def shapes(policy: Policy, networks: Mapping[str, nn.Module]) -> list[str]:
    """One line for observations, one for actions, and one for each network.

    Args:
        networks: stacks of as many members as the policy has, by name.
    """
    head, members = policy.spec.head["kind"], len(policy.seeds)
    return [
        f"observation {policy.spec.obs_space}: {_seen(policy.preprocess)}",
        f"action {policy.spec.action_space}: head {head}",
        *(f"network {name}: {_layers(network, members)}" for name, network in networks.items()),
    ]


def _seen(preprocess: Preprocess) -> str:
    """What the network gets of an observation."""
    space = preprocess.obs_space
    inner = space.obs if isinstance(space, Masked) else space
    shape = preprocess.feature_shape
    image = isinstance(inner, Box) and inner.is_image
    found = f"an image {shape}" if image else f"{prod(shape)} number{'' if prod(shape) == 1 else 's'}"
    scaling = {
        "none": "pixels divided by their bound" if image else "as it is" if prod(shape) == 1 else "as they are",
        "fixed": "divided by fixed numbers",
        "running": "less their running mean, over their running deviation",
    }[preprocess.scaling]
    mask = f", and a mask of {space.size} actions" if isinstance(space, Masked) else ""
    return f"the network sees {found}, {scaling}{mask}"


def _layers(network: nn.Module, members: int) -> str:
    count = _count(network, members)
    total = f"{count} parameter{'' if count == 1 else 's'} per member"
    if not isinstance(network, StackedNetwork):
        return f"{type(network).__name__}, {total}"
    return f"{_sequence(network, members)}; {total}"


def _sequence(network: nn.Module, members: int) -> str:
    return ", ".join(_layer(layer, members) for layer in network.children())


def _layer(layer: nn.Module, members: int) -> str:
    """A layer's name, its sizes where they tell something, and its number of parameters where it has any."""
    count = _count(layer, members)
    numbers = f" ({count})" if count else ""
    streams = list(layer.streams().values()) if isinstance(layer, Streams) else []
    kind = kind_of(layer)
    name = type(layer).__name__ if kind is None else kind.name
    if streams:
        return f"{name} [{' | '.join(_sequence(stream, members) for stream in streams)}]{numbers}"
    weight = getattr(layer, "weight", None)
    if isinstance(layer, StackedConv2d):
        _, outputs, inputs, size, _ = layer.weight.shape
        return f"{name} {inputs}->{outputs} {size}x{size}/{layer.stride}{numbers}"
    if weight is not None and weight.ndim == 3 and "linear" in name:
        return f"{name} {weight.shape[1]}->{weight.shape[2]}{numbers}"
    return f"{name}{numbers}"


def _count(module: nn.Module, members: int) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) // members
