"""The run folder: everything about a run in one folder.

config.json     all that is needed to repeat the run; changed only by a resume with other settings
status.json     the state of the run: running, finished, not judged, stopped or failed, and since when
result.json     the evaluation of the final weights
manifest.json   SHA-256 of config.json and of every file of the policies; checked on every load. A run has begun once it
                is there: it is written after config.json, start/ and teacher/
policy/         the final policy and what it observed when it was judged, nothing else: what people share
best/           the same, best in evaluation
start/          the policy that fine-tuning began with; teacher/ the one that was imitated
checkpoint/     full training state
parts/          instead, where members are shared out over processes: a run folder for each
settings/       instead of logs, policies and result, where members differ in settings: a run folder for each set of
                them, without a checkpoint of its own
events.out.*    TensorBoard's curves; seed-3/ those of one of several seeds, hparams/ what runs are compared by
log-key.json    what services such as MLflow know the run by
metrics.jsonl, eval.jsonl (nothing that depends on the clock), timing.jsonl (what does)
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlab import door
from rlab.errors import DiskError, RlabError, UsageError
from rlab.runs import files, locks
from rlab.runs.schema import check_config

CONFIG = "config.json"
MANIFEST = "manifest.json"
ROOT = "runs"  # where runs are stored by default
PARTS = "parts"  # of a run whose members are shared out over processes: a run folder for each
SETTINGS = "settings"  # of a run whose members differ in settings: a run folder for each set of them
RESULT = "result.json"  # the final evaluation; a run that has it is finished
BEGUN = f"{files.TEMPORARY}begun"  # is in the folder of a run until all that belongs to its beginning is, too
A_RUN = "a run or policy folder, or the Run that rlab.train returned"  # for messages
POLICY_FOLDERS = ("policy", "best", "start", "teacher")
IN_A_RUN = re.compile(r"(?:[\w-]+/)?\w[\w.-]*")  # the names that a manifest vouches for
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RunFolder:
    """A run on the disk. `config` is what config.json holds.

    The rest of rlab reads these keys of it: `agent` (name), `env` (an env spec with `env_id`), `run` (a RunConfig as
    a dict), `settings` (the agent's own), `origins` (where each value came from), `computed_with` (versions,
    processor, device) and `command`.
    """

    path: Path  # absolute: an env may change the working folder
    config: dict[str, Any]
    name: str  # the path as it was written, for messages

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def start(self) -> Path:
        return self.path / "start"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        name: Path | str | None = None,
        fill: Callable[[Path], None] = lambda path: None,
    ) -> "RunFolder":
        """Start a run at `path`, which must be new, an empty folder, or what a process left that was killed in here.

        Args:
            name: what people call it.
            fill: puts the policies that it begins with into the folder.

        Raises:
            UsageError: something is there already (nothing in it is touched), it cannot be made or written, another
                process is beginning a run there, or a number in `config` is not finite.
        """
        name, path = str(name or path), Path(path).absolute()
        try:
            content = files.to_json(config, path / CONFIG)
        except ValueError as error:
            raise UsageError(str(error)) from error
        claim_folder(path, unfinished=True)
        try:
            with locks.held(path, name) as locked:
                _claim(path, name, locked)
                fill(path)
                files.write_bytes(path / CONFIG, content)
                kept = {f"{part}/{file.name}": file for part in POLICY_FOLDERS for file in (path / part).glob("*")}
                checksums = {known: files.sha256(files.read_bytes(file)) for known, file in sorted(kept.items())}
                files.write_json(path / MANIFEST, {"files": {CONFIG: files.sha256(content), **checksums}})
                files.delete(path / BEGUN)
        except UsageError:
            raise
        except RlabError as error:
            raise UsageError(f"{error}. Is --out a folder that may be written?") from error
        return cls(path, files.parse_json(content, path / CONFIG), name)

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """The run at `path`, its config checked against its manifest.

        Raises:
            UsageError: it is not a folder.
            RlabError: it is not a run folder, or a file is missing, broken or changed.
        """
        path = existing_folder(path)
        door.check_folder(path)
        if _left_unfinished(path):
            raise RlabError(
                f"{path} is of a run that was killed while it began, so that there is nothing to go on with: "
                f"begin it again with the same command, and --out {path}"
            )
        if not (path / CONFIG).exists():
            raise RlabError(f"{path} is not a run folder: it has no {CONFIG}")
        content = read_vouched(path, CONFIG)
        config = files.parse_json(content, path / CONFIG)
        check_config(config, path / CONFIG)
        return cls(path.absolute(), config, str(path))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing this run, and clean up behind one that was killed.

        Raises:
            RlabError: another process is writing it, or a folder in it is a link.
        """
        with locks.held(self.path, self.name):
            files.clean(Path(os.path.realpath(self.path)))
            for part in (self.checkpoint, *(self.path / name for name in POLICY_FOLDERS)):
                if os.path.lexists(part):
                    files.clean(part)
            yield

    def is_held(self) -> bool | None:
        """Whether a process is writing this run; None where the file system cannot tell."""
        return locks.is_held(self.path)

    def changed(self, config: Mapping[str, Any]) -> "RunFolder":
        """The run with another config.json, for a resume with changed settings.

        Raises:
            RlabError: the disk refuses; the old config stays.
        """
        content, manifest = files.to_json(config, self.path / CONFIG), read_manifest(self.path)
        new = {CONFIG: files.sha256(content)}
        files.write_json(self.path / MANIFEST, {**manifest, "pending": manifest["pending"] | new})
        files.write_bytes(self.path / CONFIG, content)
        files.write_json(self.path / MANIFEST, {**manifest, "files": manifest["files"] | new})
        return replace(self, config=files.parse_json(content, self.path / CONFIG))


def path_of(run: Any, what: str = A_RUN) -> str:
    """The path in what a caller names a run by: a text, a path, or an object that has one, such as a `Run`.

    Raises:
        UsageError: it is anything else, such as a policy or an env.
    """
    try:
        path = os.fspath(run)
    except TypeError:
        path = None
    if not isinstance(path, str):
        kind = f"the class {run.__name__}" if isinstance(run, type) else type(run).__name__
        raise UsageError(f"{kind} has no path: give {what}.")
    return path


def existing_folder(path: Path | str) -> Path:
    """The path, which is a folder.

    Raises:
        UsageError: it is not.
    """
    if not os.path.isdir(path):  # where Path.is_dir raises for a name that is too long
        raise UsageError(
            f"{path!s:.200} is not a folder. `rlab list runs` shows the runs that are here, `rlab list models` "
            "the published policies"
        )
    return Path(path)


def is_run(path: Path) -> bool:
    """Whether a folder claims to be a run."""
    return (path / CONFIG).is_file() and (path / MANIFEST).is_file()


def fresh_run_path(agent: str, env_id: str, root: Path | str = ROOT) -> Path:
    """Make a new empty folder such as `runs/dqn-CartPole-v1-20261122-101500`; errors are those of `fresh_folder`."""
    return fresh_folder(f"{plain_name(f'{agent}-{env_id}')}-{time.strftime('%Y%m%d-%H%M%S')}", root)


def plain_name(text: str) -> str:
    """A text as the name of a folder that no shell and no file system stumbles over."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:100]


def fresh_folder(name: str, root: Path | str = ROOT) -> Path:
    """Make a new empty folder `root/name`, or the first free one of `name-2`, `name-3` ...

    It is made and not only named, so that two processes which start in the same second get different folders.

    Raises:
        UsageError: the root cannot be written.
    """
    count = 1
    while True:
        path = Path(root) / (name if count == 1 else f"{name}-{count}")
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            if not path.is_dir():
                raise UsageError(f"cannot make {path}: {error.strerror}") from error
            count += 1
        except OSError as error:
            raise UsageError(f"cannot make {path}: {error.strerror}. Name another folder with --out") from error
        else:
            return path


def read_vouched(run: Path, name: str) -> bytes:
    """The content of a JSON file that the manifest of the run knows, also while another process replaces both.

    Raises:
        RlabError: it is missing, changed or damaged.
    """

    def read() -> bytes:
        content = files.read_bytes(run / name, door.MOST_JSON)
        check_against_manifest(run, name, content)
        return content

    return files.settled(read, lambda: [files.identity(path) for path in (run / name, run / MANIFEST)])


def check_against_manifest(run: Path, name: str, content: bytes) -> None:
    """Raise RlabError unless the manifest of the run knows the file `name` with this content."""
    manifest = read_manifest(run)
    accepted = [manifest[kind].get(name) for kind in ("files", "pending")]
    if accepted == [None, None]:
        raise RlabError(f"{run / MANIFEST} does not know {name}. Was the file put there by hand?")
    files.check_sha256(content, accepted, run / name, run / MANIFEST)


def read_manifest(run: Path) -> dict[str, dict[str, str]]:
    """The manifest: `files` maps names to SHA-256; `pending` has the new ones while a policy is being replaced.

    Raises:
        RlabError: it is missing or broken.
    """
    path = run / MANIFEST
    manifest = {"files": {}, "pending": {}, **files.read_json(path)}
    for kind in ("files", "pending"):
        if not isinstance(manifest[kind], dict):
            raise RlabError(f"{path} is broken: 'files' and 'pending' must be objects")
        for name, checksum in manifest[kind].items():
            if not IN_A_RUN.fullmatch(name) or not isinstance(checksum, str) or not SHA256.fullmatch(checksum):
                raise RlabError(f"{path} is broken: {name!r:.80} is not a file of a run with its SHA-256")
    return {kind: manifest[kind] for kind in ("files", "pending")}


def check_free(path: Path | str, unfinished: bool = False) -> None:
    """Raise UsageError where a new run cannot go: a file, or a folder with something in it. Nothing is made.

    Args:
        unfinished: whether it may hold what a process left that was killed while it began a run there.
    """
    path = Path(path)
    try:
        if path.is_dir() and not (unfinished and _left_unfinished(path)) and any(path.iterdir()):
            hint = f"Name a new folder, or continue it: rlab resume {path}" if is_run(path) else "Name a new folder"
            raise UsageError(f"{path} exists and is not empty; nothing in it was touched. {hint}")
    except OSError as error:
        raise UsageError(f"cannot look into {path}: {error.strerror}. Name another folder") from error
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; a run needs a folder. Name a new one")


def claim_folder(path: Path, unfinished: bool = False) -> None:
    """Make `path` a folder that is free, as of `check_free`; raises UsageError where that cannot be done."""
    check_free(path, unfinished)
    try:
        files.make_folders(path)
    except DiskError as error:
        raise UsageError(f"{error}. Name another one with --out") from error


def _left_unfinished(path: Path) -> bool:
    """Whether a folder holds what a process left that began a run there, and nothing else."""
    if not os.path.lexists(path / BEGUN) or os.path.lexists(path / MANIFEST):
        return False
    own = {CONFIG, "start", "teacher"}
    return all(entry.name in own or entry.name.startswith(files.TEMPORARY) for entry in path.iterdir())


def _claim(path: Path, name: str, locked: bool) -> None:
    """Make the folder one that a run is being begun in by this process alone.

    Args:
        locked: whether no other process can be in here; else what was left may be another's, which is at work.

    Raises:
        UsageError: there is something in it already.
        DiskError: the disk refuses.
    """
    check_free(path, unfinished=True)
    if locked and _left_unfinished(path):
        for part in ("start", "teacher"):
            if os.path.lexists(path / part):
                files.delete_folder(path / part)
        files.delete(path / CONFIG)
        files.delete(path / BEGUN)
    if not files.make_empty(path / BEGUN):
        raise UsageError(f"another process is beginning a run in {name}, or was killed in it. Name a new folder")
