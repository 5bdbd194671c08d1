"""`rlab report RUN ...`: a page with everything about runs side by side, or a live one of runs under way."""

import sys
import threading
from dataclasses import dataclass

import tyro

from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show
from rlab.errors import UsageError

OF_FILES = frozenset({"out", "title", "film", "png", "episodes", "json"})
OF_LIVE = frozenset({"port", "every"})


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to report, and where to."""

    # run or policy folders, folders of them, exported files, recorded results, names of shipped experiments
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    out: str = "report"  # a new folder, or one with a report, which is replaced
    title: str = ""  # of the page; "": what it is about
    film: bool = False  # film an episode of the first member of every policy
    png: bool = True  # write the plots as PNG, which needs matplotlib, beside SVG
    episodes: int = 100  # that policies and exported files are judged by, which have no record
    live: bool = False  # serve the page on 127.0.0.1 instead, and keep it up to date, until Ctrl+C
    port: int = 0  # of a live page; 0: a free one
    every: float = 2.0  # seconds between two looks of the browser at a live page
    trust: bool = False  # run envs, wrappers and layers from outside rlab that the folders name
    json: bool = False  # one JSON object on standard output


SCHEMAS = (ReportOptions,)
PAGE = Page(
    "rlab report RUN ... [settings]",
    "Put runs side by side on one page: results, learning curves, comparison, settings, commands. Plots and tables "
    "are files beside it.",
    ("rlab report runs/ppo runs/dqn --out ppo-dqn", "rlab report --live runs"),
)


def run(argv: list[str]) -> int:
    """Parse, then write a report or serve a live page until Ctrl+C."""
    (options,) = parse(argv, SCHEMAS, prog="rlab report", page=PAGE)
    named = given(argv, SCHEMAS)
    wrong = sorted(named & (OF_FILES if options.live else OF_LIVE))
    if wrong:
        flag = f"--{wrong[0]}"
        raise UsageError(f"{flag} is for {'a report as files' if options.live else 'a live page'}: leave it out.")
    if not options.runs:
        raise UsageError(
            "report needs a run or a folder of runs: rlab report runs/my-run; `rlab list runs` shows them."
        )
    if options.live:
        return _live(options)
    from rlab.jobs.report import report

    done = report(*options.runs, **keywords(options, "runs", "live", *OF_LIVE))
    return show(options.json, done.to_json, done.summary)


def _live(options: ReportOptions) -> int:
    from rlab.jobs.live_report import live_report

    try:
        with live_report(*options.runs, **keywords(options, "runs", "live", *(OF_FILES - {"json"}))) as page:
            print(f"live report: {page.url}   stop it with Ctrl+C", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0
