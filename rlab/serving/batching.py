"""Requests that are there at the same time are computed together, and every one gets its own answer."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rlab.serving.limits import BATCH_ROWS, Limits
from rlab.serving.log import log
from rlab.serving.models import ServedModel
from rlab.serving.observers import AnsweredBatch
from rlab.serving.web import AGAIN, Refused

Answer = tuple[np.ndarray, ...]  # actions [B, *action], outputs [B, width] and, with memory, next states [B, K]
Computed = tuple[tuple[np.ndarray, ...], Answer]  # what a batch was asked, and its answers
NOT_FINITE = "the policy gives no finite numbers for these inputs; are they far from what it was trained on?"


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits for its answer, which `done` gets."""

    id: str
    sequence: str | None
    starts: bool  # whether the sequence begins with it
    started: float
    obs: np.ndarray  # [B, *obs]
    state: np.ndarray | None  # [B, K]
    done: Callable[[Answer | Refused], None]


class Batcher:
    """One model and the requests that wait for it.

    A batch begins once the event loop has read all requests that have arrived, or when the batch before it is done:
    nobody waits for others to come, and the busier the server is, the larger its batches are.
    """

    def __init__(
        self, model: ServedModel, limits: Limits, answered: Callable[[ServedModel, AnsweredBatch], None]
    ) -> None:
        self.model, self._limits, self._answered = model, limits, answered
        self._waiting: deque[Waiting] = deque()
        self._busy = False
        self._thread = ThreadPoolExecutor(1, f"rlab-{model.name}") if model.in_thread else None

    def ask(self, request: Waiting) -> None:
        """Answer a request soon: within its time, or with why there is no answer.

        Raises:
            Refused: too many requests wait already.
        """
        if len(self._waiting) >= self._limits.max_waiting:
            raise Refused(503, "the server is busy: too many requests are waiting", AGAIN)
        self._waiting.append(request)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Compute the next batch."""
        loop, batch = asyncio.get_running_loop(), self._taken()
        if self._thread is not None and batch:
            computing = loop.run_in_executor(self._thread, self._computed, batch)
            computing.add_done_callback(lambda done: self._finish(batch, done.result()))
        else:
            self._finish(batch, self._computed(batch) if batch else None)

    def _finish(self, batch: Sequence[Waiting], found: Computed | Exception | None) -> None:
        if found is not None:
            self._done(batch, found)
        self._busy = bool(self._waiting)
        if self._busy:
            asyncio.get_running_loop().call_soon(self._next)

    def _taken(self) -> list[Waiting]:
        """The requests that have waited longest, of no more rows than a batch has, or one alone."""
        batch: list[Waiting] = []
        rows, earliest = 0, time.perf_counter() - self._limits.request_seconds
        while self._waiting and (not batch or rows + len(self._waiting[0].obs) <= BATCH_ROWS):
            request = self._waiting.popleft()
            if request.started < earliest:
                request.done(Refused(503, "the server is busy: the request has waited too long", AGAIN))
                continue
            batch.append(request)
            rows += len(request.obs)
        return batch

    def _computed(self, batch: Sequence[Waiting]) -> Computed | Exception:
        """What was asked, as one batch, and the answers; or what went wrong."""
        try:
            if len(batch) == 1:
                only = batch[0]
                given: tuple[np.ndarray, ...] = (only.obs,) if only.state is None else (only.obs, only.state)
            else:
                given = (np.concatenate([each.obs for each in batch]),)
                if self.model.state_size:
                    given = (*given, np.concatenate([each.state for each in batch if each.state is not None]))
            return given, self.model.run(*given)
        except Exception as error:  # whatever a runtime raises, the requests get an answer
            return error

    def _done(self, batch: Sequence[Waiting], found: Computed | Exception) -> None:
        """Hand out the answers, and tell of them."""
        if isinstance(found, Exception):
            log("error", "a model failed", error=found, model=self.model.name, version=self.model.version)
            for request in batch:
                request.done(Refused(500, "the model failed; the server's log says why"))
            return
        given, answer = found
        if not all(np.isfinite(part).all() for part in answer if part.dtype.kind == "f"):
            self._apart(batch)
            return
        first, now, answered_at = 0, time.perf_counter(), time.time_ns()
        for request in batch:
            last = first + len(request.obs)
            request.done(answer if len(batch) == 1 else tuple(part[first:last] for part in answer))
            first = last
        told = AnsweredBatch(
            ids=[request.id for request in batch],
            rows=[len(request.obs) for request in batch],
            sequences=[request.sequence for request in batch],
            starts=[request.starts for request in batch],
            seconds=[now - request.started for request in batch],
            time=answered_at,
            obs=given[0],
            actions=answer[0],
            outputs=answer[1],
            states=given[1] if len(given) > 1 else None,
        )
        self._answered(self.model, told)

    def _apart(self, batch: Sequence[Waiting]) -> None:
        """Some row of a batch has no finite answer: each request for itself, so that the others get theirs."""
        if len(batch) > 1:
            for request in batch:
                self._done([request], self._computed([request]))
        else:
            batch[0].done(Refused(422, NOT_FINITE))
