"""Initial weights by name, drawn from a generator that the caller owns."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlab.errors import unknown


def _pytorch(weight: Tensor, bias: Tensor, gain: float, generator: torch.Generator) -> None:
    # What nn.Linear and nn.Conv2d do: He uniform with a = sqrt(5), which is U(+-1/sqrt(fan_in)) for both tensors.
    bound = gain / math.sqrt(weight[0].numel())
    weight.uniform_(-bound, bound, generator=generator)
    bias.uniform_(-bound, bound, generator=generator)


def _orthogonal(weight: Tensor, bias: Tensor, gain: float, generator: torch.Generator) -> None:
    # Saxe et al. 2014. Drawn into fresh memory: the tensor handed in may be a transposed view.
    weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), gain, generator=generator))
    bias.zero_()


def _xavier(weight: Tensor, bias: Tensor, gain: float, generator: torch.Generator) -> None:
    nn.init.xavier_uniform_(weight, gain, generator=generator)  # Glorot and Bengio 2010, equation 16
    bias.zero_()


def _he(weight: Tensor, bias: Tensor, gain: float, generator: torch.Generator) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)  # He et al. 2015, equation 10
    weight.mul_(gain)
    bias.zero_()


INITIALISERS: dict[str, Callable[[Tensor, Tensor, float, torch.Generator], None]] = {
    "pytorch": _pytorch,
    "orthogonal": _orthogonal,
    "xavier": _xavier,
    "he": _he,
}


@torch.no_grad()
def initialise(weight: Tensor, bias: Tensor, name: str, gain: float, generator: torch.Generator) -> None:
    """Fill `weight [out, in, ...]` and `bias [out]` in place.

    Args:
        name: one of `INITIALISERS`.
        gain: scale of the weights; sqrt(2) suits ReLU layers, 0.01 a policy's last layer.

    Raises:
        UsageError: the name is not known.
    """
    if name not in INITIALISERS:
        raise unknown("initialisation", name, INITIALISERS)
    INITIALISERS[name](weight, bias, gain, generator)
