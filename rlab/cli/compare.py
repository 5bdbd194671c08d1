"""`rlab compare RUN RUN...`: who is better, by how much, and how sure that is."""

from dataclasses import dataclass
from typing import Any

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What to compare, and on which episodes."""

    # two or more run or policy folders, exported files, recorded results or experiments; NAME=RUN,RUN... counts runs of
    # one setting with other training seeds as one side, and `NAME=runs/mine-*` takes all that match
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    episodes: int | None = None  # per member; None: as many as all of them were judged by, else 100
    seed: int | None = None  # of the first episode; None: that of the record, else 100 000
    env: str | None = None  # that all of them are judged in; None: the one on record, which must be the same
    env_kwargs: tuple[str, ...] = ()  # key=value, keywords of that env in place of its own
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, around that env in place of its own
    max_episode_steps: int | None = None  # time limit of that env in place of its own
    envs: int | None = None  # instances of the env at once, in all; None: 10 per member, 64 in all, if not native
    env_timeout: float = 60.0  # seconds for each constructor, reset, step and close of an env
    trust: bool = False  # run envs, wrappers and layers from outside rlab that they name, and files that can run code
    json: bool = False  # one JSON object on standard output


SCHEMAS = (CompareOptions,)
PAGE = Page(
    "rlab compare RUN RUN ... [settings]",
    "Say who is better, by how much and how sure that is, on the same episodes for all.",
    (
        "rlab compare runs/mine dqn-CartPole-v1",
        "rlab compare runs/mine runs/small --episodes 500",
        "rlab compare 'dqn=runs/dqn-*' 'ppo=runs/ppo-*' --json",
    ),
)


def run(argv: list[str]) -> int:
    """Parse, judge what is not judged yet, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab compare", page=PAGE)
    from rlab.jobs.compare import compare

    chosen: dict[str, Any] = keywords(options, "runs")
    lists = {name: chosen[name] or None for name in ("env_kwargs", "wrappers")}  # () on the command line: not given
    done = compare(*options.runs, **{**chosen, **lists}, progress=True)
    return show(options.json, done.to_json, done.summary)
