"""`rlab trust`: the list of modules whose code may run in a folder."""

import importlib.util
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from rlab.errors import UsageError
from rlab.runs.files import write_bytes
from rlab.trust import FILE, ignored_because, list_text, module_name, read_list, within_results


def change_list(folder: Path, words: Sequence[str], remove: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Add modules to the list of a folder, or remove them; without words nothing changes.

    Returns:
        The modules on the list now, and those of the added ones that cannot be imported from here.

    Raises:
        UsageError: the list of this folder is ignored, or a word is not a module or, to be removed, not on the list.
    """
    why = ignored_because(folder) or within_results(folder)
    if why is not None:
        raise UsageError(f"{FILE} does not count here: {why}.")
    listed = read_list(folder)
    named = tuple(module_name(word, "rlab trust") for word in words)
    if not named:
        return listed, ()
    if remove:
        for name in named:
            if name not in listed:
                raise UsageError(f"{name} is not on the list; it has: {', '.join(listed) or 'nothing'}")
        listed = tuple(name for name in listed if name not in named)
    else:
        listed = tuple(dict.fromkeys((*listed, *named)))
    write_bytes(folder / FILE, list_text(listed))
    added = () if remove else named
    return listed, tuple(name for name in added if not _is_found(name.partition(".")[0], folder))


def _is_found(module: str, folder: Path) -> bool:
    """Whether a module is installed or lies in the folder; nothing of it runs."""
    return importlib.util.find_spec(module) is not None or PathFinder.find_spec(module, [str(folder)]) is not None
