"""The benchmark of the cluster, at small size."""

import json
from pathlib import Path

import pytest

from rlab.experiments.benchmarks import ray_study


@pytest.mark.prove
def test_a_cluster_that_loses_a_node_gives_the_bytes_of_one_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    ray_study.main(["--small", "--out", str(tmp_path / "found")])
    found = json.loads((tmp_path / "found").read_text())
    assert found["files_that_differ"] == []
    assert len(found["run_again"]) == 1
    assert found["run_again"][0].endswith("runs again: its machine is gone")


def test_two_runs_differ_in_what_is_missing_or_has_other_bytes(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run / "policy").mkdir(parents=True)
        for name in ("metrics.jsonl", "eval.jsonl", "result.json", "policy/w.safetensors"):
            (tmp_path / run / name).write_text('{"env_steps": 8}\n')
    assert ray_study.differences(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b/eval.jsonl").write_text("x")
    (tmp_path / "b/policy/w.safetensors").unlink()
    assert ray_study.differences(tmp_path / "a", tmp_path / "b") == ["eval.jsonl", "policy/w.safetensors"]


def test_a_row_that_is_being_written_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"format": 1}\n')
    assert ray_study.last_step(log) == 0
    log.write_text('{"format": 1}\n{"env_steps": 8}\n{"env_st')
    assert ray_study.last_step(log) == 8
