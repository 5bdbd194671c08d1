"""The arithmetic of return distributions: tensors in, tensors out, one distribution per row, on trailing dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def chosen(per_action: Tensor, action: Tensor) -> Tensor:
    """Of `per_action [..., A, n]` what `action [...]` has: `[..., n]`."""
    index = action[..., None, None].expand(*action.shape, 1, per_action.shape[-1])
    return per_action.gather(-2, index).squeeze(-2)


def mixed(per_action: Tensor, policy: Tensor) -> Tensor:
    """The mean over actions of `per_action [..., A, n]` with the probabilities `policy [..., A]`: `[..., n]`."""
    return (policy.unsqueeze(-1) * per_action).sum(dim=-2)


def projected(probability: Tensor, returns: Tensor, support: Tensor) -> Tensor:
    """A distribution moved onto the atoms of `support` (Bellemare et al. 2017, equation 7 and algorithm 1).

    Each return shares its probability out to the two atoms beside it, to the nearer one more; what is beyond the first
    or last atom counts there. The mass stays 1, and so does the mean where nothing is beyond.

    Args:
        probability: `[..., n]`.
        returns: `[..., n]`, the return that each belongs to.
        support: `[m]`, evenly spaced and rising.

    Returns:
        `[..., m]`.
    """
    last = support.shape[0] - 1
    place = ((returns - support[0]) * (last / (support[-1] - support[0]))).clamp(0, last)
    if place.device.type != "cpu":  # a matrix of shares [..., m, n]: a GPU does not fix the order of sums into places
        distance = (place.unsqueeze(-2) - torch.arange(last + 1, device=support.device).unsqueeze(-1)).abs()
        return (probability.unsqueeze(-2) * (1 - distance).clamp(min=0)).sum(dim=-1)
    below = place.long().clamp(max=last - 1)
    above = place - below  # how far it is on the way to the next atom
    found = probability.new_zeros(*probability.shape[:-1], last + 1)
    return found.scatter_add(-1, below, probability * (1 - above)).scatter_add(-1, below + 1, probability * above)


def divergence(target: Tensor, log_probability: Tensor) -> Tensor:
    """KL(target || prediction) in nats: `[..., n]` and `[..., n]` give `[...]`.

    The cross-entropy of algorithm 1 less the target's own entropy, so that it is 0 where the two agree; the gradient is
    the same.
    """
    return (torch.special.xlogy(target, target) - target * log_probability).sum(dim=-1)


def quantile_loss(error: Tensor, fraction: Tensor, kappa: float) -> Tensor:
    """Quantile regression with Huber's loss: Dabney et al. 2018a, equations 9 and 10; 2018b, equation 3.

    Args:
        error: `[..., n, m]`, how far each of n predicted quantiles is below each of m target returns.
        fraction: `[..., n]`, which quantiles these are.
        kappa: up to which error the loss is squared; 0: nowhere, which finds the very quantiles.

    Returns:
        `[...]`: a sum over the predicted quantiles, a mean over the targets.
    """
    zero = error.new_zeros(()).expand_as(error)
    size = error.abs() if kappa == 0.0 else F.huber_loss(error, zero, reduction="none", delta=kappa)
    above = fraction.unsqueeze(-1)
    return (torch.where(error < 0, 1 - above, above) * size).mean(dim=-1).sum(dim=-1) / (kappa or 1.0)
