"""`rlab.compress`: a list of steps, a report, and a policy folder that records both."""

import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.compression.distil import DistilSettings
from rlab.compression.report import Report, compare
from rlab.compression.steps import Step, parse_steps
from rlab.compression.steps import compress as compress_policy
from rlab.envs import EnvLike
from rlab.errors import UsageError
from rlab.jobs.observing import Observed, ObsRecorder
from rlab.jobs.progress import line_writer
from rlab.jobs.saved import SavedPolicy, open_policy, trained_with
from rlab.learning.runtime import own_surroundings
from rlab.networks.policy import Policy
from rlab.runs import files
from rlab.runs.folder import ROOT, check_free, claim_folder, fresh_folder, is_run
from rlab.runs.observed import save_observed
from rlab.runs.policies import save_policy
from rlab.runs.policy_folder import POLICY
from rlab.runs.versions import read_version
from rlab.trust import Trust

MIN_RETURN_RATIO = 0.95
Judged = tuple[Report, Observed]  # what a compressed policy cost, and what it observed meanwhile


@dataclass(frozen=True)
class Compressed:
    """A compressed policy on the disk, and what it cost."""

    path: Path
    steps: tuple[str, ...]
    updates: int  # of each step that trains
    min_return_ratio: float
    report: Report = field(repr=False)

    @property
    def success(self) -> bool:
        """Whether the policy keeps as much of the return as was asked for."""
        return self.report.success(self.min_return_ratio)

    def __fspath__(self) -> str:
        """So that it can be given wherever the path of a policy can."""
        return str(self.path)

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab compress --json` prints."""
        return {"format": 1, "policy": str(self.path), **self.request(), **self.report.to_json()}

    def request(self) -> dict[str, Any]:
        """What was asked for, and whether it came out."""
        steps, ratio = list(self.steps), self.min_return_ratio
        return {"steps": steps, "updates": self.updates, "min_return_ratio": ratio, "success": self.success}

    def summary(self) -> str:
        """The result for people."""
        verdict = self.report.verdict(self.min_return_ratio)
        kept = "policy" if self.success else "kept all the same"
        return f"{self.report.summary()}\n{verdict}\n{kept}: {self.path}   judge it: rlab eval {self.path}"


@dataclass(frozen=True)
class CompressionRequest:
    """What to compress, and how the result is judged and saved; checked before any work."""

    saved: SavedPolicy
    parent: Policy  # of the members that are compressed
    settings: DistilSettings
    out: str | Path | None
    episodes: int
    min_return_ratio: float
    member: int | None


def compress(
    run: str | PathLike[str],
    steps: str | Sequence[str],
    *,
    out: str | Path | None = None,
    episodes: int = 100,
    min_return_ratio: float = MIN_RETURN_RATIO,
    member: int | None = None,
    updates: int | None = None,
    envs: int | None = None,
    env: EnvLike | None = None,
    trust: Trust = False,
    progress: bool = False,
) -> Compressed:
    """Compress the policy of a run or policy folder, and compare the result with it.

    Args:
        steps: such as `"distil:64x64,prune:0.5,int8"` or `["distil:64x64", "prune:0.5", "int8"]`, see
            `rlab.compression.steps`.
        out: the new policy folder; None makes a fresh one under `runs/`.
        episodes: per member, that parent and child are judged by, from the seeds of `evaluate`.
        min_return_ratio: what the lower end of the paired return ratio must reach for a success; 0: any return is one.
        member: training seed of the one to compress; None: all.
        updates: of each step that trains; None: as many as distillation was measured with.
        envs: instances of the env at once, in all; None: 10 per member. Fewer sample other states to learn from.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        trust: allow layers, envs and wrappers from outside rlab that the folder names; it runs their code.
        progress: write a line when a step is done.

    Raises:
        UsageError: anything in the request that cannot be; nothing is on the disk then.
        RlabError: the folder is broken, or an episode failed.
    """
    wanted = parse_steps(steps)
    request = compression_request(run, out, episodes, min_return_ratio, member, updates, trust, env, envs)
    write = line_writer(progress)
    with own_surroundings(threads=1):
        child = compress_policy(
            request.parent, wanted, request.saved.make_episodes, request.settings, lambda step: write(f"{step}: done")
        )
        judged = judge(request, child)
    return save_compressed(request, wanted, child, judged)


def compression_request(
    run: str | PathLike[str],
    out: str | Path | None,
    episodes: int,
    min_return_ratio: float,
    member: int | None,
    updates: int | None,
    trust: Trust,
    env: EnvLike | None,
    envs: int | None,
) -> CompressionRequest:
    """The policy to compress, and what `compress` says of it; errors and arguments are those of `compress`."""
    if out is not None:
        check_free(out)
    _check_can_be_made(Path(ROOT if out is None else out))
    if episodes < 1:
        raise UsageError(f"--episodes {episodes} must be 1 or more.")
    if not 0.0 <= min_return_ratio < math.inf:
        raise UsageError(f"--min-return-ratio {min_return_ratio:g} must be a number of 0 or more, such as 0.95.")
    settings = DistilSettings() if updates is None else DistilSettings(updates=updates)
    saved = replace(open_policy(run, trust, env), envs=envs)
    parent = saved.policy if member is None else saved.policy.only(member)
    if episodes * len(parent.seeds) < 2:
        raise UsageError("one episode of one member gives no interval; give --episodes 2 or more.")
    return CompressionRequest(saved, parent, settings, out, episodes, min_return_ratio, member)


def judge(request: CompressionRequest, child: Policy) -> Judged:
    """Play the episodes that were asked for with parent and child; errors are those of `report.compare`."""
    recorder = ObsRecorder(child.spec.obs_space, child.seeds)
    report = compare(request.parent, child, request.saved.make_episodes, request.episodes, on_step=recorder)
    return report, recorder.references()


def save_compressed(
    request: CompressionRequest,
    steps: Sequence[Step],
    child: Policy,
    judged: Judged,
    write_more: Callable[[Path, Compressed], None] | None = None,
) -> Compressed:
    """Write the policy folder, whole or not at all.

    Args:
        write_more: writes further files into the folder, before the policy is saved there.
    """
    words, (report, observed) = tuple(map(str, steps)), judged
    only = "" if request.member is None else f"-seed{request.member}"
    fresh = f"{name_of(request.saved).replace('@', '-')}{only}-{'-'.join(words)}"
    was_there = request.out is not None and Path(request.out).is_dir()
    if request.out is None:
        path = fresh_folder(re.sub(r"[^A-Za-z0-9._-]+", "", fresh)[:200])
    else:
        path = Path(request.out)
        claim_folder(path)  # compression takes minutes, in which another process may have used the folder
    try:
        done = Compressed(path, words, request.settings.updates, request.min_return_ratio, report)
        if write_more is not None:
            write_more(path, done)
        save_policy(path, child, _facts(request.saved, done))
        save_observed(path, list(observed.values()))
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if was_there:
            path.mkdir()
        raise
    return done


def name_of(saved: SavedPolicy) -> str:
    """The name of a policy for people: `cartpole@3`, that of its run, or of its folder."""
    folder = saved.folder.resolve()
    version = read_version(folder)
    if version is not None:
        return version.label
    if not is_run(folder.parent):
        return folder.name
    return folder.parent.name if folder.name == "policy" else f"{folder.parent.name}-{folder.name}"


def weights_sha256(saved: SavedPolicy) -> str:
    """The checksum of the weights file of a saved policy."""
    return str(files.read_json(saved.folder / POLICY)["weights"]["sha256"])


def _facts(saved: SavedPolicy, done: Compressed) -> dict[str, Any]:
    """What a policy folder records besides the policy: agent and env as always, and where it comes from."""
    return {
        "agent": saved.agent,
        "env": saved.env.to_json(),
        "parent": {"folder": name_of(saved), "weights_sha256": weights_sha256(saved)},
        "trained_with": trained_with(saved),
        **done.request(),
        "report": done.report.to_json(),
    }


def _check_can_be_made(path: Path) -> None:
    """Raise UsageError where no folder can be made or filled at `path`, as far as that is seen without making it."""
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"cannot write to {path}: {there} is not a folder that can be written. Name another folder with --out"
        )
