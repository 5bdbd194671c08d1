"""Files that are complete or absent, whenever the process or the machine dies, and JSON with a format number.

Every change that the run folder makes on the disk goes through this module (growing logs apart).
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlab import door
from rlab.disk import UNSUPPORTED_OF_FOLDERS, fsync_path, if_supported
from rlab.errors import DiskError, RlabError
from rlab.types import json_number

T = TypeVar("T")
LESS_DURABLE = "a power cut may cost the last save, nothing else does"
FORMAT = 1
TEMPORARY = ".tmp-"  # what the names of unfinished files begin with


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`, so that a crash at any instant leaves the old file or the new one, never half of it.

    A link at `path` is replaced, not followed.

    Raises:
        DiskError: the disk refuses; the old file is left as it was.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _write_through(temporary, data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise DiskError(f"cannot write {path}: {error.strerror}") from error
        raise


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write an object as JSON, atomically, with its format number."""
    write_bytes(path, to_json(data, path))


def to_json(data: Mapping[str, Any], path: Path) -> bytes:
    """An object as strict JSON with sorted keys, so that equal data are equal bytes; `path` is for the message only.

    Raises:
        ValueError: a number is infinite or not a number, which JSON has no word for.
    """
    try:
        whole = {"format": FORMAT, **data}
        text = json.dumps(whole, sort_keys=True, indent=2, allow_nan=False, default=json_number)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot hold this: {error}") from error
    return text.encode() + b"\n"


def read_bytes(path: Path, most: int = door.MOST_BYTES) -> bytes:
    """The content of a file; `door.read_file` says what is refused.

    Raises:
        RlabError: it is missing, not a regular file of at most so many bytes, or cannot be read.
    """
    return door.read_file(path, most)


def read_json(path: Path) -> dict[str, Any]:
    """The object that `write_json` wrote; raises RlabError as `parse_json` does."""
    return parse_json(read_bytes(path, door.MOST_JSON), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The object in `data`, which was read from `path`.

    Raises:
        RlabError: it is cut off, not strict JSON, not an object, or of another format.
    """
    value = door.parse_json(data, path)
    if not isinstance(value, dict):
        raise RlabError(f"{path} holds a {type(value).__name__} where a JSON object with format {FORMAT} is expected")
    check_format(value, path)
    return value


def check_format(value: Mapping[str, Any], path: Path) -> None:
    """Raise RlabError unless the object has the format number that this version reads."""
    found = value.get("format")
    if type(found) is not int or found != FORMAT:
        hint = "Was it written by a newer rlab?" if "format" in value else "Is it a file of rlab at all?"
        raise RlabError(f"{path} has format {found!r}; this rlab reads format {FORMAT}. {hint}")


def sha256(data: bytes) -> str:
    """The checksum of these bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def write_named(folder: Path, stem: str, data: bytes, suffix: str) -> dict[str, str]:
    """Write `data` under a name that depends on it, such as `weights-1f3a9c07.safetensors`: old and new never collide.
    The entry `{"name", "sha256"}` is what `read_checked` finds it by."""
    checksum = sha256(data)
    name = f"{stem}-{checksum[:8]}{suffix}"
    write_bytes(folder / name, data)
    return {"name": name, "sha256": checksum}


def read_checked(folder: Path, entry: Any, stem: str, suffix: str, named_in: Path) -> bytes:
    """The content of the file that `entry` (`{"name", "sha256"}`, from the file `named_in`) points to in `folder`.

    The name must be one that `write_named` gives, so that a hostile file cannot point outside of its folder.

    Raises:
        RlabError: the entry is not such an object, or the file is missing or has another checksum.
    """
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{8}}{re.escape(suffix)}", name):
        raise RlabError(f"{named_in} names {name!r} where a file like {stem}-0123abcd{suffix} is expected")
    data = read_bytes(folder / name)
    check_sha256(data, [entry.get("sha256")], folder / name, named_in)
    return data


def check_sha256(data: bytes, accepted: list[str | None], path: Path, named_in: Path) -> None:
    """Raise RlabError unless the checksum of `data`, read from `path`, is among the accepted ones."""
    if sha256(data) not in accepted:
        raise RlabError(
            f"{path} has a different SHA-256 than {named_in} records. Was it changed or damaged after it was saved?"
        )


def settled(read: Callable[[], T], watched: Callable[[], Any]) -> T:
    """What `read` gives of files that another process may be replacing.

    Every instant shows one whole state, but several reads may meet several of them: where one fails and `watched` is
    not what it was, `read` is called again.

    Raises:
        RlabError: what `read` raises of files that stay as they are.
    """
    while True:
        before = watched()
        try:
            return read()
        except RlabError:
            if watched() == before:
                raise


def identity(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def make_folder(path: Path) -> None:
    """Make one folder durably; nothing happens where it exists.

    Raises:
        DiskError: the disk refuses.
        RlabError: there is a file or a link.
    """
    try:
        os.mkdir(path)
        sync_folder(path.parent)
    except FileExistsError:
        check_folder(path)
    except OSError as error:
        raise DiskError(f"cannot make the folder {path}: {error.strerror}") from error


def make_folders(path: Path) -> None:
    """Make a folder and those that it lies in, durably. Where there is one already, it may be a link.

    Raises:
        DiskError: the disk refuses.
    """
    if path.is_dir():
        return
    if not path.parent.exists():
        make_folders(path.parent)
    make_folder(path)


def make_empty(path: Path) -> bool:
    """Make an empty file, durably; false where there is something already.

    Raises:
        DiskError: the disk refuses.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        sync_folder(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}") from error
    return True


def delete_folder(path: Path) -> None:
    """Delete a folder that has nothing but files in it; raises DiskError where the disk refuses."""
    check_folder(path)
    try:
        for entry in sorted(path.iterdir()):
            os.unlink(entry)
        os.rmdir(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DiskError(f"cannot delete {path}: {error.strerror}") from error


def moved_folder(source: Path, target: Path) -> bool:
    """Move a folder to a place in the same folder, durably; false where something is there already.

    Raises:
        DiskError: the disk refuses.
    """
    try:
        os.replace(source, target)
        sync_folder(target.parent)
    except OSError as error:
        if os.path.lexists(target):
            return False
        raise DiskError(f"cannot move {source} to {target}: {error.strerror}") from error
    return True


def check_folder(path: Path) -> None:
    """Raise RlabError where something that is not a folder is in its place; a link to one is not one, since what is
    behind it is somebody else's."""
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise DiskError(f"cannot look at {path}: {error.strerror}") from error
    if stat.S_ISLNK(mode):
        raise RlabError(f"{path} is a link, and nothing is written through links: put what it points to in its place")
    if not stat.S_ISDIR(mode):
        raise RlabError(f"{path} is a file where a folder is expected")


def delete(path: Path) -> None:
    """Delete a file, or the link that is there, durably; nothing happens where there is none.

    Raises:
        DiskError: the disk refuses.
    """
    try:
        os.unlink(path)
        sync_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DiskError(f"cannot delete {path}: {error.strerror}") from error


def keep_only(folder: Path, names: set[str], pattern: str) -> None:
    """Delete the files in `folder` that match the glob `pattern`, save for those in `names`. What cannot be deleted
    stays until the next time."""
    check_folder(folder)
    for path in sorted(folder.glob(pattern)):
        if path.name not in names:
            with contextlib.suppress(OSError):
                os.unlink(path)


def clean(folder: Path) -> None:
    """Delete the temporary files of writers that were killed."""
    keep_only(folder, set(), f"{TEMPORARY}*")


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the file system can: a rename survives a power cut only after this."""
    if_supported(fsync_path, path, consequence=LESS_DURABLE, unsupported=UNSUPPORTED_OF_FOLDERS)


def sync_file(descriptor: int) -> None:
    """Have what was written to an open file on the disk, where the file system can."""
    if_supported(os.fsync, descriptor, consequence=LESS_DURABLE)


def _write_through(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]  # one call writes 2 GiB at most
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def free_path(path: Path) -> Path:
    """The path, or the first of `play-2.gif`, `play-3.gif` ... where `play.gif` exists."""
    free, count = path, 1
    while free.exists():
        count += 1
        free = path.with_name(f"{path.stem}-{count}{path.suffix}")
    return free
