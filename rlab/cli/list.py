"""`rlab list agents|envs|experiments|runs|models|datasets|metrics`."""

import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.output import print_json
from rlab.cli.text_tables import table
from rlab.door import clean
from rlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """What to list."""

    # what to list
    what: tyro.conf.Positional[Literal["agents", "envs", "experiments", "runs", "models", "datasets", "metrics"]]
    root: str | None = None  # where runs, models or datasets are looked for; None: the folder of that name
    # of runs: those alone that stand so; not-judged: trained, and the final evaluation is still to come
    status: Literal["finished", "not-judged", "running", "stopped", "failed", "broken"] | None = None
    agent: str | None = None  # of runs and models: those of this agent alone
    env: str | None = None  # of runs and models: those in this env alone
    json: bool = False  # one JSON object on standard output


# Of runs and models: columns that --json has and that would make the table too wide.
FOR_SCRIPTS = frozenset(
    {
        *("final_ci95", "eval_ci95", "began", "wall_seconds", "version", "commit", "command"),
        *("ci95", "episodes", "source", "weights_sha256"),
    }
)
SCHEMAS = (ListOptions,)
PAGE = Page(
    "rlab list {agents, envs, experiments, runs, models, datasets, metrics} [settings]",
    "List agents, envs, experiments, runs, published policies, datasets or metrics.",
    ("rlab list agents", "rlab list runs --status failed", "rlab list models"),
)


def run(argv: list[str]) -> int:
    """Parse, list."""
    (options,) = parse(argv, SCHEMAS, prog="rlab list", page=PAGE)
    filters = {"status": options.status, "agent": options.agent, "env_id": options.env}
    wanted = {key: value for key, value in filters.items() if value is not None}
    if options.status is not None and options.what != "runs":
        raise UsageError("--status chooses among runs: rlab list runs --status failed.")
    if wanted and options.what not in ("runs", "models"):
        raise UsageError("--agent and --env choose among runs and models: rlab list runs --agent ppo.")
    if options.root is not None and options.what not in ("runs", "models", "datasets"):
        raise UsageError("--root is where runs, models or datasets are: rlab list runs --root DIR.")
    if options.root is not None and not os.path.isdir(options.root):
        raise UsageError(f"--root {options.root} is not a folder.")
    from rlab.jobs.list import rows_of

    rows = rows_of(options.what, options.root, **wanted)
    if options.json:
        print_json({"format": 1, options.what: rows})
        return 0
    if not rows:
        print(f"no such {options.what} here" if wanted else f"no {options.what} here")
        return 0
    columns = [key for key in rows[0] if key not in FOR_SCRIPTS and any(row[key] is not None for row in rows)]
    print("\n".join(table([[_cell(key, row[key]) for key in columns] for row in rows], columns, _width())))
    return 0


def _width() -> int | None:
    """How wide the table may be; None for any width, so that a pipe gets one line a row."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None


def _cell(key: str, value: Any) -> str:
    if key == "only_here":
        return "env known to the process that trained alone" if value else ""
    if isinstance(value, float):
        return f"{value:.1f}"
    if key == "dropped":
        return ", ".join(map(str, value or []))
    if key in ("actions", "takes", "aliases"):
        return ", ".join(value)
    if isinstance(value, list):
        return f"{value[0]}..{value[-1]}" if len(value) > 1 else str(value[0])
    return "" if value is None else " ".join(clean(value).split())
