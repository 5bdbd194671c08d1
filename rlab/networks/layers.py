"""Layers with a seed axis: S independent copies in one tensor, `[S, B, ...]` in and out.

Explicit `baddbmm` and grouped convolution rather than `torch.vmap` of a plain module. Every layer can leave the stack
(`unstack(i)` gives the plain `torch.nn` module of member i) and come back (`stack(modules)`, which raises `RlabError`
where a module has a setting that its stacked counterpart does not know).
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.networks.initialization import initialise
from rlab.networks.registry import LayerKind, register, register_shared


class StackedLayer(nn.Module):
    """S plain layers in one, whose parameters and buffers are theirs in the same order, `[S, ...]`.

    Vectors have a row axis of length 1 here where batches need one.
    """

    transposed: ClassVar[tuple[str, ...]] = ()  # matrices that are [in, out] here and [out, in] in plain layers

    def _plain(self) -> nn.Module:
        """A plain layer with these settings, whose weights may be anything."""
        raise NotImplementedError

    @classmethod
    def _of(cls, members: int, plain: Any) -> Self:
        """A stack for layers like `plain`, whose weights may be anything."""
        raise NotImplementedError

    @torch.no_grad()
    def unstack(self, member: int) -> Any:
        """The plain layer of one member; a copy."""
        plain = self._plain()
        for (name, mine), (_, theirs) in zip(_tensors(self), _tensors(plain.to(_like(self))), strict=True):
            theirs.copy_((mine[member].T if name in self.transposed else mine[member]).reshape(theirs.shape))
        return plain

    @classmethod
    @torch.no_grad()
    def stack(cls, modules: Sequence[nn.Module]) -> Self:
        """Plain layers, alike but for their weights, as one stacked layer; a copy."""
        stacked = cls._of(len(modules), modules[0]).to(_like(modules[0]))
        _check_alike(stacked.unstack(0), modules)
        every = zip(*(map(itemgetter(1), _tensors(module)) for module in modules), strict=True)
        for (name, mine), theirs in zip(_tensors(stacked), every, strict=False):
            mine.copy_(torch.stack([t.T if name in cls.transposed else t for t in theirs]).reshape(mine.shape))
        return stacked


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _like(module: nn.Module) -> Tensor:
    """A tensor on the device and of the type of a module's parameters."""
    return next(module.parameters(), torch.empty(0))


class StackedLinear(StackedLayer):
    """`[S, B, in] -> [S, B, out]`; `weight [S, in, out]`, `bias [S, 1, out]`."""

    transposed = ("weight",)

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

    def _plain(self) -> nn.Linear:
        return nn.Linear(*self.weight.shape[1:])

    @classmethod
    def _of(cls, members: int, plain: nn.Linear) -> Self:
        return cls(members, plain.in_features, plain.out_features)


class StackedConv2d(StackedLayer):
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

    def _plain(self) -> nn.Conv2d:
        _, out_channels, in_channels, kernel_size, _ = self.weight.shape
        return nn.Conv2d(in_channels, out_channels, kernel_size, self.stride)

    @classmethod
    def _of(cls, members: int, plain: nn.Conv2d) -> Self:
        return cls(members, plain.in_channels, plain.out_channels, plain.kernel_size[0], plain.stride[0])


class StackedLayerNorm(StackedLayer):
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

    def _plain(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.weight.shape[-1])

    @classmethod
    def _of(cls, members: int, plain: nn.LayerNorm) -> Self:
        return cls(members, plain.normalized_shape[-1])


class StackedDropout(StackedLayer):
    """Dropout whose mask is drawn for every member by itself, so that members never share noise.

    `build` fills `draws`; a stack of plain modules has none and can only be evaluated until it gets some.
    """

    def __init__(self, members: int, p: float) -> None:
        super().__init__()
        self.members, self.p = members, p
        self.draws: Draws | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`[S, B, ...]` with a share p of each member's values set to zero in training; else unchanged.

        Raises:
            RlabError: it is in training and has no random numbers.
        """
        if not self.training or self.p == 0.0:
            return x
        if self.draws is None:
            raise RlabError("dropout in training needs random numbers: set its `draws`, or call eval().")
        keep = self.draws.to(x.device).bernoulli(1 - self.p, *x.shape[1:])
        return x * keep / (1 - self.p)

    def _plain(self) -> nn.Dropout:
        return nn.Dropout(self.p)

    @classmethod
    def _of(cls, members: int, plain: nn.Dropout) -> Self:
        return cls(members, plain.p)


class StackedFlatten(StackedLayer):
    """`[S, B, ...] -> [S, B, features]`."""

    def __init__(self, members: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)

    def _plain(self) -> nn.Flatten:
        return nn.Flatten()

    @classmethod
    def _of(cls, members: int, plain: nn.Module) -> Self:
        return cls(members)


class LogStd(nn.Module):
    """`[B, d] -> [B, 2d]`: means, and behind them log standard deviations that no observation changes."""

    def __init__(self, features: int, initial: float = 0.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((features,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.log_std.expand_as(x)], dim=-1)

    def extra_repr(self) -> str:
        return f"features={len(self.log_std)}"


class StackedLogStd(StackedLayer):
    """`[S, B, d] -> [S, B, 2d]`, as `LogStd`; `log_std [S, 1, d]`, which starts at `initial`."""

    def __init__(self, members: int, features: int, initial: float = 0.0) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((members, 1, features), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.log_std.expand_as(x)], dim=-1)

    def _plain(self) -> LogStd:
        return LogStd(self.log_std.shape[-1])

    @classmethod
    def _of(cls, members: int, plain: LogStd) -> Self:
        return cls(members, len(plain.log_std))


class StackedTanh(StackedLayer):
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

    def _plain(self) -> nn.Tanh:
        return nn.Tanh()

    @classmethod
    def _of(cls, members: int, plain: nn.Module) -> Self:
        return cls(members)


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
