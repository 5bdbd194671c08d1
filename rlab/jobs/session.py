"""Wires one run together: envs, agent, storage, sampler, loop, logs, checkpoints. Nothing else does."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np

from rlab.agents import check_action_space, load_agent
from rlab.envs import TensorVectorEnv, atari_notes, make_vec, tensor_env_of
from rlab.errors import RlabError, UsageError
from rlab.evaluation.episode_driver import MOST_STEPS
from rlab.evaluation.evaluate import Evaluation
from rlab.experience.border import HostEnv
from rlab.experience.collector import Collector
from rlab.experience.demonstrations import Demonstrations
from rlab.experience.env_contract import DeviceEnv, VectorEnv
from rlab.experience.split_envs import SplitEnvs
from rlab.jobs.agent_builder import build_agent
from rlab.jobs.data_parallel import Follower, WeightCheck, check_alike, check_splits, shared, split_sampler
from rlab.jobs.data_sources import check_demonstrations, check_training_only, data_source, make_sampler, make_storage
from rlab.jobs.engine import CPU, Engine, can_step_tensors, choose
from rlab.jobs.evolution import Evolution
from rlab.jobs.films import check_can_film
from rlab.jobs.foreign_code import only_here, resume_command
from rlab.jobs.inputs import NO_INPUTS, Inputs, demonstrations_for
from rlab.jobs.judging import Judge, judging_failed, judging_notes
from rlab.jobs.listeners import Audience
from rlab.jobs.outcome import Outcome
from rlab.jobs.recording import Recorder
from rlab.jobs.request import Request
from rlab.jobs.signals import stop_on_signal
from rlab.jobs.unread import as_started, with_unread
from rlab.jobs.varied import name_of
from rlab.learning.base_loop import JudgementError, Periods
from rlab.learning.best import BestPolicy
from rlab.learning.common_config import own_network, patience_of
from rlab.learning.contract import Agent, FitsStatistics, LoopListener, NeedsEndings
from rlab.learning.dataset_loop import DatasetLoop
from rlab.learning.dropping import Everyone, Survivors
from rlab.learning.early_stopping import EarlyStopping
from rlab.learning.episodes import Hear
from rlab.learning.finite import check_saved
from rlab.learning.loop import EnvLoop, Loop
from rlab.networks.images import image_notes
from rlab.networks.own_bodies import network_notes
from rlab.networks.spaces import Space, choices
from rlab.networks.summary import shapes
from rlab.places import warn
from rlab.randomness import generator_states, load_generator_states
from rlab.ranks import ALONE, Ranks
from rlab.runs.checkpoint import has_checkpoint, newest_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.listing import whole_steps
from rlab.runs.state_schema import check_clock, check_like, fitting, sound_rows

LONG = 1_000  # env steps of one env, after which an episode that has not ended may never end


class Session:
    """One run, built and ready; `train` does the work.

    Raises:
        UsageError: the agent cannot learn in the env, its storage does not fit into memory, or it cannot draw batches
            from it. Nothing is written yet.
    """

    def __init__(self, request: Request, inputs: Inputs = NO_INPUTS, ranks: Ranks = ALONE) -> None:
        self.request, self.inputs, self.ranks = request, inputs, ranks
        run = request.run
        agent_class: Any = load_agent(request.agent)
        self._source = data_source(request.agent, agent_class.data)
        if run.log_episodes and not issubclass(self._source.loop, EnvLoop):
            raise UsageError(f"--log-episodes: {request.agent} learns from a dataset and plays none; leave it out.")
        self._online = issubclass(self._source.loop, EnvLoop)
        with ExitStack() as undo:
            spaces, host = self._look_at_env(undo)
            check_action_space(request.agent, agent_class, spaces[1], request.env.env_id)
            built = build_agent(agent_class, request, spaces, CPU, inputs)
            if ranks.count > 1:
                check_splits(built.agent, request)
            self.engine = self._choose(built.agent)
            device = self.engine.device
            if device != CPU:
                built = build_agent(agent_class, request, spaces, device, inputs)
            self.env = self._make_env() if host is None else HostEnv(host, device)
            undo.callback(self.env.close)
            self.demonstrations, self._held_out = demonstrations_for(inputs, request, *spaces, device)
            self._capacity = self._source.capacity(run, request.settings, self.demonstrations)
            self.agent, self._notes, self.trainable = built.agent, built.notes, built.trainable
            if self.demonstrations is not None:
                check_demonstrations(request.agent, self.agent, self.demonstrations)
            if built.start is not None:
                in_force = as_started(request.settings, self.agent.policy().spec.preprocess)
                request = replace(request, start=built.start, settings=in_force)
            whole = replace(request, engine=self.engine.to_json())
            self.request, self.parts = with_unread(whole, agent_class, spaces[1])
            self._check_time_limit()
            check_training_only(run, request.env, self.agent, self.demonstrations)
            if run.film_every:
                check_can_film(request.env)
            names = [name_of(each) for each in request.vary for _ in run.training_seeds]
            kind = Survivors if run.on_nan == "drop-member" else Everyone
            self.members = kind(self.agent, request.training_seeds, names)
            self.storage = make_storage(self._source, self.agent, run, self.demonstrations, self.env)
            share, where = request.sources.demonstration_share, (request.env, self.env)
            rows = self.storage, self.demonstrations, share
            sampler = make_sampler(self._source, self.agent, *rows, *where)
            self._sampler = split_sampler(sampler, self.agent, ranks)
            check_alike(self.request, ranks)
            if self._online:
                undo.pop_all()  # else its spaces are known, and judging may need the only instance that can exist
        self.best = BestPolicy(self.agent)
        self.unlearned: str | None = None  # a warning, where the whole budget has passed without an update
        self._state: dict[str, Any] | None = None  # of the checkpoint that `train` goes on from
        self._warned_of_no_ending = self._warned_of_cuts = False
        self._base: int | None = None  # the number of the checkpoint that the run goes on from
        self.resumed_at: list[int] = []  # times at which the run was taken up again otherwise than exactly

    def _look_at_env(self, undo: ExitStack) -> tuple[tuple[Space, Space], VectorEnv | None]:
        """The spaces of observations and actions, and the envs on the host that had to be made to know them."""
        run, spec = self.request.run, self.request.env
        if self._online and can_step_tensors(self.request):
            env = tensor_env_of(spec)
            return (env.obs_space, env.action_space), None
        # An agent that learns from a dataset needs one env for its spaces, and others to be judged in.
        seeds = self.request.training_seeds
        place = (seeds, run.num_envs, run.vector) if self._online else ((run.seed,), 1)
        host = self._host_envs(*place)
        undo.callback(host.close)
        return (host.obs_space, host.action_space), host

    def _choose(self, agent: Agent) -> Engine:
        run, settings = self.request.run, self.request.settings
        steps = whole_steps(run.env_steps, run.num_envs) // run.num_envs if self._online else 0
        return choose(self.request, agent, steps, self._source.updates(run, settings), self._source.rows(run, settings))

    def _host_envs(self, seeds: tuple[int, ...], num_envs: int, vector: str = "auto") -> VectorEnv:
        run, own = self.request.run, self.ranks.own(num_envs)
        size, rest = own.stop - own.start, (run.on_nan, run.env_restarts)
        envs = make_vec(self.request.env, seeds, size, vector, *rest, first_env=own.start)
        return envs if self.ranks.count == 1 else SplitEnvs(envs, self.ranks)

    def _make_env(self) -> DeviceEnv:
        """The training envs, as the engine has them."""
        run, spec, seeds = self.request.run, self.request.env, self.request.training_seeds
        if self.engine.tensor:
            return TensorVectorEnv(tensor_env_of(spec), seeds, run.num_envs, self.engine.device)
        return HostEnv(self._host_envs(seeds, run.num_envs, run.vector), self.engine.device)

    def _check_time_limit(self) -> None:
        """Refuse an env that cuts its episodes to an agent that cannot learn from cut ones."""
        limit = self.env.time_limit
        if limit is not None and isinstance(self.agent, NeedsEndings) and (advice := self.agent.needs_endings):
            raise UsageError(
                f"{self.request.agent} needs episodes that end by themselves with these settings; "
                f"{self.request.env.env_id} cuts them after {limit} env steps. {advice}"
            )

    def close(self) -> None:
        """Close the training envs."""
        self.env.close()

    def describe(self) -> str:
        """What is about to happen, for people."""
        run, env = self.request.run, self.request.env
        seeds, sets = f"seed {run.seed}", self.request.vary
        seeds = seeds if run.seeds == 1 else f"seeds {run.seed} to {run.seed + run.seeds - 1}"
        seeds += f" for each of {len(sets)} sets of settings" if sets else ""
        source, settings = self._source, self.request.settings
        online = self._online
        steps = whole_steps(run.env_steps, run.num_envs)
        asked = "" if steps == run.env_steps else f" ({run.env_steps:,} in whole steps of {run.num_envs} envs)"
        size = f"{run.num_envs} envs each, {steps:,} env steps each{asked}" if online else "no env to learn in"
        updates = source.updates(run, settings)
        learns = f"{updates:,} updates" if updates else f"warning: NO UPDATE, {source.too_late}"
        mib = f"{self.storage.nbytes / 2**20:.1f} MiB in all"
        lines = [
            f"{self.request.agent} on {env.label}: {seeds}, {size}, {self.engine}{shared(self.ranks)}",
            f"{source.name}: {self._capacity:,} transitions per seed, {mib}; {learns}",
        ]
        lines += [f"set {number}: {name_of(each)}" for number, each in enumerate(sets)]
        lines += shapes(self.agent.policy(), self.agent.networks)
        if online and self.demonstrations is not None:
            share = f"{self.request.sources.demonstration_share:.0%} of every batch"
            lines.append(f"demonstrations: {self.demonstrations.transitions.min()} transitions per seed, {share}")
        if env.local:
            lines.append(only_here(env.env_id))
        lines += judging_notes(self.request, self.engine)
        if not self.env.time_limit:
            lines.append("warning: no time limit is known; --max-episode-steps sets one")
        lines += [*image_notes(self.env.obs_space), *atari_notes(env.env_id, env.wrappers)]
        policy, start = self.agent.policy(), self.request.start
        lines += network_notes(policy, own_network(settings) if start is None else None)
        return "\n".join([*lines, *self._notes, *self.engine.notes, self.request.tuned()])

    def train(
        self, folder: RunFolder, listeners: Sequence[LoopListener] = (), audience: Audience | None = None
    ) -> "Outcome":
        """Train from the folder's checkpoint, or from the start, to the budget's end; then judge the final weights.

        Args:
            listeners: rlab's own, which are trusted.
            audience: a user's.

        Raises:
            RlabError: the env, the learning, the judging or a listener failed; the message says what is saved.
        """
        run = self.request.run
        audience = audience or Audience()
        with stop_on_signal() as stop:
            self.judge = Judge(self.request, self.engine, stop.is_set)
            any_process = self.ranks.any
            try:
                state, self._state = self._state, None
                with self._recorder(folder, state, audience) as self._record:
                    hearing: list[LoopListener] = [] if self.ranks.count == 1 else [self._weight_check()]
                    hearing += [self.best, *self._record.listeners, *listeners, audience]
                    hearing += Evolution.of(self.request, self.agent, folder, state)  # the last to hear an evaluation
                    on_episodes = [*self._record.on_episodes]
                    on_episodes += [audience.on_episodes] if audience.hears("on_episode") else []
                    loop = self._loop(partial(self._stops, stop, audience), hearing, on_episodes)
                    if state is None:
                        self._fit_statistics()
                    if state is not None:
                        self._go_on(state, folder)
                    elif self.inputs.start is not None:
                        loop.judgement_due = run.eval_every > 0  # so that the log shows what learning does to it
                        loop.save()  # what it begins with: the run that it came from may be gone when this one goes on
                    finished = self._run(loop, folder)
                    audience.check(f"The run is saved: {resume_command(folder.name, folder.config)}")
                    if finished and not loop.updates:
                        self.unlearned = f"nothing was learned, not one update was made: {self._source.too_late}"
                    judged = None
                    if finished and run.final_eval_episodes and not any_process(stop.is_set() or audience.leaves):
                        judged = self._record.judge(partial(self.evaluate, verdict=True), loop.clock.env_steps)
                    stopped_by = None if finished else audience.stopped_by
                    outcome = Outcome(finished, loop.clock.env_steps, judged, stopped_by, any_process(stop.is_set()))
                    self._record.ended(outcome.status(run.final_eval_episodes > 0), outcome.why)
                return outcome
            finally:
                self.judge.close()
                self.env.close()

    def _weight_check(self) -> WeightCheck:
        return WeightCheck(self.agent.networks, self.ranks)

    def _recorder(self, folder: RunFolder, state: Mapping[str, Any] | None, audience: Audience) -> Recorder | Follower:
        """What writes the run down, from this checkpoint on, or from the start; one process does."""
        if not self.ranks.leads:
            return Follower(lambda: self.loop)
        resume_at = 0 if state is None else state["loop"][self.request.unit]
        due = state is not None and bool(state["loop"].get("judgement_due"))
        return Recorder(self, folder, resume_at, due, self._base, audience.hears("on_save"))

    def evaluate(self, verdict: bool = False) -> Evaluation | None:
        """Judge the current weights in separate envs and on separate seeds; None where the run should stop.

        `verdict` asks for the run's result, not for one of the evaluations during training.
        """
        self._record.settle()  # whatever judging does to the process, nothing that was learned is lost
        learns_in_env, last = isinstance(self.loop, EnvLoop), self.loop.finished
        alone = self.request.run.eval_alone and learns_in_env
        if last or alone:
            self.env.suspend()
        self._warn_of_no_ending()
        policy = self.agent.policy()
        policy = policy.at(np.flatnonzero(self.members.remain).tolist()) if self.members.dropped else policy
        found: Evaluation | None = self.ranks.of_first(lambda: self.judge(policy, verdict))
        if alone and not last:
            self.judge.close()
            self._open_envs_again()
        return found

    def _warn_of_no_ending(self) -> None:
        """Warn once, before a judgement that may take long, that no episode has ended."""
        if self.env.time_limit is not None or self._warned_of_no_ending or not isinstance(self.loop, EnvLoop):
            return
        if self.loop.clock.env_steps >= LONG * self.request.run.num_envs and not self.loop.collector.episodes.any():
            self._warned_of_no_ending = True
            name = self.request.env.env_id
            warn(
                f"no episode of {name} has ended in training and no time limit is known, so that judging may take up "
                f"to {MOST_STEPS} env steps an episode: --max-episode-steps N or max_episode_steps=N sets a limit"
            )

    def _open_envs_again(self) -> None:
        """New training envs in place of those that were closed, in the middle of their episodes where that can be."""
        assert isinstance(self.loop, EnvLoop)
        self.env = self._make_env()
        why = self.loop.collector.move_to(self.env)
        if why is not None:
            self.loop.begin()
            if not self._warned_of_cuts:
                self._warned_of_cuts = True
                warn(f"fresh episodes begin behind every judgement, since the training envs are closed for it: {why}")

    def _fit_statistics(self) -> None:
        """Show an agent that learns from a dataset all observations, before its first update."""
        if isinstance(self.storage, Demonstrations) and isinstance(self.agent, FitsStatistics):
            self.agent.fit_statistics(*self.storage.observations())

    def restore(self, folder: RunFolder) -> None:
        """Read the last checkpoint, its rows into the storage; `train` goes on from there. Nothing is changed.

        Raises:
            RlabError: no checkpoint is whole.
        """
        if not has_checkpoint(folder):
            return
        found = newest_checkpoint(folder)
        state, chunks, self._base = found.state, found.chunks, found.number
        where, step = f"the checkpoint of {folder.name}", self.request.run.num_envs if self._online else 1
        with fitting(where):
            check_clock(state, self.request.unit, step, where)
            check_like(state, {"storage": self.storage.state()}, where)
            check_saved(state, self.request.training_seeds)
            options = choices(self.agent.policy().spec.action_space)
            self.storage.load(state["storage"], (sound_rows(chunk.arrays(), options, where) for chunk in chunks))
            if self.demonstrations is not None:
                self.demonstrations.load(state["demonstrations"], iter(()))
        self._state = state

    def _go_on(self, state: dict[str, Any], folder: RunFolder) -> None:
        """Everything but the storage as it was when this state was saved."""
        where = f"the checkpoint of {folder.name}"
        kept, generators = self.best.kept, generator_states()
        fresh = {"loop": self.loop.state(), "best": kept.state(), "generators": generators, "resumed_at": []}
        with fitting(where):
            check_like(state, fresh, where)
            why = self.loop.load_state(state["loop"])
            kept.load_state(state["best"])
            load_generator_states(state["generators"])
        self.resumed_at = state["resumed_at"]
        if self.loop.finished:
            return
        now = self.loop.clock.env_steps
        if why is not None:
            warn(f"{folder.name} goes on with fresh episodes: {why}")
        elsewhere = [event for event in folder.config.get("history", ()) if event["elsewhere"]]
        if why is not None or any(event[self.request.unit] == now for event in elsewhere):
            self.resumed_at = [*self.resumed_at, now]

    def _stops(self, stop: Event, audience: Audience) -> bool:
        return self.ranks.any(stop.is_set() or audience.wants_stop_at(self.loop.clock.env_steps))

    def _loop(
        self, should_stop: Callable[[], bool], listeners: Sequence[LoopListener], on_episodes: Sequence[Hear]
    ) -> Loop:
        run = self.request.run

        def between_cycles() -> bool:
            self._record.on_cycle()
            return should_stop()

        rest = (
            Periods(run.log_every, run.eval_every, run.checkpoint_every),
            self.evaluate,
            listeners,
            between_cycles,
        )
        kind, programs = self._source.loop, self.engine.programs()
        if issubclass(kind, EnvLoop):
            place = Collector(self.env, programs.cycle_steps[0]), self.storage, self._sampler, run.env_steps
            self.loop: Loop = kind(self.agent, *place, *rest, on_episodes, programs, run.reward_clip)
        else:
            assert issubclass(kind, DatasetLoop)
            held_out = None if self._held_out is None else self._held_out.rows_in_order()
            stopping = self._early_stopping()
            validation = None if held_out is None else {**held_out, "weight": held_out.pop("valid").float()}
            self.loop = kind(
                self.agent, self.members.seeds, self._sampler, run.updates, *rest, validation, stopping, programs
            )
        self.loop.members, self.loop.ranks = self.members, self.ranks
        return self.loop

    def _early_stopping(self) -> EarlyStopping | None:
        patience = patience_of(self.request.settings)
        return None if patience is None else EarlyStopping(len(self.members.seeds), patience)

    def _run(self, loop: Loop, folder: RunFolder) -> bool:
        try:
            finished = loop.run()
            self._record.finish()
        except JudgementError as error:
            self._record.settle()
            reached = f"{loop.clock.env_steps:,} {self.request.unit.replace('_', ' ')}"
            resume = partial(resume_command, folder.name, folder.config)
            raise judging_failed(error, resume, loop.finished, reached) from error
        except RlabError as error:
            self._record.settle()
            kept = "It had not been saved yet."
            if has_checkpoint(folder):
                again = resume_command(folder.name, folder.config)
                kept = f"The run is kept up to its last save; once that is fixed: {again}"
            raise type(error)(f"{str(error).rstrip('.')}. {kept}") from error
        return finished
