"""The one door through which files are read: regular files alone, within bounds, and parsed as data.

What a file declares (sizes, counts, nesting) is compared with a bound before memory is taken for it, so that a small
file cannot ask for much. Nothing that is read here can run code.
"""

import itertools
import json
import math
import os
import re
import stat
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NoReturn

from rlab.errors import RlabError

if TYPE_CHECKING:
    import numpy as np

MIB = 2**20
MOST_BYTES = 64 * 2**30  # of a file of tensors, whose own header is compared with it before it is read whole
MOST_JSON = 256 * MIB
MOST_TOML = MIB
MOST_NPZ = 2**30
MOST_UNPACKED, MOST_RATIO = 64 * MIB, 20  # of a .npz: bytes, and times its own size
MOST_LINE = 64 * MIB  # of a log: a report of a thousand seeds has some 0.5 MiB
HOLLOW_ABOVE, MOST_HOLLOW, BLOCK = 64 * MIB, 200, 4096
STRANGE = "a folder of results holds files and folders alone"
DEPTH = 100  # of JSON and TOML: a policy's spec has some 15, the state of an optimizer some 10
BRACKETS = bytes.maketrans(b"{}", b"[]")
# Controls (C0, C1), what changes the direction of text, and halves of a character.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# In addresses: user and password, or a token, of a web server; the password of a database.
SECRET = re.compile(r"(https?://)[^/\s]+(?=@)|(://[^/\s:@]*:)[^/\s]+(?=@)|([?&]password=)[^&\s]+")


def read_file(path: Path, most: int = MOST_BYTES, *, follow: bool = False) -> bytes:
    """The content of a regular file.

    Args:
        most: bytes; a longer file is refused and not read.
        follow: whether the last name of the path may be a link, as that of a file which the user names may.

    Raises:
        RlabError: it is missing, not a regular file, a link, too long, or cannot be read.
    """
    with opened(path, most, follow=follow) as file:
        try:
            return file.read(os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise RlabError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def opened(path: Path, most: int = MOST_BYTES, *, follow: bool = False) -> Iterator[BinaryIO]:
    """A regular file, open for reading; see `read_file`."""
    # Without O_NONBLOCK opening a FIFO waits for a writer, perhaps for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not follow and path.is_symlink():
            raise RlabError(f"{path} is a link, which is not followed: put a copy of the file in its place")
        descriptor = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    except (FileNotFoundError, NotADirectoryError):
        raise RlabError(f"{path} is missing") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise RlabError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    wrong = _unreadable(descriptor, most)
    if wrong is not None:
        os.close(descriptor)
        raise RlabError(f"{path} {wrong}")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _unreadable(descriptor: int, most: int) -> str | None:
    """Why what was opened is not read; None where it is."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return f"is {kind_of(found.st_mode)} where a file is expected"
    if found.st_size > most:
        return f"has {found.st_size:,} bytes, and at most {most:,} are read"
    # A file of holes takes no room on the disk and all of it in memory. Some file systems do not count blocks: there it
    # is hollow where it begins with zeros, as nothing does that is read here.
    on_disk = getattr(found, "st_blocks", found.st_size) * 512
    if found.st_size > HOLLOW_ABOVE and on_disk * MOST_HOLLOW < found.st_size:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            start = file.read(BLOCK)
            file.seek(0)
        if on_disk > 0 or not any(start):
            return f"has {found.st_size:,} bytes, of which {on_disk:,} are on the disk: it is hollow, and not read"
    return None


def kind_of(mode: int) -> str:
    """What stands at a path, in words, by its mode as `os.stat` gives it."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def check_folder(folder: Path) -> None:
    """Refuse a folder of results with anything but files and folders directly in it, such as a link that leads out.

    Raises:
        RlabError: naming the first, or the folder cannot be looked into.
    """
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                kind = kind_of(entry.stat(follow_symlinks=False).st_mode)
                raise RlabError(
                    f"{folder / entry.name} is {kind}; {STRANGE}. Put a copy "
                    "of what it stands for in its place, or remove it"
                )
    except FileNotFoundError:
        raise RlabError(f"{folder} is missing") from None
    except OSError as error:
        raise RlabError(f"cannot look into {folder}: {error.strerror}") from error


def check_part(folder: Path) -> None:
    """`check_folder` for a folder inside a run, which must not be a link itself; a missing one is well."""
    if folder.is_symlink():
        raise RlabError(f"{folder} is a link, which is not followed: put a copy of the folder in its place")
    if folder.exists():
        check_folder(folder)


def whole_lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """The lines of a file of the run, one at a time and without their ends; what is left of a last line that was cut
    off is passed over.

    Args:
        start: the byte at which the first of them begins.

    Raises:
        RlabError: as `read_file`; a line is longer than `MOST_LINE`.
    """
    with opened(path) as file:
        file.seek(start)
        for number in itertools.count(1):
            line = file.readline(MOST_LINE)
            if not line.endswith(b"\n"):
                if len(line) == MOST_LINE:
                    raise RlabError(f"{path}, line {number} has {MOST_LINE:,} bytes or more. Was it damaged?")
                return
            yield line[:-1]


def last_whole_line(path: Path) -> bytes:
    """The last line of such a file without its end; b"" where there is none. Raises RlabError as `whole_lines`."""
    with opened(path) as file:
        size, block = os.fstat(file.fileno()).st_size, 2**16
        while True:
            file.seek(max(size - block, 0))
            found = file.read(min(block, size)).rsplit(b"\n", 2)
            if len(found) == 3 or block >= size:
                return found[-2] if len(found) > 1 else b""
            block *= 8
            if block > MOST_LINE:
                raise RlabError(f"{path} ends in a line of {MOST_LINE // 8:,} bytes or more. Was it damaged?")


def parse_json(data: bytes | str, path: object, *, depth: int = DEPTH, infinite: bool = False) -> Any:
    """The value in `data`, which was read from `path`.

    Args:
        depth: of nesting, at most.
        infinite: whether numbers may be infinite, as bounds are in files that others than rlab write.

    Raises:
        RlabError: it is cut off, not strict JSON (numbers that are not finite are not), or nested too deeply.
    """
    content = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if too_deep(content, depth):
        raise RlabError(f"{path} is nested more than {depth} deep. Was it edited?")
    try:
        if infinite:
            return json.loads(data)
        return json.loads(data, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RlabError(f"{path} is not complete JSON ({error}). Was it cut off or edited?") from error


def too_deep(data: bytes, most: int) -> bool:
    """Whether the brackets in JSON or TOML stand more than `most` deep in one another."""
    if data.count(b"[") + data.count(b"{") <= most:
        return False
    if _depth(data) <= most:
        return False
    return _depth(re.sub(rb'"(?:[^"\\]|\\.)*"', b"", data)) > most  # without texts, which may hold brackets


def _depth(data: bytes) -> int:
    depth = deepest = 0
    for found in re.finditer(rb"\[+|\]+", data.translate(BRACKETS)):
        run = found.end() - found.start()
        depth += run if data[found.start()] in b"[{" else -run
        deepest = max(deepest, depth)
    return deepest


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in a TOML file of the user's choice.

    Raises:
        RlabError: it cannot be read, is not TOML, or holds a number that is not finite.
    """
    data = read_file(path, MOST_TOML, follow=True)
    keys = re.finditer(rb"[^\n,{=]*=|^[ \t]*\[.*$", data, re.MULTILINE)  # a.b.c makes tables in tables
    if too_deep(data, DEPTH) or any(key[0].count(b".") > DEPTH for key in keys):
        raise RlabError(f"{path} is nested more than {DEPTH} deep")
    try:
        return tomllib.loads(data.decode(), parse_float=_finite)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError and a TOMLDecodeError are ValueErrors
        raise RlabError(f"{path} is not a readable TOML file: {error}") from error


def read_npz(path: Path) -> dict[str, "np.ndarray"]:
    """The arrays of numbers in a `.npz` of the user's choice, by name.

    Raises:
        RlabError: it is damaged, holds anything but arrays of numbers, or would become much larger than it is.
    """
    import numpy as np  # here, since `rlab --help` does without it

    with opened(path, MOST_NPZ, follow=True) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            _check_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                whole = sum(member.file_size for member in members)
                if whole > MOST_UNPACKED + size * MOST_RATIO:
                    raise RlabError(f"{path} has {size:,} bytes, which would become {whole:,}: too many to unpack")
                arrays = {}
                for member in members:
                    name, suffix = os.path.splitext(member.filename)
                    if suffix != ".npy" or name in arrays or member.flag_bits & 1:  # encrypted
                        raise ValueError(f"the part {member.filename!r:.80}")
                    with archive.open(member) as part:
                        arrays[name] = _array(part, member.file_size, np)
                return arrays
        except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise RlabError(f"{path} is not a whole file of arrays ({error}). Was it damaged?") from error


def read_zip_part(path: Path, ending: str) -> bytes:
    """The one part of a zip file of the user's choice whose name ends so.

    Raises:
        RlabError: it is damaged, has no such part, or the part is too long.
    """
    with opened(path, follow=True) as file:
        try:
            _check_directory(file, os.fstat(file.fileno()).st_size)
            with zipfile.ZipFile(file) as archive:
                part = next((part for part in archive.infolist() if part.filename.endswith(ending)), None)
                if part is None:
                    raise RlabError(f"{path} is not a file of rlab: it has no metadata of a policy.")
                if part.file_size > MOST_JSON:
                    raise ValueError(f"{part.file_size:,} bytes of metadata")
                return archive.read(part)
        except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise RlabError(f"{path} is not a complete zip file ({error}). Was it damaged?") from error


def _check_directory(file: BinaryIO, size: int) -> None:
    """Raise ValueError where the directory of a zip file is too long to be read."""
    file.seek(max(size - 2**16 - 22, 0))
    end = file.read()
    at = end.rfind(b"PK\5\6")
    if at < 0 or len(end) - at < 22:
        raise ValueError("it has no directory")
    length = int.from_bytes(end[at + 12 : at + 16], "little")
    if length > MIB:
        raise ValueError(f"its directory has {length:,} bytes")
    file.seek(0)


def _array(part: IO[bytes], size: int, np: Any) -> "np.ndarray":
    """An array of numbers in a part with so many bytes; what its header declares must be what follows."""
    version = np.lib.format.read_magic(part)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of an array")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(part)
    if dtype.kind not in "biuf" or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"an array {shape!r:.80} of {dtype!s:.80}")
    count = math.prod(shape)
    data = part.read(size)
    if count * dtype.itemsize != len(data):
        raise ValueError(f"{len(data):,} bytes of an array {shape!r:.80} of {dtype}")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if by_column else "C")


def clean(text: object) -> str:
    """A text as it may reach a terminal or a page: without controls, of which a file may hold any."""
    return UNPRINTABLE.sub("", str(text))


def without_password(text: str) -> str:
    """A text without the passwords of the addresses in it, and without all that identifies a user of a web server."""
    return SECRET.sub(r"\1\2\3...", text)


def check_counts(where: object, most: int, **counts: Any) -> None:
    """Refuse what a file declares where it is not a whole number from 0 to `most`.

    Raises:
        RlabError: naming the first.
    """
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count <= most:
            raise RlabError(f"{where}: {name} must be a whole number from 0 to {most:,}, not {clean(repr(count)):.40}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e999
        raise ValueError(f"{text:.20} is not a finite number")
    return number


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
