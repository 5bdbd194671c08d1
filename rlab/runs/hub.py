"""Policies on the Hugging Face hub (extra `hub`): a version is pushed as it lies in the registry, and pulled into it.

A repository holds what the folder of a version holds (`rlab.runs.versions.OWN`), and nothing else is pulled from one:
JSON, safetensors and a card, none of which can run code. `models/.hub/USER/NAME/COMMIT/` keeps what was pulled.
"""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlab.door import MOST_BYTES, clean
from rlab.errors import RlabError, UsageError, pip_install
from rlab.runs import files
from rlab.runs.policy_folder import POLICY
from rlab.runs.versions import OWN

PULLED = ".hub"
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
REPLACED = ("weights-*.safetensors", "observed.json")  # of the version before; the other names are the same again
NEEDS = "hf:USER/NAME, or hf:USER/NAME@REVISION with a branch, a tag or a commit"
LOG_IN = "Log in once with `hf auth login`, or set HF_TOKEN."


def repository_of(words: str) -> str:
    """`USER/NAME`, checked; raises UsageError where it cannot be one."""
    if not REPOSITORY.fullmatch(words):
        raise UsageError(f"hf:{clean(words):.120} does not name a repository of the hub: hf:USER/NAME.")
    return words


def pulled(words: str, models: Path) -> Path:
    """The policy folder of a repository at a revision, pulled where it is not here yet. A commit that is here is taken
    without asking the hub.

    Args:
        words: `USER/NAME` or `USER/NAME@REVISION`; without a revision the newest commit of the main branch.
        models: the folder of the registry, which keeps what was pulled.

    Raises:
        UsageError: the words name no repository, or `huggingface_hub` is not installed.
        RlabError: the hub cannot be reached, refuses, or holds no policy there.
    """
    name, at, revision = words.partition("@")
    if not REPOSITORY.fullmatch(name) or (at and not REVISION.fullmatch(revision)):
        raise UsageError(f"hf:{clean(words):.120} does not name a policy on the hub: {NEEDS}.")
    folder = models / PULLED / name
    if COMMIT.fullmatch(revision) and (folder / revision).is_dir():
        return folder / revision
    api = _api()
    with _told(f"hf:{words}", folder):
        info = api.model_info(name, revision=revision or None, files_metadata=True)
        commit = str(info.sha)
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or () if OWN.fullmatch(each.rfilename)}
    if not COMMIT.fullmatch(commit):
        raise RlabError(f"the hub names {clean(commit)!r:.60} as the commit of hf:{words}, which is not one")
    if POLICY not in sizes:
        raise RlabError(f"hf:{words} holds no policy of rlab: it has no {POLICY}.")
    if sum(sizes.values()) > MOST_BYTES:
        raise RlabError(f"hf:{words} has {sum(sizes.values()):,} bytes, and at most {MOST_BYTES:,} are pulled")
    if not (folder / commit).is_dir():
        _pull(api, name, commit, sorted(sizes), folder)
    return folder / commit


def push(folder: Path, repository: str, message: str, private: bool) -> str:
    """Put a version on the hub, in place of what the repository's main branch holds of rlab; gives the commit.

    Args:
        folder: of the version.
        message: of the commit.
        private: whether a repository that has to be made is for its owner alone.

    Raises:
        UsageError: `huggingface_hub` is not installed.
        RlabError: the hub cannot be reached, or refuses.
    """
    api = _api()
    with _told(f"hf:{repository}", None):
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, delete_patterns=list(REPLACED)
        )
        return str(done.oid)


def _api() -> Any:
    """The client of the hub, at the address of the variable HF_ENDPOINT where there is one."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UsageError(f"the Hugging Face hub needs a package that is not installed: {pip_install('hub')}") from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="rlab")


def _pull(api: Any, repository: str, commit: str, names: list[str], folder: Path) -> None:
    """Download files of a commit, and put them into their folder, whole or not at all."""
    files.make_folders(folder)
    temporary = folder / f"{files.TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    files.make_folder(temporary)
    try:
        with tempfile.TemporaryDirectory() as downloads, _told(f"hf:{repository}", folder):
            for name in names:
                found = api.hf_hub_download(repository, name, revision=commit, local_dir=downloads)
                files.write_bytes(temporary / name, files.read_bytes(Path(found)))
        files.moved_folder(temporary, folder / commit)
    finally:
        if temporary.exists():  # it failed, or another process was faster
            files.delete_folder(temporary)


@contextmanager
def _told(source: str, folder: Path | None) -> Iterator[None]:
    """While the hub is asked: what goes wrong there is one line.

    Args:
        folder: has what was pulled before.

    Raises:
        RlabError: anything went wrong.
    """
    from huggingface_hub import errors

    try:
        yield
    except RlabError:
        raise
    except Exception as error:  # of the client, its transport and what it makes of answers: all of them vary
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.RevisionNotFoundError):
            raise UsageError(f"{source}: the repository has no such revision") from error
        if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
            # the hub answers a stranger's question for a repository that is missing with 401, too
            raise UsageError(
                f"{source}: there is no such repository on the hub, or it is not yours. {LOG_IN}"
            ) from error
        if isinstance(error, errors.RepositoryNotFoundError):
            raise UsageError(f"{source}: there is no such repository on the hub. {LOG_IN}") from error
        why = f"it answered {status}" if status else f"{type(error).__name__}: {' '.join(str(error).split())}"
        kept = sorted(each.name for each in folder.glob("*") if COMMIT.fullmatch(each.name)) if folder else []
        here = f" Without the hub: {source.partition('@')[0]}@{kept[-1]}, which is here." if kept else ""
        raise RlabError(f"{source}: the Hugging Face hub cannot be used ({clean(why):.200}).{here}") from error
