"""What a run adds to a log, read while another process writes it."""

import contextlib
import os
from pathlib import Path
from typing import Any

from rlab import door
from rlab.errors import RlabError


class LogTail:
    """The rows of a JSON lines file, each as soon as it is complete. Where the file is replaced, as it is where a run
    is taken up again, its rows come again from the first one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = 0  # its inode
        self._read = 0  # bytes

    def rows(self) -> list[dict[str, Any]]:
        """Those that were added since the last call."""
        try:
            found = os.lstat(self._path)
        except OSError:
            return []
        if found.st_ino != self._file or found.st_size < self._read:
            self._file, self._read = found.st_ino, 0
        rows = []
        with contextlib.suppress(RlabError):  # it is being replaced: the next call reads it
            for line in door.whole_lines(self._path, self._read):
                row = door.parse_json(line, self._path)
                self._read += len(line) + 1
                if "format" not in row:  # the header
                    rows.append(row)
        return rows
