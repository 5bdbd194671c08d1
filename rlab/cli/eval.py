"""`rlab eval RUN`: judge a trained population, one member, or an exported file, on episode seeds of its own."""

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.output import print_json
from rlab.cli.shared import keywords
from rlab.door import clean
from rlab.errors import UsageError

OF_EPISODES = frozenset(
    {
        *("episodes", "seed", "member", "stochastic", "wrapper", "max_episode_steps", "envs", "env_timeout"),
        "record_observed",
    }
)


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
    env_timeout: float = 60.0  # seconds for each constructor, reset, step and close of an env
    record_observed: bool = False  # keep what it observes beside the policy: rlab serve tells drift by it
    trust: bool = False  # run envs, wrappers and layers from outside rlab that it names, and files that can run code
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
    from rlab.jobs.evaluate import evaluate, open_judged

    chosen = keywords(options, "run", "latency", "trust")
    saved = open_judged(options.run[0], options.trust)
    result = evaluate(saved, **{**chosen, "wrappers": options.wrapper or None})
    if options.json:
        facts = result.to_json(options.run[0], saved.agent, saved.env.env_id)
        print_json({"format": 1, **facts, "dropped": [asdict(each) for each in saved.dropped]})
    else:
        env = saved.env.changed(None, options.wrapper or None, options.max_episode_steps)
        cut = "" if options.max_episode_steps is None else f", cut after {options.max_episode_steps} env steps"
        print(clean(f"{saved.agent} on {env.label}{cut}: {saved.folder}\n{result.summary()}"))
        print(clean("".join(f"{each}\n" for each in saved.dropped)), end="")
    return 0


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
        print_json({"format": 1, "files": {path: [asdict(each) for each in found[path]] for path in found}})
        return 0
    print(f"{'file':<60} {'batch':>6} {'p50 us':>9} {'p99 us':>9}")
    for path, times in found.items():
        for each in times:
            print(f"{path:<60} {each.batch:>6} {each.p50_us:>9.1f} {each.p99_us:>9.1f}")
    return 0
