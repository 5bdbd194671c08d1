"""Episodes whose states the server keeps: nobody fills its memory with them, and nobody leaves one in a bad state."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from wire import Answer, request_bytes  # type: ignore[import-not-found, unused-ignore]

MOST, SILENT = 6, 1.0  # episodes, and seconds
SLACK = 10.0  # seconds that a busy machine may be late


@pytest.fixture(scope="module")
def strict(policies: Path, served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that keeps few states, and not for long."""
    words = [policies / "memory.onnx", "--max-sequences", MOST, "--sequence-seconds", SILENT, "--max-rows", 1000]
    with served(*words, log=tmp_path_factory.mktemp("strict") / "log") as server:
        yield server


def step(server: Any, id: Any, rows: int = 1, value: float = 0.5, **parameters: Any) -> Answer:
    """One step of a sequence."""
    obs = {"name": "obs", "shape": [rows, 4], "datatype": "FP32", "data": [value] * (4 * rows)}
    return server.infer("memory", obs, parameters={"sequence_id": id, **parameters})


def until_forgotten(server: Any) -> None:
    """Until there is room again."""
    end = time.monotonic() + SILENT + SLACK
    while step(server, "last", MOST, sequence_start=True, sequence_end=True).status != 200:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": [], "sequence_start": True},
        {"sequence_id": {"a": 1}, "sequence_start": True},
        {"sequence_id": True, "sequence_start": True},
        {"sequence_id": 1.5, "sequence_start": True},
        {"sequence_id": "a" * 5000, "sequence_start": True},
        {"sequence_id": 10**300, "sequence_start": True},
        {"sequence_id": "a", "sequence_start": 1},
        {"sequence_id": "a", "sequence_start": "yes"},
        {"sequence_id": "a", "sequence_end": None},
        {"sequence_id": "nobody began it"},
        {"sequence_start": True},
        {},
    ],
    ids=lambda parameters: str(parameters)[:60],
)
def test_parameters_of_a_sequence_that_are_wrong_are_refused_in_one_line(
    server: Any, parameters: dict[str, Any]
) -> None:
    obs = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}
    answer = server.infer("memory", obs, parameters=parameters)
    assert answer.status == 400
    assert answer.error.isprintable()
    assert len(answer.error) <= 400


@pytest.mark.parametrize(
    "state",
    [[float("nan")] * 8, [1e39] * 8, [0.0] * 7, [0.0] * 9, ["0"] * 8, [[0.0] * 8, [0.0] * 8], [None] * 8],
    ids=str,
)
def test_a_state_that_is_wrong_is_refused(server: Any, state: list[Any]) -> None:
    obs = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}
    kept = {"name": "state", "shape": [1, 8], "datatype": "FP32", "data": state}
    assert server.infer("memory", obs, kept).status == 400


def test_states_of_more_rows_than_observations_are_refused(server: Any) -> None:
    obs = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}
    kept = {"name": "state", "shape": [2, 8], "datatype": "FP32", "data": [0.0] * 16}
    assert "rows" in server.infer("memory", obs, kept).error


def test_every_row_of_a_sequence_counts_as_an_episode_and_silent_ones_make_room(strict: Any) -> None:
    until_forgotten(strict)
    assert step(strict, "a", MOST - 1, sequence_start=True).status == 200
    assert step(strict, "b", 1, sequence_start=True).status == 200
    refused = step(strict, "c", 1, sequence_start=True)
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert step(strict, "d", 1000, sequence_start=True).status == 503
    assert step(strict, "a", MOST - 1, sequence_end=True).status == 200
    assert step(strict, "c", MOST - 1, sequence_start=True).status == 200
    until_forgotten(strict)
    assert step(strict, "b").status == 400


def test_a_sequence_keeps_its_number_of_rows_and_begins_again_with_another(strict: Any) -> None:
    until_forgotten(strict)
    first = step(strict, "rows", 2, sequence_start=True)
    assert step(strict, "rows", 3).status == 400
    assert step(strict, "rows", 2).status == 200
    assert step(strict, "rows", 3, sequence_start=True).status == 200
    assert step(strict, "rows", 3, sequence_end=True).status == 200
    assert first.status == 200


def test_a_step_that_is_refused_leaves_the_state_as_it_was(strict: Any) -> None:
    until_forgotten(strict)
    following = []
    for wrong in (None, {"value": float("nan")}, {"value": 1e39}, {"rows": 2}):
        step(strict, "twice", sequence_start=True, value=0.9)
        assert wrong is None or step(strict, "twice", **wrong).status == 400
        answer = step(strict, "twice", value=-0.4, sequence_end=True)
        following.append([output["data"] for output in answer.json["outputs"]])
    assert following == [following[0]] * 4


def test_steps_of_one_sequence_at_once_are_taken_one_by_one_or_refused(strict: Any) -> None:
    until_forgotten(strict)
    step(strict, "crowd", sequence_start=True)
    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(lambda _: step(strict, "crowd").status, range(40)))
    assert statuses <= {200, 409}
    assert step(strict, "crowd", sequence_end=True).status == 200


def test_a_client_that_hangs_up_within_a_step_leaves_its_sequence_usable(
    strict: Any, input_tensor: Callable[..., Any]
) -> None:
    until_forgotten(strict)
    step(strict, "gone", sequence_start=True)
    obs = input_tensor("obs", np.full((1, 4), 0.5, np.float32))
    body = json.dumps({"inputs": [obs], "parameters": {"sequence_id": "gone"}}).encode()
    for _ in range(20):
        wire = strict.wire()
        wire.send(request_bytes("POST", "/v2/models/memory/infer", body))
        wire.reset()
    end = time.monotonic() + SLACK
    while (status := step(strict, "gone").status) == 409:
        assert time.monotonic() < end, "it is taken for ever"
    assert status == 200
