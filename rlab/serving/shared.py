"""What the worker processes of one server know together: each writes its numbers into a folder that they share, and
reads those of the others."""

import asyncio
import contextlib
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from rlab.serving.counts import ModelCounts
from rlab.serving.drift_watch import DriftState, together
from rlab.serving.models import ServedModel
from rlab.serving.observers import AnsweredBatch
from rlab.serving.recording import Recorded

EVERY = 0.5  # seconds after which others see what a process has answered


@dataclass
class Numbers:
    """What one process knows, or several. Drift is that of processes which are alive; counts outlive them."""

    counts: dict[str, ModelCounts] = field(default_factory=dict)  # by `name@version`
    drift: dict[str, DriftState] = field(default_factory=dict)
    recorded: Recorded = field(default_factory=Recorded)


class SharedNumbers:
    """The numbers of this process and, with several workers, those of the others.

    It is the last observer, so that it hears of an answer behind those that count it.

    Args:
        own: those of this process.
        folder: that the workers share; None: there is one.
    """

    def __init__(self, own: Callable[[], Numbers], folder: Path | None) -> None:
        self._own, self._folder = own, folder
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._due: asyncio.TimerHandle | None = None

    def all(self) -> Numbers:
        """Those of all processes; of others they may be `EVERY` seconds old."""
        return added([self._own(), *self._others()])

    def answered(self, model: ServedModel, batch: AnsweredBatch) -> None:
        self._soon()

    def refused(self, model: str | None, status: int, message: str) -> None:
        self._soon()

    def stopped(self) -> None:
        """Leave what was counted to the others."""
        if self._folder is not None:
            if self._due is not None:
                self._due.cancel()
            self._write()

    def _soon(self) -> None:
        if self._folder is not None and self._due is None:
            self._due = asyncio.get_running_loop().call_later(EVERY, self._write)

    def _write(self) -> None:
        assert self._folder is not None
        self._due = None
        whole, unfinished = self._folder / self._name, self._folder / f".{self._name}"
        unfinished.write_bytes(msgspec.json.encode(self._own()))
        os.replace(unfinished, whole)

    def _others(self) -> Iterable[Numbers]:
        if self._folder is None:
            return
        for path in sorted(self._folder.glob("*.json")):
            if path.name != self._name:
                found = msgspec.json.decode(path.read_bytes(), type=Numbers)
                yield (
                    found
                    if _is_alive(int(path.name.partition("-")[0]))
                    else Numbers(found.counts, recorded=found.recorded)
                )


def added(numbers: Iterable[Numbers]) -> Numbers:
    """The sum of the counts, and what is known of drift together."""
    counts: dict[str, ModelCounts] = defaultdict(ModelCounts)
    states: dict[str, list[DriftState]] = defaultdict(list)
    recorded = Recorded()
    for each in numbers:
        for key, own in each.counts.items():
            counts[key].add(own)
        recorded.add(each.recorded)
        for key, state in each.drift.items():
            states[key].append(state)
    return Numbers(dict(counts), {key: together(found) for key, found in states.items()}, recorded)


def _is_alive(process: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
