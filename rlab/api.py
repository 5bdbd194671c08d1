"""The Python way: `run = rlab.train("dqn", "CartPole-v1", seeds=10)`, then `rlab.load(run.path)`."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlab.cli.aliases import answering, check_not_a_policy
from rlab.cli.collecting import collect, collect_random
from rlab.cli.collecting import merge as merge_datasets
from rlab.cli.compressing import compress
from rlab.cli.experiment_files import find_experiment
from rlab.cli.exporting import export_member as export
from rlab.cli.finetune import finetuning_defaults, next_agent, refuse_network_settings
from rlab.cli.playing import Played, play
from rlab.cli.pretrain import env_for, learner_for, pretraining_defaults
from rlab.cli.progress import ProgressListener
from rlab.cli.request import Request, Start, complete, request_from_keywords, spec_for
from rlab.cli.saved import check_can_sample, open_policy
from rlab.cli.searching import search
from rlab.cli.session import FINAL_EPISODE_SEED, RESULT, Session, only_here
from rlab.cli.sources import open_sources
from rlab.envs import EnvLike, EpisodeMaker, env_spec
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.evaluate import evaluate as judge_episodes
from rlab.learning.listeners import Audience, FinishedEpisode, Listener
from rlab.learning.runtime import own_surroundings
from rlab.networks.policy import MemberPolicy
from rlab.runs import reading
from rlab.runs.checkpoint import has_checkpoint
from rlab.runs.folder import ROOT, RunFolder, check_free, fresh_run_path, hardware, versions
from rlab.runs.listing import saved_time
from rlab.runs.policies import load_policy
from rlab.runs.tables import read_episodes
from rlab.trust import Trust, in_force

__all__ = [
    "FinishedEpisode",
    "Listener",
    "Played",
    "Run",
    "collect",
    "collect_random",
    "compress",
    "evaluate",
    "export",
    "finetune",
    "hardware",
    "load",
    "merge_datasets",
    "play",
    "pretrain",
    "resume",
    "search",
    "train",
    "versions",
]


@dataclass(frozen=True)
class Run:
    """A run on the disk: whether it used its whole budget and, where it was judged, how good its final weights are."""

    path: Path  # absolute
    finished: bool
    unit: str  # what its clock counts: env_steps, or updates where it learned from a dataset
    time: int  # how far it came, per member
    evaluation: Evaluation | None = field(repr=False)
    trainable: float = 1.0  # share of the policy's parameters that fine-tuning trains
    stopped_by: str | None = None  # the listener that stopped it before its budget was used
    only_here: str | None = field(default=None, repr=False)  # what to tell where no other process finds the env
    name: str = field(default="", repr=False)  # the path as it was written

    def policy(self, seed: int | None = None) -> MemberPolicy:
        """The final policy of one training seed (None: the first)."""
        return load(self.path, seed)

    def curve(self, tag: str = "eval/return") -> tuple[np.ndarray, np.ndarray]:
        """One tag over time: when `[T]`, in the run's unit, and the values `[S, T]`; NaN where a member had none.

        Without a tag: the evaluations during training, each member's mean return. `rlab list metrics` explains tags.

        Raises:
            UsageError: the run logged no such tag.
        """
        return reading.curve(self.path, self.unit, tag)

    def episodes(self) -> np.ndarray:
        """The episodes of training, a structured array `[E]` with the fields env_steps, seed, env, return, length and
        time (seconds since training began): `run.episodes()["return"]`.

        Raises:
            UsageError: the run was trained without `log_episodes=True`.
        """
        return read_episodes(self.path)

    def frame(self) -> Any:
        """All that was logged as a tidy pandas table, with the columns env_steps (or updates), seed, metric and value.

        Raises:
            UsageError: pandas is not installed.
        """
        return reading.frame(self.path, self.unit)

    def report(self) -> str:
        """What to tell people at the end of a run."""
        note = "" if self.only_here is None else f"\n{self.only_here}"
        saved = f"run: {self.name}   curves: tensorboard --logdir {self.name}{note}"
        if not self.finished:
            reached = f"{self.time} {self.unit.replace('_', ' ')}"
            by = "" if self.stopped_by is None else f" by the listener {self.stopped_by}"
            return f"stopped{by} at {reached} and saved; go on with: rlab resume {self.name}\n{saved}"
        verdict = "finished, not judged" if self.evaluation is None else self.evaluation.summary()
        return f"{verdict}\n{saved}"


def train(
    agent: str,
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    out: str | Path | None = None,
    experiment: str | None = None,
    progress: bool = False,
    trust: Trust = False,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Train a population and judge it.

    Args:
        agent: a registered name, or `their.module:Class`.
        env: a Gymnasium id, `module:Id`, or a class or function that makes an env, which gets `env_kwargs`. What no
            other process finds (a lambda, a class in a notebook) is given again: `evaluate(run, env=MyEnv)`.
        env_kwargs: keywords of the env, plain data (`rlab.envs.plain`) that it is given again in every later use.
        wrappers: names from `rlab.envs.WRAPPERS`, or `their.module:Wrapper`, innermost first.
        out: the run folder; None makes a fresh one under `runs/`.
        experiment: the name or file of the tuned settings to start from; None takes the one for this agent and env if
            there is one and the env is not changed by keywords or wrappers, `"none"` the plain defaults.
        progress: show a bar, as the command line does.
        trust: allow code of others that the folder of a teacher names: True, or the names of modules. Those that the
            working folder's `.rlab-trust` lists (`rlab trust my_envs`) are allowed without.
        listeners: objects with some of the methods of `rlab.Listener`, which hear what the run does and may stop it.
        settings: fields of `RunConfig` (`seeds=10`, `env_steps=50_000`), of `SourceConfig` (`teacher="runs/good"`) and
            of the agent's config (`gamma=0.9`).

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed; what was saved stays.
    """
    check_not_a_policy(agent, env if isinstance(env, str) else "")
    base = env_spec(env)
    if experiment is None and (env_kwargs or base.kwargs or wrappers):
        experiment = "none"
    spec = spec_for(find_experiment(agent, base.env_id, experiment), base, env_kwargs or {}, wrappers)
    return start(request_from_keywords(agent, spec, experiment, settings), out, progress, trust, listeners)


def pretrain(
    method: str,
    dataset: str | Path,
    *,
    env: EnvLike | None = None,
    agent: str = "ppo",
    out: str | Path | None = None,
    progress: bool = False,
    trust: Trust = False,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Learn a policy (`method` `"bc"`), or the body of one (`"encoder"`), from demonstrations alone.

    Args:
        dataset: a folder of demonstrations, such as `collect` writes.
        env: as for `train`; None takes the env that the dataset was recorded in.
        agent: whose network to pretrain: its tuned settings for the env give the layers, the scaling and the discount.
        out, progress, listeners: as for `train`.
        trust: allow an env or wrappers of others that the dataset names, which run their code.
        settings: fields of `RunConfig` (`updates=5_000`), of `SourceConfig` and of the learner's config.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed, or the dataset is broken.
    """
    spec = env_for(str(dataset), None if env is None else env_spec(env), trust)
    defaults = pretraining_defaults(method, agent, spec.env_id)
    settings["dataset"] = str(dataset)
    words = repr(method), f"env={spec.env_id!r}", f"agent={agent!r}"
    request = complete(learner_for(method, agent), spec, defaults, settings, "pretrain", words)
    return start(replace(request, for_agent=agent), out, progress, trust, listeners)


def finetune(
    run: str | Path,
    env: EnvLike | None = None,
    *,
    agent: str | None = None,
    member: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    experiment: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    trust: Trust = False,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Go on from a trained or pretrained policy, in the same env or another.

    Args:
        run: a run or policy folder.
        env: as for `train`; None takes the run's own, with its keywords and wrappers where no others are given.
        agent: who goes on; None takes the one that trained the run, or after pretraining `double_dqn` or `ppo`.
        member: the training seed that every learner begins with; None: each begins with its own.
        env_kwargs, wrappers, experiment, out, progress, listeners: as for `train`.
        settings: fields of `FinetuneConfig` (`strategy="gradual"`), `RunConfig`, `SourceConfig` and the agent's config.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed, or the folder is broken.
    """
    spec = None if env is None else env_spec(env)
    saved = open_policy(str(run), trust, spec)
    spec = (spec or saved.env).changed(env_kwargs or None, wrappers or None)
    agent = agent or next_agent(saved, trust)
    refuse_network_settings(frozenset(settings), str(run))
    defaults = finetuning_defaults(saved, agent, spec, experiment, member)
    words = repr(str(run)), repr(spec.env_id), f"agent={agent!r}", f"member={member!r}"
    request = complete(agent, spec, defaults, settings, "finetune", words, Start(str(run), member))
    return start(request, out, progress, trust, listeners)


@answering
def evaluate(
    run: str | Path,
    *,
    episodes: int = 100,
    seed: int = FINAL_EPISODE_SEED,
    member: int | None = None,
    stochastic: bool = False,
    wrappers: Sequence[str] | None = None,
    envs: int | None = None,
    env: EnvLike | None = None,
    trust: Trust = False,
) -> Evaluation:
    """Judge the policy of a run or policy folder in the env that it was trained in, as `rlab eval` does.

    Args:
        episodes: per member.
        stochastic: sample actions as in training, instead of the greedy ones.
        wrappers: around the env in place of those that it was trained with; None: the same.
        envs: instances of the env at once, in all; None: 10 per member and 64 in all, native ones apart.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        seed: of the first episode; episode k has `seed + k`, the same for every member and policy.
        member: training seed of the one to judge; None: all.
        trust: allow layers, envs and wrappers of others that the folder names, which run their code.

    Raises:
        UsageError: no such member, or seeds that training may have used.
        RlabError: the folder is missing or broken.
    """
    saved = open_policy(str(run), trust, env)
    policy = saved.policy if member is None else saved.policy.only(member)
    spec = saved.env if wrappers is None else saved.env.changed(wrappers=wrappers)
    if stochastic:
        check_can_sample(policy)
    with own_surroundings(threads=1):
        return judge_episodes(policy, EpisodeMaker(spec, envs), episodes, seed, greedy=not stochastic)


@answering
def load(path: str | Path, seed: int | None = None, trust: Trust = False, *, sample_seed: int = 0) -> MemberPolicy:
    """The policy of one member of a run or policy folder, as plain `torch.nn` modules on the CPU.

    `policy(obs)` takes `[*obs]` or `[B, *obs]`: NumPy gives NumPy, which `env.step` accepts, and torch gives torch.
    `policy(obs, greedy=False)` samples as in training; `policy.reseed(7)` begins the random stream of
    seed 7 anew.

    Args:
        seed: the training seed of the member; None takes the first.
        sample_seed: of the stream that `greedy=False` draws from: the same seed gives the same actions.
        trust: allow layers written by others, which run their code.

    Raises:
        RlabError: the folder is missing, broken or not ours.
        UsageError: no member has that training seed.
    """
    policy = load_policy(path, in_force(trust)).policy.member(seed)
    policy.reseed(sample_seed)
    return policy


def start(
    request: Request, out: str | Path | None, progress: bool, trust: Trust = False, listeners: Sequence[Any] = ()
) -> Run:
    """Make the run folder and train; nothing is on the disk before everything else is known to fit."""
    audience = Audience(listeners)
    if out is not None:
        check_free(out)
    place = Path(ROOT if out is None else out).absolute()  # before an env is made, which may change the working folder
    with own_surroundings(request.run.threads, request.run.seed):  # before the first torch operation
        sources = open_sources(request, None, trust)
        session = Session(request, sources)
        if progress:
            print(session.describe())
        path = place if out is not None else fresh_run_path(request.agent, request.env.env_id, place)
        try:
            folder = RunFolder.create(path, session.request.to_json(), out or Path(ROOT) / path.name)
        except UsageError:
            session.env.close()
            raise
        sources.keep(folder)
        return _carry_out(session, folder, progress, audience)


@answering
def resume(
    path: str | Path,
    progress: bool = False,
    trust: Trust = False,
    *,
    env: EnvLike | None = None,
    listeners: Sequence[Any] = (),
) -> Run:
    """Go on with an interrupted run from its last save, with fresh episodes.

    Args:
        env: makes the env where only the process that began the run can: `env=MyEnv`.
        listeners: as for `train`; those that it had before are not kept.
        trust: allow an agent, env or wrapper of others that the folder names, which runs their code.

    Raises:
        RlabError: the folder is broken, has lost its checkpoint, or names code of others and `trust` is false.
        UsageError: the run is finished already.
    """
    audience = Audience(listeners)
    folder = RunFolder.open(path)
    request = Request.from_json(folder.config, str(folder.path / "config.json"), trust)
    if env is not None:
        request = request.with_env(env)
    done = saved_time(folder)
    # Only a finished run is judged; early stopping finishes one before its budget is used.
    judged = (folder.path / RESULT).is_file()
    if judged or (done >= request.budget and not request.run.final_eval_episodes):
        raise UsageError(f"{path} is finished; rlab eval {path} judges it.")
    if done and not has_checkpoint(folder):
        raise RlabError(f"{path} has lost its checkpoint, so it cannot go on; rlab eval {path} judges what it has.")
    if progress:
        fresh = ", with fresh episodes" if request.unit == "env_steps" else ""
        where = f"goes on from its last save{fresh}" if done else "nothing was saved, it starts anew"
        print(f"{path}: {where}")
    with own_surroundings(request.run.threads, request.run.seed):
        sources = open_sources(request, folder, trust)
        return _carry_out(Session(request, sources), folder, progress, audience)


def _carry_out(session: Session, folder: RunFolder, progress: bool, audience: Audience) -> Run:
    request = session.request
    here = only_here(request.env.env_id) if request.env.local else None
    begun = Run(folder.path, False, request.unit, saved_time(folder), None, session.trainable, None, here, folder.name)
    audience.on_start(begun)
    bar = ProgressListener(request.budget, request.unit) if progress else None
    try:
        _check_start(audience, session)
        with folder.held(), bar if bar is not None else nullcontext():
            outcome = session.train(folder, [bar] if bar is not None else [], audience)
    except BaseException:
        audience.on_end(replace(begun, time=_reached(folder)))
        raise
    ended = replace(
        begun,
        finished=outcome.finished,
        time=outcome.time,
        evaluation=outcome.evaluation,
        stopped_by=outcome.stopped_by,
    )
    audience.on_end(ended)
    audience.check(f"The run is whole: {folder.name}")
    return ended


def _check_start(audience: Audience, session: Session) -> None:
    try:
        audience.check("Nothing was trained.")
    except RlabError:
        session.env.close()
        raise


def _reached(folder: RunFolder) -> int:
    """How far a run that failed is saved; 0 where even that cannot be told."""
    try:
        return saved_time(folder)
    except (RlabError, OSError):
        return 0
