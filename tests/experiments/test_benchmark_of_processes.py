"""The benchmark of one learner in several processes, at small size."""

import json
from pathlib import Path

import pytest

from rlab.experiments.benchmarks import data_parallel


@pytest.mark.prove
def test_one_process_and_two_are_timed_and_written_down(tmp_path: Path) -> None:
    data_parallel.main(["--small", "--out", f"{tmp_path}/found"])
    rows = json.loads((tmp_path / "found").read_text())["rows"]
    expected = [("ppo", 1), ("ppo", 2), ("double_dqn", 1), ("double_dqn", 2)]
    assert [(row["agent"], row["processes"]) for row in rows] == expected
    assert all(row["seconds"] > 0.0 for row in rows)
