"""How a run judges its policy: which envs, how many of them, and when they are closed."""

from collections.abc import Callable

from rlab.cli.request import Request
from rlab.envs import EpisodePool
from rlab.errors import RlabError
from rlab.evaluation.evaluate import EndlessError, Evaluation, StoppedError, evaluate
from rlab.networks.policy import Policy

MOST_PER_MEMBER = 10  # envs; the usual number of episodes of an evaluation during training

# Three ranges of episode seeds that never meet: training envs draw from 2**30 up.
FINAL_EPISODE_SEED = 100_000  # what `rlab eval` uses unless told otherwise
TRAINING_EPISODE_SEED = 500_000  # chooses best/, so it must not be what the final number is measured on


class NotJudgedError(RlabError):
    """A run was trained to its end and saved, and its final weights could not be judged."""


class Judge:
    """Plays the judgements of one run, in envs that stay open from one to the next.

    Unless the run says how many of them live at once, there are no more than it trains in.
    """

    def __init__(self, request: Request, should_stop: Callable[[], bool]) -> None:
        run = request.run
        most = run.eval_envs
        if most is None and run.eval_alone:
            most = min(run.num_envs, MOST_PER_MEMBER) * run.seeds  # so many could live, since they trained
        self._envs = EpisodePool(request.env, most, min(run.num_envs, MOST_PER_MEMBER))
        self._should_stop = should_stop

    def __call__(self, policy: Policy, episodes: int, first_seed: int) -> Evaluation | None:
        """Greedy episodes of every member; None where the run is to stop.

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


def judging_failed(error: RlabError, resume: str, finished: bool, reached: str) -> RlabError:
    """The error for a policy that could not be judged: what is safe, and how to go on."""
    what = str(error).rstrip(".")
    if isinstance(error, EndlessError):
        resume += " --max-episode-steps N"
    if finished:
        return NotJudgedError(f"{what}. The run is trained and saved, but not judged: {resume} judges it.")
    return RlabError(
        f"{what}. It happened while judging; what was trained is saved, up to {reached}. Go on without judging: "
        f"{resume} --eval-every 0; or, where only few instances of the env may live at once, with --eval-alone."
    )
