"""The losses of Q heads: how far what is predicted of an action is from what it led to, one value per row."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from rlab.learning.contract import Batch
from rlab.learning.returns import LOSSES, q_td_error
from rlab.networks.value_heads import QHead


class ValueLoss(Protocol):
    """The loss of one kind of Q head."""

    @property
    def name(self) -> str:
        """What is minimised; the mean is reported as loss/td_NAME."""
        ...

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
        ...


@dataclass(frozen=True)
class ExpectedLoss:
    """Of heads whose prediction is the expected return alone: the TD error (Watkins 1989) through `LOSSES[name]`."""

    head: QHead
    name: str

    def __call__(
        self, outputs: Tensor, batch: Batch, next_policy: Tensor, next_bonus: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        q, next_q = self.head.values(outputs), self.head.values(batch["next_outputs"])
        next_value = (next_policy * next_q).sum(dim=-1)
        if next_bonus is not None:
            next_value = next_value + next_bonus
        error = q_td_error(q, batch["action"], batch["reward"], batch["discount"], next_value)
        return LOSSES[self.name](error), error


def value_loss(head: QHead, config: Any) -> ValueLoss:
    """The loss of a head, with the settings of a `QLearningConfig`."""
    return ExpectedLoss(head, config.loss)
