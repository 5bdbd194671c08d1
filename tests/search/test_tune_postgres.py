"""A study in PostgreSQL that two processes share."""

import glob
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlab.search.plan import Plan

pytest.importorskip("optuna")
pytest.importorskip("psycopg")

from rlab.search.stages import carry_out
from rlab.search.tuned import Tuned


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server in a temporary folder, which listens on a socket there and nowhere else."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    programs = Path(found[-1]).parent if found else Path(shutil.which("initdb") or "/nowhere/initdb").parent
    if not (programs / "initdb").exists():
        pytest.skip("PostgreSQL is not installed: no initdb")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path has at most 107 characters
    as_nobody: Any = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:  # which PostgreSQL refuses
        shutil.chown(folder, "nobody")
        as_nobody["user"] = "nobody"
    quick = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", str(folder)]
    subprocess.run([programs / "initdb", "-D", "data", "-U", "me", "-A", "trust", "-N"], check=True, **as_nobody)
    process = subprocess.Popen([programs / "postgres", "-D", "data", *quick], **as_nobody)
    try:
        deadline = time.monotonic() + 60
        ready = [programs / "pg_isready", "-h", str(folder), "-q"]
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"postgresql://me@/postgres?host={folder}"
    finally:
        process.send_signal(2)  # a fast shutdown
        process.wait(60)
        shutil.rmtree(folder)


def test_two_machines_share_a_study_and_find_the_same(
    server: str, planned: Callable[..., Plan], pretended: Any, tmp_path: Path
) -> None:
    def slowly(settings: Mapping[str, Any]) -> float:
        time.sleep(0.05)
        return 100.0 * settings["n_step"]

    plan = planned(storage=server, trials=8)
    executors = [pretended(slowly), pretended(slowly)]
    found: dict[int, Tuned] = {}

    def machine(index: int) -> None:
        found[index] = carry_out(replace(plan, folder=tmp_path / str(index) / "study"), executors[index], False)

    threads = [threading.Thread(target=machine, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    first, second = found[0], found[1]
    trials = [task.label for executor in executors for task in executor.tasks if task.request.run.seed == 0]
    assert len(trials) == len(set(trials)) == len(first.history()) == 8
    assert all(executor.tasks for executor in executors)
    assert first.history() == second.history()
    assert first.facts["winner"] == second.facts["winner"]
    assert first.experiment.read_text() == second.experiment.read_text()
    assert first.facts["storage"].startswith("postgresql://me@/postgres?host=")
