"""Crashes at disk operations, and disks that break; `experiments/reliability/` at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlab.experiments.reliability.disk_faults import FLIPPED, KINDS
from rlab.experiments.reliability.faulty_disk import WAYS

if not hasattr(os, "fork"):
    pytest.skip("needs os.fork, which this system lacks", allow_module_level=True)


def studied(script: str, out: Path, *words: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        f"rlab.experiments.reliability.{script}",
        "--out",
        str(out),
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.prove  # every day runs are killed, and tests/runs dies at each operation of a save
@pytest.mark.parametrize("way", WAYS)
def test_runs_that_crash_at_a_disk_operation_become_the_runs_that_never_did(way: str, tmp_path: Path) -> None:
    found = studied("crashes", tmp_path / "result.json", "--every", "299", "--ways", way)["ways"][way]
    assert found["crashes"] >= 2
    assert (found["not_gone_on_with"], found["different"]) == (0, 0), found["first"]


EVERY_DAY = ("full", "folder deleted", FLIPPED)


@pytest.mark.parametrize(
    "kinds", [EVERY_DAY, pytest.param(tuple(kind for kind in KINDS if kind not in EVERY_DAY), marks=pytest.mark.prove)]
)
def test_disks_that_break_harm_no_checkpoint_and_are_named(kinds: tuple[str, ...], tmp_path: Path) -> None:
    tried = studied("disk_faults", tmp_path / "result.json", "--tries", "1", "--kinds", *kinds)["kinds"]
    assert tuple(tried) == kinds
    for kind, found in tried.items():
        wrong = {name: found[name] for name in ("unnamed", "unreadable", "not_gone_on_with", "different")}
        assert not any(wrong.values()), (kind, found["first"])
