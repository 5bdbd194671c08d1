"""Networks as plain data: a list of layers, each a kind and its arguments, that JSON can hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeGuard, TypeVar, overload

import torch
from torch import Tensor, nn

from rlab.door import clean
from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.networks import attention, branches, implicit_quantiles, noisy, sequences  # noqa: F401  these register layers
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.own import OWN, check_builder
from rlab.networks.registry import layer_kind
from rlab.networks.torch_defaults import with_usual_torch
from rlab.randomness import torch_stream
from rlab.trust import Trust
from rlab.types import Json

MOST_LAYERS = 2_000
P = ParamSpec("P")
T = TypeVar("T")
NOISE_AHEAD = 16  # successive calls of a small layer that are drawn at once


@dataclass(frozen=True)
class LayerSpec:
    """One layer: a kind of `registry` (or `their.module:Layer`) and the arguments that build it.

    Arguments are JSON values; a tuple of layers, such as the streams of `dueling`, reaches the builder as one module,
    and a tuple of such tuples, as of `branches`, as a list of modules.
    """

    kind: str
    args: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What files hold of it; `from_json` gives it back."""
        return {"kind": self.kind, **{name: _to_json(value) for name, value in self.args.items()}}

    @classmethod
    def from_json(cls, data: Json) -> "LayerSpec":
        """The layer that `to_json` wrote."""
        return cls(data["kind"], {name: _from_json(value) for name, value in data.items() if name != "kind"})


@dataclass(frozen=True)
class NetworkSpec:
    """Layers in the order in which data flows through them.

    `drawn` gives fresh weights to the first of them; it is called with the built layers and a generator for each
    member. It is not stored in files.
    """

    layers: tuple[LayerSpec, ...]
    drawn: Callable[["StackedNetwork", Sequence[torch.Generator]], None] | None = field(
        default=None, compare=False, repr=False
    )

    def to_json(self) -> dict[str, Any]:
        """What files hold of it; `from_json` gives it back."""
        return {"layers": _to_json(self.layers)}

    @classmethod
    def from_json(cls, data: Json) -> "NetworkSpec":
        """The network that `to_json` wrote.

        Raises:
            RlabError: as `check_layers`.
        """
        check_layers(data)
        return cls(_from_json(data["layers"]))


def check_layers(data: Any) -> None:
    """Refuse the JSON of a network whose layers are not objects with a kind, or are too many.

    Raises:
        RlabError: it is.
    """
    layers = data.get("layers") if isinstance(data, dict) else None
    if not isinstance(layers, list | tuple):
        raise RlabError(f"a network must be an object with a list of layers, not {clean(repr(data)):.60}")
    for layer in layers:
        if not isinstance(layer, dict) or not isinstance(layer.get("kind"), str):
            raise RlabError(f"a layer must be an object with a kind, not {clean(repr(layer)):.60}")
    if (count := _count(layers)) > MOST_LAYERS:
        raise RlabError(f"a network has at most {MOST_LAYERS:,} layers, and this one {count:,}")


def _count(value: Any) -> int:
    """The layers in a network, those inside others too."""
    if isinstance(value, dict):
        return ("kind" in value) + sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list | tuple) else 0


def _to_json(value: Any) -> Any:
    if isinstance(value, LayerSpec):
        return value.to_json()
    return [_to_json(v) for v in value] if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return LayerSpec.from_json(value) if "kind" in value else value
    return tuple(_from_json(v) for v in value) if isinstance(value, list) else value


class DrawingLayer(Protocol):
    """A layer, anyone's, that draws random numbers in training (`layer.training`), such as dropout."""

    # None at first; `build` gives it numbers `[S, ...]`, each member's own, and checkpoints keep where they stand. They
    # begin on the CPU: draw from `self.draws.to(x.device)`.
    draws: Draws | None


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


def build(spec: NetworkSpec, seeds: Sequence[int], use: str = "network", trust: Trust = False) -> StackedNetwork:
    """A stack of S freshly initialised networks; member i's weights depend on `seeds[i]` and `use` alone.

    Args:
        use: the name of the random streams, so that two networks of one agent start differently.
        trust: allow layer kinds of the form `their.module:Layer`, which import other people's code; see
            `LayerKind.of` for what such a layer offers.

    Raises:
        UsageError: a kind of layer is not known.
        RlabError: a layer from outside rlab is named and `trust` is false.
    """
    return build_rows(spec, [(seed, use) for seed in seeds], trust)


@with_usual_torch
def build_rows(spec: NetworkSpec, rows: Sequence[tuple[int, str]], trust: Trust = False) -> StackedNetwork:
    """As `build`, with a training seed and a use for each network of the stack."""
    network = _sequence(len(rows), spec.layers, trust)
    generators = [torch_stream(seed, f"init/{use}") for seed, use in rows]
    for index, module in enumerate(network.modules()):
        initialise = getattr(module, "initialise", None)
        if _draws(module):
            module.draws = draws_of_layer(rows, index)
        if initialise is not None:
            initialise(generators)
    if spec.drawn is not None:
        spec.drawn(network, generators)
    return network


def _sequence(members: int, layers: Iterable[LayerSpec], trust: Trust) -> StackedNetwork:
    return StackedNetwork(*(_layer(members, layer, trust) for layer in layers))


def _layer(members: int, layer: LayerSpec, trust: Trust) -> nn.Module:
    if layer.kind == OWN:
        check_builder(str(layer.args.get("builder")), trust)
    arguments = {name: _argument(members, value, trust) for name, value in layer.args.items()}
    return layer_kind(layer.kind, trust).build(members, **arguments)


def _argument(members: int, value: Any, trust: Trust) -> Any:
    """Layers inside a layer, such as a stream of `dueling`, are built; anything else is handed over as it is."""
    if is_stream(value):
        return _sequence(members, value, trust)
    return [_sequence(members, stream, trust) for stream in value] if are_streams(value) else value


def draws_of_layer(rows: Sequence[tuple[int, str]], index: int) -> Draws:
    """The random numbers of the layer with this place among the modules of a stack with these seeds and uses."""
    return Draws.of_uses([(seed, f"dropout/{use}/{index}") for seed, use in rows], "cpu", NOISE_AHEAD)


def draw_states(network: nn.Module) -> list[dict[str, int]]:
    """Where the random numbers of every layer stand, in a fixed order, for a checkpoint."""
    return [draws.state() for draws in _draws_of(network)]


def load_draw_states(network: nn.Module, states: Sequence[dict[str, int]]) -> None:
    """Put back what `draw_states` gave."""
    for draws, state in zip(_draws_of(network), states, strict=True):
        draws.load_state(state)


def _draws_of(network: nn.Module) -> list[Draws]:
    return [module.draws for module in network.modules() if _draws(module) and module.draws is not None]


def _draws(module: nn.Module) -> TypeGuard[DrawingLayer]:
    """Whether a layer draws random numbers in training."""
    return hasattr(module, "draws")


@overload
def in_training(network: nn.Module) -> Callable[..., Tensor]: ...


@overload
def in_training(network: nn.Module, function: Callable[P, T]) -> Callable[P, T]: ...


def in_training(network: nn.Module, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The network, or a function that calls it, so that it is in training mode meanwhile: with dropout, noise and
    statistics of the batch. Everywhere else these are off."""
    run = network if function is None else function
    if not (draws_in_training(network) or any(isinstance(layer, BatchRenorm) for layer in network.modules())):
        return run

    def call(*args: Any, **kwargs: Any) -> Any:
        network.train()
        y = run(*args, **kwargs)
        network.eval()
        return y

    return call


def draws_in_training(network: nn.Module) -> bool:
    """Whether a network's outputs differ between training and evaluation, as with dropout."""
    return any(map(_draws, network.modules()))


@torch.no_grad()
def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Make `target`'s parameters and buffers equal to `source`'s, in place."""
    torch._foreach_copy_(_tensors(target), _tensors(source))


def load_members(network: nn.Module, found: Mapping[str, Tensor], members: Sequence[int]) -> str | None:
    """Load the state dict `found` of another stack like `network`, member i from its `members[i]`; why it cannot be
    done, else None."""
    if not found:
        return "the run has none"
    if {n: t.shape[1:] for n, t in found.items()} != {n: t.shape[1:] for n, t in network.state_dict().items()}:
        return "the existing one has a different shape"
    network.load_state_dict({name: tensor[list(members)] for name, tensor in found.items()})
    return None


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
