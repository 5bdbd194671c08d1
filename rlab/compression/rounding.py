"""Numbers in few bits: the arithmetic of ONNX's QuantizeLinear and DequantizeLinear, and integers packed into bytes.

Integers are handed around as tensors of floats where a gradient may pass, and as int8 where they are stored.
"""

from typing import Any

import torch
from torch import Tensor

BITS = (8, 4, 2)  # of a weight; each divides a byte
U8 = (0, 255)  # an activation's smallest and largest integer


def limits(bits: int) -> tuple[int, int]:
    """The smallest and the largest integer of two's complement: (-128, 127), (-8, 7) or (-2, 1)."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def to_integers(x: Tensor, scale: Tensor, zero_point: Tensor | int, low: int, high: int) -> Tensor:
    """`saturate(round(x / scale) + zero_point)`, halves to the even neighbour, as floats of the shape of `x`.

    This is QuantizeLinear of ONNX, to the bit. Its gradient is that of the straight-through estimator (Bengio et al.
    2013): rounding counts as the identity, saturation as the constant that it is. Followed by `to_floats`, the
    gradient by `scale` is the one of learned step sizes (Esser et al. 2020, equation 3).
    """
    return (rounded(x / scale) + zero_point).clamp(low, high)


def to_floats(integers: Tensor, scale: Tensor, zero_point: Tensor | int = 0) -> Tensor:
    """`(integers - zero_point) * scale`: DequantizeLinear of ONNX. `integers` are floats."""
    return (integers - zero_point) * scale


def rounded(x: Tensor) -> Tensor:
    """The nearest integer, halves to the even one; its gradient is 1."""
    if x.requires_grad and torch.is_grad_enabled():
        y: Tensor = _StraightThrough.apply(x)
        return y
    return x.round()


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def max_abs_scale(weight: Tensor, bits: int, dims: int) -> Tensor:
    """The scale `[...]` at which the largest of the last `dims` axes of `[..., *dims]` is the largest integer.

    No weight saturates, so each is at most half a scale off. It is 1 where all are 0.
    """
    largest = weight.abs().flatten(-dims).amax(dim=-1)
    scale = (largest / limits(bits)[1]).clamp(min=torch.finfo(weight.dtype).tiny)
    return torch.where(largest > 0, scale, 1.0)


def u8_affine(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the zero point, an integer in 0 .. 255 as a float, of values in `low .. high`.

    The range is widened to hold 0, which then has an integer of its own (Jacob et al. 2018, section 2.1). These are the
    numbers of ONNX's DynamicQuantizeLinear; a range that holds only 0 has the scale 1, as in onnxruntime.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = torch.where(high > low, (high - low) / U8[1], 1.0).clamp(min=torch.finfo(low.dtype).tiny)
    return scale, (-low / scale).clamp(*U8).round()


def pack(integers: Tensor, bits: int) -> Tensor:
    """int8 `[..., n]`, each within `limits(bits)`, to uint8 `[..., ceil(n * bits / 8)]`.

    The first integer takes the lowest bits of the first byte, as ONNX packs its INT4; a last byte is filled up with
    zeros.
    """
    per_byte = 8 // bits
    missing = -integers.shape[-1] % per_byte
    fields = torch.nn.functional.pad(integers, (0, missing)).view(torch.uint8) & (2**bits - 1)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=integers.device)
    return (fields.unflatten(-1, (-1, per_byte)) << shifts).sum(dim=-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The way back: the `count` integers of each row, int8 `[..., count]`."""
    # To the top of the byte and, with the sign, down again; one field at a time takes half of the time of all.
    fields = [(packed << 8 - bits - at).view(torch.int8) >> 8 - bits for at in range(0, 8, bits)]
    return torch.stack(fields, dim=-1).flatten(-2)[..., :count]
