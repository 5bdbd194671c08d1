"""The way back from a network to its spec: what `build` would need to make layers like these."""

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from rlab.errors import RlabError
from rlab.networks.branches import Streams
from rlab.networks.layers import WeightLayer
from rlab.networks.policy import Policy
from rlab.networks.registry import kind_of
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork
from rlab.networks.stacking import stack


def spec_of(network: nn.Module) -> NetworkSpec:
    """The spec from which `build` makes a network of the same layers and shapes; for stacks and plain networks.

    A network that `build` made gives its own spec back, but for what only fresh weights depend on: a plain layer no
    longer knows its initialisation, which is then `pytorch`, and no layer knows where its `log_std` started.

    Raises:
        RlabError: the network is not a sequence of layers, or a spec cannot hold a layer or one of its settings.
    """
    if type(network) is nn.Sequential:
        return spec_of(stack([network]))  # refuses what a stack, and so a spec, does not know
    if not isinstance(network, StackedNetwork):
        raise RlabError(f"{type(network).__name__} has no spec; a StackedNetwork or an nn.Sequential of layers has.")
    return NetworkSpec(tuple(_layer(layer) for layer in network))


def with_network(policy: Policy, network: nn.Module) -> Policy:
    """The policy with another stack in the place of its network, and the spec of that stack; the rest is copied.

    Raises:
        RlabError: the network has no spec.
    """
    spec = replace(policy.spec, network=spec_of(network))
    return Policy(spec, copy.deepcopy(policy.preprocess), network, policy.seeds).train(policy.training)


def _layer(layer: nn.Module) -> LayerSpec:
    kind = kind_of(layer)
    if kind is None or type(layer) is not kind.stacked or kind.settings is None:
        hint = "" if kind is None else " Its class needs a method settings(), the arguments that build it."
        if isinstance(layer, WeightLayer):
            hint = " Convert it first."
        elif isinstance(layer, StackedNetwork):
            hint = " A sequence inside another one: put its layers into the outer one."
        raise RlabError(f"{type(layer).__name__} has no kind in a network's spec.{hint}")
    return LayerSpec(kind.name, {**kind.settings(layer), **_streams(layer)})


def _streams(layer: nn.Module) -> dict[str, Any]:
    """The arguments that are networks: layers for the stream `value`, a tuple of layers for `branches.0` and on."""
    found: dict[str, Any] = {}
    for name, stream in layer.streams().items() if isinstance(layer, Streams) else ():
        key, in_list, _ = name.partition(".")
        layers = spec_of(stream).layers
        found[key] = (*found.get(key, ()), layers) if in_list else layers
    return found
