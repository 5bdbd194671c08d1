"""Linear layers and convolutions that store which of their weights are not 0, and those weights alone.

`mask` has one bit for each weight, row by row of `[out, in, ...]`, the first in the lowest bit of the first byte (as
`rounding.pack`); `values` has the weights whose bit is set, in that order. Of n weights of b bits, of which k are kept,
that is n / 8 + k b / 8 bytes instead of n b / 8: less where more than a b-th of them is 0.

It saves bytes and costs time. Nothing skips a zero here: the forward rebuilds the dense weights each time and then
computes as the dense layer does. On one x86 core that adds 0.02 ms for 4 096 weights and 0.13 ms for 65 536, and for a
stack of ten 0.06 and 3 ms. Nothing is kept from one forward to the next, so nothing can be out of date.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from rlab.compression import rounding
from rlab.compression.quantized_layers import (
    HALF_TYPES,
    CompressedLayer,
    Conv2dLayer,
    HalfConv2d,
    HalfLinear,
    LinearLayer,
    Place,
    QuantizedConv2d,
    QuantizedLayer,
    QuantizedLinear,
    register_compressed,
)
from rlab.errors import RlabError, UsageError, unknown

FLOAT_TYPES = {"float32": torch.float32, **HALF_TYPES}
BITS_OF_A_BYTE = [1, 2, 4, 8, 16, 32, 64, 128]


def present(stored: Tensor) -> Tensor:
    """Where weights, as they are stored, are anything but 0; the 0 with a sign counts, so that no bit is lost."""
    if stored.dtype.is_floating_point:
        stored = stored.view(torch.int32 if stored.element_size() == 4 else torch.int16)
    return stored != 0


class SparseLayer(CompressedLayer):
    """`mask` uint8 `[..., ceil(n / 8)]` and `values [..., kept]`, or uint8 of packed integers of 4 or 2 bits.

    All members of a stack keep as many: one with fewer weights that are not 0 keeps some that are.
    """

    mask: Tensor
    values: Tensor
    kept: int

    def _store_kept(self, kept: int, dtype: torch.dtype, value_bits: int) -> None:
        self.size, self.kept, self.value_bits = prod(self.weight_shape), kept, value_bits
        if not 0 <= kept <= self.size:
            raise UsageError(f"a layer of {self.size} weights cannot keep {kept} of them.")
        first = (torch.arange(self.size) < kept).to(torch.int8)
        values = torch.zeros(*self.lead, kept, dtype=dtype)
        self.register_buffer("mask", rounding.pack(first, 1).repeat(*self.lead, 1))
        self.register_buffer("values", self._packed(values))
        self.register_load_state_dict_post_hook(_check_mask)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "kept": self.kept}

    @torch.no_grad()
    def keep(self, stored: Tensor, magnitude: Tensor | None = None) -> None:
        """Take in weights as they are stored, `[..., *weight_shape]`: the `kept` that are largest, of equals the first.

        Nothing is lost where no more than `kept` are not 0; those are then filled up with the first that are.

        Args:
            magnitude: what is compared, like `stored`; None: the stored numbers themselves, without their signs.
        """
        lead = len(self.lead)
        size = (stored.float() if magnitude is None else magnitude).abs().flatten(lead)
        stored = stored.flatten(lead)
        order = torch.where(present(stored), size, -1.0).argsort(dim=-1, descending=True, stable=True)
        places = order[..., : self.kept].sort(dim=-1).values
        bits = torch.zeros(stored.shape, dtype=torch.int8, device=stored.device).scatter(-1, places, 1)
        self.mask.copy_(rounding.pack(bits, 1))
        self.values.copy_(self._packed(stored.gather(-1, places)))

    def stored(self) -> Tensor:
        """The weights as the dense layer stores them, `[..., *weight_shape]`, with their zeros."""
        bits = self._bits()
        values = rounding.unpack(self.values, self.value_bits, self.kept) if self.value_bits < 8 else self.values
        spread = values.new_zeros(bits.shape).masked_scatter(bits, values)
        return spread.unflatten(-1, self.weight_shape)

    def _bits(self) -> Tensor:
        """The mask as bool `[..., n]`."""
        bit = torch.tensor(BITS_OF_A_BYTE, dtype=torch.uint8, device=self.mask.device)
        return ((self.mask.unsqueeze(-1) & bit) != 0).flatten(-2)[..., : self.size]

    def _packed(self, values: Tensor) -> Tensor:
        return rounding.pack(values, self.value_bits) if self.value_bits < 8 else values


def _check_mask(layer: nn.Module, keys: object) -> None:
    """Raise where a file's mask and values do not fit: weights would move to other places."""
    assert isinstance(layer, SparseLayer)
    found = layer._bits().sum(dim=-1)
    if bool((found != layer.kept).any()):
        raise RlabError(
            f"the mask of a sparse layer keeps {found.flatten().tolist()} weights and not {layer.kept}. Was the file "
            "damaged?"
        )


class SparseFloatLayer(SparseLayer):
    """Weights as floats of 32 or 16 bits that compute as float32; see the top of this module.

    Args:
        kept: how many weights each member stores.
        dtype: of the stored weights, `float32`, `float16` or `bfloat16`.
        fresh: `init` and `gain` of the float weights that `build` draws, of which the largest are kept.

    Raises:
        UsageError: the type is not known, or there are fewer weights than are to be kept.
    """

    def __init__(self, place: Place, kept: int, dtype: str = "float32", **fresh: Any) -> None:
        super().__init__(place, **fresh)
        if dtype not in FLOAT_TYPES:
            raise unknown("type of sparse weights", dtype, FLOAT_TYPES)
        self.dtype = dtype
        self._store_kept(kept, FLOAT_TYPES[dtype], 8 * FLOAT_TYPES[dtype].itemsize)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "dtype": self.dtype}

    def dense(self) -> Tensor:
        return self.stored().to(self.bias.dtype)

    @torch.no_grad()
    def load_dense(self, weight: Tensor) -> None:
        """Take float weights in, as the layer stores them; where more than `kept` are not 0, the smallest are lost."""
        stored = weight.to(self.values.dtype)
        if self.dtype != "float32" and not bool(stored.isfinite().all()):
            raise UsageError(f"weights up to {weight.abs().max().item():.3g} do not fit {self.dtype}.")
        self.keep(stored)


class SparseLinear(LinearLayer, SparseFloatLayer):
    """A linear layer with the weights that are not 0 as floats."""


class SparseConv2d(Conv2dLayer, SparseFloatLayer):
    """A convolution with the weights that are not 0 as floats."""


class SparseQuantizedLayer(SparseLayer, QuantizedLayer):
    """Weights as integers; `scale` and the tensors of static activations are those of the dense layer."""

    def __init__(self, place: Place, kept: int, **quantized: Any) -> None:
        super().__init__(place, **quantized)
        del self.weight  # mask and values stand in its place
        self._store_kept(kept, torch.int8, self.bits)

    def integers(self) -> Tensor:
        """The weights with their zeros, int8 `[..., *weight_shape]`."""
        return self.stored()

    def _store(self, integers: Tensor, scale: Tensor) -> None:
        """Where more than `kept` are not 0, the smallest weights are lost."""
        self.keep(integers.to(torch.int8), rounding.to_floats(integers, scale))


class SparseQuantizedLinear(LinearLayer, SparseQuantizedLayer):
    """A linear layer that stores the integers that are not 0."""


class SparseQuantizedConv2d(Conv2dLayer, SparseQuantizedLayer):
    """A convolution that stores the integers that are not 0."""


register_compressed("sparse_linear", SparseLinear)
register_compressed("sparse_conv2d", SparseConv2d)
register_compressed("sparse_quantized_linear", SparseQuantizedLinear)
register_compressed("sparse_quantized_conv2d", SparseQuantizedConv2d)
# compressed layer -> the sparse one that takes its settings, and `kept`
SPARSE_OF: dict[type[nn.Module], type[SparseLayer]] = {
    HalfLinear: SparseLinear,
    HalfConv2d: SparseConv2d,
    QuantizedLinear: SparseQuantizedLinear,
    QuantizedConv2d: SparseQuantizedConv2d,
}
