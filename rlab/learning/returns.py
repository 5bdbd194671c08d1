"""The arithmetic of returns and errors: tensors in, tensors out, one value per row, on trailing dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor

RESCALING_EPS = 1e-3  # of `rescaled`, so that it has an inverse; Kapturowski et al. 2019, section 2.3


def continuation(terminated: Tensor, gamma: float | Tensor, steps: Tensor) -> Tensor:
    """gamma^steps where the episode goes on, 0 where the world ended. A time limit is not an ending.

    Args:
        gamma: a number, or numbers that broadcast over the rows.
        terminated: `[..., B]`, of the window's last row.
        steps: `[..., B]`, how many transitions the window really holds.
    """
    return torch.pow(gamma, steps) * (~terminated)


def n_step_return(reward: Tensor, gamma: float | Tensor) -> Tensor:
    """Sum of gamma^k r_k over the last axis: `[..., B, n] -> [..., B]`. Rows behind the window must be zero.

    Sutton and Barto (2018), equation 7.1 without its bootstrap. `gamma` is a number, or numbers that broadcast over the
    rows.
    """
    if reward.shape[-1] == 1:
        return reward.squeeze(-1)
    k = torch.arange(reward.shape[-1], device=reward.device)
    if isinstance(gamma, Tensor):
        return (reward * torch.pow(gamma.unsqueeze(-1), k)).sum(dim=-1)
    return reward @ torch.pow(gamma, k)


def q_td_error(q: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """How far each prediction is below its bootstrapped target (Watkins 1989).

    Args:
        q: `[..., B, A]`; `action`, `reward` (the n-step return), `discount`, `next_value`: `[..., B]`.

    Returns:
        `[..., B]`; no gradient flows into the target.

    Raises:
        ValueError: the shapes differ; broadcast, `[B, 1] - [B]` would be a `[B, B]` matrix and no error.
    """
    if not action.shape == reward.shape == discount.shape == next_value.shape == q.shape[:-1]:
        raise ValueError(
            f"action {tuple(action.shape)}, reward {tuple(reward.shape)}, discount {tuple(discount.shape)} and "
            f"next_value {tuple(next_value.shape)} must all be q's shape {tuple(q.shape)} without its last axis"
        )
    taken = q.gather(-1, action.unsqueeze(-1)).squeeze(-1)  # [..., B, A] -> [..., B]
    return (reward + discount * next_value).detach() - taken


def rescaled(x: Tensor) -> Tensor:
    """sgn(x) (sqrt(|x| + 1) - 1) + eps x: about the root of large values (Pohlen et al. 2018, proposition A.2)."""
    return x.sign() * ((x.abs() + 1.0).sqrt() - 1.0) + RESCALING_EPS * x


def unscaled(x: Tensor) -> Tensor:
    """The inverse of `rescaled`. The paper's form, multiplied out so that no digits are lost where values are small."""
    whole = x.abs() + 1.0 + RESCALING_EPS
    return x.sign() * ((2.0 * whole / (1.0 + (1.0 + 4.0 * RESCALING_EPS * whole).sqrt())).square() - 1.0)


def greedy_policy(q: Tensor) -> Tensor:
    """All probability on the best action: `[..., A] -> [..., A]`, the first of equal ones; -inf is forbidden."""
    return torch.zeros_like(q).scatter(-1, q.argmax(dim=-1, keepdim=True), 1.0)


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over a batch, `[..., B] -> [...]`, of rows that count by their `weight [..., B]`; None: all count 1.

    The sum is divided by B, not by the sum of weights: importance weights correct a sum (Schaul et al. 2016, section
    3.4).
    """
    return rows.mean(dim=-1) if weight is None else (rows * weight).mean(dim=-1)


def squared(error: Tensor) -> Tensor:
    """Half the squared error, so that its gradient is the error itself."""
    return 0.5 * error.square()


def huber(error: Tensor) -> Tensor:
    """Huber (1964) with threshold 1: squared inside, linear outside, so the gradient stays in [-1, 1]."""
    # torch's own kernel against a zero that takes no memory: one pass where the formula in tensors takes five
    return F.huber_loss(error, error.new_zeros(()).expand_as(error), reduction="none")


LOSSES = {"huber": huber, "squared": squared}
