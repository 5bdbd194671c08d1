"""Networks that value actions, Q(s, a), and ensembles of networks."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlab.networks.bodies import BodySettings, critic_like, entrance, hidden_layers, linear_layer
from rlab.networks.spaces import Space
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork, build_rows
from rlab.trust import Trust


@dataclass(frozen=True)
class ActionValueSpec:
    """Q(s, a) as plain data: what the observation passes alone, and what its features and the action pass together."""

    body: NetworkSpec
    top: NetworkSpec


def action_value_spec(obs_space: Space, action_width: int, body: BodySettings, outputs: int = 1) -> ActionValueSpec:
    """Q(s, a) for actions of `action_width` numbers: convolutions see the image alone, all else sees the action too.

    Behind a body of the user's own comes one hidden layer as wide as its features.

    Raises:
        UsageError: no body suits the observation space, or a setting is out of range.
    """
    before, hidden = entrance(obs_space, body)
    widths = hidden if body.own is None else (before.features,)
    layers, width = hidden_layers(before.features + action_width, widths, body)
    top = NetworkSpec((*layers, linear_layer(width, outputs, body.init)))
    return ActionValueSpec(NetworkSpec(before.layers, before.drawn), top)


def action_value_like(actor: NetworkSpec, action_width: int = 0, outputs: int = 1) -> ActionValueSpec:
    """Q(s, a) with layers like those of `actor`, the action from its first linear layer on.

    With an `action_width` of 0 it is Q(s), with one of the `outputs` for each choice.
    """
    layers = list(critic_like(actor).layers)
    first = next(index for index, layer in enumerate(layers) if layer.kind == "linear")
    layers[first] = _with(layers[first], "in_features", layers[first].args["in_features"] + action_width)
    layers[-1] = _with(layers[-1], "out_features", outputs)
    return ActionValueSpec(NetworkSpec(tuple(layers[:first])), NetworkSpec(tuple(layers[first:])))


class ActionValue(nn.Module):
    """A stack of Q(s, a), or of Q(s) where no action is given."""

    def __init__(self, body: StackedNetwork, top: StackedNetwork) -> None:
        super().__init__()
        self.body, self.top = body, top

    def forward(self, obs: Tensor, action: Tensor | None = None) -> Tensor:
        """Preprocessed observations `[S, B, ...]` and actions `[S, B, action_width]` to values `[S, B, outputs]`."""
        features = self.body.forward(obs)
        return self.top.forward(features if action is None else torch.cat([features, action], dim=-1))


class Ensemble(nn.Module):
    """C networks for each of S members, `[S, B, ...]` in and `[S, C, B, ...]` out; all of a member see the same.

    They are one stack of `S * C` networks, member i's from `i * C` on, so that a layer is one operation for all of
    them. The tensors of `state_dict` are `[S, C, ...]`, as those of any stack lead with the members; the parameters
    themselves are `[S * C, ...]`: an optimizer has to be told how many members there are.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_state_dict_post_hook(_by_member)
        self.register_load_state_dict_pre_hook(_by_network)

    def forward(self, *inputs: Tensor) -> Tensor:
        each = (x.unsqueeze(1).expand(-1, self.size, *x.shape[1:]).flatten(0, 1) for x in inputs)
        values: Tensor = self.network(*each)
        return values.unflatten(0, (-1, self.size))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> nn.Module:
        """A stack of the network with this place among each member's, which shares their weights; for evaluation."""
        return _views(self.network, lambda tensor: tensor.unflatten(0, (-1, self.size))[:, index])

    def __iter__(self) -> Iterator[nn.Module]:
        return (self[index] for index in range(self.size))


def _views(module: nn.Module, view: Callable[[Tensor], Tensor]) -> nn.Module:
    """The same layers on views of their tensors."""
    found = copy.copy(module)
    for kind in ("_parameters", "_buffers"):
        tensors = getattr(module, kind).items()
        found.__dict__[kind] = {name: None if tensor is None else view(tensor) for name, tensor in tensors}
    found.__dict__["_modules"] = {name: _views(child, view) for name, child in module.named_children()}
    return found


def _by_member(ensemble: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    assert isinstance(ensemble, Ensemble)
    for name in [name for name in state if name.startswith(prefix)]:
        state[name] = state[name].unflatten(0, (-1, ensemble.size))


def _by_network(ensemble: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[name] = state[name].flatten(0, 1)


def build_ensemble(
    spec: NetworkSpec | ActionValueSpec, seeds: Sequence[int], use: str, size: int, trust: Trust = False
) -> Ensemble:
    """`size` freshly initialised networks for each member; the c-th one's weights depend on a seed, `use` and c alone.

    They are in evaluation mode. `target.load_state_dict(online.state_dict())` makes a second ensemble equal.

    Raises:
        UsageError, RlabError: as `build`.
    """
    rows = [(seed, f"{use}_{c}") for seed in seeds for c in range(1, size + 1)]
    if isinstance(spec, NetworkSpec):
        return Ensemble(build_rows(spec, rows, trust), size).eval()
    body = build_rows(spec.body, [(seed, f"{name}_body") for seed, name in rows], trust)
    return Ensemble(ActionValue(body, build_rows(spec.top, rows, trust)), size).eval()


def _with(layer: LayerSpec, name: str, value: int) -> LayerSpec:
    return LayerSpec(layer.kind, {**layer.args, name: value})
