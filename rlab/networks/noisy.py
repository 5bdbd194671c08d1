"""Linear layers with learned noise on their weights (Fortunato et al. 2018, NoisyNet): an agent that explores with them
needs no random actions, and learns where it still should."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.networks.layers import StackedLinear, linear_settings
from rlab.networks.registry import LayerKind, register


class StackedNoisyLinear(StackedLinear):
    """`[S, B, in] -> [S, B, out]`: in training `weight + weight_noise * f(in) f(out)` and `bias + bias_noise * f(out)`,
    with fresh noise for each member in every call (equations 10 and 11); else the linear layer of the means.

    Noise is factorised: one normal number for each input and one for each output, through f(x) = sgn(x) sqrt|x|. It
    leaves the stack, and is merged, as the plain linear layer of the means.

    Args:
        members, in_features, out_features, init, gain: as of `StackedLinear`.
        sigma: the noise begins with this over the root of `in_features` everywhere; 0.5 in the paper.
    """

    def __init__(
        self,
        members: int,
        in_features: int,
        out_features: int,
        init: str = "pytorch",
        gain: float = 1.0,
        sigma: float = 0.5,
    ) -> None:
        super().__init__(members, in_features, out_features, init, gain)
        self.sigma = sigma
        self.draws: Draws | None = None  # of `build`
        first = sigma / in_features**0.5
        self.weight_noise = nn.Parameter(torch.full_like(self.weight, first))
        self.bias_noise = nn.Parameter(torch.full_like(self.bias, first))

    def forward(self, x: Tensor) -> Tensor:
        """Raises RlabError where it is in training and has no random numbers."""
        if not self.training:
            return super().forward(x)
        if self.draws is None:
            raise RlabError("noisy layers in training need random numbers: set their `draws`, or call eval().")
        _, *sizes = self.weight.shape
        drawn = self.draws.to(x.device).normal(1, sum(sizes))  # [S, 1, in + out]
        entering, leaving = (drawn.sign() * drawn.abs().sqrt()).split(sizes, dim=-1)
        weight = torch.addcmul(self.weight, self.weight_noise, entering.mT * leaving)
        return torch.baddbmm(torch.addcmul(self.bias, self.bias_noise, leaving), x, weight)

    def unstack(self, member: int) -> nn.Linear:
        """The linear layer of one member's means; a copy."""
        plain: nn.Linear = self.merge().unstack(member)
        return plain

    def merge(self) -> StackedLinear:
        """The linear layers of the means; a copy."""
        members, in_features, out_features = self.weight.shape
        plain = StackedLinear(members, in_features, out_features, self.init, self.gain).to(self.weight)
        plain.load_state_dict({"weight": self.weight, "bias": self.bias})
        return plain


class Noise:
    """A block in which the noisy layers of a network draw noise, and nothing else that trains differently changes.

        with noise:
            outputs = network(obs)

    Outside of such blocks a network in evaluation is the one of its means.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = [layer for layer in network.modules() if isinstance(layer, StackedNoisyLinear)]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.training = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer in self.layers:
            layer.training = False


def _without_noise(args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "linear", {name: value for name, value in args.items() if name != "sigma"}


register(
    LayerKind(
        "noisy_linear",
        StackedNoisyLinear,
        StackedNoisyLinear,
        settings=lambda layer: {**linear_settings(layer), "sigma": layer.sigma},
        merges_to=_without_noise,
    )
)
