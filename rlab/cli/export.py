"""`rlab export RUN --format FORMAT`: one member as one file that runs without rlab."""

import json
from dataclasses import dataclass

import tyro

from rlab.cli.flags import parse


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write, as what, and where to."""

    run: tyro.conf.Positional[str]  # a run folder (its final policy) or a policy folder
    format: str  # onnx, torch-export, numpy or c
    member: int | None = None  # training seed of the member; None: the first
    out: str | None = None  # the new file; None: one under runs/, named after the run
    exporter: str = "auto"  # of ONNX: own, torch (torch.onnx), or auto: the first that knows all layers
    trust: bool = False  # run envs, wrappers and layers of others that the folder names
    json: bool = False  # one JSON object on standard output


def run(argv: list[str]) -> int:
    """Parse, write, check, report."""
    (options,) = parse(argv, (ExportOptions,), prog="rlab export")
    from rlab.cli.exporting import export_member

    done = export_member(
        options.run,
        options.format,
        member=options.member,
        out=options.out,
        exporter=options.exporter,
        trust=options.trust,
    )
    print(json.dumps(done.to_json()) if options.json else done.summary())
    return 0
