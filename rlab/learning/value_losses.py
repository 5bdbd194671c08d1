"""The losses of Q heads: how far what is predicted of an action is from what it led to, one value per row."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlab.learning.contract import Batch
from rlab.learning.distributional import chosen, divergence, mixed, projected, quantile_loss
from rlab.learning.returns import LOSSES, q_td_error, rescaled, unscaled
from rlab.networks.distributions import only
from rlab.networks.value_heads import CategoricalValueHead, ImplicitQuantileHead, QHead, QuantileHead

OUTSIDE_SUPPORT = "q/outside_support"  # a metric of `CategoricalLoss`


class ValueLoss:
    """The loss of one kind of Q head."""

    name: str  # what is minimised; the mean is reported as loss/td_NAME

    def __call__(
        self, outputs: Tensor, batch: Batch, next_policy: Tensor, next_bonus: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of each row, and how surprising the row is: its TD error or what the head has for it.

        Args:
            outputs: `[S, B, width]`, what the network that learns says of the observations.
            batch: prepared rows; it has what was done, `action [S, B]`, the n-step return `reward [S, B]`, the
                `discount [S, B]` of what comes next, 0 where the world ended, and what the target network says of the
                successors, `next_outputs [S, B, width]`.
            next_policy: `[S, B, A]`, the probability of each next action, 0 where it is forbidden.
            next_bonus: `[S, B]`, added to what comes next, such as an entropy; None adds nothing.

        Returns:
            Both `[S, B]`; no gradient flows into the target.
        """
        raise NotImplementedError

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """What else is worth reporting of a batch, `[S]` each."""
        return {}


@dataclass(frozen=True)
class ExpectedLoss(ValueLoss):
    """Of heads whose prediction is the expected return alone: the TD error (Watkins 1989) through `LOSSES[name]`.

    With `rescaling` the head predicts `rescaled` returns (Kapturowski et al. 2019, section 2.3).
    """

    head: QHead
    name: str
    rescaling: bool = False

    def __call__(
        self, outputs: Tensor, batch: Batch, next_policy: Tensor, next_bonus: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        q, next_q = self.head.values(outputs), self.head.values(batch["next_outputs"])
        next_value = (next_policy * (unscaled(next_q) if self.rescaling else next_q)).sum(dim=-1)
        if next_bonus is not None:
            next_value = next_value + next_bonus
        reward, discount = batch["reward"], batch["discount"]
        if self.rescaling:  # all that is expected, as one reward
            reward, discount = rescaled(reward + discount * next_value), torch.zeros_like(discount)
        error = q_td_error(q, batch["action"], reward, discount, next_value)
        return LOSSES[self.name](error), error


@dataclass(frozen=True)
class CategoricalLoss(ValueLoss):
    """Of C51 (Bellemare et al. 2017, algorithm 1): how far the distribution over atoms is from its target's projection.

    Its divergence is also how surprising a row is (Hessel et al. 2018, "Prioritized replay").
    """

    head: CategoricalValueHead
    name = "divergence"

    def __call__(
        self, outputs: Tensor, batch: Batch, next_policy: Tensor, next_bonus: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        head = self.head
        with torch.no_grad():
            following = mixed(head.logits(batch["next_outputs"]).softmax(dim=-1), next_policy)
            target = projected(following, _targets(head.support, batch, next_bonus), head.support)
        loss = divergence(target, chosen(head.logits(outputs), batch["action"]).log_softmax(dim=-1))
        return loss, loss

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """How much of the targets' probability is beyond the atoms, by half their distance or more, where the best next
        action by the target network follows."""
        support, logits = self.head.support, self.head.logits(batch["next_outputs"])
        best = only(self.head.values(batch["next_outputs"]), batch.get("next_mask")).argmax(dim=-1)
        returns, half = _targets(support, batch, None), (support[1] - support[0]) / 2
        outside = (returns < support[0] - half) | (returns > support[-1] + half)
        return {OUTSIDE_SUPPORT: (chosen(logits, best).softmax(dim=-1) * outside).sum(dim=-1).mean(dim=-1)}


@dataclass(frozen=True)
class QuantileLoss(ValueLoss):
    """Of QR-DQN (Dabney et al. 2018a, algorithm 1) and IQN (2018b, section 3.1): quantile regression of all pairs of a
    predicted and a target return. The loss is also how surprising a row is.

    Under a policy that is not sure, each quantile of what comes next is the mean over actions (Vieillard et al. 2020,
    section 4, M-IQN).
    """

    head: QuantileHead | ImplicitQuantileHead
    kappa: float
    name = "quantile"

    def __call__(
        self, outputs: Tensor, batch: Batch, next_policy: Tensor, next_bonus: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        predicted = chosen(self.head.returns(outputs), batch["action"])  # [S, B, n]
        with torch.no_grad():
            following = mixed(self.head.returns(batch["next_outputs"]), next_policy)
            target = _targets(following, batch, next_bonus)  # [S, B, m]
        error = target.unsqueeze(-2) - predicted.unsqueeze(-1)
        loss = quantile_loss(error, self.head.fractions(outputs), self.kappa)
        return loss, loss


def _targets(following: Tensor, batch: Batch, next_bonus: Tensor | None) -> Tensor:
    """The returns `[S, B, m]` that rows have which go on with the returns `following`."""
    if next_bonus is not None:
        following = following + next_bonus.unsqueeze(-1)
    return batch["reward"].unsqueeze(-1) + batch["discount"].unsqueeze(-1) * following


def value_loss(head: Any, config: Any) -> ValueLoss:
    """The loss of a `QHead`, with the settings of a `QLearningConfig`; of one from outside rlab that of its values."""
    if isinstance(head, CategoricalValueHead):
        return CategoricalLoss(head)
    if isinstance(head, QuantileHead | ImplicitQuantileHead):
        return QuantileLoss(head, config.quantile_kappa)
    return ExpectedLoss(head, config.loss, config.value_rescaling)
