"""The training loops: collect, store, learn, report. They differ in when they learn and from what: those for
rollouts and datasets are in `rollout_loop` and `dataset_loop`. What all of them report is in `base_loop`."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from rlab.errors import RlabError
from rlab.experience.collector import Collector
from rlab.experience.env_contract import Acted
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.learning.base_loop import BaseLoop, Judgement, Periods
from rlab.learning.contract import Agent, Batch, LoopListener, ReplayConfig
from rlab.learning.contract_checks import check_acted, check_batch, check_updated
from rlab.learning.episodes import EpisodeBook, Hear
from rlab.learning.finite import check_update
from rlab.networks.memory import State
from rlab.types import Clock

# One draw serves many updates, up to this many bytes of observations of one member. It must not depend on the number of
# members: a reset row that was drawn is drawn again behind the whole draw, so that a member's batches would change.
DRAWN_BYTES = 4 * 2**20
# One preparation serves many updates, up to this many rows over all members: beyond it the activations of a 64-64
# network leave the cache of a CPU core, and its forward pass takes almost twice as long (8 192 rows x 10 members).
PREPARED_ROWS = 8_192


class Loop(BaseLoop):
    """Trains one population. `run` may be called again after `load_state`; it goes on to the end of the budget.

    Subclasses define what moves the clock, and which batches are due when it has moved.
    """

    def run(self) -> bool:
        """Train until the budget is used (true) or `should_stop` says so (false). A save ends it either way.

        Raises:
            JudgementError: judging failed, after a save.
            RlabError: an env or an update failed. Before an env's error there is a save; none of a broken policy.
        """
        stopped = self.judgement_due and not self.judge()
        self.begin()
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

    def begin(self) -> None:
        """Called before the first step, also of a run that is resumed."""

    def _advance(self) -> None:
        """Move the clock."""
        raise NotImplementedError

    def _learn(self, before: int) -> None:
        for batch, row in self._batches_due(before):
            updated = self.agent.update(batch, self.clock)
            if not self.updates:
                check_updated(self.agent, updated, self.seeds, row, self.sampler)
            self.updates += 1
            check_update(updated.metrics, batch, self.agent, self.seeds, self.updates)
            self._learned.add(updated.metrics)
            if updated.feedback is not None and not self.sampler.draws_ahead:
                self.sampler.feedback(row.numpy(), updated.feedback.cpu().numpy())

    def _batches_due(self, before: int) -> Iterator[tuple[Batch, Tensor]]:
        """What to learn from now, the clock having been at `before` until it was last moved: prepared batches, and the
        ids `[S, B]` of the rows that they were drawn from, which count where the sampler does not draw ahead."""
        raise NotImplementedError


class EnvLoop(Loop):
    """Learns from envs that it steps; the clock counts env steps."""

    unit = "env_steps"

    def __init__(
        self,
        agent: Agent,
        collector: Collector,
        storage: Storage,
        sampler: Sampler,
        env_steps: int,
        periods: Periods,
        evaluate: Callable[[], Judgement | None] | None,
        listeners: Sequence[LoopListener] = (),
        should_stop: Callable[[], bool] = lambda: False,
        on_episodes: Sequence[Hear] = (),
    ) -> None:
        super().__init__(agent, collector.env.seeds, sampler, env_steps, periods, evaluate, listeners, should_stop)
        self.collector, self.storage = collector, storage
        self._episodes = EpisodeBook(self.seeds, on_episodes)

    def begin(self) -> None:
        """Reset every env; the episodes under way are cut in storage, as by a time limit."""
        self.storage.cut_episodes()
        self.collector.start(self.agent.policy().initial_state(self.collector.env.num_envs))

    def _advance(self) -> None:
        clock = self.clock
        act = self._act_checked if clock.env_steps == 0 else self.agent.act
        obs, acted, step, episodes = self.collector.collect(lambda obs, state: act(obs, clock, state))
        self.storage.add(obs, acted.action, step, **acted.extras)
        self.clock = Clock(clock.env_steps + self.collector.env.num_envs, clock.total_env_steps)
        self.agent.observe(obs, step, self.clock)
        if episodes:
            self._episodes.add(episodes, self.clock.env_steps)

    def _act_checked(self, obs: np.ndarray, clock: Clock, state: State) -> Acted:
        acted = self.agent.act(obs, clock, state)
        check_acted(self.agent, acted, obs, self.collector.env.action_space, self.storage.fields)
        return acted

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
    """Learns from batches that the sampler draws from storage, so many every so many env steps."""

    stream_use = "replay"

    def _batches_due(self, before: int) -> Iterator[tuple[Batch, Tensor]]:
        """Drawn and prepared many at a time where the sampler allows it: between them nothing enters the storage."""
        updates = updates_due(self.agent.config, before, self.clock.env_steps)
        size, together = self.agent.config.batch_size, 1
        if self.sampler.draws_ahead:
            together = max(1, DRAWN_BYTES // (size * 2 * self.storage.fields[0].nbytes))  # obs and next_obs
        for first in range(0, updates, together):
            rows = size * min(together, updates - first)
            drawn = self.sampler.sample(rows)
            if not self.updates:
                check_batch(self.agent, drawn, rows, self.storage.members)
            part = size * max(1, PREPARED_ROWS // (size * self.storage.members))
            for start in range(0, rows, part):
                few = {name: value[:, start : start + part].to(self.agent.device) for name, value in drawn.items()}
                prepared = self.agent.prepare(few)
                for i in range(0, min(part, rows - start), size):
                    yield {name: value[:, i : i + size] for name, value in prepared.items()}, drawn["row"]


def updates_due(config: ReplayConfig, before: int, now: int) -> int:
    """Updates between two env-step counts: `updates_per_learn` for each multiple of `learn_every` from
    `learning_starts` on that was passed, also where one vector step passes several."""
    start = max(before, config.learning_starts - 1)
    return max(0, now // config.learn_every - start // config.learn_every) * config.updates_per_learn
