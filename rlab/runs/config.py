"""What one run is asked to do, apart from the agent's own settings."""

from dataclasses import dataclass
from typing import Literal

from rlab.errors import UsageError

_AT_LEAST_ONE = (
    "env_steps",
    "seeds",
    "num_envs",
    "eval_every",
    "eval_episodes",
    "checkpoint_every",
    "log_every",
    "threads",
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The budget, seeds, envs, evaluation and device of a run.

    Raises:
        UsageError: a count that is zero or negative.
    """

    env_steps: int = 100_000  # budget per member, summed over its envs
    seed: int = 0  # first training seed
    seeds: int = 1  # members; training seeds are seed .. seed + seeds - 1
    num_envs: int = 8  # envs per member
    vector: Literal["auto", "native", "sync", "async", "envpool"] = "auto"  # auto: the env's own, else sync
    max_episode_steps: int | None = None  # None: the env's own time limit
    eval_every: int = 10_000  # env steps between evaluations during training
    eval_episodes: int = 10  # greedy episodes per member in each of them
    final_eval_episodes: int = 100  # greedy episodes per member with the final weights; 0: none
    checkpoint_every: int = 10_000  # env steps between checkpoints
    log_every: int = 1_000  # env steps between rows of metrics
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    threads: int = 1  # of torch; more pays only for wide networks or many seeds

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more.")
        for name in ("seed", "final_eval_episodes"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 0 or more.")

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """One per member."""
        return tuple(range(self.seed, self.seed + self.seeds))
