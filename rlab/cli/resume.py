"""`rlab resume RUN`: go on from the last save, to the end of the budget or of a larger one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.main import HELP
from rlab.cli.shared import carry_out, show
from rlab.errors import UsageError
from rlab.jobs.settings import settings_of
from rlab.machine import ranks_started


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Which run to go on with, and what changes: its budget, or how it is judged, logged and saved."""

    run: tyro.conf.Positional[str]  # a run folder
    env_steps: int | None = None  # the whole budget per member, those included that the run has had; None: as it was
    updates: int | None = None  # the same for an agent that learns from a dataset
    eval_every: int | None = None  # env steps between evaluations during training; 0: none
    eval_episodes: int | None = None  # greedy episodes per member in each of them
    final_eval_episodes: int | None = None  # greedy episodes per member with the final weights; 0: none
    eval_envs: int | None = None  # envs that judge at once, in all
    eval_alone: bool = False  # close the training envs while judging; --no-eval-alone: do not
    # auto: evaluations during training are played as tensors where training is; gymnasium: in Gymnasium's env
    judge: Literal["auto", "gymnasium"] | None = None
    max_episode_steps: int | None = None  # time limit of an env that has none, so that it can be judged
    env_timeout: float | None = None  # seconds for each constructor, reset, step and close of an env
    checkpoint_every: int | None = None  # env steps between checkpoints
    keep_checkpoints: int | None = None  # the newest ones
    log_every: int | None = None  # env steps between rows of metrics
    # beside TensorBoard: csv: metrics.csv and eval.csv; mlflow, wandb: services, which get what they lack; None: none
    log: tuple[Literal["csv", "mlflow", "wandb"], ...] | None = None
    log_project: str | None = None  # MLflow's experiment, W&B's project
    log_episodes: bool = False  # one line of episodes.csv for every episode that training finished
    # drop-member: a seed whose numbers are not finite stands still from then on, and the others go on
    on_nan: Literal["stop", "drop-member"] | None = None
    film_every: int | None = None  # env steps between films of a greedy episode of the first seed; 0: none
    engine: Literal["local", "ray"] | None = None  # where the processes of a run with --jobs run from now on
    device: str | None = None  # cpu, cuda, or one of several such as cuda:1; see --allow-version-change
    allow_version_change: bool = False  # go on with other versions or hardware, which round otherwise
    trust: bool = False  # run an agent, env or wrapper from outside rlab that the folder names
    quiet: bool = False  # no bar and no report: warnings alone
    json: bool = False  # how the run ended and its final evaluation as one JSON object on standard output


SCHEMAS = (ResumeOptions,)
VERIFY = "--verify"
PAGE = Page(
    "rlab resume RUN [settings]",
    "Go on with a run from its last save, to the end of its budget or of a larger one.",
    ("rlab resume runs/my-run", "rlab resume runs/my-run --env-steps 200000", "rlab resume --verify dqn CartPole-v1"),
    (
        "rlab resume --verify AGENT ENV, with the settings of rlab train, proves that such a run goes on exactly: it "
        "trains a small one twice, once with stops, and compares everything that both saved, to the bit.",
    ),
)


def _refuse_fixed(argv: list[str]) -> None:
    """Say of a setting that the run has and that cannot change that it cannot, where it would be unknown else."""
    from rlab.runs.folder import RunFolder, is_run

    own = settings_of(SCHEMAS)
    for word in argv[1:]:
        name = word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        if word.startswith("--") and name not in own and is_run(Path(argv[0])):
            from rlab.jobs.resume import refuse_fixed

            refuse_fixed(name, RunFolder.open(argv[0]).config)


def _verify(argv: list[str]) -> int:
    """Parse as `rlab train` does, train twice, compare, report."""
    from rlab.cli.train import requested

    if sum(not word.startswith("-") for word in argv[:2]) < 2 and not HELP & set(argv):
        raise UsageError("--verify trains a small run of its own: rlab resume --verify AGENT ENV.")
    request, options = requested(argv)
    from rlab.jobs.verify import small, verify

    found = verify(small(request), options.trust)
    return show(options.json, found.to_json, found.report, found.ok)


def run(argv: list[str]) -> int:
    """Parse, resume, report."""
    if VERIFY in argv:
        if ranks_started()[1] > 1:
            raise UsageError("--verify trains in one process: start it without torchrun.")
        return _verify([word for word in argv if word != VERIFY])
    _refuse_fixed(argv)
    (options,) = parse(argv, SCHEMAS, prog="rlab resume", page=PAGE)
    from rlab.jobs.resume import continue_run

    allow, own = options.allow_version_change, {"run", "trust", "quiet", "json", "allow_version_change"}
    changes = {name: getattr(options, name) for name in given(argv, SCHEMAS) - own}
    told = not options.quiet
    return carry_out(
        lambda: continue_run(options.run, changes, told, options.trust, allow_version_change=allow), options.json, told
    )
