"""Loss terms that an agent gets from outside, beside the loss of its own paper: a teacher's, the demonstrations'.

An agent that takes them annotates `terms: LossTerms` in its class, hands on `terms.scheduled`, calls `terms.prepare`
where it prepares rows and `terms.add_to` behind its own loss. For terms that follow the episodes it adds `terms.fields`
to its fields, `terms.initial_state` to its state, and what `terms.act` gives to what its `act` does. Without any term
all of these cost nothing.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from rlab.errors import UsageError
from rlab.experience.fields import Field
from rlab.learning.contract import Batch, Now
from rlab.learning.per_member import over
from rlab.networks.memory import State
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

    def weight(self, clock: Clock) -> float | np.ndarray:
        """What the loss counts at this time."""
        ...


@runtime_checkable
class FollowingTerm(Protocol):
    """A term that sees every step as the agent acts, with a state that it carries through the episodes."""

    name: str

    def fields(self) -> tuple[Field, ...]:
        """What storage keeps for it of every row; none where it has no state."""
        ...

    def initial_state(self, rows: int) -> State:
        """What an episode begins with, `[S, rows, ...]`."""
        ...

    def act(self, obs: Tensor, state: State) -> tuple[Batch, State]:
        """The values of its fields for observations `[S, N, *obs]`, and the next state."""
        ...


def takes_terms(agent_class: type) -> bool:
    """Whether agents of this class take loss terms: the class, or one that it inherits from, annotates `terms`."""
    return any("terms" in vars(each).get("__annotations__", {}) for each in agent_class.__mro__)


class LossTerms:
    """The terms of one agent, in the order in which they are added."""

    def __init__(self, *terms: LossTerm) -> None:
        self._terms: list[LossTerm] = []
        self._following: list[FollowingTerm] = []  # those that storage keeps something for
        for term in terms:
            self.append(term)

    def append(self, term: LossTerm) -> None:
        self._terms.append(term)
        if isinstance(term, FollowingTerm) and term.fields():
            self._following.append(term)

    def __iter__(self) -> Iterator[LossTerm]:
        return iter(self._terms)

    def fields(self) -> tuple[Field, ...]:
        """What storage keeps of every row for terms that follow the episodes."""
        return tuple(field for term in self._following for field in term.fields())

    def initial_state(self, rows: int) -> State:
        """Their states where an episode begins, `[S, rows, ...]`."""
        return {f"{t.name}/{name}": value for t in self._following for name, value in t.initial_state(rows).items()}

    def act(self, obs: Tensor, state: State) -> tuple[Batch, State]:
        """The values of their fields for observations `[S, N, *obs]`, and their next states; `state` may hold more."""
        rows: Batch = {}
        following: State = {}
        for term in self._following:
            own = {n.removeprefix(f"{term.name}/"): v for n, v in state.items() if n.startswith(f"{term.name}/")}
            more, after = term.act(obs, own)
            rows |= more
            following |= {f"{term.name}/{name}": value for name, value in after.items()}
        return rows, following

    def prepare(self, batch: Batch) -> Batch:
        """What all terms need beside the agent's own rows."""
        rows: Batch = {}
        for term in self._terms:
            rows |= term.prepare(batch)
        return rows

    def scheduled(self, clock: Clock) -> dict[str, float | np.ndarray]:
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
                loss = loss + over(now[weight], found) * found
                metrics[f"loss/{term.name}"] = found.detach()
        return loss, metrics
