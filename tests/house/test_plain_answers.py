"""What a first user met: runs that only Python goes on with, seeds that were seen, errors as JSON, lists and words."""

import json
import os
import signal
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.jobs.foreign_code import resume_command
from rlab.jobs.judging import warn_if_seen
from rlab.jobs.outcome import recorded_status
from rlab.networks.own import plain_name
from rlab.runs.config import RunConfig, SourceConfig
from rlab.runs.files import free_path
from rlab.runs.folder import RunFolder
from rlab.runs.listing import list_runs

pytestmark = pytest.mark.usefixtures("quick_disk")
PPO: dict[str, Any] = {"experiment": "none", "num_envs": 8, "rollout_steps": 4, "hidden": (4,), "eval_every": 0}
PPO |= {"log_every": 16, "checkpoint_every": 16, "env_steps": 64, "final_eval_episodes": 2, "minibatches": 1}


class CtrlCAt:
    def __init__(self, time: int) -> None:
        self.time = time

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        if env_steps == self.time:
            signal.raise_signal(signal.SIGINT)


class Grid(gym.Env[np.ndarray, np.int64]):
    """Three steps an episode."""

    observation_space = gym.spaces.Box(0.0, 3.0, (1,), np.float32)
    action_space: gym.spaces.Space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.full(1, self.steps, np.float32), 1.0, self.steps == 3, False, {}


Grid.__module__ = "__main__"  # as of a script, so that no other process finds it


def test_a_run_in_a_scripts_own_env_says_how_python_goes_on_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, call = tmp_path / "run", f"rlab.resume('{tmp_path / 'run'}', env=Grid)"
    with pytest.raises(KeyboardInterrupt, match=r"stopped at 16 env steps and saved; go on with: rlab.resume\('"):
        rlab.train("ppo", Grid, out=out, listeners=[CtrlCAt(16)], **PPO)
    opened = rlab.Run.open(out)
    assert (opened.status, opened.interrupted, opened.finished, opened.trainable) == ("stopped", True, False, 1.0)
    assert opened.report().startswith(f"stopped at 16 env steps and saved; go on with: {call}\n")
    assert main(["resume", str(out)]) == 2
    shown, said = capsys.readouterr()
    assert (shown, said) == ("", f"rlab: {out} goes on from Python alone, with what made it: {call}\n")
    assert main(["list", "runs", "--root", str(tmp_path)]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "path"
    assert heading.split()[-1] == "reason"
    assert "  env known to the process that trained alone  " in row

    rlab.resume(opened, env=Grid, progress=True)
    assert f"{out}: goes on from its last save, at 16 env steps\n" in capsys.readouterr().out
    (out / "result.json").unlink()
    rlab.resume(out, env=Grid)  # judges it again
    result = json.loads((out / "result.json").read_text())
    assert result["resumed_at"] == []
    assert "env_steps" not in result
    assert result["evaluation_env_steps"] == 6  # two episodes of three


def test_how_to_go_on_is_spelled_for_whoever_can() -> None:
    def config(network: str | None = None, **env: Any) -> dict[str, Any]:
        spec = {"env_id": "CartPole-v1", "kwargs": {}, "wrappers": [], "max_episode_steps": None, **env}
        return {"agent": "ppo", "env": spec, "settings": {"network": network}}

    assert resume_command("a", config(), eval_every=0) == "rlab resume a --eval-every 0"
    assert resume_command("a", config(), eval_alone=True) == "rlab resume a --eval-alone"
    local = config(env_id="lambda-12ab", local=True)
    assert resume_command("a", local, eval_alone=True) == "rlab.resume('a', env=..., eval_alone=True)"
    assert resume_command("a", config("local:body-12ab")) == "rlab.resume('a', network=...)"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> rlab.Run:
    """A run in CartPole-v1, 10 env steps of 8 envs."""
    out = tmp_path_factory.mktemp("answers") / "run"
    return rlab.train("ppo", "CartPole-v1", out=out, **{**PPO, "env_steps": 10, "max_episode_steps": 9})


def test_the_header_and_a_list_count_the_steps_that_a_budget_comes_to(
    judged: rlab.Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    short = {**PPO, "env_steps": 1001, "log_every": 10**4, "checkpoint_every": 10**4, "rollout_steps": 64}
    rlab.train("ppo", "CartPole-v1", out=tmp_path / "run", progress=True, **{**short, "final_eval_episodes": 0})
    shown = capsys.readouterr().out
    assert "ppo on CartPole-v1: seed 0, 8 envs each, 1,008 env steps each (1,001 in whole steps of 8 envs), " in shown
    (row,) = list_runs(judged.path.parent)
    assert (row["env_steps"], row["total_env_steps"]) == (16, 16)  # 10 in steps of 8 envs
    with (judged.path / "metrics.jsonl").open("a") as log:
        log.write('{"env_steps": 24}\n')  # of a process that was killed before it saved
    assert list_runs(judged.path.parent)[0]["env_steps"] == 16
    with RunFolder.open(judged).held():
        assert list_runs(judged.path.parent)[0]["env_steps"] == 24


def test_episodes_that_a_policy_has_seen_are_told_of(judged: rlab.Run, tmp_path: Path) -> None:
    seen = (
        "episode seeds 500000 to 500009 are those of the evaluations during training, which chose best/ and may have "
        "steered your settings: returns on them are too good. Judge from 100000 on."
    )
    with pytest.warns(RlabWarning) as told:
        rlab.evaluate(judged, episodes=2, seed=499_999)
    assert [str(each.message) for each in told] == [seen]
    assert told[0].filename == __file__  # the line of the caller, not one of rlab's
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for first in (100_000, 499_998, 500_010, 200_000):  # which a policy that saw no demonstrations has not seen
            warn_if_seen(judged.path / "policy", first, 2)
    with pytest.warns(RlabWarning, match=r"^episode seeds from 200000 on are those that rlab collect records: a"):
        warn_if_seen(tmp_path, 200_000, 2)  # nobody knows what it learned from
    pytest.importorskip("minari")
    with pytest.warns(
        RlabWarning, match=r"^episode seeds 100000 to 199999 are those that rlab eval judges by: a policy"
    ):
        rlab.collect(judged, tmp_path / "data", episodes=1, seed=100_000)


def test_a_network_of_this_process_goes_by_the_name_of_its_function() -> None:
    assert plain_name("local:lambda-edb68c58") == "lambda"
    assert plain_name("my_nets:body") == "my_nets:body"
    with pytest.raises(UsageError, match=r"^the network's function 'lambda' failed: ZeroDivisionError"):
        rlab.train("ppo", "CartPole-v1", network=lambda shape: 1 / 0)


def test_the_help_of_train_names_every_setting_that_all_runs_have() -> None:
    said = rlab.train.__doc__ or ""
    for config in (RunConfig, SourceConfig):
        assert [each.name for each in fields(config) if f"`{each.name}`" not in said] == []


def test_an_error_with_json_is_one_object_too(judged: rlab.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "nowhere", "--json"]) == 2
    shown, said = capsys.readouterr()
    shows = "`rlab list runs` shows the runs that are here, `rlab list models` the published policies"
    error = f"nowhere is not a folder. {shows}"
    assert json.loads(shown) == {"format": 1, "error": error, "exit_code": 2}
    assert said == f"rlab: {error}\n"
    assert main(["eval", str(judged.path), "--episodes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["evaluation_env_steps"] >= 2, "env_steps" in found) == (1, True, False)


def test_eval_names_a_run_as_it_was_named(
    judged: rlab.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judged.path.parent)
    assert main(["eval", "run", "--episodes", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"ppo on CartPole-v1: run{os.sep}policy"


def test_what_cannot_change_when_a_run_goes_on_is_said(judged: rlab.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(judged.path), "--gamma", ".3"]) == 2
    fixed = "gamma (--gamma) cannot change when a run goes on: it is part of how it learns. rlab finetune RUN --gamma"
    assert capsys.readouterr().err.startswith(f"rlab: {fixed} ... begins a new run from its policy; rlab resume takes")
    with pytest.raises(UsageError) as caught:
        rlab.resume(judged, gamma=0.3)
    assert str(caught.value).startswith(fixed)
    with pytest.raises(UsageError, match="unknown setting of resume 'gammma'"):
        rlab.resume(judged, gammma=0.3)
    assert main(["resume", str(judged.path), "--gammma", ".3"]) == 2
    assert "unknown setting --gammma" in capsys.readouterr().err
    assert main(["resume", "--help"]) == 0
    page = capsys.readouterr().out
    assert all(flag in page for flag in ("--log ", "--log-episodes", "--film-every"))


def test_play_leaves_a_film_that_is_there(judged: rlab.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = tmp_path / "f.gif"
    film.write_bytes(b"mine")
    with pytest.raises(UsageError) as caught:
        rlab.play(judged, video=film)
    assert str(caught.value) == f"{film} exists; nothing was touched. Name a new file with --video."
    assert film.read_bytes() == b"mine"
    assert free_path(film) == tmp_path / "f-2.gif"
    (tmp_path / "f-2.gif").touch()
    assert free_path(film) == tmp_path / "f-3.gif"


def test_a_list_of_what_is_no_folder_and_trust_in_a_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo.py").touch()
    for root in ("zoo.py", "nope"):
        assert main(["list", "runs", "--root", root]) == 2
        assert capsys.readouterr().err == f"rlab: --root {root} is not a folder.\n"
    assert main(["list", "runs"]) == 0
    assert capsys.readouterr().out == "no runs here\n"
    assert main(["trust", "zoo.py"]) == 2
    named = "rlab trust: zoo.py is a file; the module in it is named without the ending: zoo"
    assert capsys.readouterr().err == f"rlab: {named}\n"
    assert not (tmp_path / ".rlab-trust").exists()


def test_the_reason_of_a_failure_is_kept_without_how_to_go_on(judged: rlab.Run) -> None:
    with pytest.raises(RlabError), recorded_status(RunFolder.open(judged)):
        raise RlabError("CartPole-v1 failed. The run is kept: rlab resume run") from RlabError("CartPole-v1 failed.")
    assert json.loads((judged.path / "status.json").read_text())["reason"] == "CartPole-v1 failed."


def test_a_tuned_run_remembers_the_share_that_learns(judged: rlab.Run, tmp_path: Path) -> None:
    settings = {name: value for name, value in PPO.items() if name != "hidden"} | {"env_steps": 16}
    tuned = rlab.finetune(judged, out=tmp_path / "tuned", strategy="head", **settings)
    assert 0.0 < tuned.trainable < 1.0
    assert rlab.Run.open(tuned).trainable == tuned.trainable
    assert np.isclose(rlab.Run.open(judged).trainable, 1.0)
