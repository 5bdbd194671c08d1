"""The training loops: collect, store, learn, report. They differ in when they learn and from what: those for
rollouts and datasets are in `rollout_loop` and `dataset_loop`. What all of them report is in `base_loop`.

A loop runs cycles: act, step, store, learn. What of a cycle is arithmetic on tensors goes through `Programs`, which
call it as it is or as compiled code. With envs on a GPU a whole cycle is one captured program of several vector steps:
the host looks in when it is over.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor

from rlab.errors import RlabError
from rlab.experience.collector import Collector
from rlab.experience.env_contract import Acted, Step
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.learning.base_loop import BaseLoop, Judgement, Periods
from rlab.learning.contract import (
    Agent,
    Batch,
    LoopListener,
    NeedsEndings,
    Now,
    Scheduled,
    Updated,
    initial_state,
    updates_due,
)
from rlab.learning.contract_checks import check_acted, check_batch, check_updated
from rlab.learning.episodes import EpisodeBook, Hear
from rlab.learning.programs import AS_IT_IS, Programs
from rlab.ranks import ALONE, Ranks
from rlab.types import Clock

# One draw serves many updates, up to this many bytes of observations of one member. It must not depend on the number of
# members: a draw is numbered, so that a member's batches would change.
DRAWN_BYTES = 4 * 2**20
# One preparation serves many updates, up to this many rows over all members: beyond it the activations of a 64-64
# network leave the cache of a CPU core, and its forward pass takes almost twice as long (8 192 rows x 10 members).
PREPARED_ROWS = 8_192


class Loop(BaseLoop):
    """Trains one population. `run` may be called again after `load_state`; it goes on to the end of the budget.

    Subclasses define what moves the clock, and which batches are due when it has moved.
    """

    programs: Programs = AS_IT_IS
    ranks: Ranks = ALONE  # the processes that train the same agent, each with a share of the envs and of every batch

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
            self._cycle()
            self._look_in()
            self._report(before)
            stopped = self.host.should_stop()
        self.save()
        return self.finished

    def begin(self) -> None:
        """Called before the first step, also of a run that is resumed."""

    def _cycle(self) -> None:
        """One step of the clock or several, and what is to be learned then."""
        raise NotImplementedError

    def _tell_time(self, clock: Clock) -> None:
        """The host's part of a cycle that begins, whose first step brings the clock to this time."""
        changed = [optimizer.at(clock) for optimizer in self.agent.optimizers.values()]
        if any(changed):
            self.programs.forget()

    def _look_in(self) -> None:
        """The host's part of a cycle that is over."""
        if self.programs.compiles:
            self.members.check_sums(self._learned, self.clock.env_steps, self.updates)

    def _learn(self, before: int, now: Now) -> None:
        """The updates that are due, the clock having been at `before` until it was last moved."""
        for batch, row in self._batches_due(before):
            updated = self._run(self._kind_of_update, self._update, batch, row, now)
            self._made(1)
            if not self.programs.compiles:
                self.members.check(updated.metrics, batch, self.clock.env_steps, self.updates)

    def _run(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that belongs to learning, as it is until learning has settled."""
        return self.programs.run(name, function, *args) if self._settled else function(*args)

    def _update(self, batch: Batch, row: Tensor, now: Now) -> Updated:
        """One update; its metrics go into the means, and what it says of the rows to the sampler."""
        with self.ranks.sharing():
            updated = self.agent.update(batch, now)
        if not self.updates:
            check_updated(self.agent, updated, self.seeds, row, self.sampler)
        updated = self.members.learned(updated._replace(metrics=self.ranks.averaged(updated.metrics)))
        self._learned.add(updated.metrics)
        if updated.feedback is not None and not self.sampler.draws_ahead:
            self.sampler.feedback(row, updated.feedback)
        return updated

    def _sample(self, rows: int) -> Batch:
        """A batch of so many rows of each member."""
        if self.updates:
            drawn: Batch = self._run("sample", self.sampler.sample, rows)
            return drawn
        self.sampler.check()
        drawn = self.sampler.sample(rows)
        check_batch(self.agent, drawn, rows, len(self.seeds))
        return drawn

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
        programs: Programs = AS_IT_IS,
        reward_clip: float | None = None,
    ) -> None:
        """`reward_clip`: the agent learns from rewards within +- this; those that are counted are as the env gave them
        (Mnih et al. 2015, Methods)."""
        env = collector.env
        super().__init__(agent, env.seeds, sampler, env_steps, periods, evaluate, listeners, should_stop, env.num_envs)
        self.collector, self.storage, self.programs = collector, storage, programs
        self._reward_clip = reward_clip
        self._episodes = EpisodeBook(self.seeds, on_episodes)
        self._scheduled: Scheduled | None = None  # what follows the clock, at the present time
        self._refuses_cuts = agent.needs_endings if isinstance(agent, NeedsEndings) else None  # what to change

    def begin(self) -> None:
        """Go on with the episodes under way, where they were loaded; else reset every env."""
        self._scheduled = None
        initial = initial_state(self.agent, self.collector.env.num_envs)
        if not self.collector.go_on(initial):
            self._cut_episodes()
            self.collector.start(initial)

    def _cut_episodes(self) -> None:
        """Fresh episodes begin: those under way are cut in storage, as by a time limit."""
        self.storage.cut_episodes()

    def _cycle(self) -> None:
        steps = self._steps_together()
        times = [self.clock.after(i) for i in range(steps + 1)]
        self._tell_time(times[1])
        scheduled = [self._scheduled or self.agent.scheduled(times[0]), *map(self.agent.scheduled, times[1:])]
        self._scheduled = scheduled[-1]
        now = self.programs.scalars(scheduled)
        if self.collector.env.on_host or not self._settled:
            self._steps(now)
            return
        due = tuple(self._due(time) for time in times[1:])
        if not self.programs.capture((steps, due, self._turn(due)), lambda: self._steps(now)).ran:
            self.clock = times[-1]  # the host's part of what was repeated
            self._made(sum(due))
            self.storage.wrote(steps)
            self.collector.took(steps, True)

    def _steps(self, now: Sequence[Now]) -> None:
        """Vector steps and the updates that are due behind each of them; `now` is the time before the first of them and
        that behind each."""
        for before, after in pairwise(now):
            steps = self.clock.env_steps
            self._advance(before, after)
            due = self._due(self.clock)
            if due and self._settled:
                learn = partial(self._learn, steps, after)
                if not self.programs.capture(("learn", due, self._turn((due,))), learn).ran:
                    self._made(due)
            elif due:
                self._learn(steps, after)

    def _steps_together(self) -> int:
        """How many vector steps make up this cycle: several where nothing of the host's happens between them. A cycle
        begins at a multiple of its length, so that updates are due at the same places of most cycles."""
        if self.collector.env.on_host or not self._settled:
            return 1
        first, per_step = self.clock.after(), self.clock.per_step
        events = [optimizer.next_event(first) for optimizer in self.agent.optimizers.values()]
        quiet = min((time for time in events if time is not None), default=None)
        before, room = self.clock.env_steps // per_step, self._env_steps_to_report() // per_step
        for steps in self.programs.cycle_steps:
            last = self.clock.after(steps).env_steps
            if before % steps == 0 and steps <= room and (quiet is None or quiet > last):
                return steps
        return 1

    def _due(self, time: Clock) -> int:
        """How many updates are due when the clock comes to this time."""
        raise NotImplementedError

    def _advance(self, now: Now, after: Now) -> None:
        """One vector step: `now` is the time before it, `after` that behind it."""
        first = self.clock.env_steps == 0
        self.clock = self.clock.after()
        none_ended = False
        if first or self.collector.env.on_host:
            none_ended = self._step(now, after, first)
        else:
            self.programs.run("collect", self._collect, now, after)
        self.storage.wrote(1)
        self.collector.took(1, not none_ended)

    def _step(self, now: Now, after: Now, first: bool) -> bool:
        """One vector step whose env is not part of a program; whether the host knows that no episode ended."""
        act = partial(self._act, now) if first else partial(self.programs.run, "act", self._act, now)
        acted: Acted = act() if first else self.programs.capture("act", act).result
        if first:
            check_acted(self.agent, acted, self.collector.obs, self.collector.env.action_space, self.storage.fields)
        try:
            step = self.collector.env.step(acted.action)
            if self._refuses_cuts and (step.truncated & step.valid).any():
                name, advice = type(self.agent).__name__, self._refuses_cuts
                raise RlabError(f"the env cut an episode, which {name} cannot learn from with these settings. {advice}")
        except RlabError:
            self.clock = self.clock.after(-1)  # the step was not made
            self._save_once()
            raise
        if step.cuts:
            self.storage.cut_newest(~step.valid)
        step = self.members.stored(step, self.clock.env_steps, self.updates)
        if first or self.storage.finals.grows:
            self._store(acted, step, after)
        else:
            self.programs.run("store", self._store, acted, step, after)
        return step.none_ended

    def _collect(self, now: Now, after: Now) -> None:
        """One vector step, all of it."""
        acted = self._act(now)
        self._store(acted, self.collector.env.step(acted.action), after)

    def _act(self, now: Now) -> Acted:
        # A copy: an agent may change what it is given.
        return self.agent.act(self.collector.obs.clone(), now, self.collector.carried)

    def _store(self, acted: Acted, step: Step, now: Now) -> None:
        obs, clip, learned = self.collector.obs, self._reward_clip, step
        if clip is not None:
            learned = replace(step, reward=step.reward.clamp(-clip, clip))
        self.storage.write(obs, acted.action, learned, **acted.extras)
        self.agent.observe(obs, self.members.seen(learned), now)
        self.collector.take(step, acted.state)

    def _look_in(self) -> None:
        super()._look_in()
        if episodes := self.members.heard(self.collector.finished()):
            self._episodes.add(episodes, self.clock)

    def _metrics(self) -> dict[str, Any]:
        metrics = super()._metrics() | self._episodes.take()
        metrics["train/episodes"] = self.collector.episodes.astype(float)
        if (restarts := self.collector.env.restarts) is not None:
            metrics["train/env_restarts"] = restarts.astype(float)
        metrics["train/transitions"] = self.collector.transitions.astype(float)
        return metrics

    def state(self) -> dict[str, Any]:
        return {**super().state(), "collector": self.collector.state(), "finished episodes": self._episodes.state()}

    def load_state(self, state: dict[str, Any]) -> str | None:
        super().load_state(state)
        self._episodes.load_state(state["finished episodes"])
        return self.collector.load_state(state["collector"])


class ReplayLoop(EnvLoop):
    """Learns from batches that the sampler draws from storage, so many every so many env steps."""

    stream_use = "replay"

    def _due(self, time: Clock) -> int:
        return updates_due(self.agent.config, time.env_steps - time.per_step, time.env_steps)

    def _batches_due(self, before: int) -> Iterator[tuple[Batch, Tensor]]:
        """Drawn and prepared many at a time where the sampler allows it: between them nothing enters the storage."""
        updates = updates_due(self.agent.config, before, self.clock.env_steps)
        size, together = self.agent.config.batch_size, 1
        if self.sampler.draws_ahead:
            together = max(1, DRAWN_BYTES // (size * 2 * self.storage.fields[0].nbytes))  # obs and next_obs
        size //= self.ranks.count  # what the sampler gives is this process's share
        for first in range(0, updates, together):
            rows = size * min(together, updates - first)
            drawn = self._sample(rows)
            part = size * max(1, PREPARED_ROWS // (size * self.storage.members))
            for start in range(0, rows, part):
                few = {name: value[:, start : start + part] for name, value in drawn.items()}
                prepared = self._run("prepare", self.agent.prepare, few)
                for i in range(0, min(part, rows - start), size):
                    yield {name: value[:, i : i + size] for name, value in prepared.items()}, drawn["row"]
