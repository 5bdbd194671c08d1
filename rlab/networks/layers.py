"""Layers with a seed axis: S independent copies in one tensor, `[S, B, ...]` in and out.

Explicit `baddbmm` and grouped convolution rather than `torch.vmap` of a plain module. Every layer can leave the stack
(`unstack(i)` gives the plain `torch.nn` module of member i) and come back (`stack(modules)`, which raises `RlabError`
where a module has a setting that its stacked counterpart does not know).
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.errors import RlabError
from rlab.networks.initialization import initialise
from rlab.networks.registry import LayerKind, register, register_shared


class StackedLinear(nn.Module):
    """`[S, B, in] -> [S, B, out]`; `weight [S, in, out]`, `bias [S, 1, out]`."""

    def __init__(
        self, members: int, in_features: int, out_features: int, init: str = "pytorch", gain: float = 1.0
    ) -> None:
        super().__init__()
        self.init, self.gain = init, gain
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's from `generators[i]`."""
        for i, generator in enumerate(generators):
            # torch.nn.init reads fans from [out, in]
            initialise(self.weight[i].T, self.bias[i, 0], self.init, self.gain, generator)

    @torch.no_grad()
    def unstack(self, member: int) -> nn.Linear:
        """The plain layer of one member; a copy."""
        _, in_features, out_features = self.weight.shape
        plain = nn.Linear(in_features, out_features, device=self.weight.device, dtype=self.weight.dtype)
        plain.weight.copy_(self.weight[member].T)
        plain.bias.copy_(self.bias[member, 0])
        return plain

    @classmethod
    @torch.no_grad()
    def stack(cls, modules: Sequence[nn.Linear]) -> Self:
        """Plain layers, alike but for their weights, as one stacked layer; a copy."""
        first = modules[0]
        stacked = cls(len(modules), first.in_features, first.out_features).to(first.weight)
        _check_alike(stacked.unstack(0), modules)
        stacked.weight.copy_(torch.stack([m.weight.T for m in modules]))
        stacked.bias.copy_(torch.stack([m.bias for m in modules]).unsqueeze(1))
        return stacked


class StackedConv2d(nn.Module):
    """`[S, B, C, H, W] -> [S, B, out, H', W']`; `weight [S, out, in, k, k]`, `bias [S, out]`."""

    def __init__(
        self,
        members: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        init: str = "pytorch",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride, self.init, self.gain = stride, init, gain
        self.weight = nn.Parameter(torch.empty(members, out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(members, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        members, out_channels = self.bias.shape
        # [S, B, C, H, W] -> [B, S*C, H, W]: one group per member. A stack of these layers copies only at its door,
        # since the transposed output of one is the contiguous input of the next.
        grouped = x.transpose(0, 1).flatten(1, 2)
        y = F.conv2d(grouped, self.weight.flatten(0, 1), self.bias.flatten(), self.stride, groups=members)
        return y.unflatten(1, (members, out_channels)).transpose(0, 1)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's from `generators[i]`."""
        for i, generator in enumerate(generators):
            initialise(self.weight[i], self.bias[i], self.init, self.gain, generator)

    @torch.no_grad()
    def unstack(self, member: int) -> nn.Conv2d:
        """The plain layer of one member; a copy."""
        _, out_channels, in_channels, kernel_size, _ = self.weight.shape
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, self.stride).to(self.weight)
        plain.weight.copy_(self.weight[member])
        plain.bias.copy_(self.bias[member])  # type: ignore[union-attr]
        return plain

    @classmethod
    @torch.no_grad()
    def stack(cls, modules: Sequence[nn.Conv2d]) -> Self:
        """Plain layers, alike but for their weights, as one stacked layer; a copy."""
        first = modules[0]
        kernel_size, stride = first.kernel_size[0], first.stride[0]
        stacked = cls(len(modules), first.in_channels, first.out_channels, kernel_size, stride).to(first.weight)
        _check_alike(stacked.unstack(0), modules)
        stacked.weight.copy_(torch.stack([m.weight for m in modules]))
        stacked.bias.copy_(torch.stack([m.bias for m in modules]))  # type: ignore[misc]
        return stacked


class StackedLayerNorm(nn.Module):
    """Layer normalisation over the last axis of `[S, B, D]` (Ba et al. 2016); `weight`, `bias` `[S, 1, D]`."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, features))
        self.bias = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        shape = self.weight.shape[-1:]
        if self.weight.shape[0] == 1:  # one fused kernel; the general form needs a second pass
            return F.layer_norm(x, shape, self.weight.view(-1), self.bias.view(-1))
        return torch.addcmul(self.bias, F.layer_norm(x, shape), self.weight)

    @torch.no_grad()
    def unstack(self, member: int) -> nn.LayerNorm:
        """The plain layer of one member; a copy."""
        plain = nn.LayerNorm(self.weight.shape[-1], device=self.weight.device, dtype=self.weight.dtype)
        plain.weight.copy_(self.weight[member, 0])
        plain.bias.copy_(self.bias[member, 0])
        return plain

    @classmethod
    @torch.no_grad()
    def stack(cls, modules: Sequence[nn.LayerNorm]) -> Self:
        """Plain layers, alike but for their weights, as one stacked layer; a copy."""
        first = modules[0]
        stacked = cls(len(modules), first.normalized_shape[-1])
        _check_alike(stacked.unstack(0), modules)
        stacked.to(first.weight)
        stacked.weight.copy_(torch.stack([m.weight for m in modules]).unsqueeze(1))
        stacked.bias.copy_(torch.stack([m.bias for m in modules]).unsqueeze(1))
        return stacked


class StackedDropout(nn.Module):
    """Dropout whose mask is drawn from one generator per member, so that members never share noise.

    `build` fills `generators`; a stack of plain modules has none and can only be evaluated until it gets some.
    """

    def __init__(self, members: int, p: float) -> None:
        super().__init__()
        self.members, self.p = members, p
        self.generators: list[torch.Generator] = []

    def forward(self, x: Tensor) -> Tensor:
        """`[S, B, ...]` with a share p of each member's values set to zero in training; else unchanged.

        Raises:
            RlabError: it is in training and has no random streams.
        """
        if not self.training or self.p == 0.0:
            return x
        if len(self.generators) != self.members:
            raise RlabError(
                f"dropout in training needs {self.members} random streams, one per member, and has "
                f"{len(self.generators)}; fill its `generators` or call eval()."
            )
        empty = [torch.empty(x.shape[1:], dtype=torch.float32, device="cpu") for _ in self.generators]
        keep = torch.stack([e.bernoulli_(1 - self.p, generator=g) for e, g in zip(empty, self.generators, strict=True)])
        return x * keep.to(x.device) / (1 - self.p)

    def unstack(self, member: int) -> nn.Dropout:
        """The plain layer of one member; a copy."""
        return nn.Dropout(self.p)

    @classmethod
    def stack(cls, modules: Sequence[nn.Dropout]) -> Self:
        """Plain layers, alike but for their weights, as one stacked layer; a copy."""
        stacked = cls(len(modules), modules[0].p)
        _check_alike(stacked.unstack(0), modules)
        return stacked


class StackedFlatten(nn.Module):
    """`[S, B, ...] -> [S, B, features]`."""

    def __init__(self, members: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)

    def unstack(self, member: int) -> nn.Flatten:
        """The plain layer of one member; a copy."""
        return nn.Flatten()

    @classmethod
    def stack(cls, modules: Sequence[nn.Flatten]) -> Self:
        """Plain layers, alike but for their weights, as one stacked layer; a copy."""
        stacked = cls(len(modules))
        _check_alike(stacked.unstack(0), modules)
        return stacked


class LogStd(nn.Module):
    """`[B, d] -> [B, 2d]`: means, and behind them log standard deviations that no observation changes."""

    def __init__(self, features: int, initial: float = 0.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((features,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.log_std.expand_as(x)], dim=-1)

    def extra_repr(self) -> str:
        return f"features={len(self.log_std)}"


class StackedLogStd(nn.Module):
    """`[S, B, d] -> [S, B, 2d]`, as `LogStd`; `log_std [S, 1, d]`, which starts at `initial`."""

    def __init__(self, members: int, features: int, initial: float = 0.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((members, 1, features), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.log_std.expand_as(x)], dim=-1)

    @torch.no_grad()
    def unstack(self, member: int) -> LogStd:
        """The plain layer of one member; a copy."""
        plain = LogStd(self.log_std.shape[-1]).to(self.log_std)
        plain.log_std.copy_(self.log_std[member, 0])
        return plain

    @classmethod
    @torch.no_grad()
    def stack(cls, modules: Sequence[LogStd]) -> Self:
        """Plain layers, alike but for their weights, as one stacked layer; a copy."""
        first = modules[0].log_std
        stacked = cls(len(modules), len(first)).to(first)
        _check_alike(stacked.unstack(0), modules)
        stacked.log_std.copy_(torch.stack([m.log_std for m in modules]).unsqueeze(1))
        return stacked


class StackedTanh(nn.Module):
    """tanh, large tensors through the sigmoid: torch's tanh takes up to ten times as long on a CPU.

    `tanh x = 2 sigmoid(2 x) - 1`, which is 2e-7 off at most.
    """

    LARGE = 16_384  # elements; below, the calls take longer than the arithmetic

    def __init__(self, members: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() <= self.LARGE or x.device.type != "cpu":
            return x.tanh()
        y: Tensor = _TanhBySigmoid.apply(x)
        return y

    def unstack(self, member: int) -> nn.Tanh:
        """The plain layer of one member."""
        return nn.Tanh()

    @classmethod
    def stack(cls, modules: Sequence[nn.Tanh]) -> Self:
        """Plain layers as one stacked layer."""
        return cls(len(modules))


class _TanhBySigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(x + x).mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.addcmul(grad, grad * y, y, value=-1.0)  # 1 - tanh^2


FLOAT_LAYERS = (nn.Linear, nn.Conv2d, StackedLinear, StackedConv2d)


def is_float_layer(layer: nn.Module) -> bool:
    """Whether it is a linear layer or convolution in float; exactly one of these types, whose forward is known."""
    return type(layer) in FLOAT_LAYERS


class WeightLayer(nn.Module):
    """Base of linear layers and convolutions that store their weights in a format of their own.

    Where that is a float parameter named `weight`, it is pruned as the weight of a linear layer is.
    """

    members: int | None  # of the stack; None: one network's


def is_stacked(layer: nn.Module) -> bool:
    """Whether the tensors of a linear layer or convolution lead with the seed axis."""
    return (
        layer.members is not None
        if isinstance(layer, WeightLayer)
        else isinstance(layer, StackedLinear | StackedConv2d)
    )


def _check_alike(carried: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Refuse plain modules with a setting that the stacked layer would lose, such as padding or a missing bias."""
    for module in modules:
        if repr(module) != repr(carried):  # torch's repr states every setting of a layer
            raise RlabError(f"{module} cannot be stacked as {carried}; it has settings that a stack lacks.")


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


def fresh_settings(layer: Any) -> dict[str, Any]:
    """How the fresh weights of a layer are drawn; a gain of 1 is left out."""
    return {"init": layer.init} if layer.gain == 1.0 else {"init": layer.init, "gain": layer.gain}


def linear_settings(layer: Any) -> dict[str, Any]:
    """The arguments that build a stacked linear layer."""
    _, in_features, out_features = layer.weight.shape
    return {"in_features": in_features, "out_features": out_features, **fresh_settings(layer)}


def conv2d_settings(layer: Any) -> dict[str, Any]:
    """The arguments that build a stacked convolution."""
    _, out_channels, in_channels, kernel_size, _ = layer.weight.shape
    channels = {"in_channels": in_channels, "out_channels": out_channels}
    return {**channels, "kernel_size": kernel_size, "stride": layer.stride, **fresh_settings(layer)}


def no_settings(layer: nn.Module) -> dict[str, Any]:
    """Of a layer that is built without arguments.

    Raises:
        RlabError: it has a setting that is not the default, such as the slope of a leaky ReLU.
    """
    default = type(layer)()
    if repr(layer) != repr(default):  # torch's repr states every setting of a layer
        raise RlabError(f"{layer} has a setting that a spec cannot hold; only {default} can be described.")
    return {}


for _name, _activation in ACTIVATIONS.items():
    if _name != "tanh":
        register_shared(_name, _activation, no_settings)
for _kind in (
    LayerKind("linear", StackedLinear, StackedLinear, nn.Linear, linear_settings),
    LayerKind("conv2d", StackedConv2d, StackedConv2d, nn.Conv2d, conv2d_settings),
    LayerKind(
        "layer_norm", StackedLayerNorm, StackedLayerNorm, nn.LayerNorm, lambda x: {"features": x.weight.shape[-1]}
    ),
    LayerKind("dropout", StackedDropout, StackedDropout, nn.Dropout, lambda x: {"p": x.p}),
    LayerKind("flatten", StackedFlatten, StackedFlatten, nn.Flatten, lambda x: {}),
    LayerKind("log_std", StackedLogStd, StackedLogStd, LogStd, lambda x: {"features": x.log_std.shape[-1]}),
    LayerKind("tanh", StackedTanh, StackedTanh, nn.Tanh, lambda x: {}),
):
    register(_kind)
