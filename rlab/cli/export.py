"""`rlab export RUN --format FORMAT`: one member as one file that runs without rlab, or as a model that Triton loads."""

from dataclasses import dataclass
from typing import Literal

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords, show


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write, as what, and where to."""

    run: tyro.conf.Positional[str]  # a run folder (its final policy) or a policy folder
    format: Literal["onnx", "torch-export", "numpy", "c", "triton"]  # what kind of file
    member: int | None = None  # training seed of the member; None: the first
    out: str | None = None  # the new file, of triton REPOSITORY/NAME; None: one under runs/, named after the run
    exporter: Literal["auto", "own", "torch"] = "auto"  # of ONNX; auto: the first that knows all layers
    envs: int | None = None  # instances of the env at once, to visit states for the check; None: 10
    trust: bool = False  # run envs, wrappers and layers from outside rlab that the folder names
    json: bool = False  # one JSON object on standard output


SCHEMAS = (ExportOptions,)
PAGE = Page(
    "rlab export RUN --format FORMAT [settings]",
    "Write one member as one file that runs without rlab, or as a model of a Triton repository.",
    ("rlab export runs/my-run --format onnx", "rlab export runs/my-run --format triton --out repository/my-model"),
)


def run(argv: list[str]) -> int:
    """Parse, write, check, report."""
    (options,) = parse(argv, SCHEMAS, prog="rlab export", page=PAGE)
    from rlab.jobs.export import export

    done = export(**keywords(options))
    return show(options.json, done.to_json, done.summary)
