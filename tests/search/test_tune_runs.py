"""Searches that train: in this process, in processes, and killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.engines.choice import job_engine
from rlab.jobs.request import train_request
from rlab.search.executors import InProcesses, OneByOne, Result, Task
from rlab.search.space import changed

ENV = "rlab/ProbeAction-v0"  # episodes of one step: the right action returns 1
RUN = {"env_steps": 64, "num_envs": 2, "seeds": 2, "eval_every": 32, "eval_episodes": 2, "final_eval_episodes": 2}
SMALL: dict[str, Any] = RUN | {"trials": 3, "finalists": 1, "finalist_seeds": 2, "report_seeds": 3, "episodes": 4}
RANGES = {"only": True, "learning_rate": {"low": 0.01, "high": 0.1}, "rollout_steps": {"low": 4, "high": 8}}
# A process that searches with trials of about a second, until it is killed.
LONG = """
import rlab, sys
rlab.tune("reinforce", "rlab/ProbeAction-v0", out=sys.argv[1], ranges={ranges}, **{settings})
"""

pytest.importorskip("optuna")


def task(folder: Path, label: str = "trial 0", **values: Any) -> Task:
    settings = {
        name: value for name, value in SMALL.items() if name in ("env_steps", "num_envs", "seeds", "eval_every")
    }
    request = train_request("reinforce", ENV, (), (), "none", {**settings, "final_eval_episodes": 2, **values})
    return Task(label, changed(request, {"rollout_steps": 4}, label), folder)


def carried_out(executor: Any, tasks: list[Task], goes_on: bool = True) -> dict[str, Result]:
    found: dict[str, Result] = {}
    executor.run(
        iter(tasks), lambda task, when, returns: goes_on, lambda task, ended: found.update({task.label: ended})
    )
    return found


@pytest.mark.usefixtures("quick_disk")
def test_a_search_trains_judges_and_leaves_an_experiment_file_that_trains(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    tuned = rlab.tune("reinforce", ENV, out=folder, ranges=RANGES, **SMALL)
    assert [row["state"] for row in tuned.history()] == ["done"] * 3
    assert not list((folder / "trials").iterdir())
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["finalists", "trials", "winner"]
    reported = rlab.Run.open(folder / "winner")
    assert reported.evaluation is not None
    assert reported.evaluation.iqm == tuned.evaluation["iqm"]
    assert reported.config["origins"]["learning_rate"].endswith(" of study")  # trial 1, or another one
    again = rlab.train("reinforce", ENV, experiment=str(tuned.experiment), out=tmp_path / "again", seed=4, seeds=3)
    assert again.evaluation is not None
    np.testing.assert_array_equal(again.evaluation.per_seed_mean, reported.evaluation.per_seed_mean)


def test_processes_find_what_this_one_finds_and_stop_what_is_not_worth_it(tmp_path: Path) -> None:
    here = carried_out(OneByOne(), [task(tmp_path / "here")])["trial 0"]
    wrong = task(tmp_path / "wrong", "wrong", rollout_steps=1)
    wrong = Task("wrong", changed(wrong.request, {"rollout_steps": 1, "num_envs": 1}, "wrong"), wrong.folder)
    long = task(tmp_path / "long", "long", env_steps=100_000, eval_every=64)
    with closing(job_engine("local", 2)) as engine:
        there = carried_out(InProcesses(engine), [task(tmp_path / "there"), wrong])
        stopped = carried_out(InProcesses(engine), [long], goes_on=False)["long"]
    assert here.evaluation is not None
    assert there["trial 0"].evaluation is not None
    np.testing.assert_array_equal(here.evaluation.returns, there["trial 0"].evaluation.returns)
    assert there["wrong"].status == "failed"
    assert "normalising needs two rows" in str(there["wrong"].error)
    assert stopped.status == "stopped"
    assert stopped.curve is not None
    assert stopped.curve[0][-1] < 100_000


def test_a_listener_that_fails_ends_the_search_and_not_only_a_trial(tmp_path: Path) -> None:
    def fails(task: Task, when: int, returns: np.ndarray) -> bool:
        raise ConnectionError("the database is away")

    with pytest.raises(ConnectionError, match="is away"):
        OneByOne().run(iter([task(tmp_path / "run")]), fails, lambda task, ended: None)


def test_a_study_that_is_killed_loses_no_finished_trial_and_runs_the_others_again(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    settings = {**SMALL, "env_steps": 600, "eval_every": 300, "trials": 4, "method": "random"}
    words = LONG.format(ranges=RANGES, settings=settings)
    process = subprocess.Popen([sys.executable, "-c", words, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not (folder / "history.jsonl").exists() or len(ended(folder)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = ended(folder)
    tuned = rlab.tune("reinforce", ENV, out=folder, ranges=RANGES, **settings)
    after = {row["trial"]: row for row in tuned.history()}
    assert len(after) == 4
    assert all(after[number] == row for number, row in before.items())
    assert all(row["state"] == "done" for row in after.values())
    assert tuned.facts["status"] == "finished"


def ended(folder: Path) -> dict[int, dict[str, Any]]:
    lines = (folder / "history.jsonl").read_text().splitlines()[1:]
    return {row["trial"]: row for row in map(json.loads, lines) if row["state"] == "done"}


def test_the_command_line_shows_the_space_and_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "ppo", "CartPole-v1", "--space", "--gamma", "0.9"]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate" in shown
    assert "gamma" not in shown  # named, so fixed
    assert main(["tune", "dqn", "CartPole-v1", "--space", "--json"]) == 0
    space = json.loads(capsys.readouterr().out)["space"]
    assert space["batch_size"] == {
        "low": 16,
        "high": 512,
        "scale": "powers",
        "start": 64,
        "source": "rl-baselines3-zoo",
    }
    for words, why in (
        (["tune", "dqn"], "tune needs an agent and an env first"),
        (["tune", "dqn", "CartPole-v1", "--trials", "0"], "trials 0 must be 1 or more"),
        (["tune", "dqn", "CartPole-v1", "--ranges", "nowhere.toml"], "nowhere.toml"),
        (["tune", "dqn", "CartPole-v1", "--method", "tpa"], "tpa"),
        (["tune", "dqn", "CartPole-v1", "--vectorised", "4", "--log", "wandb"], "--log wandb shows runs, not trials"),
    ):
        assert main(words) == 2
        assert why in capsys.readouterr().err


@pytest.mark.usefixtures("quick_disk")
def test_the_command_line_gives_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ranges.toml"
    path.write_text("only = true\nlearning_rate = {low = 0.01, high = 0.1}\n")
    numbers = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["tune", "reinforce", ENV, "--ranges", str(path), "--out", str(tmp_path / "study"), "--json", *numbers]
    assert main(words) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts["winner"]["experiment"] == "reinforce-rlab-ProbeAction-v0.toml"
    assert "trial 0 (defaults)" in printed.err
