"""`rlab doctor`: versions, devices, missing extras, damaged runs and published versions."""

from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import show


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Which runs to look at."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()  # run folders; none: those under --root
    root: str = "runs"  # the folder that has the runs
    json: bool = False  # one JSON object on standard output


SCHEMAS = (DoctorOptions,)
PAGE = Page(
    "rlab doctor [RUN ...] [settings]",
    "Say what rlab runs on here, which extras are missing, and which runs and published versions are damaged and what "
    "can be done about it.",
    ("rlab doctor", "rlab doctor runs/my-run --json"),
    ("Nothing is changed. The exit code is 1 where something is damaged.",),
)


def run(argv: list[str]) -> int:
    """Parse, look, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab doctor", page=PAGE)
    from rlab.jobs.doctor import doctor

    found = doctor(options.runs, options.root)
    return show(options.json, found.to_json, found.report, found.ok)
