"""Networks that value actions, Q(s, a), and ensembles of networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlab.networks.bodies import BodySettings, critic_like, entrance, hidden_layers, linear_layer
from rlab.networks.spaces import Space
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork, build
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


class Ensemble(nn.ModuleList):
    """C networks for each of S members, `[S, B, ...]` in and `[S, C, B, ...]` out; all of a member see the same.

    They run one after another: as one stack of S * C they took as long at 64 units and up to 1.6 times as long at 256,
    forward and backward on one CPU core, since the weights `[S, C, ...]` that an optimizer keeps must be copied for it.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.stack([network(*inputs) for network in self], dim=1)


def build_ensemble(
    spec: NetworkSpec | ActionValueSpec, seeds: Sequence[int], use: str, size: int, trust: Trust = False
) -> Ensemble:
    """`size` freshly initialised networks for each member; the c-th one's weights depend on a seed, `use` and c alone.

    They are in evaluation mode. `target.load_state_dict(online.state_dict())` makes a second ensemble equal.

    Raises:
        UsageError, RlabError: as `build`.
    """
    uses = [f"{use}_{c}" for c in range(1, size + 1)]
    if isinstance(spec, NetworkSpec):
        return Ensemble(build(spec, seeds, use, trust) for use in uses).eval()
    body, top = spec.body, spec.top
    parts = [(build(body, seeds, f"{use}_body", trust), build(top, seeds, use, trust)) for use in uses]
    return Ensemble(ActionValue(*part) for part in parts).eval()


def _with(layer: LayerSpec, name: str, value: int) -> LayerSpec:
    return LayerSpec(layer.kind, {**layer.args, name: value})
