"""Disks that are full, read-only or broken, bits that flip, folders that are deleted: what is left, and what is said.

A run meets a fault at a random operation on its folder. It may go on and finish, and then it must be the run that met
none; or it ends with one line that names what could not be written and why. When the disk is well again the newest
checkpoint must be readable and the run be gone on with, to the same end. A flipped bit is one in any file of the newest
checkpoint of a run that is trained further afterwards: it must be named, and the end be the same.

    python -m rlab.experiments.reliability.disk_faults [--tries N] [--kinds KIND ...] [--out FILE]
"""

import argparse
import errno
import json
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rlab
from rlab.errors import RlabError
from rlab.experiments.benchmarks.timing import record
from rlab.experiments.reliability.faulty_disk import Disk, emptied, go, in_a_process
from rlab.experiments.reliability.kills import import_once
from rlab.jobs import saving
from rlab.jobs.verify import saved_differences
from rlab.runs.checkpoint import commits, has_checkpoint, load_checkpoint
from rlab.runs.folder import RunFolder, is_run

TRIES = 25  # of each kind
OPERATIONS = 330  # of the run; a fault behind its last one is none
FURTHER = 360  # env steps to which a run with a flipped bit is trained
UNCLEAR = 3  # exit code of a process that ended in an error which is none of rlab's
TAKES = ("open", "write", "mkdir")  # what a full disk refuses
CHANGES = (*TAKES, "replace", "unlink", "rmdir")


@dataclass
class Found:
    """What faults of one kind did."""

    tries: int = 0
    finished: int = 0  # in spite of them
    unnamed: int = 0  # that ended without a line that names path and cause
    unreadable: int = 0  # whose newest checkpoint could not be read afterwards
    not_gone_on_with: int = 0
    different: int = 0
    first: str = ""  # of what went wrong

    def wrong(self, what: str, why: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.first = self.first or f"{what}: {why}"


def refusing(number: int, at: int, names: tuple[str, ...], once: bool = False) -> Callable[..., None]:
    """A fault: from an operation on, or at that one alone, these are answered with an error."""

    def fault(count: int, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if (count == at if once else count >= at) and name in names:
            raise OSError(number, os.strerror(number), str(args[0]))

    return fault


def deleting(path: Path, at: int) -> Callable[..., None]:
    """A fault: somebody deletes the folder."""

    def fault(count: int, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if count == at:
            shutil.rmtree(path, ignore_errors=True)

    return fault


KINDS: dict[str, tuple[str, Callable[[Path, int], Callable[..., None]]]] = {
    "full": (os.strerror(errno.ENOSPC), lambda path, at: refusing(errno.ENOSPC, at, TAKES)),
    "read-only": (os.strerror(errno.EROFS), lambda path, at: refusing(errno.EROFS, at, CHANGES)),
    "I/O errors": (os.strerror(errno.EIO), lambda path, at: refusing(errno.EIO, at, CHANGES)),
    "one I/O error": (os.strerror(errno.EIO), lambda path, at: refusing(errno.EIO, at, CHANGES, once=True)),
    "folder deleted": ("", deleting),
}
FLIPPED = "flipped bit"


def told(do: Callable[[], Any], said: Path) -> Callable[[], None]:
    """Write to a file what a function warns of and ends with."""

    def run() -> None:
        saving.PAUSES = (0.0, 0.0)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                do()
            except RlabError as error:
                said.write_text("\n".join([*(str(each.message) for each in heard), str(error)]))
                os._exit(error.exit_code)
            except BaseException as error:
                said.write_text(f"{type(error).__name__}: {error}")
                os._exit(UNCLEAR)
            said.write_text("\n".join(str(each.message) for each in heard))

    return run


def study(kind: str, root: Path, tries: int) -> Found:
    """Let runs meet faults of one kind."""
    found, chances = Found(), random.Random(kind)
    whole, path, said = root / "whole", root / "run", root / "said"
    if in_a_process(lambda: go("dqn", whole, whole)):
        raise SystemExit("the run could not be trained")
    for _ in range(tries):
        found.tries += 1
        cause, make = KINDS[kind]
        at = chances.randrange(OPERATIONS)
        emptied(path)
        code = in_a_process(told(partial(_meet, path, make(path, at)), said))
        line = said.read_text().splitlines()[-1:] or [""]
        found.finished += code == 0
        if code and (code == UNCLEAR or cause not in line[0] or str(path) not in line[0]):
            found.wrong("unnamed", f"at operation {at}: {line[0]}")
        _check_what_is_left(path, whole, found, f"at operation {at}")
    return found


def _meet(path: Path, fault: Callable[..., None]) -> None:
    Disk(path, fault).install()
    go("dqn", path, path)


def _check_what_is_left(path: Path, whole: Path, found: Found, where: str) -> None:
    try:
        if is_run(path) and has_checkpoint(RunFolder.open(path)):
            load_checkpoint(RunFolder.open(path))
    except RlabError as error:
        found.wrong("unreadable", f"{where}: {error}")
    if in_a_process(lambda: go("dqn", path, path)):
        found.wrong("not_gone_on_with", where)
    elif differences := list(saved_differences(RunFolder.open(whole), RunFolder.open(path))):
        found.wrong("different", f"{where}: {differences[0]}")


def study_of_flips(root: Path, tries: int) -> Found:
    """Flip bits in checkpoints."""
    found, chances = Found(), random.Random(FLIPPED)
    trained, whole, path, said = (root / name for name in ("trained", "whole", "run", "said"))
    if in_a_process(lambda: go("dqn", trained, trained)):
        raise SystemExit("the run could not be trained")
    shutil.copytree(trained, whole)
    further = lambda place: rlab.resume(place, env_steps=FURTHER)  # noqa: E731
    if in_a_process(lambda: further(whole)):
        raise SystemExit("the run could not be trained further")
    for _ in range(tries):
        found.tries += 1
        shutil.copytree(trained, emptied(path))
        damaged = _flip(path / "checkpoint", chances)
        code = in_a_process(told(lambda: further(path), said))
        if damaged not in said.read_text():
            found.wrong("unnamed", f"{damaged}: {said.read_text()}")
        if code:
            found.wrong("not_gone_on_with", f"{damaged}: {said.read_text()}")
            continue
        found.finished += 1
        if differences := list(saved_differences(RunFolder.open(whole), RunFolder.open(path))):
            found.wrong("different", f"{damaged}: {differences[0]}")
    return found


def _flip(folder: Path, chances: random.Random) -> str:
    """Flip a bit of the newest checkpoint; the name of the file that it is in."""
    newest = folder / f"checkpoint-{commits(folder)[-1]:06d}.json"
    content = json.loads(newest.read_text())
    named = [newest.name, *(each["name"] for each in (*content["chunks"], content["structure"], content["tensors"]))]
    file = folder / chances.choice(named)
    data = bytearray(file.read_bytes())
    data[chances.randrange(len(data))] ^= 1 << chances.randrange(8)
    file.write_bytes(data)
    return file.name


def main() -> None:
    """Try, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tries", type=int, default=TRIES, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, FLIPPED], default=[*KINDS, FLIPPED])
    parser.add_argument(
        "--out", type=Path, help="where to write the result; by default it is recorded beside this script"
    )
    options = parser.parse_args()
    import_once()
    kinds: dict[str, Any] = {}
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as root:
            study_kind = study_of_flips if kind == FLIPPED else lambda root, tries, kind=kind: study(kind, root, tries)
            kinds[kind] = asdict(study_kind(Path(root), options.tries))
        print(f"{kind}: {json.dumps(kinds[kind])}", flush=True)
    record(__file__, {"kinds": kinds}, out=options.out)


if __name__ == "__main__":
    main()
