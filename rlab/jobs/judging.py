"""How a run judges its policy: which envs, how many of them, and when they are closed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rlab.envs import EpisodePool
from rlab.errors import RlabError
from rlab.evaluation.episode_driver import EndlessError, StoppedError
from rlab.evaluation.evaluate import Evaluation, evaluate
from rlab.jobs.request import Request
from rlab.networks.policy import Policy
from rlab.places import warn
from rlab.runs.config import RunConfig
from rlab.runs.folder import RunFolder, is_run

MOST_PER_MEMBER = 10  # envs; the usual number of episodes of an evaluation during training

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

    By default there are at most as many envs as it trains in.
    """

    def __init__(self, request: Request, should_stop: Callable[[], bool]) -> None:
        run = request.run
        most = run.eval_envs
        if most is None and run.eval_alone:
            most = min(run.num_envs, MOST_PER_MEMBER) * run.seeds  # so many could live, since they trained
        self._envs = EpisodePool(request.env, most, min(run.num_envs, MOST_PER_MEMBER))
        self._should_stop = should_stop

    def __call__(self, policy: Policy, episodes: int, first_seed: int) -> Evaluation | None:
        """Greedy episodes of every member; None where the run should stop.

        Raises:
            RlabError: an env cannot be made or fails.
        """
        try:
            return evaluate(policy, self._envs, episodes, first_seed, should_stop=self._should_stop)
        except StoppedError:
            return None
        except RlabError:
            self.close()  # an env that failed may be in any state
            raise

    def close(self) -> None:
        """Close the envs; the next judgement makes new ones."""
        self._envs.close()


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
