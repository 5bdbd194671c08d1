"""Standard output: with `--json` it is left to one JSON object, and what envs and libraries print goes to standard
error."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_kept: TextIO | None = None  # standard output, while nothing but the object may be written to it


@contextlib.contextmanager
def kept_clear(as_json: bool) -> Iterator[None]:
    """A verb at work, with `--json` or without it."""
    global _kept
    before = _kept
    if as_json:
        _kept = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield
        sys.stdout.flush()  # here, so that a reader who left is met where the command line looks for that
    finally:
        _kept = before


def print_json(facts: Any) -> None:
    """Print the one object."""
    print(json.dumps(facts), file=_kept or sys.stdout, flush=True)
