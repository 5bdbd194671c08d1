"""The benchmark of the server, at small size."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httptools", reason="httptools is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from rlab.experiments.benchmarks.serving import alone, compared, policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy(tmp_path_factory.mktemp("benchmark"))


def test_both_servers_answer_every_request_in_turn(folder: Path) -> None:
    found = compared(folder, requests=200, rounds=1, workers=1)
    assert {name: [each["errors"] for each in rounds] for name, rounds in found["rounds"].items()} == {
        "fastapi": [0],
        "rlab": [0],
    }
    slow, fast = (found["rounds"][name][0]["us_each"] for name in ("fastapi", "rlab"))
    assert found["times_as_fast"]["median"] == slow / fast


@pytest.mark.prove
def test_a_million_requests_have_no_error_few_slow_ones_and_cost_no_memory(folder: Path) -> None:
    found = alone(folder, requests=1_000_000, workers=1)
    assert found["errors"] == 0
    assert found["p99_ms"] < 10 * found["p50_ms"]
    assert found["memory"]["growth"] < 0.05
