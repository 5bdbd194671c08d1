"""Corrections after rounding, from visited states: the weights of each layer in view of its inputs, and its biases.

Q values that are nearly equal for all actions need it: their greedy action depends on differences far below a hundredth
of the outputs, so a constant rounding error in one output can change it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.compression import rounding
from rlab.compression.float_layers import float_weight, observe
from rlab.compression.quantized_layers import CompressedLayer, HalfLayer, QuantizedLayer
from rlab.compression.sequences import Features

# Of the mean variance of the inputs, added to each. Agreement at 4 bits with 1e-3, 1e-4, 1e-5 and 1e-6, DQN: CartPole
# 0.966, 0.966, 0.964, 0.960; LunarLander 0.711, 0.694, 0.624, 0.647; Frantar et al. 2023 have 1e-2.
DAMPING = 1e-3
ROWS = 20_000  # inputs of a layer, or patches of a convolution, that are used per member
# Scales that are tried for each channel, beside its present one. With 1, 64, 256 and 1024 DQN on CartPole has an
# agreement of 0.9971, 0.9980, 0.9979 and 0.9983 at 8 bits, and of 0.946, 0.965, 0.966 and 0.966 at 4.
CANDIDATES = 256
# bits -> smallest and largest of them, in units of the present one
SPANS = {8: (1.0, 1.3), 4: (0.7, 1.4), 2: (0.7, 1.4)}
# Outputs times inputs squared times scales, per layer and member: a second of one core. Large layers try fewer scales.
WORK = 8e9
BLOCK = 32  # columns whose errors are passed to all later ones in one matrix product
Grid = Callable[[Tensor], Tensor]  # `[K, out]` to the nearest numbers that the weights of K candidates can have


@torch.no_grad()
def correct(network: nn.Module, quantized: nn.Module, features: Features, candidates: int = CANDIDATES) -> nn.Module:
    """Fit the layers of `quantized` to those of the float network that it was made from, in place, in forward order.

    Each layer should give what the float layer gives, from the inputs that the rounded layers before it give (the
    asymmetric reconstruction of Nagel et al. 2020, section 4.3, and of GPTAQ, Li et al. 2025): its float weights are
    fitted to that by least squares, and then rounded one input at a time, each making up for the rounding of those
    before it, inputs of large variance first (GPTQ, Frantar et al. 2023, with the order of their code). That is done
    for several scales at once, of which each channel takes the one that leaves the least error. Then the biases take
    up what is left of the mean error of each output (Nagel et al. 2019, section 4.2, measured as in their appendix D).

    Args:
        features: `[R, ...]` (`[S, R, ...]` for a stack), the networks' input on visited states.
        candidates: scales to try at most, beside the present one of a channel.
    """
    names = {layer: name for name, layer in network.named_modules()}
    wanted: dict[str, list[Tensor]] = {}  # the outputs that a layer should have, `[..., n, out]`, less its bias

    def note(layer: nn.Module, x: Tensor) -> None:
        name = names[layer]
        like = quantized.get_submodule(name)
        assert isinstance(like, CompressedLayer)
        wanted.setdefault(name, []).append(_rows(like, x) @ _matrix(like, float_weight(layer)).mT)

    observe(network, features, note)
    for name, parts in wanted.items():
        outputs, layer = torch.cat(parts, dim=-2), quantized.get_submodule(name)
        assert isinstance(layer, CompressedLayer)
        rows = torch.cat([_rows(layer, layer.entering(x)) for x in entering(quantized, layer, features)], dim=-2)
        _fit(layer, float_weight(network.get_submodule(name)), rows, outputs, candidates)
        found = rows @ _matrix(layer, layer.dense()).mT
        layer.bias.add_((outputs - found).mean(dim=-2, dtype=torch.double))
    return quantized


def _matrix(layer: CompressedLayer, weight: Tensor) -> Tensor:
    """`[..., *weight_shape]` to `[..., out, in]`."""
    return weight.flatten(len(layer.lead) + 1)


def entering(network: nn.Module, layer: nn.Module, features: Features) -> list[Tensor]:
    """What enters one layer of the network, each time that it is called."""
    found: list[Tensor] = []

    def note(each: nn.Module, x: Tensor) -> None:
        if each is layer:
            found.append(x)

    observe(network, features, note)
    return found


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


def _fit(layer: CompressedLayer, weight: Tensor, rows: Tensor, outputs: Tensor, candidates: int) -> None:
    """Give the layer its weights, one member after the other, since the matrices of one may be large."""
    all_members = [_matrix(layer, weight), rows, outputs]
    if not layer.lead:
        all_members = [x.unsqueeze(0) for x in all_members]
    members = zip(*all_members, strict=True)
    if isinstance(layer, HalfLayer):
        halves = [_halved(w, x, y, layer.weight.dtype) for w, x, y in members]
        layer.load_dense(torch.stack(halves).reshape(weight.shape))
    if isinstance(layer, QuantizedLayer):
        scales = layer.scale.reshape(-1, layer.scale.shape[-1])
        found = [
            _quantized(w, x, y, scale, layer.bits, candidates) for (w, x, y), scale in zip(members, scales, strict=True)
        ]
        weights, scale = (torch.stack(parts) for parts in zip(*found, strict=True))
        layer.load_dense(weights.reshape(weight.shape), scale.reshape(layer.scale.shape))


def _halved(weight: Tensor, rows: Tensor, outputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights `[out, in]` that 16 bits can hold."""
    most = torch.finfo(dtype).max
    goal, covariance = fitted(weight, rows, outputs)
    found, _ = _compensated(goal.unsqueeze(0), covariance, lambda x: x.clamp(-most, most).to(dtype).to(x.dtype))
    return found[0].to(weight.dtype)


def _quantized(
    weight: Tensor, rows: Tensor, outputs: Tensor, scale: Tensor, bits: int, candidates: int
) -> tuple[Tensor, Tensor]:
    """Weights `[out, in]` on the grid of the scales `[out]` that are given with them."""
    goal, covariance = fitted(weight, rows, outputs)
    if bits == 8:  # no weight may saturate
        scale = torch.maximum(scale, rounding.max_abs_scale(goal, bits, 1).to(scale.dtype))
    tried = min(candidates, int(WORK / (goal.numel() * goal.shape[1])))
    ratios = torch.cat([torch.ones(1), torch.linspace(*SPANS[bits], max(0, tried))]).to(goal)
    steps = (ratios.unsqueeze(1) * scale).to(scale.dtype).to(goal)  # [K, out], as they can be stored

    def grid(x: Tensor) -> Tensor:
        return rounding.to_floats(rounding.to_integers(x, steps, 0, *rounding.limits(bits)), steps)

    found, error = _compensated(goal.expand(len(steps), -1, -1), covariance, grid)
    best, channel = error.argmin(dim=0), torch.arange(len(scale), device=scale.device)
    return found[best, channel].to(weight.dtype), steps[best, channel].to(scale.dtype)


def fitted(weight: Tensor, rows: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Float weights near `weight [out, in]` whose products with `rows [n, in]` are nearest to `outputs [n, out]`, but
    for a constant, which is the bias's part, and the damped covariance `[in, in]` of the rows; in double precision."""
    rows, weight = rows.double() - rows.double().mean(dim=0), weight.double()
    covariance = rows.T @ rows / len(rows)
    mean_variance = covariance.diagonal().mean()
    covariance.diagonal().add_(torch.where(mean_variance > 0, DAMPING * mean_variance, 1.0))
    lacking = outputs.double() - outputs.double().mean(dim=0) - rows @ weight.T
    return weight + torch.linalg.solve(covariance, rows.T @ lacking / len(rows)).T, covariance


def _compensated(weight: Tensor, covariance: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Weights `[K, out, in]` on the grid, and the mean square `[K, out]` by which their products miss what they should.

    Frantar et al. 2023, equation 2, in the form of their section 3.3: one factorisation serves all columns.
    """
    order = covariance.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    left = weight.permute(2, 0, 1)[order].contiguous()  # [in, K, out]: what is left to do with the columns, then found
    total = torch.zeros_like(left[0])
    for first in range(0, len(left), BLOCK):
        block = left[first : first + BLOCK]
        weights = factor[first : first + BLOCK, first:]
        errors = torch.empty_like(block)
        for i, column in enumerate(block):
            found = grid(column)
            errors[i] = (column - found) / weights[i, i]
            column.copy_(found)
            block[i + 1 :] -= weights[i, i + 1 : len(block), None, None] * errors[i]
        total += errors.square().sum(dim=0)
        left[first + BLOCK :] -= torch.tensordot(weights[:, BLOCK:].T, errors, dims=1)
    return left[order.argsort()].permute(1, 2, 0), total
