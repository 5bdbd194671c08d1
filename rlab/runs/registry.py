"""The local registry: policies by name, in numbered versions.

models/NAME/3/            version 3 of NAME, a policy folder that never changes; see `rlab.runs.versions`
models/NAME/aliases.json  names of versions, such as `best`, which move
models/.hub/              what was pulled from the Hugging Face hub, see `rlab.runs.hub`

`NAME@3`, `NAME@best`, `NAME@latest` (the highest number) and `NAME`, which is the same, name a policy wherever the path
of one is taken: `resolve` is the one door. Nothing here imports torch: a server looks every second.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlab.door import clean
from rlab.errors import DiskError, RlabError, UsageError, unknown
from rlab.runs import files, locks
from rlab.runs.folder import A_RUN, MANIFEST, path_of
from rlab.runs.versions import NAME, VERSION, Version, read_version

ROOT = "models"
VARIABLE = "RLAB_MODELS"
ALIASES = "aliases.json"
LATEST = "latest"
HUB = "hf:"
SHAPE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100"
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,49}")
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
REFERENCE = re.compile(rf"({NAME.pattern})(?:@([A-Za-z0-9_-]{{1,50}}))?")
PATIENCE = 30.0  # seconds that a publisher waits for another one of the same name, which copies small files


def models_folder(models: Path | str | None = None) -> Path:
    """The folder of the registry: the given one, else that of the variable RLAB_MODELS, else `models`."""
    return Path(models or os.environ.get(VARIABLE) or ROOT)


def resolve(source: str, models: Path | str | None = None) -> Path:
    """The policy folder that a name stands for; anything else as the path that it is.

    A path that exists wins over a name. `NAME` without `@` that is not in the registry stays a path, too, so that
    whoever opens it says what is allowed there. A name is looked up anew at every call, which reads two folders and one
    small file; `hf:USER/NAME` asks the hub, and gives the folder of the commit that it has now.

    Args:
        source: `NAME`, `NAME@3`, `NAME@ALIAS`, `hf:USER/NAME`, `hf:USER/NAME@REVISION`, or a path.
        models: the folder of the registry; None: see `models_folder`.

    Raises:
        UsageError: there is no such model, version or alias, or the hub has no such repository.
        RlabError: `aliases.json` is damaged, or the hub cannot be reached.
    """
    if os.path.lexists(source):
        return Path(source)
    if source.startswith(HUB):
        from rlab.runs.hub import pulled  # its library takes its time

        return pulled(source.removeprefix(HUB), models_folder(models))
    found = REFERENCE.fullmatch(source)
    if found is None:
        return Path(source)
    name, which = found.groups()
    folder = models_folder(models) / name
    if which is None and not folder.is_dir():
        return Path(source)
    return folder / str(_number(folder, which or LATEST))


def policy_path(source: Any, models: Path | str | None = None, what: str = A_RUN) -> str:
    """The path of what a caller names a policy by: a path, a name of the registry or the hub, or an object that has a
    path, such as a `Run`.

    Args:
        what: is asked for, for messages.

    Raises:
        UsageError: it has no path. Else as `resolve`.
    """
    named = path_of(source, what)
    path = resolve(named, models)
    return named if path == Path(named) else str(path)


def pinned(source: str, models: Path | str | None = None) -> str:
    """A source as records keep it: `NAME@3` for `NAME@best`, which may be another version tomorrow, and the commit for
    what lies on the hub; anything else as it is. Raises as `resolve`."""
    path = resolve(source, models)
    if path == Path(source):
        return source
    if source.startswith(HUB):
        return f"{source.partition('@')[0]}@{path.name}"
    return f"{path.parent.name}@{path.name}"


def names_in(models: Path) -> list[str]:
    """The names of models with at least one version, in order."""
    return sorted(path.name for path in _folders(models) if NAME.fullmatch(path.name) and numbers_of(path))


def numbers_of(folder: Path) -> list[int]:
    """The numbers of the versions in the folder of a model, from the lowest."""
    return sorted(int(path.name) for path in _folders(folder) if NUMBER.fullmatch(path.name))


def aliases_of(folder: Path) -> dict[str, int]:
    """The aliases of a model, by name.

    Raises:
        RlabError: the file is damaged.
    """
    path = folder / ALIASES
    if not os.path.lexists(path):
        return {}
    found = files.read_json(path).get("aliases")
    if not isinstance(found, dict) or not all(
        ALIAS.fullmatch(name) and type(number) is int and number > 0 for name, number in found.items()
    ):
        raise RlabError(f"{path}: 'aliases' must map names such as best to numbers of versions. Was it edited?")
    return found


def published_with(models: Path, weights_sha256: str, label: str) -> Version | None:
    """The version that has these weights: the one with that label, else the newest one of the first name; None where
    there is none. Versions that are damaged are passed over."""
    found: list[Version] = []
    for name in names_in(models):
        for number in reversed(numbers_of(models / name)):
            with contextlib.suppress(RlabError):
                version = read_version(models / name / str(number))
                if version is not None and version.weights_sha256 == weights_sha256:
                    found.append(version)
    return next((version for version in found if version.label == label), found[0] if found else None)


def list_models(root: Path | str) -> list[dict[str, Any]]:
    """One dict per version, by name, the newest first; those that are damaged with the reason.

    Keys: `model` (`NAME@3`), `aliases`, `agent`, `env_id`, `seeds`, `iqm` with its 95 % interval `ci95`, `made` (the
    last step of its life, such as "fine-tuned from cartpole@2"), `published` (UTC), `path`, `reason` (why it cannot be
    used) and, for scripts, `episodes`, `source` and `weights_sha256`. What is not known is None.
    """
    models = Path(root)
    return [
        _described(models / name / str(number))
        for name in names_in(models)
        for number in reversed(numbers_of(models / name))
    ]


def _described(folder: Path) -> dict[str, Any]:
    of_version = ("agent", "env_id", "seeds", "iqm", "ci95", "made", "published")
    for_scripts = ("episodes", "source", "weights_sha256")
    known = dict.fromkeys(("model", "aliases", *of_version, "path", "reason", *for_scripts))
    known |= {"model": f"{folder.parent.name}@{folder.name}", "path": str(folder)}
    try:
        known["aliases"] = [name for name, number in aliases_of(folder.parent).items() if str(number) == folder.name]
        version = read_version(folder)
        if version is None:
            raise RlabError(f"{folder} has no {VERSION}")
    except RlabError as error:
        return known | {"reason": str(error)}
    return known | {
        "agent": version.agent,
        "env_id": version.env["env_id"],
        "seeds": list(version.seeds),
        "iqm": version.returned.iqm,
        "ci95": version.returned.ci95,
        "made": str(version.lineage[0]),
        "published": version.published,
        "episodes": version.returned.episodes,
        "source": version.source,
        "weights_sha256": version.weights_sha256,
    }


def check_name(name: str) -> None:
    """Raise UsageError where a model cannot have this name."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{clean(name)!r:.120} cannot be the name of a model: {SHAPE}.")


def check_alias(alias: str) -> None:
    """Raise UsageError where an alias cannot have this name."""
    if alias == LATEST:
        raise UsageError(f"the alias {LATEST} is always the version with the highest number; choose another name.")
    if not ALIAS.fullmatch(alias):
        raise UsageError(
            f"{clean(alias)!r:.80} cannot be an alias: small letters, digits, '_' and '-', beginning with a letter."
        )


def add_version(
    models: Path, name: str, contents: Callable[[int], Mapping[str, bytes]], aliases: Iterable[str] = ()
) -> int:
    """Put a new version of a model on the disk, whole or not at all, and move aliases to it; gives its number.

    Two publishers at once get different numbers, also where the file system has no locks.

    Args:
        contents: the files of the version by name, of its number; the manifest is added.

    Raises:
        UsageError: a name or an alias cannot be.
        DiskError: the disk refuses.
        RlabError: another process holds the model for too long.
    """
    check_name(name)
    folder, moved = models / name, list(aliases)
    for alias in moved:
        check_alias(alias)
    files.make_folders(folder)
    with locks.held(folder, f"the model {name}", PATIENCE) as locked:
        if locked:
            for left in folder.glob(f"{files.TEMPORARY}*"):  # by publishers that were killed
                files.delete_folder(left) if left.is_dir() and not left.is_symlink() else files.delete(left)
        number = max([0, *numbers_of(folder), *aliases_of(folder).values()]) + 1
        while not _placed(folder, number, contents(number)):
            number += 1
        if moved:
            _write_aliases(folder, dict.fromkeys(moved, number))
    return number


def move_aliases(models: Path, name: str, number: int, aliases: Iterable[str]) -> None:
    """Let aliases of a model name another of its versions.

    Raises:
        UsageError: there is no such model or version, or an alias cannot be.
        RlabError: as `add_version`.
    """
    folder, moved = models / name, list(aliases)
    for alias in moved:
        check_alias(alias)
    _number(folder, str(number))
    with locks.held(folder, f"the model {name}", PATIENCE):
        _write_aliases(folder, dict.fromkeys(moved, number))


def _number(folder: Path, which: str) -> int:
    """The number of the version that `which` names in the folder of a model."""
    numbers, name = numbers_of(folder), folder.name
    if not numbers:
        known = names_in(folder.parent)
        if not known:
            raise UsageError(
                f"unknown model {name!r}: there is none in {folder.parent}. rlab publish RUN {name} makes it; "
                f"{VARIABLE} names another folder of models."
            )
        raise unknown("model", name, known)
    if which == LATEST:
        return numbers[-1]
    if NUMBER.fullmatch(which):
        if int(which) not in numbers:
            raise UsageError(f"{name} has no version {which}; it has {', '.join(map(str, numbers[-10:]))}.")
        return int(which)
    aliases = aliases_of(folder)
    if which not in aliases:
        raise unknown(f"version of {name}", which, [LATEST, *aliases, *map(str, numbers[-10:])])
    if aliases[which] not in numbers:
        raise RlabError(f"{name}@{which} is version {aliases[which]}, which is no longer in {folder}. Move the alias.")
    return aliases[which]


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, links apart; none where it is missing."""
    try:
        return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DiskError(f"cannot look into {path}: {error.strerror}") from error


def _placed(folder: Path, number: int, contents: Mapping[str, bytes]) -> bool:
    """Write a version beside its place and move it there; false where another process has taken the number."""
    temporary = folder / f"{files.TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    files.make_folder(temporary)
    try:
        for name, content in contents.items():
            files.write_bytes(temporary / name, content)
        checksums = {name: files.sha256(content) for name, content in contents.items()}
        files.write_json(temporary / MANIFEST, {"files": checksums})
        if files.moved_folder(temporary, folder / str(number)):
            return True
    except Exception:
        files.delete_folder(temporary)
        raise
    files.delete_folder(temporary)
    return False


def _write_aliases(folder: Path, moved: Mapping[str, int]) -> None:
    files.write_json(folder / ALIASES, {"aliases": aliases_of(folder) | dict(moved)})
