"""Folders that hold a page and what belongs to it: a new one is replaced by the next, any other is left alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlab.errors import RlabError, UsageError
from rlab.runs import files

OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\.(?:html|md|tex|svg|png)")


@dataclass(frozen=True)
class PageFolder:
    """What such folders of one verb hold."""

    what: str  # with its article: `a report`
    page: str  # the file's name
    record: str  # the JSON file that names all others

    def check(self, place: Path, name: str) -> None:
        """Raise UsageError where a folder, or what has its name, holds something else.

        Args:
            name: of the folder, as the user wrote it.
        """
        if place.exists() and not place.is_dir():
            raise UsageError(f"{name} is a file; {self.what} needs a folder. Name a new one with --out")
        if place.is_dir() and any(place.iterdir()) and not self.files_of(place):
            raise UsageError(
                f"{name} holds something that is not {self.what}; nothing in it was touched. Name a new folder with "
                "--out"
            )

    def files_of(self, place: Path) -> list[str]:
        """The files that the record says are its own; [] where the folder has no such record."""
        try:
            found = files.read_json(place / self.record).get("files")
        except RlabError:
            return []
        names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
        return [name for name in names if OWN_NAME.fullmatch(name)] if self.page in names else []

    def write(self, place: Path, content: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
        """Write all files; those that were there before go. The record is there before them and after them: where this
        is cut short the folder is still one of these."""
        files.make_folders(place)
        for name in self.files_of(place):
            files.delete(place / name)
        files.write_json(place / self.record, record)
        for name, data in content.items():
            files.write_bytes(place / name, data)
