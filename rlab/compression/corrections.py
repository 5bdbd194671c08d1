"""What visited states can put right after rounding: the integers of each layer in view of its inputs, and its biases.

Q values of nearly the same size for all actions need it: their greedy action hangs on differences far below a hundredth
of the outputs, and a rounding that leaves a constant error in one of them decides it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.compression.float_layers import float_weight, observe
from rlab.networks import rounding
from rlab.networks.quantized import CompressedLayer, QuantizedConv2d, QuantizedLinear

DAMPING = 0.01  # of the mean variance of the inputs, added to each: Frantar et al. 2023, section 3.3, step 3
ROWS = 20_000  # inputs of a layer, or patches of a convolution, that are looked at per member


@torch.no_grad()
def correct(network: nn.Module, quantized: nn.Module, features: Tensor) -> nn.Module:
    """Fit the layers of `quantized` to those of the float network that it was made from, in place, in forward order.

    Integers are chosen one input at a time, each making up for the rounding of those before it (GPTQ, Frantar et al.
    2023, with the covariance of the inputs that the quantized layers before give). Then the biases take up what is
    left of the mean error of each output (Nagel et al. 2019, section 4.2, measured as in their appendix D).

    Args:
        features: `[R, ...]` (`[S, R, ...]` for a stack), the networks' input on visited states.
    """
    names = {layer: name for name, layer in network.named_modules()}
    means: dict[str, Tensor] = {}

    def note(layer: nn.Module, x: Tensor) -> None:
        geometry = quantized.get_submodule(names[layer])
        assert isinstance(geometry, CompressedLayer)
        means.setdefault(names[layer], _rows(geometry, x).mean(dim=-2))

    observe(network, features, note)
    for name, mean in means.items():
        layer = quantized.get_submodule(name)
        assert isinstance(layer, CompressedLayer)
        rows = _rows(layer, layer.entering(_entering(quantized, layer, features)))
        weight = float_weight(network.get_submodule(name))
        if isinstance(layer, QuantizedLinear | QuantizedConv2d):
            layer.load_dense(_each_member(_compensated, layer, weight, layer.scale, rows, layer.bits), layer.scale)
        wanted = _product(weight.flatten(len(layer.lead) + 1), mean)
        found = _product(layer.dense().flatten(len(layer.lead) + 1), rows.mean(dim=-2))
        layer.bias.add_(wanted - found)
    return quantized


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """`[..., out, in]` and `[..., in]` to `[..., out]`."""
    return (weight @ x.unsqueeze(-1)).squeeze(-1)


def _entering(network: nn.Module, layer: nn.Module, features: Tensor) -> Tensor:
    """What enters one layer of the network, the first time that it is called."""
    found: list[Tensor] = []

    def note(each: nn.Module, x: Tensor) -> None:
        if each is layer:
            found.append(x)

    observe(network, features, note)
    return found[0]


def _rows(layer: CompressedLayer, x: Tensor) -> Tensor:
    """The vectors `[..., n, in]` that the layer's weights, as a matrix, are multiplied with; `ROWS` at most, evenly
    spread over the states."""
    lead = len(layer.lead)
    if len(layer.weight_shape) == 2:
        x = x.flatten(lead, -2)
        return x[..., :: -(-x.shape[-2] // ROWS), :]
    kernel = layer.weight_shape[-1]
    positions = ((x.shape[-2] - kernel) // layer.stride + 1) * ((x.shape[-1] - kernel) // layer.stride + 1)
    step = -(-x.shape[lead] * positions // ROWS)
    x = x[:, ::step] if lead else x[::step]
    patches = F.unfold(x.flatten(0, lead), kernel, stride=layer.stride).transpose(1, 2)  # [S * R, positions, in]
    return patches.unflatten(0, x.shape[: lead + 1]).flatten(lead, lead + 1)


def _each_member(
    fit: Callable[..., Tensor], layer: CompressedLayer, weight: Tensor, scale: Tensor, rows: Tensor, bits: int
) -> Tensor:
    """`fit` for every member in turn, since the matrices of one may be large."""
    matrix = weight.flatten(len(layer.lead) + 1)
    if layer.members is None:
        return fit(matrix, scale, rows, bits).reshape(weight.shape)
    each = zip(matrix, scale, rows, strict=True)
    return torch.stack([fit(*parts, bits) for parts in each]).reshape(weight.shape)


def _compensated(weight: Tensor, scale: Tensor, rows: Tensor, bits: int) -> Tensor:
    """Float weights `[out, in]` on the grid of `scale [out]`, whose products with `rows [n, in]` are close to those of
    `weight` but for a constant."""
    left, step = weight.double().clone(), scale.double()
    centred = rows.double() - rows.double().mean(dim=0)  # the mean is the bias's part
    covariance = centred.T @ centred / len(rows)
    mean_variance = covariance.diagonal().mean()
    damping = torch.where(mean_variance > 0, DAMPING * mean_variance, 1.0)
    covariance.diagonal().add_(damping)
    # Frantar et al. 2023, equation 2, in the form of their section 3.3: one factorisation serves all columns.
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(covariance)), upper=True)
    found = torch.empty_like(left)
    for column in range(left.shape[1]):
        integers = rounding.to_integers(left[:, column], step, 0, *rounding.limits(bits))
        found[:, column] = rounding.to_floats(integers, step)
        error = (left[:, column] - found[:, column]) / factor[column, column]
        left[:, column:] -= error.unsqueeze(1) * factor[column, column:]
    return found.to(weight.dtype)
