"""`rlab check ENV`: play an env with random actions and report what training would stumble over, with the fix."""

from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Which env to look at, and for how long."""

    env: tyro.conf.Positional[str]  # an id, module:Id, or module:Class
    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    max_episode_steps: int | None = None  # env steps; None: the env's own time limit
    steps: int = 1_000  # of random play
    seed: int = 0  # of the first episode
    env_timeout: float = 60.0  # seconds for each constructor, reset, step and close of an env
    json: bool = False  # one JSON object on standard output


SCHEMAS = (CheckOptions,)
PAGE = Page(
    "rlab check ENV [settings]",
    "Play an env with random actions and report what training in it would stumble over, with the fix.",
    ("rlab check my_envs:MyEnv", "rlab check MiniGrid-Empty-5x5-v0 --wrapper ImgObsWrapper"),
    ("The exit code is 1 where training would fail, and 0 where there are warnings or notes at most.",),
)


def run(argv: list[str]) -> int:
    """Parse, play, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab check", page=PAGE)
    from rlab.jobs.check import check

    found = check(**keywords(options))
    return show(options.json, found.to_json, found.report, found.ok)
