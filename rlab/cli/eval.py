"""`rlab eval RUN`: judge a trained population, one member, or an exported file, on episode seeds of its own."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.errors import UsageError

OF_EPISODES = frozenset({"episodes", "seed", "member", "stochastic", "wrapper", "max_episode_steps", "envs"})


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to judge, and on which episodes."""

    # a run folder (its final policy), a policy folder or an exported file; with --latency one exported file or more
    run: tyro.conf.Positional[tuple[str, ...]] = ()
    episodes: int = 100  # per member
    seed: int = 100_000  # of the first episode; episode k has seed + k, the same for every member and policy
    member: int | None = None  # training seed of one member; None: all
    stochastic: bool = False  # sample actions as in training, instead of the greedy ones
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, around the env in place of those that it was trained with
    max_episode_steps: int | None = None  # time limit of the env in place of its own; None: as it was trained
    envs: int | None = None  # instances of the env at once, in all; None: 10 per member, 64 in all, if not native
    latency: bool = False  # play nothing: time the calls of exported files, all in turn
    trust: bool = False  # run envs, wrappers and layers of others that the folder names, and files that can run code
    json: bool = False  # one JSON object on standard output


SCHEMAS = (EvalOptions,)
PAGE = Page(
    "rlab eval RUN [settings]",
    "Judge a trained population, one member of it or an exported file on episode seeds of its own.",
    (
        "rlab eval runs/my-run",
        "rlab eval runs/my-run --member 3 --episodes 500 --json",
        "rlab eval policy.onnx --latency",
    ),
)


def run(argv: list[str]) -> int:
    """Parse, judge, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab eval", page=PAGE)
    if options.latency:
        return _time(options, given(argv, SCHEMAS))
    if not options.run:
        raise UsageError("eval needs a run folder, a policy folder or an exported file: rlab eval RUN.")
    if len(options.run) != 1:
        raise UsageError(f"eval judges one run or file at a time, not {len(options.run)}; --latency takes several.")
    from rlab.envs import EpisodeMaker
    from rlab.evaluation.evaluate import evaluate
    from rlab.jobs.judging import warn_of_seen
    from rlab.jobs.saved import check_can_sample
    from rlab.learning.runtime import own_surroundings

    policy, agent, trained_in, where = _opened(options)
    limit = options.max_episode_steps
    changed = options.wrapper or limit is not None
    env = trained_in.changed(None, options.wrapper or None, limit) if changed else trained_in
    if options.stochastic:
        check_can_sample(policy)
    if where.is_dir():
        warn_of_seen(where.absolute(), options.seed, options.episodes)
    with own_surroundings(threads=1):
        make = EpisodeMaker(env, options.envs)
        result = evaluate(policy, make, options.episodes, options.seed, greedy=not options.stochastic)
    if options.json:
        print(json.dumps({"format": 1, **result.to_json(options.run[0], agent, trained_in.env_id)}))
    else:
        cut = "" if limit is None else f", cut after {limit} env steps"
        print(f"{agent} on {env.label}{cut}: {where}\n{result.summary()}")
    return 0


def _opened(options: EvalOptions) -> tuple[Any, str, Any, Path]:
    """The stack of policies to judge, its agent, its env and where it was found."""
    from rlab.jobs.saved import has_exported_name, open_policy

    (path,) = options.run
    if not Path(path).is_file() and (Path(path).is_dir() or not has_exported_name(path)):
        saved = open_policy(path, options.trust)
        policy = saved.policy if options.member is None else saved.policy.only(options.member)
        return policy, saved.agent, saved.env, saved.folder
    from rlab.jobs.export import open_file

    runner, env = open_file(path, options.trust)
    if options.member not in (None, *runner.seeds):
        raise UsageError(f"no member with training seed {options.member}; {path} holds {runner.seeds[0]} alone.")
    return runner, str(runner.metadata.get("agent") or "unknown"), env, Path(path)


def _time(options: EvalOptions, named: frozenset[str]) -> int:
    if unread := named & OF_EPISODES:
        raise UsageError(f"--latency plays no episodes; leave out --{min(unread).replace('_', '-')}.")
    if not options.run:
        raise UsageError("--latency needs exported files: rlab eval FILE... --latency. rlab export makes some.")
    for path in options.run:
        if Path(path).is_dir():
            raise UsageError(f"{path} is a folder; --latency times exported files. rlab export {path} makes one.")
    from rlab.jobs.export import measure

    found = measure(options.run, options.trust)
    if options.json:
        print(json.dumps({"format": 1, "files": {path: [asdict(each) for each in found[path]] for path in found}}))
        return 0
    print(f"{'file':<60} {'batch':>6} {'p50 us':>9} {'p99 us':>9}")
    for path, times in found.items():
        for each in times:
            print(f"{path:<60} {each.batch:>6} {each.p50_us:>9.1f} {each.p99_us:>9.1f}")
    return 0
