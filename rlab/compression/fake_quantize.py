"""Quantization-aware training: float weights that learn under the rounding that they will undergo.

The forward computes with rounded numbers and the gradient passes the rounding straight through (Bengio et al. 2013;
Jacob et al. 2018, section 3). `prepare_qat` puts such layers into a network, plain or stacked, any loop trains it, and
`convert` makes the quantized network, whose outputs are those of the trained one in evaluation mode.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rlab.compression import rounding
from rlab.compression.float_layers import built_like, first_layers, quantizable
from rlab.compression.quantize import set_input_range, weight_scale
from rlab.compression.quantized_layers import (
    CompressedLayer,
    Conv2dLayer,
    LinearLayer,
    Place,
    QuantizedConv2d,
    QuantizedLayer,
    QuantizedLinear,
    replaced,
    u8,
)
from rlab.errors import UsageError
from rlab.networks.layers import is_float_layer

KEEP = 0.99  # of a running range at each batch; Jacob et al. 2018, section 3.1: "close to 1"
QAT_ACTIVATIONS = ("none", "static")


def prepare_qat(
    network: nn.Module,
    bits: int = 8,
    activations: str = "none",
    learned_scales: bool = True,
    keep_first_input: bool = True,
    rounded: nn.Module | None = None,
) -> nn.Module:
    """A copy that trains in float and computes as the network that `convert` makes of it.

    Args:
        bits: of the weights: 8, 4 or 2.
        activations: `none`, or `static`: u8 with running ranges, which follow each batch in training mode.
        learned_scales: the scale of each output channel is a parameter that starts at the least squared error (LSQ,
            Esser et al. 2020); if false it is that of the channel's largest weight at each step, as in Jacob et al.
            Learned ones gave the higher agreement at 8, 4 and 2 bits.
        keep_first_input: with static activations, leave the observation in float.
        rounded: what `weight_only` made of the network with as many bits, such as one that visited states corrected:
            weights, biases and learned scales start from its own, so that training starts from its outputs. None:
            from the float weights.

    Raises:
        UsageError: an argument is not known, the network cannot be quantized, or `rounded` has other bits.
    """
    if bits not in rounding.BITS:
        raise UsageError(f"weights of {bits} bits are not known; 8, 4 and 2 are.")
    if activations not in QAT_ACTIVATIONS:
        raise UsageError(f"activations {activations!r} cannot be trained for; {' and '.join(QAT_ACTIVATIONS)} can.")
    network = quantizable(network)
    kept = first_layers(network) if keep_first_input else set()
    names = {layer: name for name, layer in network.named_modules()}

    def change(layer: nn.Module) -> nn.Module | None:
        if not is_float_layer(layer):
            return None
        own = "none" if layer in kept else activations
        options = {"bits": bits, "activations": own, "learned_scales": learned_scales}
        new, weight = built_like(layer, FakeLinear, FakeConv2d, **options)
        new.load_dense(weight)
        if rounded is not None:
            _start_from(new, rounded.get_submodule(names[layer]))
        return new

    return replaced(network, change)


@torch.no_grad()
def _start_from(layer: "FakeLayer", rounded: nn.Module) -> None:
    """Take over weights, biases and, where they are learned, scales; a weight in the middle of its step stays there
    longest."""
    assert isinstance(rounded, QuantizedLayer)
    if rounded.bits != layer.bits:
        raise UsageError(f"weights rounded to {rounded.bits} bits cannot be the start for {layer.bits} bits.")
    layer.weight.copy_(rounded.dense())
    layer.bias.copy_(rounded.bias)
    if layer.learned_scales:
        layer.log_scale.copy_(rounded.scale.log())


def convert(network: nn.Module) -> nn.Module:
    """The quantized network: integers instead of what `prepare_qat` made, with equal outputs.

    Raises:
        UsageError: nothing here was prepared, or an activation's range has seen no batch.
    """
    if not any(isinstance(layer, FakeLayer) for layer in network.modules()):
        raise UsageError("the network was not prepared for quantization-aware training; call prepare_qat first.")
    return replaced(network, lambda layer: layer.quantized() if isinstance(layer, FakeLayer) else None)


class FakeLayer(CompressedLayer):
    """Float weights `weight [..., *weight_shape]` that are rounded in the forward. Learned scales add the parameter
    `log_scale [..., out]`, static activations the buffer `input_range [..., 2]`: the lower and the upper end."""

    input_range: Tensor

    def __init__(
        self, place: Place, bits: int = 8, activations: str = "none", learned_scales: bool = True, **fresh: Any
    ) -> None:
        super().__init__(place, **fresh)
        self.bits, self.activations, self.learned_scales = bits, activations, learned_scales
        self.weight = nn.Parameter(torch.zeros(*self.lead, *self.weight_shape))
        if learned_scales:
            self.log_scale = nn.Parameter(torch.zeros(*self.lead, self.weight_shape[0]))
        if activations == "static":
            self.register_buffer("input_range", torch.zeros(*self.lead, 2))

    def settings(self) -> dict[str, Any]:
        own = {"bits": self.bits, "activations": self.activations, "learned_scales": self.learned_scales}
        return {**super().settings(), **own}

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        self.weight.copy_(weight)
        if self.learned_scales:
            self.log_scale.copy_(weight_scale(weight, self.bits, len(self.weight_shape) - 1).log())

    def scale(self) -> Tensor:
        """Of each output channel, `[..., out]`.

        What learns is the scale's logarithm (as in Jain et al. 2020, section 3): it stays positive, and a step of Adam
        changes large and small scales by the same share.
        """
        if self.learned_scales:
            return self.log_scale.exp()
        return rounding.max_abs_scale(self.weight.detach(), self.bits, len(self.weight_shape) - 1)

    def dense(self) -> Tensor:
        scale = self._per_channel(self.scale())
        return rounding.to_floats(rounding.to_integers(self.weight, scale, 0, *rounding.limits(self.bits)), scale)

    @property
    def rounds_inputs(self) -> bool:
        return self.activations != "none"

    def entering(self, x: Tensor) -> Tensor:
        if self.activations == "none":
            return x
        if self.training:
            self._follow(x.detach().flatten(len(self.lead)))
        return u8(x, *rounding.u8_affine(*self.input_range.unbind(dim=-1)))

    @torch.no_grad()
    def _follow(self, values: Tensor) -> None:
        """Move the range towards that of a batch `[..., n]`; the first batch sets it."""
        batch = torch.stack([values.amin(dim=-1).clamp(max=0.0), values.amax(dim=-1).clamp(min=0.0)], dim=-1)
        self.input_range.copy_(torch.where(self._unseen(), batch, torch.lerp(batch, self.input_range, KEEP)))

    def _unseen(self) -> Tensor:
        """True `[..., 1]` where the range has seen only zeros."""
        return (self.input_range == 0).all(dim=-1, keepdim=True)

    @torch.no_grad()
    def quantized(self) -> QuantizedLayer:
        """The layer of integers with equal outputs.

        Raises:
            UsageError: the range of its activations has seen no batch.
        """
        if self.activations == "static" and bool(self._unseen().any()):
            raise UsageError("a range of activations has seen no batch in training mode; train the network first.")
        kind = QuantizedLinear if len(self.weight_shape) == 2 else QuantizedConv2d
        shape = CompressedLayer.settings(self)
        fresh: dict[str, Any] = {"init": self.init, "gain": self.gain}
        new = kind(self.members, **shape, bits=self.bits, activations=self.activations, **fresh).to(self.weight.device)
        new.load_dense(self.weight, self.scale())
        new.bias.copy_(self.bias)
        if self.activations == "static":
            set_input_range(new, *self.input_range.unbind(dim=-1))
        return new


class FakeLinear(LinearLayer, FakeLayer):
    """A linear layer that trains for its integers."""


class FakeConv2d(Conv2dLayer, FakeLayer):
    """A convolution that trains for its integers."""
