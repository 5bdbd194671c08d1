"""Loss terms that an agent gets from outside, beside the loss of its own paper: a teacher's, the demonstrations'.

An agent that takes them annotates `terms: LossTerms` in its class, hands on `terms.scheduled`, calls `terms.prepare`
where it prepares rows and `terms.add_to` behind its own loss. Without any all three cost nothing.
"""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from rlab.errors import UsageError
from rlab.learning.contract import Batch, Now
from rlab.types import Clock


class LossTerm(Protocol):
    """A loss with a weight that may change over the run."""

    name: str  # the mean loss is reported as loss/NAME

    def prepare(self, batch: Batch) -> Batch:
        """The further rows `[S, B, ...]` that `loss` needs, from sampled rows `[S, B, ...]` as storage has them."""
        ...

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """The mean loss `[S]` over prepared rows, given what the policy's network says of them, `[S, B, width]`; None
        where these rows have nothing to do with it."""
        ...

    def weight(self, clock: Clock) -> float:
        """What the loss counts at this time."""
        ...


def takes_terms(agent_class: type) -> bool:
    """Whether agents of this class take loss terms: the class, or one that it inherits from, annotates `terms`."""
    return any("terms" in vars(each).get("__annotations__", {}) for each in agent_class.__mro__)


class LossTerms:
    """The terms of one agent, in the order in which they are added."""

    def __init__(self, *terms: LossTerm) -> None:
        self._terms = list(terms)

    def append(self, term: LossTerm) -> None:
        self._terms.append(term)

    def __iter__(self) -> Iterator[LossTerm]:
        return iter(self._terms)

    def prepare(self, batch: Batch) -> Batch:
        """What all terms need beside the agent's own rows."""
        rows: Batch = {}
        for term in self._terms:
            rows |= term.prepare(batch)
        return rows

    def scheduled(self, clock: Clock) -> dict[str, float]:
        """What each term counts at this time: part of what the agent's `scheduled` gives."""
        return {f"weight of {term.name}": term.weight(clock) for term in self._terms}

    def add_to(self, loss: Tensor, outputs: Tensor, batch: Batch, now: Now) -> tuple[Tensor, dict[str, Tensor]]:
        """The agent's loss `[S]` with all terms added to it, and each term's own loss as a metric.

        Raises:
            UsageError: `now` lacks the weight of a term.
        """
        metrics: dict[str, Tensor] = {}
        for term in self._terms:
            found = term.loss(outputs, batch)
            if found is not None:
                weight = f"weight of {term.name}"
                if weight not in now:
                    raise UsageError(
                        f"the agent's `scheduled` lacks {weight!r}: hand on what terms.scheduled(clock) gives."
                    )
                loss = loss + now[weight] * found
                metrics[f"loss/{term.name}"] = found.detach()
        return loss, metrics
