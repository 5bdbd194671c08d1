"""Log probabilities and entropies, in nats, as functions of tensors."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_LOG_TWO_PI = math.log(2.0 * math.pi) / 2.0


def only(values: Tensor, mask: Tensor | None) -> Tensor:
    """`values [..., A]` with -inf where the mask forbids; None allows all."""
    return values if mask is None else values.masked_fill(~mask, -torch.inf)


def choice_log_prob(logits: Tensor, action: Tensor) -> Tensor:
    """The log of the softmax of `logits [..., A]` at the chosen ones, `action [...]`."""
    return logits.log_softmax(dim=-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def choice_entropy(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The entropy `[...]` of the softmax over what the mask allows of `logits [..., A]`."""
    log_prob = only(logits, mask).log_softmax(dim=-1)
    finite = log_prob if mask is None else log_prob.masked_fill(~mask, 0.0)  # 0 times -inf is NaN
    return -(log_prob.exp() * finite).sum(dim=-1)


def normal_entropy(log_std: Tensor) -> Tensor:
    """The entropy of a normal variable, element by element."""
    return log_std + (0.5 + HALF_LOG_TWO_PI)


def normal_log_density(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """The log density of normal variables, element by element."""
    return -((value - mean) * (-log_std).exp()).square() / 2 - log_std - HALF_LOG_TWO_PI


def normal_log_mass_below(z: Tensor) -> Tensor:
    """The log of a standard normal's mass below `z`.

    Not `torch.special.log_ndtr`: in float32 its gradient is 4% off at z = -1000 and 0 at z = -1e6 (torch 2.13).
    """
    far, near = z.clamp(max=-1.0), z.clamp(min=-1.0)  # each formula is fed only what it is good for
    left = (torch.special.erfcx(far * -(0.5**0.5)) / 2).log() - far.square() / 2
    right = torch.log1p(-torch.erfc(near * 0.5**0.5) / 2)
    return torch.where(z < -1.0, left, right)


def log_tanh_slope(value: Tensor) -> Tensor:
    """`log(1 - tanh(value)^2)`, which does not cancel where the tanh is flat."""
    return 2.0 * (math.log(2.0) - value - F.softplus(-2.0 * value))
