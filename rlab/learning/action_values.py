"""The arithmetic of actor-critics that learn from replay: tensors in, tensors out, one value per row, on trailing
dimensions."""

import torch
from torch import Tensor


def critic_errors(q: Tensor, reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """How far each critic's prediction is below the target that all critics of a member share.

    Args:
        q: `[..., C, B]`; `reward` (the n-step return), `discount`, `next_value`: `[..., B]`.

    Returns:
        `[..., C, B]`; no gradient flows into the target.

    Raises:
        ValueError: the shapes differ.
    """
    if not reward.shape == discount.shape == next_value.shape == (*q.shape[:-2], q.shape[-1]):
        raise ValueError(
            f"reward {tuple(reward.shape)}, discount {tuple(discount.shape)} and next_value {tuple(next_value.shape)} "
            f"must all be q's shape {tuple(q.shape)} without its axis of critics"
        )
    return (reward + discount * next_value).detach().unsqueeze(-2) - q


def soft_value(q: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """`E[Q(s, a) - alpha log pi(a|s)]` over all choices, `[..., A] -> [...]` (Christodoulou 2019, equation 10).

    Args:
        q: values of the choices.
        log_prob: of the choices; -inf for one that is not allowed, which counts nothing.
        temperature: alpha, which broadcasts to the result.
    """
    allowed = log_prob > -torch.inf
    surprise = torch.where(allowed, log_prob, torch.zeros_like(log_prob))  # 0 times -inf is NaN
    return (log_prob.exp() * (q - temperature.unsqueeze(-1) * surprise)).sum(dim=-1)


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: Tensor | float) -> Tensor:
    """What is to be minimised over the log of the temperature (Haarnoja et al. 2018b, equation 18): where the policy's
    `entropy` is below the `target` it rises, else it falls. Shapes broadcast; no gradient flows into the entropy.

    The authors' code has the log in the place of the temperature: the zero of the gradient is the same.
    """
    return log_temperature * (entropy - target).detach()


def smoothed(action: Tensor, noise: Tensor, deviation: float, clip: float) -> Tensor:
    """An action near the target policy's (Fujimoto et al. 2018, equation 14): clipped normal noise is added to it.

    Args:
        action: in units in which [-1, 1] is the space; so is the result.
        noise: standard normal, of the same shape.
        deviation: of the noise, in those units.
        clip: the most that the noise may be.
    """
    return (action + (deviation * noise).clamp(-clip, clip)).clamp(-1.0, 1.0)
