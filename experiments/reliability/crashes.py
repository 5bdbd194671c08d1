"""A crash at every disk operation of a run: each of them can be gone on with, and becomes the run that never crashed.

For each way of training a process ends, at once and without any clean-up, before its first operation on the run's
folder, before its second, and so on to the last; a write is cut in half. Another process then does what a user would:
it resumes the run, or where none has begun it gives the same command again. What it comes to is compared to the bit
with the run that was not crashed: weights, optimizer, storage, envs, episodes, logs and curves.

    python -m rlab.experiments.reliability.crashes [--every N] [--ways WAY ...] [--out FILE]
"""

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlab.experiments.benchmarks.timing import record
from rlab.experiments.reliability.faulty_disk import WAYS, Disk, emptied, go, in_a_process
from rlab.experiments.reliability.kills import import_once
from rlab.jobs.verify import saved_differences
from rlab.runs.folder import RunFolder

CRASHED = 77  # exit code


@dataclass
class Found:
    """What crashes of one way did."""

    crashes: int = 0
    not_gone_on_with: int = 0
    different: int = 0
    first: str = ""  # of what went wrong


def crashing(way: str, path: Path, source: Path, at: int) -> Callable[[], None]:
    """What a process does that crashes at an operation."""

    def fault(number: int, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if number == at:
            if name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            os._exit(CRASHED)

    def run() -> None:
        Disk(path, fault).install()
        go(way, path, source)

    return run


def study(way: str, root: Path, every: int) -> Found:
    """Crash runs of one way at every so many-th operation."""
    found, source, whole, path = Found(), root / "source", root / "whole", root / "run"
    emptied(whole)
    if in_a_process(lambda: go("dqn", source, source)) or in_a_process(lambda: go(way, whole, source)):
        raise SystemExit(f"{way} could not be trained")
    for at in itertools.count(0, every):
        code = in_a_process(crashing(way, emptied(path), source, at))
        if code == 0:
            return found
        found.crashes += 1
        wrong = f"ended with exit code {code}" if code != CRASHED else ""
        if not wrong and in_a_process(lambda: go(way, path, source)):
            wrong = "could not be gone on with"
        if wrong:
            found.not_gone_on_with += 1
        elif differences := list(saved_differences(RunFolder.open(whole), RunFolder.open(path))):
            found.different += 1
            wrong = f"became another run: {differences[0]}"
        if wrong:
            found.first = found.first or f"at operation {at}: {wrong}"
    raise AssertionError("unreachable")


def main() -> None:
    """Crash, go on, compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="crash at every so many-th operation")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--out", type=Path, help="where the result goes; left out: beside this script")
    options = parser.parse_args()
    import_once()
    ways: dict[str, Any] = {}
    for way in options.ways:
        with tempfile.TemporaryDirectory() as root:
            ways[way] = asdict(study(way, Path(root), options.every))
        print(f"{way}: {json.dumps(ways[way])}", flush=True)
    record(__file__, {"every": options.every, "ways": ways}, out=options.out)


if __name__ == "__main__":
    main()
