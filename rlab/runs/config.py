"""The settings of a run and of what it learns from, apart from the agent's own settings."""

from dataclasses import dataclass
from typing import Literal

from rlab.errors import UsageError
from rlab.ranges import (
    check_at_most,
    check_counts,
    check_not_negative,
    check_positive,
    check_seconds,
    check_shares,
    check_shares_below_one,
)
from rlab.runs.schema import MOST_MEMBERS, MOST_STEPS


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The budget, seeds, envs, evaluation and device of a run.

    Of an agent that learns from a dataset the budget and the periods are counted in updates.

    Raises:
        UsageError: a count that is zero or negative.
    """

    env_steps: int = 100_000  # budget per member, summed over its envs
    updates: int = 10_000  # budget per member of an agent that learns from a dataset
    seed: int = 0  # first training seed
    seeds: int = 1  # members; training seeds are seed .. seed + seeds - 1
    num_envs: int = 8  # envs per member
    # auto: tensor where the run is compiled or on a GPU and the env has a tensor version, else the env's own, else sync
    vector: Literal["auto", "tensor", "native", "sync", "async", "envpool"] = "auto"
    max_episode_steps: int | None = None  # None: the env's own time limit
    env_timeout: float = 60.0  # seconds for each constructor, reset, step and close of an env; what hangs is named
    env_restarts: int = 0  # how often each training env that fails is made again, before the run fails
    # rewards are learned from within +- this, and reported as they are; Mnih et al. 2015 have 1 for Atari. None: any
    reward_clip: float | None = None
    sparsity: float = 0.0  # share of each layer's weights of the policy that are 0 in the end; Graesser et al. 2022
    eval_every: int = 10_000  # env steps between evaluations during training; 0: none
    eval_episodes: int = 10  # greedy episodes per member in each of them
    final_eval_episodes: int = 100  # greedy episodes per member with the final weights; 0: none
    eval_envs: int | None = None  # envs that judge at once, in all; None: as many as train, 10 per member, 64 in all
    eval_alone: bool = False  # close the training envs while judging; their episodes go on in new ones
    # auto: evaluations during training are played as tensors where training is; the last one in Gymnasium's env always
    judge: Literal["auto", "gymnasium"] = "auto"
    checkpoint_every: int = 10_000  # env steps between checkpoints
    keep_checkpoints: int = 2  # the newest ones; where one is damaged the one before it is gone on from
    log_every: int = 1_000  # env steps between rows of metrics
    # beside TensorBoard: csv: metrics.csv and eval.csv, for spreadsheets; mlflow, wandb: services, as they are set up
    log: tuple[Literal["csv", "mlflow", "wandb"], ...] | None = None
    # MLflow's experiment, W&B's project; None: MLFLOW_EXPERIMENT_NAME, WANDB_PROJECT, else rlab
    log_project: str | None = None
    film_every: int = 0  # env steps between films of a greedy episode of the first seed; 0: none
    log_episodes: bool = False  # one line of episodes.csv for every episode that training finished
    device: str = "auto"  # cpu, cuda, or one GPU of several such as cuda:1; auto: what is faster for this run
    devices: str | None = None  # several, such as cuda:0,cuda:1, or all: members are shared out, a process for each
    jobs: int | None = None  # processes that members are shared out over; None: one, or with ray one for each CPU of it
    engine: Literal["local", "ray"] = "local"  # where those processes run: on this machine, or on a cluster of Ray
    compile: Literal["auto", "on", "off"] = "auto"  # auto: where the run is long enough to win its compile time back
    # drop-member: a seed of which a loss, gradient, weight, reward or observation is not finite stands still from then
    # on, and its scores do not count; the others learn what they would have learned. stop: the run ends
    on_nan: Literal["stop", "drop-member"] = "stop"
    # of torch; more pays only for wide networks or many seeds. Another number rounds sums otherwise, so that ppo, a2c
    # and reinforce learn other last digits, and then something else
    threads: int = 1
    deterministic: bool = False  # refuse operations that may give other bytes on the same machine; slower on a GPU

    def __post_init__(self) -> None:
        check_counts(self, "env_steps", "updates", "seeds", "num_envs", "eval_episodes", "eval_envs")
        check_counts(self, "checkpoint_every", "keep_checkpoints", "log_every", "threads", "jobs")
        check_at_most(self, MOST_MEMBERS, "seeds", "num_envs", "eval_episodes", "final_eval_episodes", "eval_envs")
        check_at_most(self, MOST_STEPS, "env_steps", "updates", "seed")
        check_positive(self, "reward_clip")
        check_shares_below_one(self, "sparsity")
        if self.deterministic and self.vector == "envpool":
            raise UsageError(
                "--deterministic: envpool steps its envs in threads of its own and does not promise the same results; "
                "use --vector sync or async."
            )
        check_not_negative(self, "film_every", "seed", "eval_every", "final_eval_episodes", "env_restarts")
        check_seconds(self, "env_timeout")

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """One per member."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def shared_out(self) -> bool:
        """Whether the members are trained in several processes."""
        return self.devices is not None or self.jobs is not None or self.engine != "local"


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """What a run learns from besides its env.

    Raises:
        UsageError: a share, weight or count out of range.
    """

    dataset: str | None = None  # a folder of demonstrations, such as `rlab collect` writes
    dataset_episodes: int | None = None  # of them for each seed, drawn by the seed; None: all
    demonstration_share: float = 0.0  # of every batch from replay that comes from the dataset
    teacher: str | None = None  # a run or policy folder that is imitated while learning (kickstarting)
    teacher_member: int | None = None  # its training seed; None: the same as the learner's, or the only one
    teacher_weight: float = 1.0  # of the imitation in the loss, at the start
    teacher_fraction: float = 0.5  # of the budget over which that weight falls to 0
    teacher_temperature: float | None = None  # of the teacher's outputs; None: 1 for logits, 0.01 for Q values

    def __post_init__(self) -> None:
        check_shares(self, "demonstration_share", "teacher_fraction")
        check_counts(self, "dataset_episodes")
        check_not_negative(self, "teacher_weight")
        check_positive(self, "teacher_temperature")
