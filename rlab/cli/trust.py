"""`rlab trust my_envs`: whose code may run in this folder without --trust on every command."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.output import print_json
from rlab.errors import UsageError
from rlab.jobs.trust import change_list
from rlab.trust import FILE


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """Which modules to trust in this folder."""

    # module names, such as my_envs, which covers my_envs.grids; none: show the list
    modules: tyro.conf.Positional[tuple[str, ...]] = ()
    remove: bool = False  # take them off the list
    json: bool = False  # one JSON object on standard output


SCHEMAS = (TrustOptions,)
PAGE = Page(
    "rlab trust [MODULES] [settings]",
    "Let the code of modules run in this folder without --trust on every command: the file .rlab-trust lists them.",
    ("rlab trust my_envs", "rlab trust my_envs --remove"),
)


def run(argv: list[str]) -> int:
    """Parse, change the list, show it."""
    (options,) = parse(argv, SCHEMAS, prog="rlab trust", page=PAGE)
    if options.remove and not options.modules:
        raise UsageError("--remove needs the modules to take off the list: rlab trust my_envs --remove")
    here = Path.cwd()
    listed, unknown = change_list(here, options.modules, options.remove)
    for name in unknown:
        print(f"note: no module {name} is found from this folder", file=sys.stderr)
    if options.json:
        print_json({"format": 1, "file": str(here / FILE), "modules": list(listed)})
    elif listed:
        print(f"trusted in this folder ({FILE}): {', '.join(listed)}")
    else:
        print("no module is trusted in this folder; rlab trust my_envs adds one")
    return 0
