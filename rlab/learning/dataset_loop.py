"""The loop that learns from a dataset: no env is stepped, and the clock counts updates."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.experience.samplers import Sampler
from rlab.learning.base_loop import Judgement, Periods
from rlab.learning.contract import Agent, Batch, LoadsWeights, LoopListener, Validates
from rlab.learning.early_stopping import EarlyStopping
from rlab.learning.loop import Loop
from rlab.learning.programs import AS_IT_IS, Programs
from rlab.types import crossed

DRAWN_UPDATES = 32  # one draw serves so many updates: a gather of many rows costs little more than one of a few
VALIDATED_ROWS = 1024  # held-out rows of each member that are judged at once, so that large images fit into memory
WATCHED = "validation/loss"  # the tag that early stopping goes by


class DatasetLoop(Loop):
    """Learns from a dataset, which is complete from the start.

    Args:
        agent: `data = "dataset"`.
        seeds: one training seed per member.
        sampler: gives the batches.
        updates: the budget, per member.
        periods: in updates.
        evaluate: plays episodes; None where there is nothing to play.
        validation: held-out rows `[S, R, ...]` as `prepare` takes them, with `weight [S, R]` 0 where a member has fewer
            (none given: every row counts). The agent is judged on them whenever the loop reports, and at the end.
        early_stopping: goes by `validation/loss`. Once the run ends, every member has its best weights.

    Raises:
        UsageError: the agent cannot be judged on held-out rows, or there are none to stop by.
    """

    stream_use = "dataset"
    unit = "updates"

    def __init__(
        self,
        agent: Agent,
        seeds: Sequence[int],
        sampler: Sampler,
        updates: int,
        periods: Periods,
        evaluate: Callable[[], Judgement | None] | None = None,
        listeners: Sequence[LoopListener] = (),
        should_stop: Callable[[], bool] = lambda: False,
        validation: Batch | None = None,
        early_stopping: EarlyStopping | None = None,
        programs: Programs = AS_IT_IS,
    ) -> None:
        super().__init__(agent, seeds, sampler, updates, periods, evaluate, listeners, should_stop)
        self.programs = programs
        self.validation = None if validation is None else _with_weight(validation, self.seeds)
        self.early_stopping = early_stopping
        _check_able(agent, validation, early_stopping)
        self._judged: dict[str, np.ndarray] = {}
        self._drawn: Batch = {}
        self._left = 0  # batches of the present draw that are still to be learned from
        self._together = DRAWN_UPDATES if sampler.draws_ahead else 1  # batches in a draw
        self._before = sampler.state()  # before the present draw

    @property
    def finished(self) -> bool:
        """Whether the budget is used or every member has stopped."""
        return super().finished or (self.early_stopping is not None and bool(self.early_stopping.stopped.all()))

    def _cycle(self) -> None:
        before, self.clock = self.clock.env_steps, self.clock.after()
        self._tell_time(self.clock)
        self._learn(before, *self.programs.scalars([self.agent.scheduled(self.clock)]))

    def _batches_due(self, before: int) -> Iterator[tuple[Batch, Tensor]]:
        if not self._left:
            self._draw()
        size = self.agent.config.batch_size
        start = (self._together - self._left) * size
        self._left -= 1
        batch = {name: value[:, start : start + size] for name, value in self._drawn.items()}
        yield self._run("prepare", self.agent.prepare, batch), self._drawn["row"]

    def _draw(self) -> None:
        self._before = self.sampler.state()
        self._drawn = self._sample(self._together * self.agent.config.batch_size)
        self._left = self._together

    def _report(self, before: int) -> None:
        """Judge on held-out rows first: the best weights have to be in place before anybody else judges the last."""
        now = self.clock.env_steps
        if self.validation is not None and (crossed(before, now, self.periods.log_every) or super().finished):
            self._judged = self.validate()
            if self.early_stopping is not None:
                self.early_stopping.observe(self._judged[WATCHED], self.agent.policy().state_dict(), self.updates)
                self._judged["validation/best_loss"] = self.early_stopping.best_loss
                if self.finished:
                    self.agent.load_weights(self.early_stopping.best.weights)  # type: ignore[attr-defined]
        super()._report(before)

    def validate(self) -> dict[str, np.ndarray]:
        """What the agent says of the held-out rows, `[S]` by tag.

        Raises:
            UsageError: early stopping needs `validation/loss`, which the agent does not report.
        """
        assert self.validation is not None
        found = validation_metrics(self.agent, self.validation)
        if self.early_stopping is not None and WATCHED not in found:
            raise UsageError(f"early stopping goes by {WATCHED}, which {type(self.agent).__name__} does not report.")
        return found

    def _metrics(self) -> dict[str, np.ndarray]:
        metrics = super()._metrics() | self._judged
        self._judged = {}
        return metrics

    def state(self) -> dict[str, Any]:
        """The sampler's state is that before the present draw where batches of it are left."""
        position = {"sampler": self._before} if self._left else {}
        stopping = None if self.early_stopping is None else self.early_stopping.state()
        return {**super().state(), **position, "left": self._left, "early_stopping": stopping}

    def load_state(self, state: dict[str, Any]) -> str | None:
        why = super().load_state(state)
        if self.early_stopping is not None and state["early_stopping"] is not None:
            self.early_stopping.load_state(state["early_stopping"])
        if state["left"]:
            self._draw()
        self._left = state["left"]
        return why


@torch.no_grad()
def validation_metrics(agent: Any, rows: Batch) -> dict[str, np.ndarray]:
    """What `agent.validate` says of `rows [S, R, ...]` with their `weight [S, R]`, a part at a time: the means `[S]` of
    the parts count by their weight."""
    totals: dict[str, Tensor] = {}
    for start in range(0, rows["weight"].shape[1], VALIDATED_ROWS):
        part = {name: value[:, start : start + VALIDATED_ROWS].to(agent.device) for name, value in rows.items()}
        weight = part.pop("weight")
        share = weight.sum(dim=1).double()
        for name, mean in agent.validate({**agent.prepare(part), "weight": weight}).items():
            # a member without rows in this part has no mean there
            added = torch.where(share > 0, mean.double() * share, torch.zeros_like(share))
            totals[name] = totals[name] + added if name in totals else added
    whole = rows["weight"].sum(dim=1).double().to(agent.device)
    return {name: (total / whole).cpu().numpy() for name, total in totals.items()}


def _with_weight(validation: Batch, seeds: Sequence[int]) -> Batch:
    """The held-out rows with a weight for each of them, on the CPU."""
    first = next(iter(validation.values()))
    weight = validation.get("weight", torch.ones(first.shape[:2])).float()
    without = [seed for seed, total in zip(seeds, weight.sum(dim=1).tolist(), strict=True) if total <= 0]
    if without:
        raise UsageError(f"the member with seed {without[0]} has no held-out row; raise the validation fraction.")
    return {**validation, "weight": weight}


def _check_able(agent: Agent, validation: Batch | None, early_stopping: EarlyStopping | None) -> None:
    name = type(agent).__name__
    if validation is not None and not isinstance(agent, Validates):
        raise UsageError(f"{name} has no validate(batch), so held-out rows are of no use to it; hold out none.")
    if early_stopping is not None and validation is None:
        raise UsageError("early stopping needs held-out rows; set a validation fraction above 0.")
    if early_stopping is not None and not isinstance(agent, LoadsWeights):
        raise UsageError(
            f"{name} has no load_weights(tensors): it cannot go back to its best weights; do not stop early."
        )
