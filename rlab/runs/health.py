"""Whether a run or a published version is whole: every file that it vouches for is read, and nothing is changed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlab import door
from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.checkpoint import broken_checkpoints, has_checkpoint
from rlab.runs.folder import BEGUN, CONFIG, MANIFEST, PARTS, RunFolder, read_manifest, read_vouched
from rlab.runs.listing import saved_time
from rlab.runs.logs import read_json_lines
from rlab.runs.tables import read_episodes
from rlab.runs.tensors import tensors_from_bytes
from rlab.runs.versions import VERSION, read_version

LOGS = ("metrics.jsonl", "eval.jsonl", "timing.jsonl")


def damages(path: Path) -> list[tuple[str, str]]:
    """What is damaged in a run or in a version of a published policy, each in one line with what can be done; none
    where it is whole. Of a run in progress only its beginning is looked at, since its files change."""
    if os.path.lexists(path / VERSION):
        return list(_of_files(path, "restore it from a copy, or publish its run again"))
    try:
        run = RunFolder.open(path)
    except (RlabError, OSError) as error:
        needed = f"restore {CONFIG} and {MANIFEST} from a copy; without them a run cannot be used"
        return [(str(error), "the rest is looked at then" if door.STRANGE in str(error) else needed)]
    if run.is_held():
        return []
    again = f"rlab resume {run.name} writes it again" if has_checkpoint(run) else "restore it from a copy"
    return [*_of_files(run.path, again), *_of_checkpoint(run), *_of_logs(run), *_of_parts(run)]


def leftovers(root: Path) -> list[str]:
    """What writers that were killed left behind in a folder of runs: files and folders that nothing reads."""
    found = []
    for folder in (root, *_folders(root)):
        inside = [folder, *(_folders(folder) if folder != root else [])]
        for place in inside:
            found += [str(place / name) for name in _names(place) if name.startswith(files.TEMPORARY) and name != BEGUN]
    return sorted(set(found))


def _of_files(folder: Path, advice: str) -> Iterator[tuple[str, str]]:
    """The files that the manifest of a folder vouches for."""
    names, why = _tried(lambda: sorted(read_manifest(folder)["files"]))
    if why is not None:
        yield why, advice
    for name in names or ():
        wrong = _tried(lambda name=name: _look_at(folder, name))[1]  # type: ignore[misc]
        if wrong is not None:
            yield wrong, advice


def _look_at(folder: Path, name: str) -> None:
    content = read_vouched(folder, name)
    if name == VERSION:
        read_version(folder)
    elif name.endswith(".json"):
        files.parse_json(content, folder / name)
    elif name.endswith(".safetensors"):
        for key, tensor in tensors_from_bytes(content, folder / name).items():
            if tensor.is_floating_point() and tensor.isnan().any():
                raise RlabError(f"{folder / name}: {door.clean(key)} has NaN")


def _of_checkpoint(run: RunFolder) -> Iterator[tuple[str, str]]:
    if not has_checkpoint(run) and saved_time(run) and not (run.path / PARTS).is_dir():
        yield f"{run.name} has lost its checkpoint, so it cannot go on", f"rlab eval {run.name} judges what it has"
        return
    wrong, one_is_whole = broken_checkpoints(run)
    last = (
        f"no checkpoint is whole; its policy still plays: rlab eval {run.name}; rlab finetune {run.name} begins from it"
    )
    for each in wrong:
        yield each, "nothing need be done: another checkpoint is whole" if one_is_whole else last


def _of_logs(run: RunFolder) -> Iterator[tuple[str, str]]:
    readers: dict[str, Callable[[], Any]] = {
        **{name: lambda name=name: read_json_lines(run.path / name) for name in LOGS},  # type: ignore[misc]
        "episodes.csv": lambda: read_episodes(run.path),
    }
    for name, reader in readers.items():
        if os.path.lexists(run.path / name) and (wrong := _tried(reader)[1]) is not None:
            yield wrong, "move it out of the run: a run that goes on begins a new one"


def _of_parts(run: RunFolder) -> Iterator[tuple[str, str]]:
    for part in _folders(run.path / PARTS):
        yield from damages(part)


def _tried(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a reader gives, or why it refuses."""
    try:
        with np.errstate(all="ignore"):
            return read(), None
    except (RlabError, OSError) as error:
        return None, str(error)


def _folders(root: Path) -> list[Path]:
    return [root / name for name in _names(root) if (root / name).is_dir() and not (root / name).is_symlink()]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
