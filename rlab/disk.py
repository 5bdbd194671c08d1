"""Calls that not every file system supports: locks, and waiting until the disk has what was written."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Error numbers of file systems that do not support a call. A full or broken disk gives others.
UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOTTY})
# Some refuse to open a folder, or to flush one that is open for reading, as Windows does.
UNSUPPORTED_OF_FOLDERS = UNSUPPORTED | {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_warned: set[str] = set()


def if_supported(
    call: Callable[..., Any], *args: Any, consequence: str, unsupported: frozenset[int] = UNSUPPORTED
) -> bool:
    """Make a call. Where the file system does not support it: false, and a warning on standard error, once for each
    `consequence`.

    Args:
        consequence: what that means for the user, such as "a power cut may cost the last save".

    Raises:
        OSError: anything else that went wrong.
    """
    try:
        call(*args)
    except OSError as error:
        if error.errno not in unsupported:
            raise
        if consequence not in _warned:
            _warned.add(consequence)
            print(f"warning: this file system lacks something ({error.strerror}); {consequence}.", file=sys.stderr)
        return False
    return True


def fsync_path(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
