"""Networks as plain data: a list of layers, each a kind and its arguments, that JSON can hold."""

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from rlab.errors import RlabError, unknown
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
from rlab.networks.own import OwnBody, is_known_here
from rlab.networks.quantized import COMPRESSED_LAYERS
from rlab.networks.sequences import StackedEmbedding, StackedGRU
from rlab.networks.sparse import SPARSE_LAYERS
from rlab.networks.usual import with_usual_torch
from rlab.randomness import torch_stream
from rlab.trust import Trust, advice, trusts
from rlab.types import Json


@dataclass(frozen=True)
class LayerSpec:
    """One layer: a kind from `LAYER_KINDS` (or `their.module:Builder`) and the arguments of its builder.

    Arguments are JSON values; a tuple of layers, such as the streams of `dueling`, reaches the builder as one module,
    and a tuple of such tuples, as of `branches`, as a list of modules.
    """

    kind: str
    args: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **{name: _to_json(value) for name, value in self.args.items()}}

    @classmethod
    def from_json(cls, data: Json) -> "LayerSpec":
        return cls(data["kind"], {name: _from_json(value) for name, value in data.items() if name != "kind"})


@dataclass(frozen=True)
class NetworkSpec:
    """Layers in the order in which data flows through them.

    `drawn` gives fresh weights to the first of them, called with the built layers and a generator for each member; it
    is nothing that a file holds.
    """

    layers: tuple[LayerSpec, ...]
    drawn: Callable[["StackedNetwork", Sequence[torch.Generator]], None] | None = field(
        default=None, compare=False, repr=False
    )

    def to_json(self) -> dict[str, Any]:
        return {"layers": _to_json(self.layers)}

    @classmethod
    def from_json(cls, data: Json) -> "NetworkSpec":
        return cls(_from_json(data["layers"]))


def _to_json(value: Any) -> Any:
    if isinstance(value, LayerSpec):
        return value.to_json()
    return [_to_json(v) for v in value] if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return LayerSpec.from_json(value) if "kind" in value else value
    return tuple(_from_json(v) for v in value) if isinstance(value, list) else value


class StackedNetwork(nn.Sequential):
    """S copies of one network, parameters `[S, ...]`; `[S, B, ...]` in, `[S, B, outputs]` out."""

    def forward(self, x: Tensor) -> Tensor:
        # Past the layers' hooks, of which there are none: with small networks the calls themselves take time.
        for layer in self._modules.values():
            assert layer is not None
            x = layer.forward(x)
        return x


def is_stream(value: Any) -> bool:
    """Whether an argument of a layer is a sequence of layers, such as a stream of `dueling`."""
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, LayerSpec) for item in value)


def are_streams(value: Any) -> bool:
    """Whether an argument of a layer is several sequences of layers, such as those of `branches`."""
    return isinstance(value, tuple) and bool(value) and all(map(is_stream, value))


def _same(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    """The builder of a layer that serves stacks and plain networks alike."""
    return lambda members, **args: kind(**args)


OWN = "own"  # the kind of a body that a function of the user's makes

# kind -> builder(members, **args). One row per layer that a policy folder may name.
LAYER_KINDS: dict[str, Callable[..., nn.Module]] = {
    "linear": StackedLinear,
    "conv2d": StackedConv2d,
    "layer_norm": StackedLayerNorm,
    "dropout": StackedDropout,
    "flatten": StackedFlatten,
    "dueling": _same(Dueling),
    "log_std": StackedLogStd,
    "embedding": StackedEmbedding,
    "gru": StackedGRU,
    "lora_linear": StackedLoraLinear,
    "lora_conv2d": StackedLoraConv2d,
    **{str(layer.kind): layer for layer in COMPRESSED_LAYERS},
    **{str(layer.kind): layer for layer in SPARSE_LAYERS},
    OWN: OwnBody,
    "branches": _same(Branches),
    "pick": _same(Pick),
    "pick_image": _same(PickImage),
    **{name: _same(kind) for name, kind in ACTIVATIONS.items()},
    "tanh": StackedTanh,
}


@with_usual_torch
def build(spec: NetworkSpec, seeds: Sequence[int], use: str = "network", trust: Trust = False) -> StackedNetwork:
    """A stack of S freshly initialised networks; member i's weights depend on `seeds[i]` and `use` alone.

    Args:
        use: the name of the random streams, so that two networks of one agent start differently.
        trust: allow layer kinds of the form `their.module:Builder`, which import other people's code. A builder is
            called as `Builder(members, **args)`; a module with parameters fills them in `initialise(generators)`.

    Raises:
        UsageError: a kind of layer is not known.
        RlabError: a layer of someone else's is named and `trust` is false.
    """
    network = _sequence(len(seeds), spec.layers, trust)
    generators = [torch_stream(seed, f"init/{use}") for seed in seeds]
    for index, module in enumerate(network.modules()):
        initialise = getattr(module, "initialise", None)
        if _draws(module):
            module.generators = [torch_stream(seed, f"dropout/{use}/{index}") for seed in seeds]
        if initialise is not None:
            initialise(generators)
    if spec.drawn is not None:
        spec.drawn(network, generators)
    return network


def _sequence(members: int, layers: Iterable[LayerSpec], trust: Trust) -> StackedNetwork:
    return StackedNetwork(*(_layer(members, layer, trust) for layer in layers))


def _layer(members: int, layer: LayerSpec, trust: Trust) -> nn.Module:
    builder = _builder(layer, trust)
    return builder(members, **{name: _argument(members, value, trust) for name, value in layer.args.items()})


def _argument(members: int, value: Any, trust: Trust) -> Any:
    """Layers inside a layer, such as a stream of `dueling`, are built; anything else is handed over as it is."""
    if is_stream(value):
        return _sequence(members, value, trust)
    return [_sequence(members, stream, trust) for stream in value] if are_streams(value) else value


def _builder(layer: LayerSpec, trust: Trust) -> Callable[..., nn.Module]:
    kind = layer.kind
    if kind not in LAYER_KINDS and ":" not in kind:
        raise unknown("kind of layer", kind, LAYER_KINDS)
    code = str(layer.args.get("builder")) if kind == OWN else kind
    if ":" in code and not is_known_here(code) and not trusts(trust, code.partition(":")[0]):
        raise RlabError(f"layer {code!r} runs code from outside rlab; {advice([code.partition(':')[0]])}")
    if kind in LAYER_KINDS:
        return LAYER_KINDS[kind]
    module, _, name = kind.partition(":")
    builder: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
    return builder


def generator_states(network: nn.Module) -> list[Tensor]:
    """The states of every random stream inside a network, in a fixed order, for a checkpoint."""
    return [g.get_state() for g in _generators(network)]


def load_generator_states(network: nn.Module, states: Sequence[Tensor]) -> None:
    """Put back what `generator_states` gave."""
    for generator, state in zip(_generators(network), states, strict=True):
        generator.set_state(state)


def _generators(network: nn.Module) -> list[torch.Generator]:
    return [g for module in network.modules() if _draws(module) for g in module.generators]


def _draws(module: nn.Module) -> TypeGuard[StackedDropout | OwnBody]:
    """Whether a layer has random streams, which it draws from in training."""
    return isinstance(module, StackedDropout) or (isinstance(module, OwnBody) and module.drops)


def in_training(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network with its dropout on while it is called; everywhere else that is off."""
    if not has_dropout(network):
        return network

    def call(x: Tensor) -> Tensor:
        network.train()
        y: Tensor = network(x)
        network.eval()
        return y

    return call


def has_dropout(network: nn.Module) -> bool:
    """Whether a network says something else in training than in evaluation."""
    return any(map(_draws, network.modules()))


@torch.no_grad()
def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Make `target`'s parameters and buffers equal to `source`'s, in place."""
    torch._foreach_copy_(_tensors(target), _tensors(source))


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
