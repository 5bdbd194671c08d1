"""The Python way: `run = rlab.train("dqn", "CartPole-v1", seeds=10)`, then `rlab.load(run.path)`."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlab.cli.progress import ProgressListener
from rlab.cli.request import Request, request_from_keywords
from rlab.cli.session import RESULT, Session
from rlab.envs import EnvSpec
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import Evaluation
from rlab.learning.runtime import torch_settings
from rlab.networks.policy import MemberPolicy
from rlab.runs.checkpoint import has_checkpoint
from rlab.runs.folder import RunFolder, check_free, fresh_run_path, hardware, versions
from rlab.runs.listing import policy_env_steps
from rlab.runs.policies import load_policy

__all__ = ["Run", "hardware", "load", "resume", "train", "versions"]


@dataclass(frozen=True)
class Run:
    """A run on the disk: whether it used its whole budget and, where it was judged, how good its final weights are."""

    path: Path
    finished: bool
    env_steps: int  # per member
    evaluation: Evaluation | None = field(repr=False)

    def policy(self, seed: int | None = None) -> MemberPolicy:
        """The final policy of one training seed (None: the first)."""
        return load(self.path, seed)

    def report(self) -> str:
        """What to tell people at the end of a run."""
        saved = f"run: {self.path}   curves: tensorboard --logdir {self.path}"
        if not self.finished:
            return f"stopped at {self.env_steps} env steps and saved; go on with: rlab resume {self.path}\n{saved}"
        verdict = "finished, not judged" if self.evaluation is None else self.evaluation.summary()
        return f"{verdict}\n{saved}"


def train(
    agent: str,
    env: str,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    out: str | Path | None = None,
    experiment: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> Run:
    """Train a population and judge it.

    Args:
        agent: a registered name, or `their.module:Class`.
        env: a Gymnasium id.
        env_kwargs: keywords of the env.
        wrappers: names from `rlab.envs.WRAPPERS`, or `their.module:Wrapper`, innermost first.
        out: the run folder; None makes a fresh one under `runs/`.
        experiment: the name or file of the tuned settings to start from; None takes the one for this agent and env if
            there is one and the env is not changed by keywords or wrappers, `"none"` the plain defaults.
        progress: show a bar, as the command line does.
        settings: fields of `RunConfig` (`seeds=10`, `env_steps=50_000`) and of the agent's config (`gamma=0.9`).

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the run failed; what was saved stays.
    """
    spec = EnvSpec.parse(env, (), wrappers)
    spec = EnvSpec(spec.env_id, dict(env_kwargs or {}), spec.wrappers)
    if experiment is None and (spec.kwargs or spec.wrappers):
        experiment = "none"
    return start(request_from_keywords(agent, spec, experiment, settings), out, progress)


def load(path: str | Path, seed: int | None = None, trust: bool = False) -> MemberPolicy:
    """The policy of one member of a run or policy folder, as plain `torch.nn` modules on the CPU.

    `policy(obs)` takes `[*obs]` or `[B, *obs]`: NumPy gives NumPy, which `env.step` accepts, and torch gives torch.

    Args:
        seed: the training seed of the member; None takes the first.
        trust: allow layers written by others, which run their code.

    Raises:
        RlabError: the folder is missing, broken or not ours.
        UsageError: no member has that training seed.
    """
    return load_policy(path, trust).policy.member(seed)


def start(request: Request, out: str | Path | None, progress: bool) -> Run:
    """Make the run folder and train; nothing is on the disk before everything else is known to fit."""
    if out is not None:
        check_free(out)
    with torch_settings(request.run.threads):  # before the first torch operation, which building networks is
        session = Session(request)
        if progress:
            print(session.describe())
        path = Path(out) if out is not None else fresh_run_path(request.agent, request.env.env_id)
        try:
            folder = RunFolder.create(path, request.to_json())
        except UsageError:
            session.env.close()
            raise
        return _carry_out(session, folder, progress)


def resume(path: str | Path, progress: bool = False, trust: bool = False) -> Run:
    """Go on with an interrupted run from its last save, with fresh episodes.

    Args:
        trust: allow an agent, env or wrapper of others that the folder names, which runs their code.

    Raises:
        RlabError: the folder is broken, has lost its checkpoint, or names code of others and `trust` is false.
        UsageError: the run is finished already.
    """
    folder = RunFolder.open(path)
    request = Request.from_json(folder.config, str(folder.path / "config.json"), trust)
    done = policy_env_steps(folder)
    judged = (folder.path / RESULT).is_file() or not request.run.final_eval_episodes
    if done >= request.run.env_steps and judged:
        raise UsageError(f"{path} is finished; rlab eval {path} judges it.")
    if done and not has_checkpoint(folder):
        raise RlabError(f"{path} has lost its checkpoint, so it cannot go on; rlab eval {path} judges what it has.")
    if progress:
        where = "goes on from its last save, with fresh episodes" if done else "nothing was saved, it starts anew"
        print(f"{path}: {where}")
    with torch_settings(request.run.threads):
        return _carry_out(Session(request), folder, progress)


def _carry_out(session: Session, folder: RunFolder, progress: bool) -> Run:
    bar = ProgressListener(session.request.run.env_steps) if progress else None
    with folder.held(), bar if bar is not None else nullcontext():
        outcome = session.train(folder, [bar] if bar is not None else [])
    return Run(folder.path, outcome.finished, outcome.env_steps, outcome.evaluation)
