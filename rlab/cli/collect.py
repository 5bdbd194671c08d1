"""`rlab collect RUN --out DIR`: record episodes as a Minari dataset."""

from dataclasses import dataclass

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show
from rlab.errors import UsageError

RANDOM = "random"
USAGE = "rlab collect RUN --out DIR, rlab collect random --env ENV --out DIR, or rlab collect --merge A B --out C"
OF_ENV = frozenset({"env", "env_kwargs", "wrapper", "max_episode_steps"})
OF_POLICY = frozenset({"member", "all_members", "noise", "stochastic", "trust"})


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """Who plays, how, and where the episodes go."""

    run: tyro.conf.Positional[str] = ""  # a run folder (its final policy) or a policy folder, or the word random
    out: str  # the new folder of the dataset
    episodes: int = 100  # to play
    seed: int = 200_000  # of the first episode; episode k has seed + k
    member: int | None = None  # training seed of the member that plays; None: the first
    all_members: bool = False  # all members play, in turns
    noise: float = 0.0  # probability of a uniformly random action at each step
    stochastic: bool = False  # sample actions as in training, instead of the greedy ones
    min_return: float | None = None  # episodes that return less are dropped
    envs: int | None = None  # instances of the env at once, in all; None: 10 per member, 64 in all, if not native
    merge: tuple[str, ...] = ()  # DIR ...: nothing is played, these datasets or recordings become one
    env: str | None = None  # of random: the env to play in
    env_kwargs: tuple[str, ...] = ()  # of random: key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # of random: NAME or NAME:key=value, innermost first
    max_episode_steps: int | None = None  # of random: env steps; None: the env's own time limit
    env_timeout: float = 60.0  # seconds for each constructor, reset, step and close of an env
    trust: bool = False  # run envs, wrappers and layers from outside rlab that the folder names
    json: bool = False  # one JSON object on standard output


SCHEMAS = (CollectOptions,)
PAGE = Page(
    "rlab collect RUN --out DIR [settings]",
    "Record episodes of a trained policy, or of random actions, as a Minari dataset; or join datasets.",
    (
        "rlab collect runs/my-run --out data --episodes 50",
        "rlab collect random --env CartPole-v1 --out data",
        "rlab collect --merge data-1 data-2 --out both",
    ),
)


def run(argv: list[str]) -> int:
    """Parse, play, write, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab collect", page=PAGE)
    _check_words(options, given(argv, SCHEMAS))
    from rlab.envs import EnvSpec
    from rlab.jobs.collect import collect, collect_random, merge_datasets

    if options.merge:
        done = merge_datasets(options.merge, options.out)
    elif options.run == RANDOM:
        env = EnvSpec.parse(options.env or "", options.env_kwargs, options.wrapper, options.max_episode_steps)
        done = collect_random(env, **keywords(options, "run", "merge", *OF_ENV, *OF_POLICY))
    else:
        done = collect(**keywords(options, "merge", *OF_ENV))
    return show(options.json, done.to_json, done.report)


def _check_words(options: CollectOptions, named: frozenset[str]) -> None:
    """Refuse settings that the chosen way of collecting would not read."""
    if bool(options.run) == bool(options.merge):
        raise UsageError(f"it is not clear what should play. Write one of: {USAGE}.")
    if options.merge:
        what, unread = "--merge", named - {"merge", "out", "json"}
    elif options.run == RANDOM:
        what, unread = "random", named & OF_POLICY
        if options.env is None:
            raise UsageError("random actions need an env: rlab collect random --env ENV --out DIR.")
    else:
        what, unread = "a trained policy", named & OF_ENV
    if unread:
        raise UsageError(f"--{min(unread).replace('_', '-')} has no effect on {what}. {USAGE}.")
