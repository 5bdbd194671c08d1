"""Whose code may run: what a call allows, and the list of trusted modules in a project's folder.

Run folders, datasets and experiment files name envs, wrappers, agents, layers and heads from outside rlab as
`module:Class`. Their modules are imported where the caller allows it, with `trust=True` or `trust=["my_envs"]`, and
where the file `.rlab-trust` in the working folder lists them, one module a line; `my_envs` covers `my_envs.grids`.
That file is the user's own: `rlab trust my_envs` writes it, and one that lies inside a run, a policy or a dataset is
not read.
"""

import importlib
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from rlab.door import MIB, read_file
from rlab.errors import RlabError, UsageError

FILE = ".rlab-trust"
HEADER = "# Modules whose code rlab may run in this folder, one a line; written by `rlab trust`.\n"
# Files that mark a folder of results. A list beside them may have come from the author of the results.
OF_RESULTS = (("config.json", "manifest.json"), ("policy.json",), ("data/metadata.json",))

Trust: TypeAlias = bool | str | Collection[str]  # True: everything; names: these modules and what is inside them


def trusts(trust: Trust, module: str) -> bool:
    """Whether a module from outside rlab may be imported and run."""
    if isinstance(trust, bool):
        return trust
    names = [trust] if isinstance(trust, str) else trust
    return any(f"{module}.".startswith(f"{name}.") for name in names)


def in_force(trust: Trust) -> Trust:
    """What a call allows together with what the project's list does.

    Raises:
        UsageError: a name that is not a module's, in the call or in the list.
    """
    if trust is True:
        return True
    names = [] if trust is False else [trust] if isinstance(trust, str) else list(trust)
    listed = [] if ignored_because(Path.cwd()) is not None else read_list(Path.cwd())
    return frozenset([*(module_name(name, "trust") for name in names), *listed])


def advice(modules: Iterable[str]) -> str:
    """How to allow modules, as the end of a message."""
    tops = " ".join(dict.fromkeys(module.partition(".")[0] for module in modules))
    why = ignored_because(Path.cwd())
    ignored = "" if why is None else f" ({FILE} is not read: {why})"
    once = f"name it once for this folder: rlab trust {tops}{ignored}"
    return f"add --trust (in Python trust=True) if you trust it, or {once}."


def read_list(folder: Path) -> tuple[str, ...]:
    """The modules that a folder's list names, in order; none where there is no list.

    Raises:
        UsageError: it cannot be read, or a line of it is not the name of a module.
    """
    path = folder / FILE
    try:
        if not os.path.lexists(path):
            return ()
        lines = read_file(path, MIB).decode().splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    except RlabError as error:
        raise UsageError(str(error)) from error
    names = (line.partition("#")[0].strip() for line in lines)
    return tuple(dict.fromkeys(module_name(name, str(path)) for name in names if name))


def list_text(modules: Iterable[str]) -> bytes:
    """The content of a list that names these modules."""
    return (HEADER + "".join(f"{module}\n" for module in modules)).encode()


def ignored_because(folder: Path) -> str | None:
    """Why the list of a folder is ignored; None where it is used, or missing."""
    path = folder / FILE
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return "it is not a plain file"
    if hasattr(os, "getuid"):
        if found.st_uid not in (os.getuid(), 0):
            return "it belongs to another user"
        if found.st_mode & stat.S_IWOTH:
            return f"every user may write it; chmod o-w {FILE}"
    return within_results(folder)


def within_results(folder: Path) -> str | None:
    """The folder of results that a folder is or lies in, in words; None where it is in none."""
    for place in (folder, *folder.parents):
        if any(all((place / name).is_file() for name in names) for names in OF_RESULTS):
            return f"{place} is a run, a policy or a dataset, and may have brought it"
    return None


def module_name(word: str, where: str) -> str:
    """The module in a word such as `my_envs`, `my_envs.grids` or `my_envs:Grid`.

    Raises:
        UsageError: it is not the name of a module.
    """
    name = word.partition(":")[0] if isinstance(word, str) else ""
    if name.endswith(".py"):
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"{where}: {name} is a file; the module in it is named without the ending: {module}")
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{where}: {word!r} is not the name of a module, such as my_envs or my_envs.grids")
    return name


def check_code(what: str, name: str, trust: Trust) -> None:
    """The one rule for code that a file or a setting names as `module:Class`: it runs where it is trusted.

    Raises:
        RlabError: it is not.
    """
    module = name.partition(":")[0]
    if not trusts(trust, module):
        raise RlabError(f"{what} {name!r} runs code from outside rlab; {advice([module])}")


def trusted(what: str, name: str, trust: Trust) -> Any:
    """What `module:Class` names; its module is imported only where it is trusted.

    Raises:
        RlabError: it is not trusted.
        UsageError: it cannot be imported, or the module does not have it.
    """
    check_code(what, name, trust)
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything when imported
        raise UsageError(f"{what} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return found
