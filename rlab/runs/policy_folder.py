"""The files of a policy folder, and the manifest that vouches for them. A server reads these without torch.

Inside a run the manifest accepts the old and the new `policy.json` while one is replaced by the other, so that every
instant shows the old policy or the new one, whole.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rlab.errors import UsageError
from rlab.runs import files
from rlab.runs.folder import MANIFEST, POLICY_FOLDERS, is_run, read_manifest

POLICY = "policy.json"
OBSERVED = "observed.json"  # see `rlab.runs.observed`


def run_of(folder: Path) -> Path | None:
    """The run whose manifest vouches for this policy folder; None for a folder that stands alone."""
    folder = folder.resolve()
    return folder.parent if folder.name in POLICY_FOLDERS and is_run(folder.parent) else None


def vouched_by(folder: Path) -> tuple[Path, str] | None:
    """The folder whose manifest vouches for a policy folder, and what it puts before the names of its files: its run,
    or itself where it is a published version; None for a folder that stands alone."""
    run = run_of(folder)
    if run is not None:
        return run, f"{folder.resolve().name}/"
    return (folder, "") if (folder / MANIFEST).is_file() else None


def check_can_change(folder: Path) -> None:
    """Raise UsageError where a policy folder is a published version."""
    if run_of(folder) is None and (folder / MANIFEST).is_file():
        raise UsageError(
            f"{folder} is a published version, which never changes: change its run, and publish that again."
        )


@contextmanager
def announced(folder: Path, new: Mapping[str, str], beside: bool = False) -> Iterator[None]:
    """While files of a policy in a run are replaced, its manifest accepts the new ones beside the old ones; then they
    alone, or those of other names too where they go `beside` them.

    Raises:
        UsageError: the folder is a published version.
    """
    check_can_change(folder)
    run = run_of(folder)
    if run is None:
        yield
        return
    manifest = read_manifest(run)
    current = manifest["files"] | _arrived(run, manifest["pending"])
    pending = {f"{folder.name}/{name}": checksum for name, checksum in new.items()}
    files.write_json(run / MANIFEST, {"files": current, "pending": pending})
    yield
    others = {name: own for name, own in current.items() if beside or not name.startswith(f"{folder.name}/")}
    files.write_json(run / MANIFEST, {"files": others | pending})


def _arrived(run: Path, pending: Mapping[str, str]) -> dict[str, str]:
    """Of the files that an interrupted save announced, those that made it to the disk."""
    return {
        name: checksum
        for name, checksum in pending.items()
        if (run / name).is_file() and files.sha256(files.read_bytes(run / name)) == checksum
    }
