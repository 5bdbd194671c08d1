"""The layer of implicit quantile networks (Dabney et al. 2018b): the fraction of a quantile is an input, so that one
network gives any quantile of each action's return."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.networks.branches import Streams
from rlab.networks.registry import register_shared


class ImplicitQuantiles(Streams):
    """`[..., B, D] -> [..., B, n * (A + 1)]`: for each of n fractions the returns of A actions, then the fraction.

    The features are multiplied by an embedding of the fraction's cosines (equation 4), of which `values` makes the
    returns. In training every member draws `samples` fractions for each row. Everywhere else the fractions are the
    middles of `points` equal parts of [0, 1], so that what a policy does, and what it is exported to, is fixed; the
    mean over them is the integral that the paper estimates with draws.

    Args:
        embedding: from `cosines` numbers to D.
        values: from D numbers to A.
    """

    def __init__(
        self, embedding: nn.Module, values: nn.Module, cosines: int = 64, samples: int = 8, points: int = 32
    ) -> None:
        super().__init__()
        self.embedding, self.values = embedding, values
        self.cosines, self.samples, self.points = cosines, samples, points
        self.draws: Draws | None = None

    def forward(self, x: Tensor) -> Tensor:
        """
        Raises:
            RlabError: it is in training and has no random numbers.
        """
        rows = x.shape[-2]
        if self.training:
            if self.draws is None:
                raise RlabError("quantiles in training need random numbers: set the layer's `draws`, or call eval().")
            fraction = self.draws.to(x.device).uniform(rows, self.samples).to(x.dtype)  # [S, B, n]
            embedded = self.embedded(fraction.flatten(-2)).unflatten(-2, (rows, self.samples))  # [S, B, n, D]
        else:
            fraction = self.middles(x).expand(*x.shape[:-1], self.points)
            embedded = self.embedded(fraction[..., 0, :]).unsqueeze(-3)  # alike for all rows: [..., 1, n, D]
        joined = (x.unsqueeze(-2) * embedded).flatten(-3, -2)  # [..., B * n, D]
        returns = self.values(joined).unflatten(-2, (rows, fraction.shape[-1]))  # [..., B, n, A]
        return torch.cat([returns, fraction.unsqueeze(-1)], dim=-1).flatten(-2)

    def middles(self, like: Tensor) -> Tensor:
        """The fractions outside of training, `[points]`."""
        return (torch.arange(self.points, device=like.device, dtype=like.dtype) + 0.5) / self.points

    def embedded(self, fraction: Tensor) -> Tensor:
        """The embedding of fractions `[..., n]`: `[..., n, D]`."""
        frequency = math.pi * torch.arange(self.cosines, device=fraction.device, dtype=fraction.dtype)
        y: Tensor = self.embedding((fraction.unsqueeze(-1) * frequency).cos())
        return y

    def streams(self) -> dict[str, nn.Module]:
        return {"embedding": self.embedding, "values": self.values}

    def rebuilt(self, streams: Sequence[nn.Module]) -> Self:
        embedding, values = streams
        return type(self)(embedding, values, **self.settings())

    def settings(self) -> dict[str, int]:
        """What builds it beside its two networks."""
        return {"cosines": self.cosines, "samples": self.samples, "points": self.points}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings().items())


register_shared("implicit_quantiles", ImplicitQuantiles, ImplicitQuantiles.settings)
