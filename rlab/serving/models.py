"""A served model: a policy by its name and version, opened, tried out and ready to answer."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlab.compression.export.runtimes import SUFFIXES, LimitedRunner, Runner, open_exported
from rlab.errors import RlabError, UsageError
from rlab.networks.obs_features import ObsFeatures
from rlab.networks.obs_look import ObsLook
from rlab.runs import registry
from rlab.runs.folder import POLICY_FOLDERS
from rlab.runs.observed import ObsReference, load_observed
from rlab.runs.policy_folder import OBSERVED, POLICY
from rlab.serving.conversion import converted
from rlab.serving.limits import BATCH_ROWS
from rlab.serving.ports import Port, ports_of
from rlab.serving.probes import probes
from rlab.trust import Trust

NAMED = re.compile(rf"({registry.NAME.pattern})=(.+)")
FIRST = "1"  # the version of what has no number
TRIED_ROWS, TRIED_BATCHES = 64, (2, 3, 7, 16, 32, 64)
LONG, LONG_ROWS = 0.002, 32  # seconds that so many rows may keep the event loop; what is slower gets a thread


@dataclass(frozen=True)
class Place:
    """Where a source is at the moment: an exported file or a policy folder, and what it is called."""

    name: str
    version: str
    path: Path
    moves: bool  # whether another version may take its place while the server runs


def place_of(source: str, models: Path | None = None) -> Place:
    """What is meant by a run or policy folder, an exported file, `NAME`, `NAME@3`, `NAME@best`, `hf:USER/NAME`; with
    `OTHER=` before it the model is called OTHER. A path that exists wins over a name.

    Raises:
        UsageError: there is no such path, model or version.
        RlabError: the registry is damaged, or the hub cannot be reached.
    """
    called = None if Path(source).exists() else NAMED.fullmatch(source)
    where = called[2] if called else source
    path = registry.resolve(where, models)
    if not path.exists():
        raise UsageError(
            f"there is no run, policy folder, exported file or model {where}. rlab list models lists those"
        )
    if path == Path(where):
        stem = path.stem if path.is_file() else path.resolve().parent.name if _inside(path) else path.resolve().name
        name, version, moves = re.sub(r"[^A-Za-z0-9._-]+", "-", stem), FIRST, False
    elif where.startswith(registry.HUB):
        name, version, moves = where.removeprefix(registry.HUB).partition("@")[0].replace("/", "-"), path.name, False
    else:
        name, version = path.parent.name, path.name
        moves = where.partition("@")[2] != version
    return Place(called[1] if called else name, version, path, moves)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One version of a model. Its arrays are in array form, of the spaces' dtypes.

    `batches_exactly` says that its runtime gives a row the same bits in any batch; otherwise rows are computed one at a
    time, so that an answer depends on nobody else's request. `in_thread`: it takes so long that the event loop must not
    wait for it.
    """

    name: str
    version: str
    source: Path  # the exported file, or the run or policy folder
    runner: Runner = field(repr=False)
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    batches_exactly: bool
    in_thread: bool
    observed: ObsReference | None = field(default=None, repr=False)  # while it was judged; None: nothing on record

    @property
    def folder(self) -> Path | None:
        """The policy folder, with what was recorded about it; None of an exported file."""
        if not self.source.is_dir():
            return None
        return self.source if (self.source / POLICY).exists() else self.source / "policy"

    @property
    def metadata(self) -> dict[str, Any]:
        """Those of the exported file."""
        return self.runner.metadata

    @property
    def state_size(self) -> int:
        """K, the numbers of a state; 0 without memory."""
        return self.runner.state_size

    @property
    def platform(self) -> str:
        """The runtime, in the protocol's words."""
        return {".onnx": "onnxruntime_onnx", ".npz": "rlab_numpy", ".h": "rlab_c", ".pt2": "pytorch_export"}[
            self.runner.path.suffix
        ]

    @cached_property
    def look(self) -> ObsLook:
        """Refuses observations that the space does not hold."""
        return ObsLook(self.runner.obs_space)

    def run(self, obs: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        """Actions `[B, *action]`, outputs `[B, width]` and, with memory, next states `[B, K]`. The bits of a row are
        those that the exported file gives for this row alone."""
        if self.batches_exactly or len(obs) == 1:
            return self.runner.run(obs, *state)
        rows = [self.runner.run(obs[i : i + 1], *(each[i : i + 1] for each in state)) for i in range(len(obs))]
        return tuple(map(np.concatenate, zip(*rows, strict=True)))


def open_models(places: Sequence[Place], member: int | None = None, trust: Trust = False) -> list[ServedModel]:
    """Open models and try them out.

    Args:
        member: the training seed of the one that is served, of several in a folder; None: the first.
        trust: open files that can run code (`.h`, `.pt2`), and layers from outside rlab that a folder names.

    Raises:
        UsageError: trust is needed, a runtime is missing, or there is no such member.
        RlabError: a file or folder is damaged, or takes too long.
    """
    folders = [place.path for place in places if place.path.is_dir()]
    with converted(folders, member, trust) as files:
        made = iter(files)  # a moment ago, by us
        runners = [
            open_exported(next(made), trust=True) if place.path.is_dir() else _opened(place.path, member, trust)
            for place in places
        ]
    return [_model(place, runner) for place, runner in zip(places, runners, strict=True)]


def _model(place: Place, runner: Runner) -> ServedModel:
    try:
        inputs, outputs = ports_of(runner.metadata["inputs"]), ports_of(runner.metadata["outputs"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RlabError(f"{place.path}: the file's metadata are incomplete ({error!r}).") from error
    exactly, seconds = _tried(runner)
    path = place.path.resolve()
    model = ServedModel(place.name, place.version, path, runner, inputs, outputs, exactly, seconds > LONG)
    return replace(model, observed=_observed(model))


def _observed(model: ServedModel) -> ObsReference | None:
    """What the served member observed while it was judged; None where that is not on record."""
    found = None if model.folder is None else load_observed(model.folder).get(model.runner.seeds[0])
    if found is not None and found.features != ObsFeatures(model.runner.obs_space).names:
        raise RlabError(f"{model.folder}: {OBSERVED} is not of observations {model.runner.obs_space}. Was it edited?")
    return found


def _inside(path: Path) -> bool:
    """Whether this is a policy inside a run, which is called as the run is."""
    return path.resolve().name in POLICY_FOLDERS


def _opened(path: Path, member: int | None, trust: Trust) -> Runner:
    """An exported file in this process. One that is not trusted has answered within limits before, in a process of its
    own: it draws no random numbers, so that it cannot do otherwise the second time."""
    if member is not None:
        raise UsageError(f"{path} holds one policy; --member is for folders of several.")
    if path.suffix in (SUFFIXES["onnx"], SUFFIXES["numpy"]) and trust is not True:
        limited = LimitedRunner(path)
        for rows in (1, BATCH_ROWS):
            limited.run(*_given(limited, rows))
        del limited
    return open_exported(path, trust=trust is True or path.suffix in (SUFFIXES["onnx"], SUFFIXES["numpy"]))


def _tried(runner: Runner) -> tuple[bool, float]:
    """Whether rows get the same bits in batches of several sizes as they do alone, and the seconds of some thirty rows.

    Sums in another order differ in their last bits for most rows of numbers like these, so that a runtime whose
    kernels depend on the size of the batch, or a range of activations that is the batch's own, shows on few rows.
    """
    given = _given(runner, TRIED_ROWS)
    alone, seconds = [], []
    for i in range(TRIED_ROWS):
        started = time.perf_counter()
        alone.append(runner.run(*(each[i : i + 1] for each in given)))
        seconds.append(time.perf_counter() - started)
    rows = [np.concatenate(part) for part in zip(*alone, strict=True)]
    together = LONG_ROWS * min(seconds)
    for size in TRIED_BATCHES:
        started = time.perf_counter()
        found = runner.run(*(each[:size] for each in given))
        if not all(np.array_equal(part, every[:size]) for part, every in zip(found, rows, strict=True)):
            return False, LONG_ROWS * min(seconds)
        together = time.perf_counter() - started if size == LONG_ROWS else together
    return True, together


def _given(runner: Runner, rows: int) -> tuple[np.ndarray, ...]:
    """Observations, with memory beside states that are not zeros."""
    obs = probes(runner.obs_space, rows)
    if not runner.state_size:
        return (obs,)
    return obs, np.random.default_rng(1).standard_normal((rows, runner.state_size)).astype(np.float32)
