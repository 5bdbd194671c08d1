"""Whole runs in processes of this machine: one is killed in the middle, and its result is that of a run in peace."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.engines import process
from rlab.engines.choice import job_engine
from rlab.engines.job import Event, Job
from rlab.jobs.request import train_request
from rlab.jobs.running import begin
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk")
DQN: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "batch_size": 8, "learning_starts": 64}
DQN |= {"max_episode_steps": 30, "env_steps": 512, "log_every": 64, "eval_every": 128, "eval_episodes": 1}
DQN |= {"final_eval_episodes": 2, "seeds": 2, "vector": "tensor", "compile": "off", "checkpoint_every": 128}


def begun(path: Path, **changes: Any) -> RunFolder:
    settings = {**DQN, **changes}
    experiment = settings.pop("experiment")
    return begin(train_request("dqn", "CartPole-v1", (), (), experiment, settings), path)


def test_no_jobs_at_once_are_refused() -> None:
    with pytest.raises(rlab.UsageError, match="jobs 0 must be 1 or more"):
        job_engine("local", 0)


def test_a_process_that_died_is_not_waited_for_because_of_what_it_had_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it starts holds on to its standard error, as workers of envs do.
    started = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    monkeypatch.setattr(process, "_RUN", f"{started}; sys.exit(1)")
    monkeypatch.setattr(process, "PATIENCE", 0.1)
    began = time.monotonic()
    dead = process.ResumeProcess(tmp_path, ())
    while (look := dead.look()).code is None:
        time.sleep(0.05)
    dead.end()
    assert look.code == 1
    assert time.monotonic() - began < 30.0


def test_a_run_that_is_killed_is_run_again_to_the_same_bytes(tmp_path: Path) -> None:
    alone = rlab.train("dqn", "CartPole-v1", out=tmp_path / "alone", **DQN)
    job = Job(begun(tmp_path / "a"), "a")
    events: list[Event] = []

    def hear(event: Event) -> None:
        events.append(event)
        killed = any(each.kind == "again" for each in events)
        if event.kind == "metrics" and event.row["env_steps"] == 256 and not killed:
            (child,) = children_of(job)
            os.kill(child, signal.SIGKILL)

    with closing(job_engine("local", 1)) as engine:
        (ended,) = engine.run([job], hear, threading.Event())
    assert (ended.status, ended.error) == ("done", None)
    assert [each.text for each in events if each.kind == "said"] == []  # neither bars nor reports
    assert [each.text for each in events if each.kind == "again"] == [
        "its process was killed (SIGKILL; is there enough memory?)"
    ]
    assert [each.row["env_steps"] for each in events if each.kind == "metrics"] == list(range(64, 513, 64))
    (weights,) = (alone.path / "policy").glob("*.safetensors")
    for name in ("metrics.jsonl", "eval.jsonl", f"policy/{weights.name}"):
        assert (tmp_path / "a" / name).read_bytes() == (alone.path / name).read_bytes()
    found = rlab.Run.open(tmp_path / "a")
    assert found.status == "finished"
    np.testing.assert_array_equal(found.evaluation.returns, alone.evaluation.returns)


def test_a_process_whose_parent_is_gone_saves_and_ends(tmp_path: Path) -> None:
    """So that nobody waits for the folder of a run that nobody waits for."""
    folder = begun(tmp_path / "run", env_steps=10**7)
    code = (
        "import os, sys, time; from pathlib import Path; from rlab.engines.process import ResumeProcess\n"
        "process = ResumeProcess(Path(sys.argv[1]), ())\n"
        "while not process.look().rows: time.sleep(0.05)\n"
        "print(process._process.pid, flush=True); os._exit(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, env=surroundings(), check=False
    )
    wait_for(int(done.stdout))
    assert rlab.Run.open(folder.path).status == "stopped"
    assert rlab.Run.open(folder.path).time > 0


def children_of(job: Job) -> list[int]:
    """The processes that were started for a job."""
    path = str(job.folder.path).encode()
    numbers = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [n for n in numbers if path in command_of(n).split(b"\0")]


def command_of(number: int) -> bytes:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(process: int) -> None:
    while Path(f"/proc/{process}").exists() and b"resume" in command_of(process):
        threading.Event().wait(0.05)


def surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
