"""`rlab.export`: one member of a run as one file, and exported files opened in their own runtimes."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rlab.compression.export import triton
from rlab.compression.export.member_file import Exported, check_format
from rlab.compression.export.member_file import export as write_file
from rlab.compression.export.metadata import Origin
from rlab.compression.export.runtimes import (
    LATENCY_ROWS,
    SUFFIXES,
    Latency,
    LimitedRunner,
    Runner,
    beginning,
    latency,
    open_exported,
)
from rlab.compression.visits import visited
from rlab.envs import EnvLike, EnvSpec, make_episodes
from rlab.errors import RlabError, UsageError, unknown
from rlab.jobs.compress import name_of, weights_sha256
from rlab.jobs.foreign_code import check_trust
from rlab.jobs.saved import open_policy
from rlab.learning.runtime import own_surroundings
from rlab.runs import files
from rlab.runs.folder import ROOT
from rlab.trust import Trust

CHECKED_STATES = 2_000  # that parity is checked on
REPEATS = 512  # calls that are timed, of each batch size
FORMATS = (*SUFFIXES, triton.FORMAT)
RUNS_CODE = (".h", ".pt2")  # files that can run code when they are opened
NUMPY_RUNNER = "rlab/compression/export/numpy_runner.py"


@dataclass(frozen=True)
class ExportedMember:
    """A file that has passed its check, beside the member that it was made of."""

    exported: Exported
    seed: int  # training seed of the member
    latency: tuple[Latency, ...] = field(repr=False)  # of the file
    torch_latency: tuple[Latency, ...] = field(repr=False)  # of the member, in turn with it

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.exported.path

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab export --json` prints."""
        done, parity = self.exported, self.exported.parity
        return {
            "format": 1,
            "path": str(done.path),
            "export_format": done.format,
            "writer": done.writer,
            "member": self.seed,
            "bytes": done.bytes,
            "seconds": done.seconds,
            "parity": {**asdict(parity), "relative_error": parity.relative_error},
            "latency": [asdict(each) for each in self.latency],
            "torch_latency": [asdict(each) for each in self.torch_latency],
        }

    def summary(self) -> str:
        """The result for people."""
        done, parity = self.exported, self.exported.parity
        lines = [
            f"{done.path}: training seed {self.seed}, {done.bytes} bytes, written by {done.writer} in "
            f"{done.seconds * 1000:.1f} ms",
            f"parity on {parity.rows} visited states: {parity.agreement:.4f} of the actions are equal, largest error "
            f"of an output {parity.largest_error:.2g} ({parity.relative_error:.1g} of the largest output)",
        ]
        for file, torch in zip(self.latency, self.torch_latency, strict=True):
            lines.append(
                f"one call with batch {file.batch}: {file.p50_us:.1f} us (p99 {file.p99_us:.1f}); in torch "
                f"{torch.p50_us:.1f} us (p99 {torch.p99_us:.1f})"
            )
        if done.path.suffix == ".npz":
            lines.append(f"without rlab: {NUMPY_RUNNER} runs it with NumPy alone; this one file may be copied")
        if done.format == triton.FORMAT:
            lines.append(f"load it: tritonserver --model-repository={done.path.parents[2]}")
        trust = " --trust" if done.path.suffix in RUNS_CODE else ""
        return "\n".join([*lines, f"judge it: rlab eval {done.path}{trust}"])


def export(
    run: str | PathLike[str],
    format: str,
    *,
    member: int | None = None,
    out: str | Path | None = None,
    exporter: str = "auto",
    envs: int | None = None,
    env: EnvLike | None = None,
    trust: Trust = False,
) -> ExportedMember:
    """Write the greedy policy of one member as one file, checked on states that it visits.

    Args:
        run: a run or policy folder.
        format: `onnx`, `torch-export`, `numpy`, `c`, or `triton`: a model of a Triton repository.
        member: its training seed; None: the first.
        out: the new file, of a Triton model its folder `REPOSITORY/NAME`, where the next version is added to a model
            that exists; None makes one under `runs/` or `runs/triton/`, named after the run.
        exporter: of ONNX, see `rlab.compression.export.member_file.export`.
        envs: instances of the env at once; None: 10.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        trust: allow layers, envs and wrappers from outside rlab that the folder names; it runs their code.

    Raises:
        UsageError: anything in the request that cannot be, or something is at `out`.
        RlabError: the folder is broken, the file failed its check, or the disk refuses.
    """
    _check_request(format, exporter, out)  # before any work
    saved = replace(open_policy(run, trust, env), envs=envs)
    policy = saved.policy.only(saved.policy.seeds[0] if member is None else member)
    seed = policy.seeds[0]
    path = Path(out) if out is not None else _fresh(f"{name_of(saved)}-seed{seed}", format)
    origin = Origin(saved.agent, saved.env.to_json(), weights_sha256(saved))
    with own_surroundings(threads=1):
        (obs,) = visited(policy, saved.make_episodes, CHECKED_STATES)
    with own_surroundings(threads=1):  # in the working folder again, which an env may change
        alone = policy.member()
        if format == triton.FORMAT:
            done = triton.export_triton(alone, obs, path, origin=origin, exporter=exporter)
        else:
            done = write_file(alone, obs, format, path, origin=origin, exporter=exporter)
        runner = open_exported(done.path, trust=True)  # this call has just written it
        timed = latency({"file": runner, "torch": alone}, obs, repeats=REPEATS)
    return ExportedMember(done, seed, tuple(timed["file"]), tuple(timed["torch"]))


def open_file(path: str | Path, trust: Trust) -> tuple[Runner, EnvSpec]:
    """An exported file in its runtime, and the env that it says it is for.

    Raises:
        UsageError: it can run code and `trust` is false, or a runtime is missing.
        RlabError: it is missing, damaged, not one of rlab's, names no env, or the env is code from outside rlab and
            `trust` is false.
    """
    if not Path(path).exists():
        raise RlabError(f"there is no file {path}. rlab export makes such files")
    if Path(path).suffix in RUNS_CODE and trust is not True:
        raise UsageError(f"{path} can run code when it is opened; add --trust if you trust its author.")
    runner = open_exported(path, trust=trust is True)
    if runner.env is None:
        raise RlabError(f"{path} does not say which env its policy is for.")
    env = EnvSpec.from_json(runner.env)
    check_trust(str(path), env.foreign_modules, trust)
    return runner, env


def measure(paths: Sequence[str], trust: Trust) -> dict[str, list[Latency]]:
    """How long a call of each exported file takes, all measured in turn.

    Raises:
        UsageError: the files are of different observations.
        RlabError: as `open_file`.
    """
    opened = [open_file(path, trust) for path in paths]
    first, env = opened[0]
    for path, (runner, _) in zip(paths, opened, strict=True):
        if runner.obs_space != first.obs_space:
            raise UsageError(f"{path} reads {runner.obs_space} and {paths[0]} {first.obs_space}: measure them apart.")
    with own_surroundings(threads=1):
        obs = _states(first, env)
        pairs = zip(paths, opened, strict=True)
        runners = {path: _in_this_process(runner, obs) for path, (runner, _) in pairs}
        return latency(runners, obs, repeats=REPEATS)


def _in_this_process(runner: Runner, obs: np.ndarray) -> Runner:
    """A file that has answered these observations, which will be timed, within its limits: without them, which take
    longer than many a policy. It cannot do otherwise the second time: it draws no random numbers."""
    if not isinstance(runner, LimitedRunner):
        return runner
    answer = beginning(runner)
    for rows in LATENCY_ROWS:
        answer(obs[:rows])
    for row in obs:
        answer(row[None])
    return open_exported(runner.path, trust=True)


def _states(runner: Runner, env: EnvSpec) -> np.ndarray:
    """64 states that episodes begin with, `[64, *obs]` in array form: the time of a call is the same for any."""
    envs = make_episodes(env, 1)
    try:
        obs = np.concatenate([envs.reset([seed]) for seed in range(64)])
    finally:
        envs.close()
    return np.ascontiguousarray(obs, runner.obs_space.dtype)


def _check_request(format: str, exporter: str, out: str | Path | None) -> None:
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    of_onnx = format in ("onnx", triton.FORMAT)
    check_format("onnx" if of_onnx else format, exporter)
    if not of_onnx and exporter != "auto":
        raise UsageError(f"--exporter {exporter} is for --format onnx and triton; leave it out for {format}.")
    if out is not None and format == triton.FORMAT:
        triton.check_folder(Path(out))
    elif out is not None:
        _check_out(Path(out), SUFFIXES[format])


def _check_out(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise UsageError(f"--out {path} must end in {suffix}, which is what that format's files end in.")
    if path.exists():
        raise UsageError(f"{path} exists; nothing was touched. Name a new file with --out.")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: {path.parent} is not a folder. Make it first.")


def _fresh(name: str, format: str) -> Path:
    """The first free name such as `runs/ppo-CartPole-v1-20261122-101500-seed0.onnx`; of a Triton model
    `runs/triton/ppo-CartPole-v1-20261122-101500-seed0`: all that is beside it is a model."""
    root = Path(ROOT) / format if format == triton.FORMAT else Path(ROOT)
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:200]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {root}: {error.strerror}. Name the file with --out") from error
    return files.free_path(root / f"{words}{SUFFIXES.get(format, '')}")
