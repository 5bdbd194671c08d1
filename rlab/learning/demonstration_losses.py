"""What makes Q values agree with demonstrated actions: one value per row, and the loss term."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.learning.contract import Batch
from rlab.learning.per_member import over, per_member
from rlab.learning.returns import squared
from rlab.networks.distributions import only
from rlab.networks.heads import StochasticHead
from rlab.networks.policy import Policy
from rlab.types import Clock


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


class DemonstrationTerm:
    """A loss term of the rows that are demonstrated, for agents with Q values.

    Args:
        config: a `QLearningConfig`, of which it is the `demonstration_loss`.
        policy: the agent's; its head reads Q values from outputs, and its observations may hold masks.
    """

    def __init__(self, config: Any, policy: Policy) -> None:
        self.name, self._config = config.demonstration_loss, config
        self._preprocess = policy.preprocess
        self._head: Any = policy.head  # of Q values

    @classmethod
    def of(cls, config: Any, policy: Policy) -> "list[DemonstrationTerm]":
        """The term that a `QLearningConfig` asks for; none where its `demonstration_loss` is none."""
        if config.demonstration_loss == "none":
            return []
        return [cls(config, policy)]

    def prepare(self, batch: Batch) -> Batch:
        if "demonstration" not in batch:
            return {}
        mask = self._preprocess.mask(batch["obs"])
        return {"demonstration": batch["demonstration"]} | ({} if mask is None else {"mask": mask})

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """How little the Q values agree with the demonstrated actions among the rows; a mean over the batch `[S]`."""
        if "demonstration" not in batch:
            return None
        q = only(self._head.values(outputs), batch.get("mask"))
        if self.name == "margin":
            error = large_margin(q, batch["action"], over(self._config.margin, q))
        else:
            error = conservative(q, batch["action"])
        return (error * batch["demonstration"]).mean(dim=-1)

    def weight(self, clock: Clock) -> float | np.ndarray:
        return per_member(self._config, lambda each: each.demonstration_weight)


class CloningTerm:
    """A loss term of the rows that are demonstrated, for agents with a policy network of its own (Nair et al. 2018,
    section IV-B): how unlikely the policy makes their actions, in nats; of a deterministic policy half the squared
    distance in half ranges.

    Args:
        config: an `OffPolicyConfig`, which has its weight beside the agent's own loss.
        policy: the agent's; its observations may hold masks.
    """

    name = "cloning"

    def __init__(self, config: Any, policy: Policy) -> None:
        self._config = config
        self._preprocess = policy.preprocess
        self._head: Any = policy.head

    @classmethod
    def of(cls, config: Any, policy: Policy) -> "list[CloningTerm]":
        """The term that a config asks for; none where its `cloning_weight` is 0."""
        return [cls(config, policy)] if np.any(per_member(config, lambda each: each.cloning_weight)) else []

    def prepare(self, batch: Batch) -> Batch:
        if "demonstration" not in batch:
            return {}
        mask = self._preprocess.mask(batch["obs"])
        rows = {"demonstration": batch["demonstration"], "demonstrated": batch["action"]}
        return rows if mask is None else {**rows, "mask": mask}

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """The mean over the batch `[S]`; rows that are not demonstrated count 0."""
        if "demonstration" not in batch:
            return None
        action = batch["demonstrated"]
        if isinstance(self._head, StochasticHead):
            error = -self._head.log_prob(outputs, action, batch.get("mask"))
        else:
            error = squared(self._head.normalised(action) - outputs.tanh()).sum(dim=-1)
        return torch.where(batch["demonstration"], error, torch.zeros_like(error)).mean(dim=-1)

    def weight(self, clock: Clock) -> float | np.ndarray:
        return per_member(self._config, lambda each: each.cloning_weight)


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
