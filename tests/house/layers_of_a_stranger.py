"""Layers and a policy head that somebody else wrote, from what the documentation says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlab.networks.heads import CategoricalHead
from rlab.networks.layers import StackedLinear, linear_settings
from rlab.networks.spec import LayerSpec, NetworkSpec

HERE = "layers_of_a_stranger"


class PlainGain(nn.Module):
    """One member's factor for each feature; it can be exported and pruned."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def trace(self, tracer: Any, x: str) -> str:
        noted: str = tracer.with_constant("multiply", x, self.factor)
        return noted

    def narrow(self, keep: Tensor) -> None:
        self.factor = nn.Parameter(self.factor.detach()[keep])


class Gain(nn.Module):
    """Factors `[S, 1, F]`."""

    plain = PlainGain

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(members, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def settings(self) -> dict[str, Any]:
        return {"features": self.factor.shape[-1]}

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        for factor, generator in zip(self.factor, generators, strict=True):
            factor.uniform_(0.5, 1.5, generator=generator)

    @torch.no_grad()
    def unstack(self, member: int) -> PlainGain:
        plain = PlainGain(self.factor.shape[-1])
        plain.factor.copy_(self.factor[member, 0])
        return plain

    @classmethod
    @torch.no_grad()
    def stack(cls, modules: Sequence[PlainGain]) -> "Gain":
        stacked = cls(len(modules), len(modules[0].factor))
        stacked.factor.copy_(torch.stack([module.factor for module in modules]).unsqueeze(1))
        return stacked


class Bare(nn.Module):
    """Offers nothing but its forward."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class PlainNoisy(nn.Linear):
    """One member's `Noisy`."""

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        plain = nn.Linear(self.in_features, self.out_features)
        plain.load_state_dict(self.state_dict())
        return plain


class Noisy(StackedLinear):
    """A linear layer with noise in training (which the tests leave out): in evaluation an ordinary one."""

    plain = PlainNoisy

    def settings(self) -> dict[str, Any]:
        return linear_settings(self)

    @staticmethod
    def merges_to(args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        return "linear", dict(args)

    @torch.no_grad()
    def merge(self) -> StackedLinear:
        members, in_features, out_features = self.weight.shape
        plain = StackedLinear(members, in_features, out_features, self.init, self.gain)
        plain.load_state_dict(self.state_dict())
        return plain

    @torch.no_grad()
    def unstack(self, member: int) -> PlainNoisy:
        plain = PlainNoisy(*self.weight.shape[1:])
        plain.load_state_dict(super().unstack(member).state_dict())
        return plain


class Choice(CategoricalHead):
    """A categorical head but for its name; it says how it is exported."""

    def trace(self, tracer: Any, outputs: str, mask: str | None) -> str:
        noted: str = tracer.add("choose", (outputs,), (), "int64", sizes=(self.width,))
        return noted


class Silent(CategoricalHead):
    """A head that cannot be exported and takes no part in distillation."""

    distils_as = None


def body(shape: Sequence[int]) -> NetworkSpec:
    return _spec("Gain", shape[0])


def bare(shape: Sequence[int]) -> NetworkSpec:
    return _spec("Bare", shape[0])


def _spec(kind: str, features: int) -> NetworkSpec:
    return NetworkSpec(
        (
            LayerSpec(f"{HERE}:Noisy", {"in_features": features, "out_features": 8}),
            LayerSpec("tanh"),
            LayerSpec(f"{HERE}:{kind}", {"features": 8}),
        )
    )
