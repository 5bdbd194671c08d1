"""What all training loops share: the clock, and what listeners hear of a run: metrics, judgements and saves."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from rlab.errors import RlabError
from rlab.experience.samplers import Sampler
from rlab.learning.contract import Agent, LoopListener, UpdatesInTurn
from rlab.learning.dropping import Everyone
from rlab.learning.finite import check_finite_agent
from rlab.learning.left_out import LeftOut
from rlab.learning.means import Means
from rlab.types import Clock, crossed


class Judgement(Protocol):
    """What the loop passes on of an evaluation."""

    @property
    def returns(self) -> np.ndarray: ...  # [S, E]
    @property
    def lengths(self) -> np.ndarray: ...


class JudgementError(RlabError):
    """The policy could not be judged. What it had learned was saved before this was raised."""


@dataclass(frozen=True, slots=True)
class HostSide:
    """Whom a loop talks to.

    In slots, which no program looks into: what is behind them belongs to the host, where threads, such as those that
    write logs, may change it at any time, also while a function of the loop is traced.
    """

    evaluate: Callable[[], Judgement | None] | None
    listeners: Sequence[LoopListener]
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Periods:
    """How often the loop reports, judges and saves, in env steps."""

    log_every: int
    eval_every: int  # 0: never
    checkpoint_every: int


class BaseLoop:
    """The state of a training run, and its reports."""

    stream_use: ClassVar[str]  # what the sampler's random streams, one per member, are used for
    unit: ClassVar[str]  # what the clock counts

    def __init__(
        self,
        agent: Agent,
        seeds: Sequence[int],
        sampler: Sampler,
        budget: int,
        periods: Periods,
        evaluate: Callable[[], Judgement | None] | None,
        listeners: Sequence[LoopListener] = (),
        should_stop: Callable[[], bool] = lambda: False,
        per_step: int = 1,
    ) -> None:
        """`evaluate` gives None where it was stopped before its end; `per_step` is by how much the clock moves."""
        self.agent, self.seeds, self.sampler = agent, tuple(seeds), sampler
        self.periods, self.host = periods, HostSide(evaluate, listeners, should_stop)
        self.clock = Clock(0, budget, per_step)
        self.updates = 0
        self.members = Everyone(agent, seeds)  # replaced where members may be dropped
        self.judgement_due = False  # whether the present policy is still to be judged; `run` begins with that
        self._saved_at: int | None = None
        self._left_out = LeftOut(agent, self.seeds, "env" if self.unit == "env_steps" else "row")
        self._learned = Means()  # of what updates reported since the last row of metrics
        self._logged_at = (0, time.perf_counter())

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.clock.env_steps >= self.clock.total_env_steps

    @cached_property
    def _in_turn(self) -> UpdatesInTurn | None:
        """The agent, where its updates differ in turn."""
        return self.agent if isinstance(self.agent, UpdatesInTurn) else None

    @cached_property
    def _period(self) -> int:
        """Every so many updates one does more than the others."""
        return 1 if self._in_turn is None else self._in_turn.update_period

    @property
    def _settled(self) -> bool:
        """Whether every kind of update was made: only then is there all that programs change in place, such as an
        optimizer's moments."""
        return self.updates >= self._period

    def _made(self, updates: int) -> None:
        """So many updates were made."""
        self.updates += updates
        if self._in_turn is not None:
            self._in_turn.updates = self.updates

    @property
    def _kind_of_update(self) -> str:
        """What the next update is called: each kind is a program of its own."""
        return "update" if (self.updates + 1) % self._period == 0 else "update in between"

    def _turn(self, due: Sequence[int]) -> int:
        """Where among the kinds of updates those that are due begin; 0 where none is."""
        return self.updates % self._period if any(due) else 0

    def _report(self, before: int) -> None:
        now, end = self.clock.env_steps, self.finished
        if crossed(before, now, self.periods.log_every) or end:
            metrics = {name: self.members.hide(value) for name, value in self._metrics().items()}
            for listener in self.host.listeners:
                listener.on_metrics(now, metrics)
            self._left_out.look()
        every = self.periods.eval_every
        self.judgement_due = bool(every and self.host.evaluate) and (end or crossed(before, now, every))
        # Saved before it is judged: whatever judging does to the process, nothing that was learned is lost.
        if crossed(before, now, self.periods.checkpoint_every) or (end and self.judgement_due):
            self.save()
        if self.judgement_due:
            self.judge()

    def _env_steps_to_report(self) -> int:
        """How far the clock may go on until the budget ends or something is reported."""
        now, periods = self.clock.env_steps, self.periods
        ends = [(now // every + 1) * every for every in (periods.log_every, periods.checkpoint_every) if every]
        ends += [(now // periods.eval_every + 1) * periods.eval_every] if periods.eval_every else []
        return min(self.clock.total_env_steps, *ends) - now

    def judge(self) -> bool:
        """Have the listeners hear how good the present policy is, where there is a way to tell; false where judging was
        stopped.

        Raises:
            JudgementError: it failed, after a save.
        """
        if self.host.evaluate is not None:
            try:
                judged = self.host.evaluate()
            except RlabError as error:
                self._save_once()
                raise JudgementError(str(error)) from error
            if judged is None:
                return False
            self.judgement_due = False
            for listener in self.host.listeners:
                listener.on_evaluation(self.clock.env_steps, *self._of_all(judged))
        return True

    def _of_all(self, judged: Judgement) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths `[S, E]`; NaN and 0 for members that were dropped, which are not judged."""
        return self.members.spread(judged.returns, np.nan), self.members.spread(judged.lengths, 0)

    def save(self) -> None:
        """Have the listeners write everything down; never over a good save with what an update broke."""
        check_finite_agent(self.agent, self.seeds, self.updates)
        for listener in self.host.listeners:
            listener.on_save(self.clock.env_steps)
        self._saved_at = self.clock.env_steps

    def _save_once(self) -> None:
        if self._saved_at != self.clock.env_steps:
            self.save()

    def _metrics(self) -> dict[str, np.ndarray]:
        scheduled = self.agent.scheduled(self.clock)
        metrics = {name: np.array(value) for name, value in scheduled.items() if "/" in name}
        metrics |= self._learned.take()
        for hook in itertools.chain(*(optimizer.hooks for optimizer in self.agent.optimizers.values())):
            metrics |= {name: value.cpu().numpy() for name, value in hook.metrics().items()}
        metrics["train/updates"] = np.array(float(self.updates))
        steps, moment = self.clock.env_steps, time.perf_counter()
        metrics[f"time/{self.unit}_per_second"] = np.array((steps - self._logged_at[0]) / (moment - self._logged_at[1]))
        self._logged_at = (steps, moment)
        return metrics

    def state(self) -> dict[str, Any]:
        """The whole training state except the storage, which has a state and chunks of its own."""
        return {
            self.unit: self.clock.env_steps,
            "updates": self.updates,
            "means": self._learned.state(),
            "judgement_due": self.judgement_due,
            "dropped": self.members.state(),
            "agent": self.agent.state(),
            "sampler": self.sampler.state(),
        }

    def load_state(self, state: dict[str, Any]) -> str | None:
        """Continue from `state()`; the storage is loaded by itself.

        Returns:
            why the run does not go on exactly as it would have without the stop, as one clause; None where it does.
        """
        self.clock = replace(self.clock, env_steps=state[self.unit])
        self.updates = state["updates"]
        self.judgement_due = bool(state["judgement_due"] and self.periods.eval_every and self.host.evaluate)
        self._saved_at = self.clock.env_steps
        self.members.load_state(state["dropped"])
        self._learned.load_state(state["means"], self.agent.device)
        self.agent.load_state(state["agent"])
        self.sampler.load_state(state["sampler"])
        return None
