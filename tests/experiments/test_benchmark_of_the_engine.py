"""The benchmark of the engine, at small size."""

import json
from pathlib import Path

import pytest

from rlab.experiments.benchmarks import engine


def test_every_engine_is_timed_in_a_process_of_its_own_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)  # without rejax, which takes minutes
    engine.main(
        ["--small", "--agents", "ppo", "--seeds", "1", "--engines", "tensor envs", "--out", f"{tmp_path}/found"]
    )
    (row,) = json.loads((tmp_path / "found").read_text())["rows"]
    assert (row["agent"], row["seeds"], row["engine"]) == ("ppo", 1, "tensor envs")
    assert row["seconds"] > 0.0
    assert row["start"] >= 0.0


@pytest.mark.prove
def test_what_goes_wrong_in_a_process_is_written_down_too() -> None:
    found = engine.in_process("ppo", "cdua", "1", "tensor envs", "4096")
    assert "unknown device 'cdua'" in found["failed"]
