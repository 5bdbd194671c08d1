"""How a run judges its policy: in which envs, how many of them, as tensors or not, and when they are closed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rlab.envs import EpisodePool
from rlab.envs.tensor_episodes import TensorEpisodes, why_not_tensor_episodes
from rlab.errors import RlabError
from rlab.evaluation.episode_driver import EndlessError, StoppedError
from rlab.evaluation.evaluate import Evaluation, evaluate
from rlab.evaluation.tensor_evaluation import TensorEvaluation
from rlab.jobs.engine import Engine
from rlab.jobs.observing import Observed, ObsRecorder
from rlab.jobs.request import Request
from rlab.learning.programs import AS_IT_IS
from rlab.networks.policy import Policy
from rlab.places import warn
from rlab.runs.config import RunConfig
from rlab.runs.folder import RunFolder, is_run

MOST_PER_MEMBER = 10  # envs; the usual number of episodes of an evaluation during training
WORTH_COMPILING = 40  # evaluations on a CPU: compiling takes 3 to 5 s and saves up to 0.1 s in each

# Ranges of episode seeds that do not meet by themselves: training envs draw from 2**30 up.
FINAL_EPISODE_SEED = 100_000  # what `rlab eval` uses by default
RESERVED = 100_000  # seeds, of judging as of recording
COLLECTED_EPISODE_SEED = 200_000  # what `rlab collect` records from
TRAINING_EPISODE_SEED = 500_000  # chooses best/, so it must not be what the final number is measured on


def warn_if_seen(folder: Path, first: int, episodes: int) -> None:
    """Warn where a policy is to be judged by episodes that it may have learned from or been chosen by.

    Args:
        folder: of the policy, in its run or alone.
        first: seed of the first of the `episodes`.
    """
    unknown: dict[str, Any] = {"run": {}, "start": "unknown"}
    config = RunFolder.open(folder.parent).config if is_run(folder.parent) else unknown
    chosen_by = config["run"].get("eval_episodes", RunConfig().eval_episodes)
    taught = (config.get("sources") or {}).get("dataset") is not None or config.get("start") is not None
    if _meet(first, episodes, TRAINING_EPISODE_SEED, chosen_by):
        warn(
            f"episode seeds {TRAINING_EPISODE_SEED} to {TRAINING_EPISODE_SEED + chosen_by - 1} are those of the "
            "evaluations during training, which chose best/ and may have steered your settings: returns on them are "
            f"too good. Judge from {FINAL_EPISODE_SEED} on."
        )
    if taught and _meet(first, episodes, COLLECTED_EPISODE_SEED, RESERVED):
        warn(
            f"episode seeds from {COLLECTED_EPISODE_SEED} on are those that rlab collect records: a policy that "
            f"learned from demonstrations may have seen these episodes. Judge from {FINAL_EPISODE_SEED} on."
        )


def warn_if_for_judging(first: int, episodes: int) -> None:
    """Warn where episodes are to be recorded that policies are judged by."""
    if _meet(first, episodes, FINAL_EPISODE_SEED, RESERVED):
        warn(
            f"episode seeds {FINAL_EPISODE_SEED} to {FINAL_EPISODE_SEED + RESERVED - 1} are those that rlab eval "
            "judges by: a policy that learns from this recording has seen them. "
            f"Record from {COLLECTED_EPISODE_SEED} on."
        )


def _meet(first: int, count: int, other: int, other_count: int) -> bool:
    return first < other + other_count and other < first + count


class NotJudgedError(RlabError):
    """A run was trained to its end and saved, and its final weights could not be judged."""


class Judge:
    """Judges the policy of one run again and again, in envs that stay open from one time to the next.

    By default there are at most as many envs as it trains in. Unless `why_not_as_tensors` says why not, evaluations
    during training are played as tensors on the run's device instead, and only its result is found in these envs.
    """

    def __init__(self, request: Request, engine: Engine, should_stop: Callable[[], bool]) -> None:
        run = request.run
        self._request, self._engine = request, engine
        self._as_tensors = why_not_as_tensors(request, engine) is None
        self._episodes: TensorEpisodes | None = None
        self._evaluation: TensorEvaluation | None = None
        most = run.eval_envs
        if most is None and run.eval_alone:
            most = min(run.num_envs, MOST_PER_MEMBER) * run.seeds  # so many could live, since they trained
        self._envs = EpisodePool(request.env, most, min(run.num_envs, MOST_PER_MEMBER))
        self._should_stop = should_stop
        self.observed: Observed = {}  # in the episodes that found the run's result

    def __call__(self, policy: Policy, verdict: bool) -> Evaluation | None:
        """Greedy episodes of every member; None where the run should stop.

        Args:
            verdict: find the run's result, in Gymnasium's own env always; else this is an evaluation during training.

        Raises:
            RlabError: an env cannot be made or fails.
        """
        try:
            if self._as_tensors and not verdict:
                return self._on_device(policy)(self._should_stop)
            run, stops = self._request.run, self._should_stop
            if not verdict:
                return evaluate(policy, self._envs, run.eval_episodes, TRAINING_EPISODE_SEED, should_stop=stops)
            recorder = ObsRecorder(policy.spec.obs_space, policy.seeds)
            episodes = run.final_eval_episodes, FINAL_EPISODE_SEED
            found = evaluate(policy, self._envs, *episodes, should_stop=stops, on_step=recorder)
            self.observed = recorder.references()
            return found
        except StoppedError:
            return None
        except RlabError:
            self.close()  # an env that failed may be in any state
            raise

    def _on_device(self, policy: Policy) -> TensorEvaluation:
        """The evaluation during training; it is kept, since it may be compiled."""
        first, run, device = self._evaluation is None, self._request.run, self._engine.device
        if self._episodes is None:
            seeds = range(TRAINING_EPISODE_SEED, TRAINING_EPISODE_SEED + run.eval_episodes)
            self._episodes = TensorEpisodes(self._request.env, seeds, device)
        if self._evaluation is None or self._evaluation.policy is not policy:
            pays = device.type != "cpu" or run.env_steps // run.eval_every >= WORTH_COMPILING
            # an agent that makes a new policy each time would have each of them compiled
            programs = self._engine.programs() if pays and first else AS_IT_IS
            self._evaluation = TensorEvaluation(policy, self._episodes, TRAINING_EPISODE_SEED, programs)
        return self._evaluation

    def close(self) -> None:
        """Close the envs; the next judgement makes new ones."""
        self._envs.close()


def why_not_as_tensors(request: Request, engine: Engine) -> str | None:
    """Why evaluations during training are not played as tensors; None where they are."""
    if not engine.tensor:
        return "training is not played as tensors"
    return "as asked for" if request.run.judge == "gymnasium" else why_not_tensor_episodes(request.env)


def judging_notes(request: Request, engine: Engine) -> list[str]:
    """A line for people on how evaluations during training are played, where training is played as tensors."""
    if not (engine.tensor and request.run.eval_every):
        return []
    why = why_not_as_tensors(request, engine)
    if why is None:
        return ["judged as tensors during training, and in the end in Gymnasium's env"]
    return [f"judged in Gymnasium's env: {why}"]


def judging_failed(error: RlabError, resume: Callable[..., str], finished: bool, reached: str) -> RlabError:
    """The error for a policy that could not be judged: what is safe, and how to go on.

    Args:
        resume: what goes on with the run, with these settings changed.
    """
    what = str(error).rstrip(".")
    if isinstance(error, EndlessError):
        resume = partial(resume, max_episode_steps="N")
    if finished:
        return NotJudgedError(f"{what}. The run is trained and saved, but not judged: {resume()} judges it.")
    return RlabError(
        f"{what}. It happened while judging; what was trained is saved, up to {reached}. Go on without judging: "
        f"{resume(eval_every=0)}; or, where only few instances of the env may live at once: {resume(eval_alone=True)}."
    )
