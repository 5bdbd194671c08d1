"""What makes Q values agree with demonstrated actions: tensors in, one value per row out."""

import math

import torch
from torch import Tensor


def large_margin(q: Tensor, action: Tensor, margin: float) -> Tensor:
    """How far the demonstrated action is from being the best by `margin` (Hester et al. 2018, equation 2).

    `max_a [Q(s, a) + l(a, a_E)] - Q(s, a_E)`, where l is `margin` for every other action and 0 for the demonstrated one
    (Piot et al. 2014). `q [..., B, A]`, forbidden actions at -inf; `action [..., B]`; the result `[..., B]` is 0 or
    more.
    """
    chosen = action.unsqueeze(-1)
    lifted = (q + margin).scatter_add(-1, chosen, torch.full_like(chosen, -margin, dtype=q.dtype))
    return lifted.amax(dim=-1) - q.gather(-1, chosen).squeeze(-1)


def conservative(q: Tensor, action: Tensor) -> Tensor:
    """How much more all actions together promise than the one in the data (Kumar et al. 2020, equation 4, CQL(H)).

    `log sum_a exp Q(s, a) - Q(s, a_data)`: the cross-entropy of the data's action under softmax(Q). `q [..., B, A]`,
    forbidden actions at -inf; `action [..., B]`; the result `[..., B]` is 0 or more.
    """
    return q.logsumexp(dim=-1) - q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


DEMONSTRATION_LOSSES = ("none", "margin", "conservative")


def expectile(error: Tensor, tau: float) -> Tensor:
    """The asymmetric squared error `|tau - 1(u < 0)| u^2` of `u = target - value` (Kostrikov et al. 2022, equation 4).

    Its minimum is the targets' expectile: the mean for tau 0.5, towards the largest for tau near 1 (Newey and Powell
    1987). One value per element.
    """
    return torch.where(error < 0, 1.0 - tau, tau) * error.square()


def advantage_weight(advantage: Tensor, beta: float, most: float) -> Tensor:
    """How much an action of this advantage counts when it is cloned: `exp(beta * advantage)`, at most `most`.

    Advantage-weighted regression (Peng et al. 2019, equation 9; `beta` is one over their temperature).
    """
    return (beta * advantage).clamp(max=math.log(most)).exp()
