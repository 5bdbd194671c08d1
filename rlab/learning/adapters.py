"""Low-rank adapters (LoRA, Hu et al. 2021): a layer whose weights stand still beside a small product that learns.

The layer computes `x W + b + (alpha / rank) x A B` (equation 3), here with `down` for A and `up` for B. `weight` and
`bias` have the names and shapes of the plain layer's, and `merge()` gives that plain layer. `up` starts at zero, so
that a layer begins with exactly the outputs of the plain one.
"""

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.networks.initialization import initialise
from rlab.networks.layers import StackedConv2d, StackedLayer, StackedLinear, conv2d_settings, linear_settings
from rlab.networks.merging import changed, named_layers
from rlab.networks.registry import LayerKind, register
from rlab.networks.spec import LayerSpec, NetworkSpec

LORA_KINDS = {"linear": "lora_linear", "conv2d": "lora_conv2d"}


class LoraLinear(nn.Module):
    """`[B, in] -> [B, out]`; `weight [out, in]`, `bias [out]`, `down [rank, in]`, `up [out, rank]`."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.rank, self.alpha = rank, alpha
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.down = nn.Parameter(torch.empty(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(x, self.down), self.up)
        return F.linear(x, self.weight, self.bias) + self.alpha / self.rank * low

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """The plain layer with equal outputs; a copy."""
        out_features, in_features = self.weight.shape
        plain = nn.Linear(in_features, out_features).to(self.weight)
        plain.weight.copy_(torch.addmm(self.weight, self.up, self.down, alpha=self.alpha / self.rank))
        plain.bias.copy_(self.bias)
        return plain

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}, rank={self.rank}, alpha={self.alpha}"


class StackedLoraLinear(StackedLayer):
    """`[S, B, in] -> [S, B, out]`; `weight [S, in, out]`, `bias [S, 1, out]`, `down [S, in, rank]`,
    `up [S, rank, out]`.

    Raises:
        UsageError: the rank is larger than the layer's smaller side, or alpha is not positive.
    """

    transposed = ("weight", "down", "up")

    def __init__(
        self,
        members: int,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        init: str = "pytorch",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        _check(rank, alpha, min(in_features, out_features), f"linear layer {in_features} x {out_features}")
        self.rank, self.alpha, self.init, self.gain = rank, alpha, init, gain
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features))
        self.down = nn.Parameter(torch.empty(members, in_features, rank))
        self.up = nn.Parameter(torch.zeros(members, rank, out_features))

    def forward(self, x: Tensor) -> Tensor:
        base = torch.baddbmm(self.bias, x, self.weight)
        return torch.baddbmm(base, torch.bmm(x, self.down), self.up, alpha=self.alpha / self.rank)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's from `generators[i]`."""
        for i, generator in enumerate(generators):
            # torch.nn.init reads fans from [out, in]
            initialise(self.weight[i].T, self.bias[i, 0], self.init, self.gain, generator)
            _initialise_down(self.down[i].T, generator)
        self.up.zero_()

    @torch.no_grad()
    def merge(self) -> StackedLinear:
        """The plain layer with equal outputs; a copy."""
        members, in_features, out_features = self.weight.shape
        plain = StackedLinear(members, in_features, out_features, self.init, self.gain).to(self.weight)
        plain.weight.copy_(torch.baddbmm(self.weight, self.down, self.up, alpha=self.alpha / self.rank))
        plain.bias.copy_(self.bias)
        return plain

    def _plain(self) -> LoraLinear:
        _, in_features, out_features = self.weight.shape
        return LoraLinear(in_features, out_features, self.rank, self.alpha)

    @classmethod
    def _of(cls, members: int, plain: LoraLinear) -> Self:
        out_features, in_features = plain.weight.shape
        return cls(members, in_features, out_features, plain.rank, plain.alpha)


class LoraConv2d(nn.Module):
    """`[B, C, H, W] -> [B, out, H', W']`; `weight [out, in, k, k]`, `bias [out]`, `down [rank, in, k, k]`,
    `up [out, rank, 1, 1]`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, rank: int, alpha: float, stride: int = 1
    ) -> None:
        super().__init__()
        self.rank, self.alpha, self.stride = rank, alpha, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.down = nn.Parameter(torch.empty(rank, in_channels, kernel_size, kernel_size))
        self.up = nn.Parameter(torch.zeros(out_channels, rank, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        base = F.conv2d(x, self.weight, self.bias, self.stride)
        return base + self.alpha / self.rank * F.conv2d(F.conv2d(x, self.down, stride=self.stride), self.up)

    @torch.no_grad()
    def merge(self) -> nn.Conv2d:
        """The plain layer with equal outputs; a copy."""
        out_channels, in_channels, kernel_size, _ = self.weight.shape
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, self.stride).to(self.weight)
        plain.weight.copy_(self.weight + self.alpha / self.rank * _product(self.up, self.down))
        assert plain.bias is not None
        plain.bias.copy_(self.bias)
        return plain

    def extra_repr(self) -> str:
        out_channels, in_channels, kernel_size, _ = self.weight.shape
        shape = f"{in_channels}, {out_channels}, kernel_size={kernel_size}, stride={self.stride}"
        return f"{shape}, rank={self.rank}, alpha={self.alpha}"


class StackedLoraConv2d(StackedLayer):
    """`[S, B, C, H, W] -> [S, B, out, H', W']`; `weight [S, out, in, k, k]`, `bias [S, out]`,
    `down [S, rank, in, k, k]`, `up [S, out, rank, 1, 1]`.

    The low-rank path is a convolution like the layer's own to `rank` channels and one of 1x1 behind it; their product
    is a kernel of the layer's size (LoCon, Yeh et al. 2024).

    Raises:
        UsageError: the rank is larger than the layer's smaller side, or alpha is not positive.
    """

    def __init__(
        self,
        members: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        rank: int,
        alpha: float,
        stride: int = 1,
        init: str = "pytorch",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        fan_in = in_channels * kernel_size**2
        _check(rank, alpha, min(fan_in, out_channels), f"convolution {fan_in} x {out_channels}")
        self.rank, self.alpha, self.stride, self.init, self.gain = rank, alpha, stride, init, gain
        self.weight = nn.Parameter(torch.empty(members, out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(members, out_channels))
        self.down = nn.Parameter(torch.empty(members, rank, in_channels, kernel_size, kernel_size))
        self.up = nn.Parameter(torch.zeros(members, out_channels, rank, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        members, out_channels = self.bias.shape
        grouped = x.transpose(0, 1).flatten(1, 2)  # as StackedConv2d: one group per member
        base = F.conv2d(grouped, self.weight.flatten(0, 1), self.bias.flatten(), self.stride, groups=members)
        low = F.conv2d(grouped, self.down.flatten(0, 1), None, self.stride, groups=members)
        y = base + self.alpha / self.rank * F.conv2d(low, self.up.flatten(0, 1), groups=members)
        return y.unflatten(1, (members, out_channels)).transpose(0, 1)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's from `generators[i]`."""
        for i, generator in enumerate(generators):
            initialise(self.weight[i], self.bias[i], self.init, self.gain, generator)
            _initialise_down(self.down[i], generator)
        self.up.zero_()

    @torch.no_grad()
    def merge(self) -> StackedConv2d:
        """The plain layer with equal outputs; a copy."""
        members, out_channels, in_channels, kernel_size, _ = self.weight.shape
        plain = StackedConv2d(members, in_channels, out_channels, kernel_size, self.stride, self.init, self.gain)
        plain.to(self.weight)
        plain.weight.copy_(self.weight + self.alpha / self.rank * _product(self.up, self.down))
        plain.bias.copy_(self.bias)
        return plain

    def _plain(self) -> LoraConv2d:
        _, out_channels, in_channels, kernel_size, _ = self.weight.shape
        return LoraConv2d(in_channels, out_channels, kernel_size, self.rank, self.alpha, self.stride)

    @classmethod
    def _of(cls, members: int, plain: LoraConv2d) -> Self:
        out_channels, in_channels, kernel_size, _ = plain.weight.shape
        return cls(members, in_channels, out_channels, kernel_size, plain.rank, plain.alpha, plain.stride)


def with_lora(spec: NetworkSpec, rank: int, alpha: float, plain: Collection[str] = ()) -> NetworkSpec:
    """Every linear layer and convolution with an adapter beside it, those inside other layers too.

    A layer whose smaller side is below the rank takes as much rank as it has, with alpha / rank as everywhere.

    Args:
        plain: names of layers that stay as they are, such as `network.4` or `network.3.value.0`.

    Raises:
        UsageError: every layer's smaller side is below the rank, or there is nothing to adapt.
    """
    adapting = [layer for name, layer in named_layers(spec) if layer.kind in LORA_KINDS and name not in plain]
    most = [_smaller_side(layer) for layer in adapting]
    if not most:
        raise UsageError("LoRA needs a linear layer or a convolution that is not fresh; this network has none.")
    if not 1 <= rank <= max(most):
        raise UsageError(f"LoRA rank {rank} does not fit: the layers' smaller sides are {', '.join(map(str, most))}.")

    def adapted(name: str, layer: LayerSpec) -> LayerSpec:
        if layer.kind not in LORA_KINDS or name in plain:
            return layer
        own = min(rank, _smaller_side(layer))
        return LayerSpec(LORA_KINDS[layer.kind], {**layer.args, "rank": own, "alpha": alpha * own / rank})

    return changed(spec, adapted)


LORA_LAYERS = LoraLinear, StackedLoraLinear, LoraConv2d, StackedLoraConv2d


def _settings(layer: Any) -> dict[str, Any]:
    sizes = linear_settings(layer) if isinstance(layer, StackedLoraLinear) else conv2d_settings(layer)
    return {**sizes, "rank": layer.rank, "alpha": layer.alpha}


def _without_adapter(kind: str, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return kind, {name: value for name, value in args.items() if name not in ("rank", "alpha")}


for _plain, _stacked, _layer in (("linear", StackedLoraLinear, LoraLinear), ("conv2d", StackedLoraConv2d, LoraConv2d)):
    register(
        LayerKind(
            LORA_KINDS[_plain], _stacked, _stacked, _layer, _settings, merges_to=partial(_without_adapter, _plain)
        )
    )


def _check(rank: int, alpha: float, most: int, layer: str) -> None:
    if not 1 <= rank <= most:
        raise UsageError(f"LoRA rank {rank} does not fit a {layer}: it must be in 1 .. {most}.")
    if not 0.0 < alpha < math.inf:
        raise UsageError(f"LoRA alpha {alpha} must be above 0.")


def _initialise_down(down: Tensor, generator: torch.Generator) -> None:
    """U(+-1/sqrt(fan_in)), for `down [rank, in, ...]`: as in the authors' code (microsoft/LoRA); section 4.1 of the
    paper has a Gaussian."""
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)


def _product(up: Tensor, down: Tensor) -> Tensor:
    """The kernel `[..., out, in, k, k]` of the two convolutions, one behind the other."""
    return torch.einsum("...orij,...rckl->...ockl", up, down)


def _smaller_side(layer: LayerSpec) -> int:
    """Of the layer's weights as a matrix `[in, out]`."""
    args = layer.args
    if layer.kind == "linear":
        return int(min(args["in_features"], args["out_features"]))
    return int(min(args["in_channels"] * args["kernel_size"] ** 2, args["out_channels"]))
