"""Exported files in their own runtimes, all with one face: observations in, actions that `env.step` accepts out."""

import ctypes
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from rlab import door
from rlab.compression.export import metadata as meta
from rlab.compression.export.c_writer import METADATA as C_METADATA
from rlab.compression.export.graph import ACTION, NEXT_STATE, OBS, OUTPUTS, STATE
from rlab.compression.export.limited import LimitedSession
from rlab.compression.export.sessions import NumpySession, OnnxSession, onnxruntime
from rlab.errors import RlabError, UsageError, pip_install
from rlab.networks.spaces import pack, space_from_json

State = dict[str, np.ndarray]
LATENCY_ROWS = (1, 64)  # batches whose calls are timed
MOST_SOURCE = 2**28  # bytes of a .h
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "numpy": ".npz", "c": ".h"}  # format -> how its files end


class Runner:
    """One exported policy, in the form that `rlab.evaluation` evaluates.

    `metadata` is the file's, `env` the spec of its env or None. `rows_at_once` is 1 where the runtime
    decides row by row, so that a range of activations taken over a batch is that of one row.
    """

    rows_at_once: int | None = None

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        try:
            self.obs_space = space_from_json(metadata["obs_space"])
            self.action_space = space_from_json(metadata["action_space"])
            self.seeds: tuple[int, ...] = (int(metadata["training_seed"]),)
            self.env: dict[str, Any] | None = metadata["env"]
            self.quantized = str(metadata["quantized"])
            ports = metadata["outputs"]
            self.action_shape = tuple(ports[ACTION]["shape"])
            self.action_dtype = np.dtype(ports[ACTION]["dtype"])
            self.width = int(ports[OUTPUTS]["shape"][0])
            self.state_size = int(ports[NEXT_STATE]["shape"][0]) if NEXT_STATE in ports else 0
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RlabError(f"{path}: the file's metadata are incomplete ({error!r}).") from error

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        """Actions `[B, *action]` and outputs `[B, width]` for a batch `[B, *obs]` in array form and its dtype; with
        memory, for a state `[B, state_size]`, also the next one."""
        raise NotImplementedError

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The actions of `run` alone, without memory."""
        return self.run(obs)[0]

    def initial_state(self, rows: int | None = None) -> State:
        """What an episode begins with: `{}` without memory, else zeros, with the axes of `obs` in a call; None: of a
        single observation."""
        if not self.state_size:
            return {}
        lead = () if rows is None else (1, rows)
        return {STATE: np.zeros((*lead, self.state_size), np.float32)}

    def __call__(self, obs: Any, *, state: State | None = None) -> Any:
        """Greedy actions for `[*obs]`, `[B, *obs]` or, as evaluation asks, `[1, B, *obs]`; with the same axes in front.

        With `state`, which a file with memory needs, the answer is `(action, next state)`.

        Args:
            obs: in array form, or what an env of the observation space gives.
            state: what the previous call gave, or `initial_state` where the episode begins.

        Raises:
            UsageError: the shape does not fit, or the state is missing.
        """
        batch, lead = self._batch(obs)
        following: State = {}
        if self.state_size:
            action, _, after = self.run(batch, self._row(state, len(batch)))
            following[STATE] = after.reshape((*lead, self.state_size))
        else:
            action = self.act(batch)
        # [()] makes a number of a 0-d array, which envs that look actions up in a table do not take
        answer = action.reshape((*lead, *action.shape[1:]))[()]
        return answer if state is None else (answer, following)

    def outputs(self, obs: Any, state: State | None = None) -> np.ndarray:
        """The network's outputs, `[..., width]`; axes and errors as for a call."""
        batch, lead = self._batch(obs)
        outputs = self.run(batch, *((self._row(state, len(batch)),) if self.state_size else ()))[1]
        return outputs.reshape((*lead, outputs.shape[-1]))

    def _row(self, state: State | None, rows: int) -> np.ndarray:
        """`[B, K]` of a state."""
        if state is None or np.size(state.get(STATE, ())) != rows * self.state_size:
            raise UsageError(
                f"{self.path} has memory and needs its state: state = policy.initial_state() where an episode begins, "
                f"then action, state = policy(obs, state=state) at every step; here {rows} x {self.state_size} numbers."
            )
        return np.ascontiguousarray(state[STATE], np.float32).reshape(rows, self.state_size)

    def _batch(self, obs: Any) -> tuple[np.ndarray, tuple[int, ...]]:
        """`[B, *obs]`, contiguous, and the axes that led."""
        shape = self.obs_space.shape
        array = obs if isinstance(obs, np.ndarray) else pack(self.obs_space, obs)
        axes = array.ndim - len(shape)
        lead = array.shape[: max(axes, 0)]
        if not 0 <= axes <= 2 or array.shape[axes:] != shape or (axes == 2 and lead[0] != 1):
            raise UsageError(
                f"an observation of shape {array.shape} does not fit; expected [*obs], [B, *obs] or [1, B, *obs], "
                f"*obs = {shape}."
            )
        return np.ascontiguousarray(array, self.obs_space.dtype).reshape(-1, *shape), lead


class OnnxRunner(Runner):
    """A `.onnx` in onnxruntime on the CPU, in this process: of a file that is trusted.

    Args:
        threads: of one operation.
        optimise: false runs the graph as it is written.
        binding: keep input and output buffers for each size of batch; fewer microseconds, and not for several threads.

    Raises:
        UsageError: onnxruntime is not installed.
        RlabError: the file is not ONNX, or not from rlab.
    """

    def __init__(self, path: Path, threads: int = 1, optimise: bool = True, binding: bool = False) -> None:
        session = OnnxSession(path, threads, optimise)
        super().__init__(path, meta.from_text(session.metadata, path))
        self._session, self._ort, self._binding = session.native, session.ort, binding
        self._bound: dict[int, tuple[np.ndarray, Any, np.ndarray]] = {}
        self.run = session.run  # type: ignore[method-assign]

    def act(self, obs: np.ndarray) -> np.ndarray:
        if not self._binding:
            action: np.ndarray = self._session.run([ACTION], {OBS: obs})[0]
            return action
        if len(obs) not in self._bound:
            self._bound[len(obs)] = self._buffers(obs)
        given, bound, taken = self._bound[len(obs)]
        np.copyto(given, obs)
        self._session.run_with_iobinding(bound)
        return taken.copy()

    def _buffers(self, obs: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
        """Memory for this size of batch, which onnxruntime reads and writes in place."""
        given, taken = obs.copy(), np.zeros((len(obs), *self.action_shape), self.action_dtype)
        bound = self._session.io_binding()
        bound.bind_ortvalue_input(OBS, self._ort.OrtValue.ortvalue_from_numpy(given))
        bound.bind_ortvalue_output(ACTION, self._ort.OrtValue.ortvalue_from_numpy(taken))
        return given, bound, taken


class NumpyRunner(Runner):
    """A `.npz` in NumPy, by `numpy_runner`, in this process: of a file that is trusted.

    Raises:
        RlabError: the file is damaged or none of rlab's.
    """

    def __init__(self, path: Path) -> None:
        session = NumpySession(path)
        super().__init__(path, meta.checked(session.metadata, path))
        self.run = session.run  # type: ignore[method-assign]


class LimitedRunner(Runner):
    """A `.onnx` or `.npz` in a process of its own with limits of time and memory: of a file that is not trusted.

    Raises:
        UsageError: a runtime is missing.
        RlabError: the file is damaged, none of rlab's, takes too long or needs too much memory.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix == ".onnx":
            onnxruntime(path)  # which raises where it is missing
        session = LimitedSession(path)
        told = session.metadata
        super().__init__(path, meta.from_text(told, path) if isinstance(told, str) else meta.checked(told, path))
        self._session = session

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        action, *others = self._session.run(obs, *state)
        if action.shape[1:] != self.action_shape or action.dtype != self.action_dtype:
            raise RlabError(
                f"{self.path} gives actions {action.shape[1:]} of {action.dtype}, and its metadata declare "
                f"{self.action_shape} of {self.action_dtype}. Was it edited?"
            )
        return action, *others


class CRunner(Runner):
    """A `.h`, compiled by gcc into a temporary folder. It runs the code in the file.

    Raises:
        UsageError: there is no gcc.
        RlabError: the file does not compile, its own test fails, or it is not from rlab.
    """

    rows_at_once = 1

    def __init__(self, path: Path) -> None:
        source = door.read_file(path, MOST_SOURCE, follow=True).decode(errors="replace")
        line = re.search(rf"^ \* {C_METADATA} (.*)$", source, re.MULTILINE)
        if line is None:
            raise RlabError(f"{path} is not a header of rlab: it has no metadata of a policy.")
        super().__init__(path, meta.from_text(line[1], path))
        prefix = str(self.metadata.get("prefix"))
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prefix):
            raise RlabError(f"{path}: the prefix {prefix!r} is not a C identifier.")
        self._library = _compiled(path, source, prefix, self.state_size > 0)
        self._library.runner_rows.argtypes = [ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 3]
        sizes = (ctypes.c_int * 6)()
        self._library.runner_sizes(sizes)
        lengths = [int(np.prod(shape)) for shape in (self.obs_space.shape, self.action_shape)]
        widths = [np.dtype(dtype).itemsize for dtype in (self.obs_space.dtype, self.action_dtype)]
        if list(sizes) != [*lengths, self.width, *widths, self.state_size]:
            raise RlabError(f"{path}: the functions do not fit the file's metadata. Was it edited?")
        failed = self._library.runner_selftest()
        if failed:
            raise RlabError(f"{path}: its own test fails in row {failed}: this machine computes something else.")

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        action = np.empty((len(obs), *self.action_shape), self.action_dtype)
        outputs = np.empty((len(obs), self.width), np.float32)
        after = tuple(each.copy() for each in state)  # which the functions change in place
        pointers = [array.ctypes.data for array in (action, outputs, *after)] + [None] * (1 - len(after))
        if self._library.runner_rows(obs.ctypes.data, len(obs), *pointers):
            raise RlabError(f"{self.path}: an output of the network is not a number. Are the observations finite?")
        return action, outputs, *after


_C_RUNNER = """
#include "policy.h"
int runner_rows(const {p}_obs_t *obs, int64_t rows, {p}_action_t *action, float *outputs, float *state) {{
  int bad = 0;
  (void)state;
  for (int64_t i = 0; i < rows; ++i)
    bad |= {p}_decide(obs + i * {P}_OBS_SIZE, {state}action + i * {P}_ACTION_SIZE, outputs + i * {P}_OUTPUTS);
  return bad;
}}
int runner_selftest(void) {{ return {p}_selftest(); }}
void runner_sizes(int *sizes) {{
  sizes[0] = {P}_OBS_SIZE, sizes[1] = {P}_ACTION_SIZE, sizes[2] = {P}_OUTPUTS;
  sizes[3] = (int)sizeof({p}_obs_t), sizes[4] = (int)sizeof({p}_action_t);
  sizes[5] = {size};
}}
"""


def _compiled(path: Path, source: str, prefix: str, state: bool) -> ctypes.CDLL:
    """The header as a library; `state`: of a policy with memory."""
    compiler = which("gcc")
    if compiler is None:
        raise UsageError(f"{path} is C and needs gcc to run, which is not on this machine's PATH.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "policy.h").write_text(source)
        size = f"{prefix.upper()}_STATE_SIZE" if state else "0"
        words = {"state": f"state + i * {size}, " if state else "", "size": size}
        (folder / "runner.c").write_text(_C_RUNNER.format(p=prefix, P=prefix.upper(), **words))
        flags = ["-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        command = [compiler, *flags, "runner.c", "-o", "policy.so", "-lm"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "gcc gave no reason")
            raise RlabError(f"{path} does not compile: {reason}")
        return ctypes.CDLL(str(folder / "policy.so"))  # once loaded, the file may go


class TorchRunner(Runner):
    """A `.pt2` in torch. Loading it can run code: torch unpickles parts of it and evaluates expressions.

    Raises:
        RlabError: the file is damaged or none of rlab's.
    """

    def __init__(self, path: Path) -> None:
        from rlab.compression.export.torch_export import load_program, read_metadata

        super().__init__(path, meta.from_text(read_metadata(path), path))
        self._program = load_program(path)

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        import torch

        # torch does not take read-only memory
        given = [torch.from_numpy(each if each.flags.writeable else each.copy()) for each in (obs, *state)]
        with torch.no_grad():
            return tuple(found.numpy() for found in self._program(*given))


def check_runtime(format: str) -> None:
    """Whether files of this format can run here, and so be checked.

    Raises:
        UsageError: they cannot, and what is missing.
    """
    if format == "onnx" and find_spec("onnxruntime") is None:
        raise UsageError(f".onnx files run in onnxruntime, which is not installed: {pip_install('onnx')}")
    if format == "c" and which("gcc") is None:
        raise UsageError(
            "a C header is compiled and run before it is kept, and gcc is not on this machine's PATH; install it, or "
            "write another format: onnx, numpy or torch-export."
        )


def open_exported(path: Path | str, *, threads: int = 1, trust: bool = False) -> Runner:
    """The policy in an exported file, in the runtime that its suffix stands for.

    `.onnx` and `.npz` are data: without `trust` they run in a process of their own, with limits of time and memory. A
    `.h` is compiled and run, and loading a `.pt2` can run code: these need `trust`.

    Args:
        threads: of one operation, of an `.onnx` that is trusted.

    Raises:
        UsageError: the suffix is none of the four, trust is needed, or a runtime is missing.
        RlabError: the file is missing, damaged, or not from rlab.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES.values():
        raise UsageError(f"{path} is not named like an exported file; these end in {', '.join(SUFFIXES.values())}.")
    if not path.is_file():
        raise RlabError(f"{path} is missing.")
    if path.suffix in (".h", ".pt2") and not trust:
        raise UsageError(f"{path} can run code when it is opened; open it with trust=True if you trust its author.")
    if not trust:
        return LimitedRunner(path)
    if path.suffix == ".onnx":
        return OnnxRunner(path, threads)
    return {".npz": NumpyRunner, ".h": CRunner, ".pt2": TorchRunner}[path.suffix](path)


@dataclass(frozen=True)
class Latency:
    """How long one call takes with a batch of this size: median and 99th percentile, in microseconds."""

    batch: int
    p50_us: float
    p99_us: float


def latency(
    runners: Mapping[str, Callable[[np.ndarray], Any]],
    obs: np.ndarray,
    batch_sizes: tuple[int, ...] = LATENCY_ROWS,
    repeats: int = 1000,
) -> dict[str, list[Latency]]:
    """Time calls with batches `[B, *obs]` taken from the rows of `obs`; runners in turn, so that all see one machine.
    What has memory begins each time.

    Raises:
        UsageError: there are fewer rows than the largest batch.
    """
    if len(obs) < max(batch_sizes):
        raise UsageError(f"{len(obs)} observations are too few for a batch of {max(batch_sizes)}.")
    found: dict[str, list[Latency]] = {name: [] for name in runners}
    for size in batch_sizes:
        batches = [np.ascontiguousarray(obs[i * size : (i + 1) * size]) for i in range(min(64, len(obs) // size))]
        times: dict[str, list[int]] = {name: [] for name in runners}
        calls = {name: beginning(runner) for name, runner in runners.items()}
        while min(map(len, times.values())) < repeats:
            for name, run in calls.items():
                run(batches[0])  # warms up: the one before has used the caches
                times[name] += [_nanoseconds(run, batch) for batch in batches]
        for name, measured in times.items():
            p50, p99 = np.percentile(measured, (50, 99)) / 1000
            found[name].append(Latency(size, float(p50), float(p99)))
    return found


def beginning(policy: Any) -> Callable[[np.ndarray], Any]:
    """A call of a runner or a member, with memory each time in the state that an episode begins with."""
    call: Callable[[np.ndarray], Any] = policy
    remembers = hasattr(policy, "initial_state") and policy.initial_state()
    return (lambda obs: policy(obs, state=policy.initial_state(len(obs)))) if remembers else call


def _nanoseconds(run: Callable[[np.ndarray], Any], batch: np.ndarray) -> int:
    start = time.perf_counter_ns()
    run(batch)
    return time.perf_counter_ns() - start
