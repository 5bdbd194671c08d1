"""Episodes whose states the server keeps between requests, for clients of a policy with memory."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlab.serving.batching import Batcher
from rlab.serving.limits import Limits
from rlab.serving.web import AGAIN, Refused

ID, START, END = "sequence_id", "sequence_start", "sequence_end"  # Triton's names of these parameters
MOST_TEXT = 128  # characters of an id


@dataclass(slots=True, eq=False)
class Sequence:
    """An episode: its state, and the version of the model that began it and stays with it."""

    batcher: Batcher
    state: np.ndarray  # [B, K]
    used: float
    busy: bool = False


class Sequences:
    """All of them, by model and id, the longest silent first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[tuple[str, str], Sequence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def taken(self, batcher: Batcher, id: str, rows: int, start: bool) -> Sequence:
        """The sequence of an id for one step of `rows` rows, from its beginning where `start`; `put_back` must follow.

        Raises:
            Refused: it is unknown, is being stepped, has another number of rows, or there are too many.
        """
        key, now = (batcher.model.name, id), time.monotonic()
        self._forget(now)
        found = self._kept.get(key)
        if found is not None and found.busy:
            raise Refused(409, f"the last request of sequence {id!r:.80} has no answer yet: its steps come one by one")
        if start:
            others = sum(len(each.state) for each in self._kept.values() if each is not found)
            if others + rows > self._limits.max_sequences:
                message = "the server keeps too many sequences already: end some, or send the state yourself"
                raise Refused(503, message, AGAIN)
            found = Sequence(batcher, np.zeros((rows, batcher.model.state_size), np.float32), now)
            self._kept[key] = found
        if found is None:
            raise Refused(
                400, f"unknown sequence {id!r:.80}: begin it with the parameter {START}; silent ones are forgotten"
            )
        if len(found.state) != rows:
            raise Refused(400, f"sequence {id!r:.80} has {len(found.state)} rows, and this request {rows}")
        self._kept.move_to_end(key)
        found.busy, found.used = True, now
        return found

    def put_back(self, name: str, id: str, sequence: Sequence, state: np.ndarray | None, end: bool) -> None:
        """After a step: with its next state, or None where the step failed and may be tried again."""
        sequence.busy = False
        if state is not None:
            sequence.state = state
            if end and self._kept.get((name, id)) is sequence:
                del self._kept[name, id]

    def _forget(self, now: float) -> None:
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if oldest.busy or now - oldest.used < self._limits.sequence_seconds:
                return
            del self._kept[key]


def named(parameters: Mapping[str, Any]) -> tuple[str | None, bool, bool]:
    """The sequence that a request belongs to, and whether it begins and ends it.

    Raises:
        Refused: a parameter is not what it should be.
    """
    if not parameters:
        return None, False, False
    id, flags = parameters.get(ID), [parameters.get(START, False), parameters.get(END, False)]
    if not all(isinstance(flag, bool) for flag in flags):
        raise Refused(400, f"the parameters {START} and {END} must be true or false")
    if id is None or id in ("", 0):  # which Triton's clients send for none
        if any(flags):
            raise Refused(400, f"the parameters {START} and {END} need a {ID}")
        return None, False, False
    if isinstance(id, bool) or not isinstance(id, int | str) or len(str(id)) > MOST_TEXT:
        raise Refused(400, f"the parameter {ID} must be a number or a text of at most {MOST_TEXT} characters")
    return str(id), flags[0], flags[1]
