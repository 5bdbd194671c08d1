"""`rlab resume RUN`: go on from the last save."""

from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.main import STOPPED


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Which run to go on with."""

    run: tyro.conf.Positional[str]  # a run folder
    trust: bool = False  # run an agent, env or wrapper of others that the folder names


SCHEMAS = (ResumeOptions,)
PAGE = Page(
    "rlab resume RUN [settings]",
    "Go on with an interrupted run from its last save.",
    ("rlab resume runs/my-run",),
)


def run(argv: list[str]) -> int:
    """Parse, resume, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab resume", page=PAGE)
    from rlab import api

    done = api.resume(options.run, progress=True, trust=options.trust)
    print(done.report())
    return 0 if done.finished else STOPPED
