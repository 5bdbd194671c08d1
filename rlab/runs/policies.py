"""Policies on the disk: a folder with `policy.json` (spec, seeds, facts) and the weights, see `rlab.runs.weights` and
`rlab.runs.policy_folder`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlab import door
from rlab.errors import RlabError
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.runs import files
from rlab.runs.folder import (
    CONFIG,
    MANIFEST,
    SETTINGS,
    RunFolder,
    check_against_manifest,
    existing_folder,
    is_run,
    read_manifest,
)
from rlab.runs.policy_folder import OBSERVED, POLICY, announced, vouched_by
from rlab.runs.status import why_failed
from rlab.runs.weights import ModuleCopy, load_module, save_module
from rlab.trust import Trust


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy, and the `extra` facts that were saved with it (agent, env, env_steps and the like)."""

    policy: Policy
    extra: dict[str, Any]
    folder: Path


def copied(policy: Policy) -> ModuleCopy:
    """A policy as it is now. Raises RlabError where a weight is NaN or infinite."""
    return ModuleCopy.of(policy, policy.spec.to_json(), policy.seeds)


def save_policy(folder: Path | str, policy: Policy | ModuleCopy, extra: Mapping[str, Any]) -> None:
    """Put the policy into `folder`, in place of an existing one; a crash leaves the old one or the new one.

    `folder` is `policy/` or `best/` of a run, whose manifest is kept in step, or any other folder. `extra` is JSON.

    Raises:
        DiskError: the disk refuses.
        RlabError: a weight is NaN or infinite.
    """
    path, whole = Path(folder) / POLICY, copied(policy) if isinstance(policy, Policy) else policy
    save_module(path, whole, extra, lambda new: announced(path.parent, new))
    files.delete(path.parent / OBSERVED)  # of the weights before


def load_policy(path: Path | str, trust: Trust = False) -> LoadedPolicy:
    """The policy in a run folder (its final one) or in a policy folder, on the CPU.

    `trust` allows layers and heads from outside rlab (`their.module:Class`), which loading would import.

    Raises:
        UsageError: there is no such folder.
        RlabError: one line on what is missing, changed, damaged or does not fit.
    """
    folder = _policy_folder(Path(path))
    vouched = vouched_by(folder)

    def check(name: str, content: bytes) -> None:
        if vouched is not None:
            check_against_manifest(vouched[0], f"{vouched[1]}{name}", content)

    def rebuild(spec: Any, seeds: tuple[int, ...]) -> Policy:
        return build_policy(PolicySpec.from_json(spec), seeds, trust=trust)

    watched = (folder / POLICY, *([] if vouched is None else [vouched[0] / MANIFEST]))
    found = files.settled(
        lambda: load_module(folder / POLICY, rebuild, check), lambda: [files.identity(path) for path in watched]
    )
    return LoadedPolicy(found.module, found.extra, folder)


def _policy_folder(path: Path) -> Path:
    path = existing_folder(path)
    if (path / POLICY).exists():
        if is_run(path.parent):
            door.check_part(path)
        return path
    if (path / CONFIG).exists() or (path / MANIFEST).exists():
        RunFolder.open(path)  # which checks it
        folder = path / "policy"
        door.check_part(folder)
        if (path / SETTINGS).is_dir():
            first = next(iter(sorted((path / SETTINGS).iterdir())), path / SETTINGS)
            raise RlabError(f"{path} has a policy for each set of settings; name one of them, such as {first}")
        if not (folder / POLICY).exists() and f"{folder.name}/{POLICY}" not in read_manifest(path)["files"]:
            if reason := why_failed(path):
                raise RlabError(f"{path} has no policy: the run failed before it saved one: {reason}")
            raise RlabError(f"{path} has no policy yet: the run has saved none. `rlab resume {path}` continues it")
        return folder
    raise RlabError(f"{path} is neither a run folder (config.json, manifest.json) nor a policy folder ({POLICY})")
