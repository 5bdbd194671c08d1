"""Policies on the disk: a folder with `policy.json` (spec, seeds, whatever is worth telling) and the weights.

A process may die in the middle of replacing a policy. So the weights file is named after its content, `policy.json`
is the one file that says which weights count, and inside a run the manifest accepts the old and the new `policy.json`
while one is put in place of the other: every instant shows the old policy or the new one, whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlab.errors import RlabError
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.runs import files
from rlab.runs.folder import (
    CONFIG,
    MANIFEST,
    POLICY_FOLDERS,
    RunFolder,
    check_against_manifest,
    existing_folder,
    is_run,
    read_manifest,
)
from rlab.runs.tensors import tensors_from_bytes, tensors_to_bytes
from rlab.trust import Trust

POLICY = "policy.json"
STEM, SUFFIX = "weights", ".safetensors"


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy, and the `extra` facts that were saved with it (agent, env, env_steps and the like)."""

    policy: Policy
    extra: dict[str, Any]
    folder: Path


def save_policy(folder: Path | str, policy: Policy, extra: Mapping[str, Any]) -> None:
    """Put the policy into `folder`, in place of the one that is there; a crash leaves the old one or the new one.

    `folder` is `policy/` or `best/` of a run, whose manifest is kept in step, or any other folder. `extra` is JSON.

    Raises:
        RlabError: the disk refuses.
    """
    folder = Path(folder)
    files.make_folder(folder)
    files.clean(folder)
    weights = tensors_to_bytes(policy.state_dict())
    name = files.content_name(STEM, weights, SUFFIX)
    content = files.to_json(
        {
            "spec": policy.spec.to_json(),
            "seeds": list(policy.seeds),
            "extra": dict(extra),
            "weights": {"name": name, "sha256": files.sha256(weights)},
        },
        folder / POLICY,
    )
    files.write_bytes(folder / name, weights)
    new = {POLICY: files.sha256(content), name: files.sha256(weights)}
    run = _run_of(folder)
    settled = _announce(run, folder.name, new) if run else {}
    files.write_bytes(folder / POLICY, content)
    if run:
        files.write_json(run / MANIFEST, {"files": settled})
    files.keep_only(folder, {name}, f"{STEM}-*{SUFFIX}")


def load_policy(path: Path | str, trust: Trust = False) -> LoadedPolicy:
    """The policy in a run folder (its final one) or in a policy folder, on the CPU.

    `trust` allows layers of other people's code (`their.module:Builder`), which loading would import.

    Raises:
        UsageError: there is no such folder.
        RlabError: one line on what is missing, changed, damaged or does not fit.
    """
    folder = _policy_folder(Path(path))
    content = files.read_bytes(folder / POLICY)
    run = _run_of(folder)
    if run:
        check_against_manifest(run, f"{folder.name}/{POLICY}", content)
    data = files.parse_json(content, folder / POLICY)
    weights = files.read_checked(folder, data.get("weights"), STEM, SUFFIX, folder / POLICY)
    where = folder / data["weights"]["name"]
    if run:
        check_against_manifest(run, f"{folder.name}/{where.name}", weights)
    policy = _rebuilt(data, folder / POLICY, trust)
    tensors = tensors_from_bytes(weights, where)
    _check_fit(policy.state_dict(), tensors, where)
    policy.load_state_dict(tensors)
    extra = data.get("extra", {})
    if not isinstance(extra, dict):
        raise RlabError(f"{folder / POLICY}: 'extra' must be an object, not {extra!r:.80}")
    return LoadedPolicy(policy, extra, folder)


def _policy_folder(path: Path) -> Path:
    path = existing_folder(path)
    if (path / POLICY).exists():
        return path
    if (path / CONFIG).exists() or (path / MANIFEST).exists():
        RunFolder.open(path)  # which checks it
        folder = path / "policy"
        if not (folder / POLICY).exists() and f"{folder.name}/{POLICY}" not in read_manifest(path)["files"]:
            raise RlabError(f"{path} has no policy yet: the run has saved none. `rlab resume {path}` goes on with it")
        return folder
    raise RlabError(f"{path} is neither a run folder (config.json, manifest.json) nor a policy folder ({POLICY})")


def _run_of(folder: Path) -> Path | None:
    """The run whose manifest vouches for this policy folder; None for a folder that stands alone."""
    folder = folder.resolve()
    return folder.parent if folder.name in POLICY_FOLDERS and is_run(folder.parent) else None


def _announce(run: Path, part: str, new: Mapping[str, str]) -> dict[str, str]:
    """Let the manifest accept the new files of the policy folder `part` beside the old ones.

    Returns what the manifest's `files` should say once the new ones are in place.
    """
    manifest = read_manifest(run)
    current = manifest["files"] | _arrived(run, manifest["pending"])
    pending = {f"{part}/{name}": checksum for name, checksum in new.items()}
    files.write_json(run / MANIFEST, {"files": current, "pending": pending})
    return {name: checksum for name, checksum in current.items() if not name.startswith(f"{part}/")} | pending


def _arrived(run: Path, pending: Mapping[str, str]) -> dict[str, str]:
    """Of the files that an interrupted save announced, those that made it to the disk."""
    return {
        name: checksum
        for name, checksum in pending.items()
        if (run / name).is_file() and files.sha256(files.read_bytes(run / name)) == checksum
    }


def _rebuilt(data: Mapping[str, Any], path: Path, trust: Trust) -> Policy:
    """A policy with random weights from the spec in `policy.json`."""
    seeds = data.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RlabError(f"{path}: 'seeds' must be a list of training seeds, not {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise RlabError(f"{path}: 'seeds' names a training seed twice: {seeds}")
    try:
        return build_policy(PolicySpec.from_json(data["spec"]), tuple(seeds), trust=trust)
    except RlabError as error:
        raise RlabError(f"{path}: {error}") from error  # whatever the spec says, it is the file that is at fault
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        raise RlabError(f"{path}: no policy can be built from its spec ({type(error).__name__}: {error})") from error


def _check_fit(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise RlabError naming the first tensor that is missing, unknown, or of another shape or type."""
    for name in sorted(expected.keys() - found.keys()):
        raise RlabError(f"{path} lacks the tensor {name!r} {list(expected[name].shape)} that the spec asks for")
    for name in sorted(found.keys() - expected.keys()):
        raise RlabError(f"{path} has a tensor {name!r} that the spec does not know")
    for name, tensor in found.items():
        want = expected[name]
        if (tensor.shape, tensor.dtype) != (want.shape, want.dtype):
            raise RlabError(
                f"{path}: the tensor {name!r} is {_kind(tensor)} where the spec expects {_kind(want)}. "
                f"Does policy.json belong to other weights?"
            )


def _kind(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
