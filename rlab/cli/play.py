"""`rlab play RUN`: watch a policy, in a window where there is a screen, as a film where there is none."""

import sys
from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """Which policy to watch, for how long, and where to."""

    run: tyro.conf.Positional[str]  # a run folder or a policy folder
    member: int | None = None  # training seed of the member; None: the first
    episodes: int = 1  # to watch
    seed: int = 100_000  # of the first episode; the same as in rlab eval
    stochastic: bool = False  # sample actions as in training, instead of the greedy ones
    video: str | None = None  # FILE.mp4 or FILE.gif instead of a window
    env_timeout: float = 60.0  # seconds for each constructor, reset, step and close of an env
    trust: bool = False  # run envs, wrappers and layers from outside rlab that the folder names
    json: bool = False  # one JSON object on standard output


SCHEMAS = (PlayOptions,)
PAGE = Page(
    "rlab play RUN [settings]",
    "Watch a policy, in a window where there is a screen, as a film where there is none.",
    ("rlab play runs/my-run --episodes 3", "rlab play runs/my-run --video film.mp4"),
)


def run(argv: list[str]) -> int:
    """Parse, play, say what each episode returned."""
    (options,) = parse(argv, SCHEMAS, prog="rlab play", page=PAGE)
    from rlab.jobs.play import play

    done = play(**keywords(options))
    if options.video is None and done.video is not None:
        print(f"there is no screen, so this became a film: {done.video}", file=sys.stderr)
    return show(options.json, done.to_json, done.report)
