"""Quantization after training: each function takes a network and gives a new one with the same forward.

Plain networks and stacks both work; in a stack each member has scales and ranges of its own. Linear layers and
convolutions change (LoRA adapters are merged into theirs first); everything else, such as LayerNorm, log_std,
activations, embeddings and recurrent units (which `linear_units.opened` makes linear layers of), stays as it is.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from rlab.compression import rounding
from rlab.compression.float_layers import built_like, first_layers, observe, quantizable
from rlab.compression.quantized_layers import (
    HalfConv2d,
    HalfLayer,
    HalfLinear,
    QuantizedConv2d,
    QuantizedLayer,
    QuantizedLinear,
    replaced,
    u8,
)
from rlab.compression.rounding_correction import correct
from rlab.compression.sequences import Features
from rlab.errors import unknown
from rlab.networks.layers import is_float_layer, is_stacked

PERCENTILE = 99.99  # of the inputs lie below the upper end of a range, and as many above the lower end
RATIOS = [0.05 ** (1 - step / 80) for step in range(81)]  # of the largest value, at which a clip is tried: 0.05 to 1
REFINEMENTS = 5  # steps of least squares after the best of them
MSE_SAMPLE = 100_000  # values of each input that the search for its range uses, evenly spread
Range = tuple[Tensor, Tensor]  # the lower and the upper end, each `[...]`


def half(network: nn.Module, dtype: str = "float16", features: Features | None = None) -> nn.Module:
    """Weights in 16 bits, `float16` or `bfloat16`; biases and arithmetic stay in float32.

    Args:
        features: visited states as in `weight_only`, by which roundings and biases are corrected.

    Raises:
        UsageError: the type is not known, a weight does not fit it, or the network cannot be quantized.
    """
    network = quantizable(network)
    return _rounded(network, lambda layer: _half_layer(layer, dtype), features)


def weight_only(network: nn.Module, bits: int = 8, features: Features | None = None) -> nn.Module:
    """Weights as integers of 8, 4 or 2 bits with one scale for each output channel; activations stay in float32.

    Args:
        features: `[R, ...]` (`[S, R, ...]` for a stack), the network's input on visited states, by which scales,
            roundings and biases are corrected (`rounding_correction`); with memory `InOrder`. None: each weight takes
            the nearest value.

    Raises:
        UsageError: other bits, or the network cannot be quantized.
    """
    network = quantizable(network)
    return _rounded(network, lambda layer: quantized_layer(layer, bits), features)


def dynamic(network: nn.Module, features: Features | None = None, keep_first_input: bool = True) -> nn.Module:
    """Weights as int8, and each layer's input as u8 with the range that it has in the batch at hand.

    Args:
        features: visited states as in `weight_only`, by which roundings and biases are corrected.
        keep_first_input: leave the observation in float; rounding it costs most of the agreement that int8 costs.

    Raises:
        UsageError: the network cannot be quantized.
    """
    network = quantizable(network)
    kept = first_layers(network) if keep_first_input else set()
    return _rounded(network, lambda layer: quantized_layer(layer, 8, "none" if layer in kept else "dynamic"), features)


def static(
    network: nn.Module,
    features: Features,
    calibration: str = "minmax",
    keep_first_input: bool = True,
    corrected: bool = True,
) -> nn.Module:
    """Weights as int8, and each layer's input as u8 with a range that was measured once.

    Args:
        features: `[R, ...]` (`[S, R, ...]` for a stack), the network's input on visited states: calibrated on noise, a
            policy loses many times the agreement. All rows pass through the network at once.
        calibration: `minmax`, the whole range; `percentile`, without the outermost 0.01 % of either side; `mse`, the
            share of the range at which the squared error of rounding is least.
        keep_first_input: leave the observation in float, as in `dynamic`.
        corrected: correct roundings and biases by the features, as in `weight_only`.

    Raises:
        UsageError: the calibration is not known, or the network cannot be quantized.
    """
    if calibration not in CALIBRATIONS:
        raise unknown("calibration", calibration, CALIBRATIONS)
    network = quantizable(network)
    kept = first_layers(network) if keep_first_input else set()
    ranges = _input_ranges(network, features, CALIBRATIONS[calibration])

    def quantized(layer: nn.Module) -> nn.Module:
        if layer in kept or layer not in ranges:  # what no state reaches needs no range
            return quantized_layer(layer, 8)
        new = quantized_layer(layer, 8, "static")
        set_input_range(new, *ranges[layer])
        return new

    return _rounded(network, quantized, features if corrected else None)


def _rounded(network: nn.Module, change: Callable[[nn.Module], nn.Module], features: Features | None) -> nn.Module:
    """A copy with `change(layer)` in the place of every float layer, corrected on the features where there are any."""
    found = replaced(network, lambda layer: change(layer) if is_float_layer(layer) else None)
    return found if features is None else correct(network, found, features)


def quantized_layer(layer: nn.Module, bits: int, activations: str = "none") -> QuantizedLayer:
    """A float layer, plain or stacked, with its weights as integers.

    Of 8 bits each scale is that of its channel's largest weight; of 4 and 2 the one of least squared error.

    Raises:
        UsageError: other bits or activations.
        RlabError: the layer has a setting, such as padding, that a quantized layer lacks.
    """
    new, weight = built_like(layer, QuantizedLinear, QuantizedConv2d, bits=bits, activations=activations)
    new.load_dense(weight, weight_scale(weight, bits, len(new.weight_shape) - 1))
    return new


def _half_layer(layer: nn.Module, dtype: str) -> HalfLayer:
    new, weight = built_like(layer, HalfLinear, HalfConv2d, dtype=dtype)
    new.load_dense(weight)
    return new


@torch.no_grad()
def weight_scale(weight: Tensor, bits: int, dims: int) -> Tensor:
    """The scale `[...]` of each channel, the last `dims` axes of `weight`: by the largest weight for 8 bits, else that
    of least squared error.

    The search tries clips at shares of the largest weight, and then takes the best scale for the integers found and
    the integers of that scale in turn, as in Lloyd's algorithm.
    """
    largest = rounding.max_abs_scale(weight, bits, dims)
    if bits == 8 or bits not in rounding.BITS:  # the layer refuses what it does not know
        return largest
    rows, low, high = weight.flatten(-dims), *rounding.limits(bits)

    def rounded(scale: Tensor) -> Tensor:
        return rounding.to_integers(rows, scale.unsqueeze(-1), 0, low, high)

    def error(scale: Tensor) -> Tensor:
        return (rounding.to_floats(rounded(scale), scale.unsqueeze(-1)) - rows).square().sum(dim=-1)

    best, least = largest, error(largest)
    for ratio in RATIOS:
        best, least = _better(best, least, largest * ratio, error)
    for _ in range(REFINEMENTS):
        integers = rounded(best)
        fitted = (integers * rows).sum(dim=-1) / integers.square().sum(dim=-1).clamp(min=1.0)
        best, least = _better(best, least, torch.where(fitted > 0, fitted, best), error)
    return best


def _better(best: Tensor, least: Tensor, other: Tensor, error: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    found = error(other)
    return torch.where(found < least, other, best), torch.minimum(found, least)


def set_input_range(layer: QuantizedLayer, low: Tensor, high: Tensor) -> None:
    """Give a layer with static activations its range, one for each member."""
    scale, zero_point = rounding.u8_affine(low, high)
    layer.input_scale.copy_(scale)
    layer.input_zero_point.copy_(zero_point)


def _input_ranges(
    network: nn.Module, features: Features, calibrate: Callable[[Tensor], Range]
) -> dict[nn.Module, Range]:
    """The range of what enters each layer that can be quantized."""
    ranges: dict[nn.Module, Range] = {}

    def note(layer: nn.Module, x: Tensor) -> None:
        low, high = calibrate(x.flatten(1) if is_stacked(layer) else x.flatten())
        before = ranges.get(layer, (low, high))
        ranges[layer] = torch.minimum(before[0], low), torch.maximum(before[1], high)

    observe(network, features, note)
    return ranges


def _minmax(values: Tensor) -> Range:
    return values.amin(dim=-1), values.amax(dim=-1)


def _percentile(values: Tensor) -> Range:
    shares = (100.0 - PERCENTILE, PERCENTILE)
    low, high = np.percentile(values.cpu().numpy(), shares, axis=-1)  # torch.quantile takes 16 million values at most
    return values.new_tensor(low), values.new_tensor(high)


def _mse(values: Tensor) -> Range:
    some = values[..., :: -(-values.shape[-1] // MSE_SAMPLE)]
    low, high = _minmax(values)
    best, least = torch.ones_like(low), torch.full_like(low, torch.inf)

    def error(ratio: Tensor) -> Tensor:
        return (u8(some, *rounding.u8_affine(low * ratio, high * ratio)) - some).square().sum(dim=-1)

    for ratio in RATIOS:
        best, least = _better(best, least, torch.full_like(low, ratio), error)
    return low * best, high * best


CALIBRATIONS: dict[str, Callable[[Tensor], Range]] = {"minmax": _minmax, "percentile": _percentile, "mse": _mse}
