"""`rlab resume --verify`: proves on anybody's agent and env that a run that is stopped and resumed is the run that it
would have been."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlab.errors import UsageError
from rlab.jobs.listeners import Audience
from rlab.jobs.request import Request
from rlab.jobs.resume import continue_run
from rlab.jobs.running import start, unless_interrupted
from rlab.jobs.varied import paths_of
from rlab.randomness import stream
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.reading import drawn
from rlab.runs.tables import read_episodes
from rlab.trust import Trust

STOPS = 5
QUICK = {"env_steps": 5_000, "updates": 500, "final_eval_episodes": 2}  # at most, where nothing else was asked for
EPISODE_LOG = "episodes.csv"
SHOWN = 8  # differences that a report names
OF_THE_STOPS = frozenset({"/resumed_at", "/loop/collector/env/restart"})  # what knows of them, and decides nothing


@dataclass(frozen=True)
class Verification:
    """What became of a run that was stopped several times, beside the same run without a stop."""

    subject: str  # the agent, the env and the size of the run
    unit: str
    stopped_at: tuple[int, ...]
    fresh_at: tuple[int, ...]  # of these, where it went on with fresh episodes
    differences: tuple[str, ...]  # where what the two saved is not the same to the bit

    @property
    def ok(self) -> bool:
        """Whether both are the same run."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format": 1,
            "exact": self.ok,
            "subject": self.subject,
            "stopped_at": list(self.stopped_at),
            "fresh_episodes_at": list(self.fresh_at),
            "differences": list(self.differences),
        }

    def report(self) -> str:
        """For people."""
        times = ", ".join(f"{time:,}" for time in self.stopped_at)
        head = f"{self.subject}: stopped and resumed at {times} {self.unit.replace('_', ' ')}"
        if self.ok:
            return f"{head}\nexact: weights, optimizer, storage, envs, logs and curves are those of a run without stops"
        lines = [head, f"NOT exact: {len(self.differences)} differences from a run without stops, the first of them:"]
        lines += [f"  {each}" for each in self.differences[:SHOWN]]
        if self.fresh_at:
            lines.append("It went on with fresh episodes: the warnings say why, and docs/saved.md what an env needs.")
        return "\n".join(lines)


def verify(request: Request, trust: Trust = False, stops: int = STOPS) -> Verification:
    """Train what was asked for twice, in a temporary folder: once as it is, and once stopped at random times, each time
    resumed by objects that know nothing but the run folder. Then compare everything that the two saved.

    Args:
        request: with a budget that can be trained twice.
        trust: as for `train` and `resume`.
        stops: how often.

    Raises:
        UsageError: the run is shared out over processes, or known to this process alone.
    """
    if request.run.shared_out or request.env.local:
        raise UsageError(
            "--verify needs one process and an env that a name stands for; leave --devices, --jobs and --engine out."
        )
    chances = stream(request.run.seed, "times at which a verification stops")
    times = sorted({int(time) for time in chances.integers(1, max(2, request.budget), size=stops)})
    with tempfile.TemporaryDirectory(prefix="rlab-verify-") as folder:
        whole, stopped = Path(folder, "whole"), Path(folder, "stopped")
        unless_interrupted(start(request, whole, progress=False, trust=trust))
        first, *rest = times
        reached = [unless_interrupted(start(request, stopped, False, trust, StopsAt(first))).time]
        for time in rest:
            reached.append(unless_interrupted(continue_run(stopped, {}, False, trust, StopsAt(time))).time)
        unless_interrupted(continue_run(stopped, {}, False, trust))
        runs = RunFolder.open(whole), RunFolder.open(stopped)
        found = tuple(saved_differences(*runs))
        fresh = load_checkpoint(runs[1])[0]["resumed_at"]
    run, unit = request.run, request.unit
    seeds = "one seed" if run.seeds == 1 else f"{run.seeds} seeds"
    subject = f"{request.agent} on {request.env.label}, {seeds}, {request.budget:,} {unit.replace('_', ' ')}"
    return Verification(subject, unit, tuple(dict.fromkeys(reached)), tuple(fresh), found)


def small(request: Request) -> Request:
    """The request with a budget that is quickly trained, where none was asked for by name."""
    own = {name: most for name, most in QUICK.items() if request.origins.get(name) != "command line"}
    run = replace(request.run, **{name: min(most, getattr(request.run, name)) for name, most in own.items()})
    return replace(request, run=replace(run, log=None))  # no service need see it


class StopsAt(Audience):
    """Nobody listens, and the run stops when its clock gets to `time`."""

    def __init__(self, time: int) -> None:
        super().__init__()
        self._time = time

    def wants_stop_at(self, time: int) -> bool:
        return time >= self._time


def saved_differences(first: RunFolder, second: RunFolder) -> Iterator[str]:
    """Where the checkpoints, the logs and the curves of two runs are not equal to the bit."""
    states, chunks = zip(*map(load_checkpoint, (first, second)), strict=True)
    for where in different(*states):
        if where not in OF_THE_STOPS:
            yield f"checkpoint {where}"
    if [chunk.index for chunk in chunks[0]] != [chunk.index for chunk in chunks[1]]:
        yield "storage: its chunks"
    else:
        for one, other in zip(*chunks, strict=True):
            yield from (f"storage {where} of chunk {one.index}" for where in different(one.arrays(), other.arrays()))
    for one in paths_of(first) or [first.path]:  # each set of settings has logs of its own
        place = one.relative_to(first.path)
        of_set = "" if one == first.path else f" of {place}"
        yield from (f"{where}{of_set}" for where in logged_differences(one, second.path / place))


def logged_differences(first: Path, second: Path) -> Iterator[str]:
    """Where the logs and the curves in two run folders are not equal to the bit."""
    for name in ("metrics.jsonl", "eval.jsonl"):
        if (first / name).read_bytes() != (second / name).read_bytes():
            yield name
    if (first / EPISODE_LOG).exists():
        episodes = [read_episodes(path) for path in (first, second)]
        columns = [name for name in episodes[0].dtype.names or () if name != "time"]
        if not np.array_equal(episodes[0][columns], episodes[1][columns]):
            yield EPISODE_LOG
    yield from (f"the curve {where}" for where in different(drawn(first), drawn(second)))


def different(first: Any, second: Any, where: str = "") -> Iterator[str]:
    """The places in nested dicts, lists and tuples whose leaves are not equal to the bit; NaN equals NaN."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in first.keys() | second.keys():
            if key in first and key in second:
                yield from different(first[key], second[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}"
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from different(*pair, f"{where}/{index}")
    elif not _equal(first, second):
        yield where


def _equal(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        first, second = first.numpy(), second.numpy()
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    return bool(first == second) or (first != first and second != second)
