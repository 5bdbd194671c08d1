"""Runs that are killed become the runs that never were; `experiments/reliability/kills.py` at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlab.experiments.reliability.kills import INTERVAL, WAYS

if not hasattr(os, "fork"):
    pytest.skip("needs os.fork, which this system lacks", allow_module_level=True)


def killed(tmp_path: Path, *words: str) -> dict[str, Any]:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "rlab.experiments.reliability.kills", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    ways: dict[str, Any] = json.loads(out.read_text())["ways"]
    return ways


@pytest.mark.parametrize(
    ("way", "kills"), [("dqn", 3), *(pytest.param(way, 10, marks=pytest.mark.prove) for way in WAYS)]
)
def test_a_run_that_is_killed_again_and_again_is_the_run_that_never_was(way: str, kills: int, tmp_path: Path) -> None:
    found = killed(tmp_path, "--kills", str(kills), "--ways", way)[way]
    assert found["kills"] == kills
    assert (found["runs_lost"], found["runs_that_differ"], found["differences"]) == (0, 0, [])
    # a save that was under way when the process was killed does not count: the one before it does
    assert found["oldest_checkpoint"] < 2 * INTERVAL


@pytest.mark.prove  # tests/house/test_exact_resume.py leaves out such pieces every day
def test_a_random_stream_that_is_left_out_fails_the_same_study(tmp_path: Path) -> None:
    found = killed(tmp_path, "--kills", "4", "--ways", "dqn", "--leave-out", "draws")["dqn"]
    assert found["runs_that_differ"] > 0
