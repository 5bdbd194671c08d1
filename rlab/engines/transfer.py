"""The files of a run folder, in pieces, so that it can move to a machine that does not see it and back."""

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rlab import door
from rlab.errors import DiskError, RlabError
from rlab.runs import files

PIECE = 2**25  # bytes that travel at once
OLD, NEW = ".moved-out", ".moved-in"  # endings of folders beside that of a run while another takes its place


def names_in(folder: Path) -> list[str]:
    """The files of a run folder, by names relative to it."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    names = [path.relative_to(folder).as_posix() for path in found]
    return [name for name in names if not PurePosixPath(name).name.startswith(files.TEMPORARY)]


def pieces_of(folder: Path, name: str) -> Iterator[bytes]:
    """The content of a file, at most `PIECE` bytes at a time; one empty piece of an empty one."""
    start = 0
    while True:
        piece = read_piece(folder, name, start)
        if piece or not start:
            yield piece
        start += len(piece)
        if len(piece) < PIECE:
            return


def read_piece(folder: Path, name: str, start: int) -> bytes:
    """At most `PIECE` bytes of a file, from byte `start`."""
    with door.opened(_inside(folder, name)) as file:
        file.seek(start)
        return file.read(PIECE)


def add_piece(folder: Path, name: str, piece: bytes) -> None:
    """Write a piece behind those that a file has.

    Raises:
        DiskError: the disk refuses.
    """
    path = _inside(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(piece)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}") from error


def beside(folder: Path, ending: str) -> Path:
    """A folder beside that of a run that is not there yet."""
    path = folder.with_name(f"{folder.name}{ending}")
    shutil.rmtree(path, ignore_errors=True)
    return path


def put_in_place(folder: Path, new: Path) -> None:
    """Have the folder `new` in the place of `folder`; whenever this is cut short, one of the two is whole."""
    old = beside(folder, OLD)
    try:
        folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise DiskError(f"cannot move {new}: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)


def _inside(folder: Path, name: str) -> Path:
    """The path of a file; raises RlabError where its name leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise RlabError(f"{door.clean(name):.80} is not a file of a run folder")
    return folder / name
