"""Runs that go on: with more budget, judged in another way, and reported as JSON."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rlab
from rlab import api
from rlab.cli.main import main
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.jobs.request import train_request
from rlab.jobs.verify import StopsAt
from rlab.machine import computed_with
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk")
DQN: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "batch_size": 8, "replay_capacity": 256}
DQN |= {"learning_starts": 64, "learn_every": 8, "updates_per_learn": 1, "log_every": 64, "eval_every": 128}
DQN |= {"eval_episodes": 1, "final_eval_episodes": 2, "max_episode_steps": 30, "env_steps": 256}
DQN |= {"epsilon_fraction": 1.0}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of 256 env steps that was given 256 more."""
    out = tmp_path_factory.mktemp("extended") / "run"
    first = rlab.train("dqn", "CartPole-v1", out=out, **DQN)
    state = load_checkpoint(RunFolder.open(out))[0]["loop"]
    second = rlab.resume(out, env_steps=512)
    return SimpleNamespace(out=out, first=first, second=second, before=state)


def test_a_finished_run_goes_on_with_the_same_clock_optimizer_and_replay(
    extended: SimpleNamespace, road: SimpleNamespace
) -> None:
    state, chunks = load_checkpoint(RunFolder.open(extended.out))
    loop, before = state["loop"], extended.before
    assert (before["env_steps"], loop["env_steps"]) == (256, 512)
    # one update at each multiple of 8 from env step 64 on, as if it had been asked for 512 at once
    assert (before["updates"], loop["updates"]) == (25, 57)
    assert loop["agent"]["optimizer"]["state"][0]["step"].max() == 57
    assert sum(chunk.arrays()["valid"].shape[2] for chunk in chunks) == 64  # rows of 4 envs: 256 of both parts
    assert [row["env_steps"] for row in road.rows(extended.out)] == list(range(64, 513, 64))


def test_a_checkpoint_of_an_older_version_ends_in_one_line(extended: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(extended.out, out := tmp_path / "run")
    folder = RunFolder.open(out)
    for commit in folder.checkpoint.glob("checkpoint-*"):
        commit.rename(folder.checkpoint / "checkpoint.json")
    with pytest.raises(RlabError, match=r"run was written by an older version of rlab") as caught:
        rlab.resume(out, env_steps=1024)
    assert "\n" not in str(caught.value)


def test_its_evaluations_are_those_of_its_new_end(extended: SimpleNamespace, road: SimpleNamespace) -> None:
    rows = road.rows(extended.out, "eval")
    assert [(row["env_steps"], row.get("final", False)) for row in rows] == [
        *((128, False), (256, False), (384, False), (512, False), (512, True))
    ]
    assert extended.second.finished
    assert extended.second.time == 512
    assert json.loads((extended.out / "result.json").read_text())["resumed_at"] == []  # exactly


def test_exploration_follows_the_new_budget_from_where_the_clock_is(
    extended: SimpleNamespace, road: SimpleNamespace
) -> None:
    """Epsilon falls from 1 to 0.05 over the whole budget: it had got there at 256, and at 320 of 512 it is back at
    1 - 0.95 x 320 / 512."""
    epsilon = {row["env_steps"]: row["explore/epsilon"] for row in road.rows(extended.out)}
    assert [epsilon[t] for t in (128, 256, 320, 512)] == pytest.approx([0.525, 0.05, 0.40625, 0.05])


def test_the_config_says_what_was_changed_when_and_from_what(extended: SimpleNamespace) -> None:
    config = RunFolder.open(extended.out).config
    assert (config["run"]["env_steps"], config["origins"]["env_steps"]) == (512, "resume")
    (event,) = config["history"]
    assert (event["env_steps"], event["before"], event["after"]) == (256, {"env_steps": 256}, {"env_steps": 512})
    assert event["iqm"] == extended.first.evaluation.iqm


def test_less_than_it_has_had_or_what_cannot_change_is_one_line(
    extended: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(extended.out), "--env-steps", "400"]) == 2
    said = f"rlab: --env-steps 400 is below the 512 env steps that {extended.out} has been trained for.\n"
    assert capsys.readouterr().err == said
    assert main(["resume", str(extended.out), "--updates", "400"]) == 2
    assert "--updates" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"gamma \(--gamma\) cannot change when a run goes on"):
        api.resume(extended.out, gamma=0.5)


def test_resume_of_a_finished_run_prints_one_object(
    extended: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(extended.out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["run"], shown["status"], shown["clock"]) == (str(extended.out), "finished", {"env_steps": 512})
    assert shown["iqm"] == extended.second.evaluation.iqm


def test_a_run_without_a_final_evaluation_prints_one_object_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], road: SimpleNamespace
) -> None:
    flags = road.flags(**{**DQN, "env_steps": 32, "final_eval_episodes": 0, "eval_every": 0})
    # 32 env steps are fewer than the 64 that learning starts at
    with pytest.warns(RlabWarning, match="nothing was learned, not one update was made: learning_starts is beyond"):
        assert main(["train", "dqn", "CartPole-v1", "--json", "--out", str(tmp_path / "run"), *flags]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown) == {
        "format": 1,
        "run": str(tmp_path / "run"),
        "policy": str(tmp_path / "run"),
        "agent": "dqn",
        "env_id": "CartPole-v1",
        "status": "finished",
        "clock": {"env_steps": 32},
        "evaluation": None,
    }
    assert main(["resume", str(tmp_path / "run"), "--json", "--final-eval-episodes", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2  # judged at last


def computed_elsewhere(run: Path) -> None:
    """Make the folder of a run one that was computed with another torch."""
    folder = RunFolder.open(run)
    folder.changed({**folder.config, "computed_with": {**folder.config["computed_with"], "torch": "2.0.0"}})


def test_other_versions_than_before_are_named_and_need_to_be_allowed(
    extended: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(extended.out, out := tmp_path / "run")
    computed_elsewhere(out)
    assert main(["resume", str(out)]) == 0  # it is finished: nothing is computed
    capsys.readouterr()
    assert main(["resume", str(out), "--env-steps", "640"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"was computed with torch 2.0.0 (now {torch.__version__.partition('+')[0]}" in said
    assert said.endswith(f"rlab resume {out} --allow-version-change")
    assert main(["resume", str(out), "--env-steps", "640", "--allow-version-change"]) == 0
    assert json.loads((out / "result.json").read_text())["resumed_at"] == [512]
    config = json.loads((out / "config.json").read_text())
    assert config["computed_with"] == computed_with("cpu")
    assert config["history"][-1]["before"] == {"env_steps": 512, "torch": "2.0.0"}


def test_a_run_of_which_nothing_was_saved_starts_anew_with_other_versions(tmp_path: Path) -> None:
    request = train_request("dqn", "CartPole-v1", (), (), "none", {"env_steps": 64, "final_eval_episodes": 1})
    RunFolder.create(tmp_path / "run", request.to_json())
    computed_elsewhere(tmp_path / "run")
    assert rlab.resume(tmp_path / "run").finished
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["computed_with"] == computed_with("cpu")


def test_a_budget_that_is_repeated_word_for_word_is_not_below_what_whole_steps_made_of_it(tmp_path: Path) -> None:
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **{**DQN, "env_steps": 254})
    assert run.time == 256  # whole steps of 4 envs
    assert rlab.resume(run, env_steps=254).time == 256


def test_a_run_whose_checkpoints_are_all_damaged_stays_as_it_is_when_it_is_asked_to_go_on(
    extended: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.copytree(extended.out, out := tmp_path / "run")
    for commit in (out / "checkpoint").glob("checkpoint-*.json"):
        commit.write_bytes(b"")
    before = {path: path.read_bytes() for path in out.glob("*.json")}
    with pytest.raises(RlabError):
        rlab.resume(out, env_steps=1024)
    assert {path: path.read_bytes() for path in out.glob("*.json")} == before
    assert rlab.Run.open(out).finished


def test_ctrl_c_during_a_verification_ends_it_without_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pressed(StopsAt):
        def wants_stop_at(self, time: int) -> bool:
            signal.raise_signal(signal.SIGINT)
            return True

    monkeypatch.setattr("rlab.jobs.verify.StopsAt", Pressed)
    words = ["--env-steps", "64", "--final-eval-episodes", "1", "--eval-every", "0"]
    assert main(["resume", "--verify", "reinforce", "CartPole-v1", *words]) == 130
    assert "exact" not in capsys.readouterr().out
    assert main(["resume", "--verify", "runs/a"]) == 2
    assert "rlab resume --verify AGENT ENV" in capsys.readouterr().err
