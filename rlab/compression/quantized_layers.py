"""Linear layers and convolutions whose weights are stored in fewer bits, with the forward of what they replace.

One class serves a plain network (`members` None) and a stack of S, whose tensors all lead with S. Weights have one
layout in both, `[..., out, in]` or `[..., out, in, k, k]`, and each output channel has its own scale. They are buffers:
no optimizer moves them; `bias` stays a float32 parameter. The forward makes floats of the weights each time, so these
layers save bytes, not time: the time is saved by what they are exported to.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.compression import rounding
from rlab.errors import RlabError, UsageError, unknown
from rlab.networks.initialization import initialise
from rlab.networks.layers import StackedConv2d, StackedLinear, WeightLayer, fresh_settings
from rlab.networks.registry import LayerKind, register

ACTIVATION_KINDS = ("none", "dynamic", "static")
HALF_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Place(NamedTuple):
    """What a layer stands for: a linear layer `[out, in]` or a convolution `[out, in, k, k]`, of a stack or alone."""

    weight_shape: tuple[int, ...]
    stride: int
    members: int | None  # of the stack; None for a plain layer


class CompressedLayer(WeightLayer):
    """What all these layers share: geometry, forward, and the ways into a stack and out of it.

    `[B, in] -> [B, out]` or `[B, C, H, W] -> [B, out, H', W']`, in a stack with S in front. A subclass defines
    the weights as floats (`dense`), how to load them (`load_dense`), and the arguments that rebuild it (`settings`).
    """

    def __init__(self, place: Place, init: str = "pytorch", gain: float = 1.0) -> None:
        super().__init__()
        self.weight_shape, self.stride, self.members = place
        self.init, self.gain = init, gain
        self.lead = () if self.members is None else (self.members,)
        self.bias = nn.Parameter(torch.zeros(*self.lead, self.weight_shape[0]))

    def dense(self) -> Tensor:
        """The weights that the layer computes with, as floats `[..., *weight_shape]`."""
        raise NotImplementedError

    def load_dense(self, weight: Tensor) -> None:
        """Load float weights `[..., *weight_shape]`, rounded as the layer stores them."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The arguments that rebuild the layer, besides `members` and how fresh weights are drawn."""
        if len(self.weight_shape) == 2:
            return {"in_features": self.weight_shape[1], "out_features": self.weight_shape[0]}
        out_channels, in_channels, kernel_size, _ = self.weight_shape
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        return {**channels, "kernel_size": kernel_size, "stride": self.stride}

    @property
    def rounds_inputs(self) -> bool:
        """Whether `entering` gives anything but its argument."""
        return False

    def entering(self, x: Tensor) -> Tensor:
        """The input that is multiplied with the weights: rounded where the layer rounds activations."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.entering(x), self.dense()
        if len(self.weight_shape) == 2:
            if self.members is None:
                return F.linear(x, weight, self.bias)
            return torch.baddbmm(self.bias.unsqueeze(1), x, weight.transpose(1, 2))
        if self.members is None:
            return F.conv2d(x, weight, self.bias, self.stride)
        grouped = x.transpose(0, 1).flatten(1, 2)  # as StackedConv2d: one group per member
        y = F.conv2d(grouped, weight.flatten(0, 1), self.bias.flatten(), self.stride, groups=self.members)
        return y.unflatten(1, self.bias.shape).transpose(0, 1)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Those of the float layer, member i's from `generators[i]`, rounded as this one stores them."""
        weight = self.bias.new_empty(len(generators), *self.weight_shape)
        if len(self.weight_shape) == 2:  # draws fill the memory in order, and StackedLinear's has it as [in, out]
            weight = weight.reshape(len(generators), *reversed(self.weight_shape)).transpose(1, 2)
        for i, generator in enumerate(generators):
            initialise(weight[i], self.bias[i], self.init, self.gain, generator)
        self.load_dense(weight)

    @torch.no_grad()
    def full_precision(self) -> nn.Module:
        """The plain layer, or the stacked one, with these weights as floats; a copy."""
        weight = self.dense()
        if self.members is None:
            plain = plain_layer(self.weight_shape, self.stride).to(weight)
            plain.load_state_dict({"weight": weight, "bias": self.bias})
            return plain
        out_features, in_features, *kernel = self.weight_shape
        if kernel:
            stacked: nn.Module = StackedConv2d(self.members, in_features, out_features, kernel[0], self.stride)
            tensors = {"weight": weight, "bias": self.bias}
        else:
            stacked = StackedLinear(self.members, in_features, out_features)
            tensors = {"weight": weight.transpose(1, 2), "bias": self.bias.unsqueeze(1)}
        stacked.to(weight).load_state_dict(tensors)
        return stacked

    @torch.no_grad()
    def unstack(self, member: int) -> Self:
        """The plain layer of one member; a copy."""
        plain = self._like(None)
        for name, tensor in plain.state_dict().items():
            tensor.copy_(self.state_dict()[name][member])
        return plain

    @classmethod
    @torch.no_grad()
    def stack(cls, modules: Sequence[Self]) -> Self:
        """Plain layers that differ in their weights alone, as one stacked layer; a copy."""
        if any(repr(module) != repr(modules[0]) for module in modules):
            raise RlabError(f"only layers with the same settings can be stacked, not {modules[0]} with different ones.")
        stacked = modules[0]._like(len(modules))
        for name, tensor in stacked.state_dict().items():
            tensor.copy_(torch.stack([module.state_dict()[name] for module in modules]))
        return stacked

    def _like(self, members: int | None) -> Self:
        kind: Any = type(self)  # each kind has its own arguments
        new: Self = kind(members, **self.settings(), init=self.init, gain=self.gain)
        return new.to(self.bias.device)

    def _per_channel(self, values: Tensor) -> Tensor:
        """`[..., out]` beside the weights."""
        return values.reshape(*values.shape, *[1] * (len(self.weight_shape) - 1))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings().items())


class LinearLayer(CompressedLayer):
    """A linear layer; the class beside it says how weights are stored, with the keywords `options`."""

    def __init__(self, members: int | None, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(Place((out_features, in_features), 1, members), **options)


class Conv2dLayer(CompressedLayer):
    """A convolution; the class beside it says how weights are stored, with the keywords `options`."""

    def __init__(
        self,
        members: int | None,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(Place((out_channels, in_channels, kernel_size, kernel_size), stride, members), **options)


class QuantizedLayer(CompressedLayer):
    """Weights as integers: `weight` int8, or uint8 `[..., out, bytes]` of packed 4 or 2 bits; `scale` float32
    `[..., out]`. Static activations add `input_scale` float32 and `input_zero_point` uint8, both `[...]`.

    Args:
        bits: of a weight: 8, 4 or 2.
        activations: `none` (weights only), `dynamic` or `static`: how the input is rounded to u8.
        fresh: `init` and `gain` of the float weights that `build` draws and rounds.

    Raises:
        UsageError: the bits or the kind of activations are not known.
    """

    weight: Tensor
    scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, place: Place, bits: int = 8, activations: str = "none", **fresh: Any) -> None:
        super().__init__(place, **fresh)
        if bits not in rounding.BITS:
            raise UsageError(f"weights of {bits} bits are not known; 8, 4 and 2 are.")
        if activations not in ACTIVATION_KINDS:
            raise unknown("kind of quantized activations", activations, ACTIVATION_KINDS)
        self.bits, self.activations = bits, activations
        out_features, self.row = self.weight_shape[0], int(np.prod(self.weight_shape[1:]))
        if bits == 8:
            stored = torch.zeros(*self.lead, *self.weight_shape, dtype=torch.int8)
        else:
            stored = torch.zeros(*self.lead, out_features, -(-self.row * bits // 8), dtype=torch.uint8)
        self.register_buffer("weight", stored)
        self.register_buffer("scale", torch.ones(*self.lead, out_features))
        if activations == "static":
            self.register_buffer("input_scale", torch.ones(self.lead))
            self.register_buffer("input_zero_point", torch.zeros(self.lead, dtype=torch.uint8))

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "bits": self.bits, "activations": self.activations}

    def integers(self) -> Tensor:
        """The weights as stored, int8 `[..., *weight_shape]`."""
        if self.bits == 8:
            return self.weight
        return rounding.unpack(self.weight, self.bits, self.row).unflatten(-1, self.weight_shape[1:])

    @property
    def rounds_inputs(self) -> bool:
        return self.activations != "none"

    def quantized_weight(self, member: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Integers int8 `[*weight_shape]` and scales float32 `[out]` of one member, for exporters; copies."""
        if member is None and self.members is not None:
            raise RlabError(f"a stack of {self.members} needs the number of a member.")
        if member is not None and self.members is None:
            raise RlabError("a layer of one network has no members; leave `member` out.")
        at = () if member is None else (member,)
        return self.integers()[at].cpu().numpy().copy(), self.scale[at].cpu().numpy().copy()

    def dense(self) -> Tensor:
        return rounding.to_floats(self.integers().to(self.scale.dtype), self._per_channel(self.scale))

    @torch.no_grad()
    def load_dense(self, weight: Tensor, scale: Tensor | None = None) -> None:
        """Round float weights; `scale [..., out]` is by default that of each channel's largest weight."""
        if scale is None:
            scale = rounding.max_abs_scale(weight, self.bits, len(self.weight_shape) - 1)
        each = self._per_channel(scale)
        self._store(rounding.to_integers(weight, each, 0, *rounding.limits(self.bits)), each)
        self.scale.copy_(scale)

    def _store(self, integers: Tensor, scale: Tensor) -> None:
        """Keep integers `[..., *weight_shape]`, which are floats here; `scale` is beside them."""
        stored = integers.to(torch.int8)
        self.weight.copy_(stored if self.bits == 8 else rounding.pack(stored.flatten(len(self.lead) + 1), self.bits))

    def entering(self, x: Tensor) -> Tensor:
        """As it is, or rounded to u8: with the range of this batch (`dynamic`), or with the stored one (`static`).

        A dynamic range is one for all rows of a member, as ONNX's DynamicQuantizeLinear has it: what a row gives
        depends on the rows beside it.
        """
        if self.activations == "none":
            return x
        if self.activations == "static":
            return u8(x, self.input_scale, self.input_zero_point.to(x.dtype))
        rows = x.detach().flatten(len(self.lead))
        return u8(x, *rounding.u8_affine(rows.amin(dim=-1), rows.amax(dim=-1)))


class QuantizedLinear(LinearLayer, QuantizedLayer):
    """A linear layer with integer weights of 8, 4 or 2 bits."""


class QuantizedConv2d(Conv2dLayer, QuantizedLayer):
    """A convolution with integer weights of 8, 4 or 2 bits."""


class HalfLayer(CompressedLayer):
    """Weights in 16 bits, `dtype` `float16` or `bfloat16`, `weight [..., *weight_shape]`, that compute as float32."""

    weight: Tensor

    def __init__(self, place: Place, dtype: str = "float16", **fresh: Any) -> None:
        super().__init__(place, **fresh)
        if dtype not in HALF_TYPES:
            raise unknown("type of half precision", dtype, HALF_TYPES)
        self.dtype = dtype
        self.register_buffer("weight", torch.zeros(*self.lead, *self.weight_shape, dtype=HALF_TYPES[dtype]))

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "dtype": self.dtype}

    def dense(self) -> Tensor:
        return self.weight.to(self.bias.dtype)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        half = weight.to(self.weight.dtype)
        if not bool(half.isfinite().all()):
            largest = f"{weight.abs().max().item():.3g}"
            raise UsageError(f"weights up to {largest} do not fit {self.dtype}; bfloat16 holds what float32 holds.")
        self.weight.copy_(half)


class HalfLinear(LinearLayer, HalfLayer):
    """A linear layer with weights of 16 bits."""


class HalfConv2d(Conv2dLayer, HalfLayer):
    """A convolution with weights of 16 bits."""


def register_compressed(name: str, layer: type[CompressedLayer]) -> None:
    """Let specs name a class of compressed layers, which serves stacks and plain networks."""
    register(LayerKind(name, layer, layer, layer, lambda x: {**x.settings(), **fresh_settings(x)}))


register_compressed("quantized_linear", QuantizedLinear)
register_compressed("quantized_conv2d", QuantizedConv2d)
register_compressed("half_linear", HalfLinear)
register_compressed("half_conv2d", HalfConv2d)


def u8(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """`x` rounded to the 256 values of a scale and a zero point, which lead with the axes of `x` that they have."""
    shape = (*scale.shape, *[1] * (x.dim() - scale.dim()))
    scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return rounding.to_floats(rounding.to_integers(x, scale, zero_point, *rounding.U8), scale, zero_point)


def full_precision(network: nn.Module) -> nn.Module:
    """A copy in which every compressed layer is a float one with the same weights; activations are not rounded."""
    return replaced(network, lambda layer: layer.full_precision() if isinstance(layer, CompressedLayer) else None)


def replaced(network: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy of the network with `change(module)` instead of every module for which that is not None.

    `change` sees the modules of the network itself, and gives new ones.
    """
    again = copy.deepcopy(network)
    originals = dict(zip(again.modules(), network.modules(), strict=True))
    return _replace(again, lambda module: change(originals[module]), {}).train(network.training)


def _replace(
    module: nn.Module, change: Callable[[nn.Module], nn.Module | None], done: dict[nn.Module, nn.Module]
) -> nn.Module:
    if module not in done:  # a layer that stands in two places stays one layer
        new = change(module)
        done[module] = module if new is None else new
        if new is None:
            for name, child in module._modules.items():
                if child is not None:
                    setattr(module, name, _replace(child, change, done))
    return done[module]


def plain_layer(weight_shape: Sequence[int], stride: int) -> nn.Linear | nn.Conv2d:
    """The float layer of this geometry for one network."""
    out_features, in_features, *kernel = weight_shape
    if kernel:
        return nn.Conv2d(in_features, out_features, kernel[0], stride)
    return nn.Linear(in_features, out_features)
