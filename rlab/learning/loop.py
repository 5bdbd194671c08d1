"""The training loops: collect, store, learn, report, judge, save. They differ in when and from what they learn; the
one that learns without an env is in `dataset_loop`."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from rlab.errors import RlabError
from rlab.experience.collector import Collector
from rlab.experience.lanes import Lanes
from rlab.experience.replay import Replay
from rlab.experience.rollout import Rollout
from rlab.learning.contract import Agent, Batch, Listener, ReplayConfig
from rlab.learning.episodes import EpisodeBook, Hear
from rlab.learning.finite import check_update, check_weights
from rlab.learning.means import Means
from rlab.randomness import stream
from rlab.types import Clock, crossed

# One draw serves many updates, up to this many bytes of one member. It must not depend on the number of members: a
# reset row that was drawn is drawn again behind the whole draw, so a member would learn other batches beside others.
DRAWN_BYTES = 4 * 2**20
# One preparation serves many updates, up to this many rows over all members: beyond it the activations of a 64-64
# network leave the cache of a CPU core, and its forward pass takes almost twice as long (8 192 rows x 10 members).
PREPARED_ROWS = 8_192


class Judgement(Protocol):
    """What the loop passes on of an evaluation."""

    @property
    def returns(self) -> np.ndarray: ...  # [S, E]
    @property
    def lengths(self) -> np.ndarray: ...


class JudgementError(RlabError):
    """The policy could not be judged. What it had learned was saved before this was raised."""


@dataclass(frozen=True)
class Periods:
    """How often the loop reports, judges and saves, in env steps."""

    log_every: int
    eval_every: int  # 0: never
    checkpoint_every: int


class Loop:
    """Trains one population. `run` may be called again after `load_state`; it goes on to the end of the budget.

    What moves the clock, and what is learned from when it has moved, is the subclasses' affair.
    """

    stream_use: ClassVar[str]  # what the loop's random streams, one per member, are for
    unit: ClassVar[str]  # what the clock counts

    def __init__(
        self,
        agent: Agent,
        seeds: Sequence[int],
        store: Lanes,
        budget: int,
        periods: Periods,
        evaluate: Callable[[], Judgement | None] | None,
        listeners: Sequence[Listener] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`evaluate` gives None where it was stopped before its end."""
        self.agent, self.seeds, self.store = agent, tuple(seeds), store
        self.periods, self.evaluate, self.listeners, self.should_stop = periods, evaluate, listeners, should_stop
        self.clock = Clock(0, budget)
        self.updates = 0
        self.judgement_due = False  # whether the present policy is still to be judged; `run` begins with that
        self._saved_at: int | None = None
        self._streams = [stream(seed, self.stream_use) for seed in seeds]
        self._learned = Means()  # of what updates reported since the last row of metrics
        self._logged_at = (0, time.perf_counter())

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.clock.env_steps >= self.clock.total_env_steps

    def run(self) -> bool:
        """Train until the budget is used (true) or `should_stop` says so (false). A save ends it either way.

        Raises:
            JudgementError: judging failed, after a save.
            RlabError: an env or an update failed. Before an env's error there is a save; none of a broken policy.
        """
        stopped = self.judgement_due and not self.judge()
        self._start()
        self._logged_at = (self.clock.env_steps, time.perf_counter())
        while not (self.finished or stopped):
            before = self.clock.env_steps
            try:
                self._advance()
            except RlabError:
                self._save_once()
                raise
            self._learn(before)
            self._report(before)
            stopped = self.should_stop()
        self.save()
        return self.finished

    def _start(self) -> None:
        """What has to happen before the first step, also of a run that goes on."""

    def _advance(self) -> None:
        """Move the clock."""
        raise NotImplementedError

    def _learn(self, before: int) -> None:
        for batch in self._batches_due(before):
            updated = self.agent.update(batch, self.clock)
            self.updates += 1
            check_update(updated.metrics, batch, self.agent, self.seeds, self.updates)
            self._learned.add(updated.metrics)

    def _batches_due(self, before: int) -> Iterator[Batch]:
        """What to learn from now, the clock having stood at `before` when it was last moved."""
        raise NotImplementedError

    def _report(self, before: int) -> None:
        now, end = self.clock.env_steps, self.finished
        if crossed(before, now, self.periods.log_every) or end:
            metrics = self._metrics()
            for listener in self.listeners:
                listener.on_metrics(now, metrics)
        every = self.periods.eval_every
        self.judgement_due = bool(every and self.evaluate) and (end or crossed(before, now, every))
        # Saved before it is judged: whatever judging does to the process, nothing that was learned is lost.
        if crossed(before, now, self.periods.checkpoint_every) or (end and self.judgement_due):
            self.save()
        if self.judgement_due:
            self.judge()

    def judge(self) -> bool:
        """Have the listeners hear how good the present policy is, where there is a way to tell; false where judging was
        stopped.

        Raises:
            JudgementError: it failed, after a save.
        """
        if self.evaluate is not None:
            try:
                judged = self.evaluate()
            except RlabError as error:
                self._save_once()
                raise JudgementError(str(error)) from error
            if judged is None:
                return False
            self.judgement_due = False
            for listener in self.listeners:
                listener.on_evaluation(self.clock.env_steps, judged.returns, judged.lengths)
        return True

    def save(self) -> None:
        """Have the listeners write everything down; never over a good save with weights that an update broke."""
        check_weights(self.agent, self.seeds, self.updates)
        for listener in self.listeners:
            listener.on_save(self.clock.env_steps)
        self._saved_at = self.clock.env_steps

    def _save_once(self) -> None:
        if self._saved_at != self.clock.env_steps:
            self.save()

    def _metrics(self) -> dict[str, np.ndarray]:
        metrics = {name: np.array(value) for name, value in self.agent.metrics(self.clock).items()}
        metrics |= self._learned.take()
        metrics["train/updates"] = np.array(float(self.updates))
        steps, moment = self.clock.env_steps, time.perf_counter()
        metrics[f"time/{self.unit}_per_second"] = np.array((steps - self._logged_at[0]) / (moment - self._logged_at[1]))
        self._logged_at = (steps, moment)
        return metrics

    def state(self) -> dict[str, Any]:
        """The whole training state except the store's rows, which travel as chunks."""
        return {
            self.unit: self.clock.env_steps,
            "updates": self.updates,
            "means": self._learned.state(),
            "judgement_due": self.judgement_due,
            "agent": self.agent.state(),
            "store": self.store.state(),
            "streams": [s.bit_generator.state for s in self._streams],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`; the store's rows are loaded apart."""
        self.clock = Clock(state[self.unit], self.clock.total_env_steps)
        self.updates = state["updates"]
        self.judgement_due = bool(state.get("judgement_due") and self.periods.eval_every and self.evaluate)
        self._saved_at = self.clock.env_steps
        self._learned.load_state(state.get("means", {}), self.agent.device)
        self.agent.load_state(state["agent"])
        for s, saved in zip(self._streams, state["streams"], strict=True):
            s.bit_generator.state = saved


class EnvLoop(Loop):
    """Learns from envs that it steps; the clock counts env steps."""

    unit = "env_steps"

    def __init__(
        self,
        agent: Agent,
        collector: Collector,
        store: Lanes,
        env_steps: int,
        periods: Periods,
        evaluate: Callable[[], Judgement | None] | None,
        listeners: Sequence[Listener] = (),
        should_stop: Callable[[], bool] = lambda: False,
        on_episodes: Sequence[Hear] = (),
    ) -> None:
        super().__init__(agent, collector.env.seeds, store, env_steps, periods, evaluate, listeners, should_stop)
        self.collector = collector
        self._episodes = EpisodeBook(self.seeds, on_episodes)

    def _start(self) -> None:
        self.collector.start()

    def _advance(self) -> None:
        clock = self.clock
        obs, acted, step, episodes = self.collector.collect(lambda obs, state: self.agent.act(obs, clock, state))
        self.store.add(obs, acted.action, step, **acted.extras)
        self.clock = Clock(clock.env_steps + self.collector.env.num_envs, clock.total_env_steps)
        self.agent.observe(obs, step, self.clock)
        if episodes:
            self._episodes.add(episodes, self.clock.env_steps)

    def _metrics(self) -> dict[str, np.ndarray]:
        metrics = super()._metrics() | self._episodes.take()
        metrics["train/episodes"] = self.collector.episodes.astype(float)
        metrics["train/transitions"] = self.collector.transitions.astype(float)
        return metrics

    def state(self) -> dict[str, Any]:
        return {**super().state(), "collector": self.collector.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.collector.load_state(state["collector"])


class ReplayLoop(EnvLoop):
    """Learns from uniformly drawn windows, so many every so many env steps."""

    stream_use = "replay"
    store: Replay

    def _batches_due(self, before: int) -> Iterator[Batch]:
        """Prepared batches, drawn and prepared many at a time: between them nothing enters the replay."""
        updates = updates_due(self.agent.config, before, self.clock.env_steps)
        size, n_step = self.agent.config.batch_size, self.agent.config.n_step
        together = max(1, DRAWN_BYTES // (size * (2 * self.store.fields[0].nbytes + 4 * n_step)))
        for first in range(0, updates, together):
            rows = size * min(together, updates - first)
            drawn = self.store.sample(self._streams, rows, n_step)
            part = size * max(1, PREPARED_ROWS // (size * self.store.members))
            for start in range(0, rows, part):
                few = {name: value[:, start : start + part].to(self.agent.device) for name, value in drawn.items()}
                prepared = self.agent.prepare(few)
                for i in range(0, min(part, rows - start), size):
                    yield {name: value[:, i : i + size] for name, value in prepared.items()}


class RolloutLoop(EnvLoop):
    """Learns from every rollout when it is full, in shuffled minibatches, each member in an order of its own.

    What is left when the budget ends, less than a rollout, is not learned from.
    """

    stream_use = "minibatches"
    store: Rollout

    def _batches_due(self, before: int) -> Iterator[Batch]:
        if not self.store.full:
            return
        rows = self.agent.prepare({name: value.to(self.agent.device) for name, value in self.store.read().items()})
        size, minibatches = next(iter(rows.values())).shape[1], self.agent.config.minibatches
        # Each member's rows behind those of the members before: one flat index gathers faster than two.
        first = np.arange(self.store.members)[:, None] * size
        for _ in range(self.agent.config.epochs):
            if minibatches == 1:  # an order would change nothing
                yield rows
                continue
            order = torch.from_numpy(np.stack([s.permutation(size) for s in self._streams]) + first)
            shuffled = {name: _take(value, order.to(self.agent.device)) for name, value in rows.items()}
            parts = {name: value.tensor_split(minibatches, dim=1) for name, value in shuffled.items()}
            for i in range(minibatches):
                yield {name: part[i] for name, part in parts.items()}


def _take(value: Tensor, index: Tensor) -> Tensor:
    """Rows `[S, B, ...]` of `value [S, R, ...]`; `index [S, B]` counts rows through all members."""
    return value.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)


def updates_due(config: ReplayConfig, before: int, now: int) -> int:
    """Updates between two env-step counts: `updates_per_learn` for each multiple of `learn_every` from
    `learning_starts` on that was passed, also where one vector step passes several."""
    start = max(before, config.learning_starts - 1)
    return max(0, now // config.learn_every - start // config.learn_every) * config.updates_per_learn
