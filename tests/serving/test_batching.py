"""Requests that are there together are computed together; each gets its own answer or its own refusal."""

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlab.serving.batching import Batcher, Waiting
from rlab.serving.limits import BATCH_ROWS, Limits
from rlab.serving.observers import AnsweredBatch
from rlab.serving.web import Refused


class Doubler:
    """A model whose action is twice the observation and whose output is its inverse; it notes its batches."""

    name, version, state_size = "doubler", "1", 0

    def __init__(self, in_thread: bool = False) -> None:
        self.in_thread, self.batches, self.threads = in_thread, [], set()
        self.begin = threading.Event()
        self.begin.set()

    def run(self, obs: np.ndarray) -> tuple[np.ndarray, ...]:
        self.begin.wait(10)
        self.batches.append(len(obs))
        self.threads.add(threading.current_thread().name)
        if (obs == 13).any():
            raise RuntimeError("unlucky")
        with np.errstate(divide="ignore"):
            return 2 * obs[:, 0], 1 / obs


def ask(batcher: Batcher, found: dict[str, Any], id: str, *numbers: float, age: float = 0.0) -> None:
    """One request whose observations are these numbers."""
    obs = np.array(numbers, np.float32)[:, None]
    batcher.ask(
        Waiting(id, None, False, time.perf_counter() - age, obs, None, lambda answer: found.update({id: answer}))
    )


def played(
    model: Doubler, asked: Callable[[Batcher, dict[str, Any]], None], **limits: Any
) -> tuple[dict[str, Any], list[AnsweredBatch]]:
    """What became of the requests, by id, and what observers were told."""
    found: dict[str, Any] = {}
    told: list[AnsweredBatch] = []

    async def main() -> None:
        batcher = Batcher(model, Limits(**limits), lambda model, batch: told.append(batch))  # type: ignore[arg-type]
        asked(batcher, found)
        model.begin.set()
        while batcher._busy:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    return found, told


@pytest.mark.parametrize("in_thread", [False, True])
def test_requests_of_one_moment_are_one_batch_and_get_their_own_rows(in_thread: bool) -> None:
    def asked(batcher: Batcher, found: dict[str, Any]) -> None:
        ask(batcher, found, "a", 1.0)
        ask(batcher, found, "b", 2.0, 4.0)
        ask(batcher, found, "c", 8.0)

    model = Doubler(in_thread)
    found, (told,) = played(model, asked)
    assert model.batches == [4]
    assert (model.threads != {threading.current_thread().name}) == in_thread
    assert {id: answer[0].tolist() for id, answer in found.items()} == {"a": [2.0], "b": [4.0, 8.0], "c": [16.0]}
    assert found["b"][1].tolist() == [[0.5], [0.25]]
    assert (told.ids, told.rows, told.sequences) == (["a", "b", "c"], [1, 2, 1], [None] * 3)
    assert told.obs.tolist() == [[1.0], [2.0], [4.0], [8.0]]
    assert told.actions.tolist() == [2.0, 4.0, 8.0, 16.0]
    assert told.outputs.shape == (4, 1)
    assert told.states is None
    assert min(told.seconds) > 0


def test_the_time_of_an_answer_is_before_it_leaves() -> None:
    """Else its client's next request, which another process answers, could have the earlier time of the two."""
    left: list[int] = []

    def asked(batcher: Batcher, found: dict[str, Any]) -> None:
        obs = np.ones((1, 1), np.float32)
        for id in ("a", "b"):
            waiting = Waiting(id, None, False, time.perf_counter(), obs, None, lambda _: left.append(time.time_ns()))
            batcher.ask(waiting)

    _, (told,) = played(Doubler(), asked)
    assert 0 < told.time <= min(left)


def test_what_arrives_during_a_batch_is_the_next_one() -> None:
    model = Doubler(in_thread=True)
    model.begin.clear()
    batches: list[list[str]] = []

    async def main() -> None:
        batcher = Batcher(model, Limits(), lambda model, batch: batches.append(list(batch.ids)))  # type: ignore[arg-type]
        ask(batcher, {}, "first", 1.0)
        await asyncio.sleep(0.02)  # which is being computed now
        ask(batcher, {}, "second", 1.0)
        ask(batcher, {}, "third", 1.0)
        model.begin.set()
        while len(batches) < 2:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert batches == [["first"], ["second", "third"]]


def test_a_batch_has_a_largest_size_and_a_larger_request_is_one_alone() -> None:
    def asked(batcher: Batcher, found: dict[str, Any]) -> None:
        ask(batcher, found, "large", *[1.0] * (BATCH_ROWS + 5))
        for number in range(3):
            ask(batcher, found, f"half {number}", *[1.0] * (BATCH_ROWS // 2))

    model = Doubler()
    found, _ = played(model, asked)
    assert model.batches == [BATCH_ROWS + 5, BATCH_ROWS, BATCH_ROWS // 2]
    assert len(found["large"][0]) == BATCH_ROWS + 5


def test_a_request_without_finite_numbers_is_refused_and_the_others_are_answered() -> None:
    def asked(batcher: Batcher, found: dict[str, Any]) -> None:
        ask(batcher, found, "good", 1.0)
        ask(batcher, found, "bad", 2.0, 0.0)  # 1 / 0
        ask(batcher, found, "also good", 4.0)

    found, told = played(Doubler(), asked)
    assert isinstance(found["bad"], Refused)
    assert (found["bad"].status, str(found["bad"])[:40]) == (422, "the policy gives no finite numbers for t")
    assert [found[id][0].tolist() for id in ("good", "also good")] == [[2.0], [8.0]]
    assert [batch.ids for batch in told] == [["good"], ["also good"]]


def test_a_model_that_fails_refuses_its_batch_and_answers_the_next(caplog: pytest.LogCaptureFixture) -> None:
    def asked(batcher: Batcher, found: dict[str, Any]) -> None:
        ask(batcher, found, "unlucky", *[13.0] * BATCH_ROWS)
        ask(batcher, found, "next", 3.0)

    found, _ = played(Doubler(), asked)
    assert (found["unlucky"].status, str(found["unlucky"])) == (500, "the model failed; the server's log says why")
    assert found["next"][0].tolist() == [6.0]


def test_a_request_that_has_waited_too_long_is_refused() -> None:
    def asked(batcher: Batcher, found: dict[str, Any]) -> None:
        ask(batcher, found, "old", 1.0, age=5.0)
        ask(batcher, found, "new", 1.0)

    found, _ = played(Doubler(), asked, request_seconds=4.0)
    assert (found["old"].status, found["old"].headers) == (503, ((b"retry-after", b"1"),))
    assert found["new"][0].tolist() == [2.0]


def test_no_more_requests_wait_than_the_limit() -> None:
    refused = SimpleNamespace(status=None)

    def asked(batcher: Batcher, found: dict[str, Any]) -> None:
        ask(batcher, found, "a", 1.0)
        ask(batcher, found, "b", 1.0)
        with pytest.raises(Refused, match="too many requests are waiting") as caught:
            ask(batcher, found, "c", 1.0)
        refused.status = caught.value.status

    found, _ = played(Doubler(), asked, max_waiting=2)
    assert refused.status == 503
    assert found.keys() == {"a", "b"}
