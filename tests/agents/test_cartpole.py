"""The main job in small: CartPole is learned, can be interrupted, gone on with, and is judged at the end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab import api
from rlab.cli.main import main
from rlab.cli.request import request_from_keywords
from rlab.cli.session import Outcome, Session
from rlab.cli.train import read_request
from rlab.envs import EnvSpec
from rlab.errors import RlabError, UsageError
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

ROOT = Path(rlab.__file__).parent.parent
# Few updates: these runs are not meant to learn.
QUICK = {"learn_every": 64, "updates_per_learn": 1, "batch_size": 16, "eval_every": 10**6, "eval_episodes": 1}


def test_double_dqn_learns_cartpole_in_every_seed_with_the_shipped_settings(tmp_path: Path) -> None:
    budget = {"seeds": 3, "env_steps": 30_000, "eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 20}
    run = rlab.train("double_dqn", "CartPole-v1", out=tmp_path / "run", **budget)
    assert run.evaluation is not None
    assert (run.evaluation.returns.mean(axis=1) > 195.0).all()  # CartPole-v0's threshold; a random policy has about 22


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "rlab", *words]


def wait_for_rows(path: Path, process: "subprocess.Popen[str]") -> None:
    """Until the run has written its first row of metrics."""
    give_up = time.monotonic() + 60.0
    while time.monotonic() < give_up:
        if path.is_file() and len(path.read_text().splitlines()) > 1:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the run wrote nothing")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_saves_says_how_to_resume_and_is_finished_by_it(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    words = ["train", "dqn", "CartPole-v1", "--env-steps=40000", "--log-every=500", "--final-eval-episodes=3"]
    words += ["--experiment=none", f"--out={out}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    wait_for_rows(out / "metrics.jsonl", process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr  # stopped is not done
    assert f"rlab resume {out}" in stdout
    assert "Traceback" not in stderr
    stopped_at = load_checkpoint(RunFolder.open(out))[0]["loop"]["env_steps"]
    assert 500 <= stopped_at < 40_000
    assert not (out / "result.json").exists()
    assert rlab.load(out)(np.zeros(4, np.float32)) in (0, 1)  # what there is can be used

    assert main(["resume", str(out)]) == 0
    loop = load_checkpoint(RunFolder.open(out))[0]["loop"]
    assert loop["env_steps"] == 40_000
    assert loop["updates"] == 40_000 // 64 - 499 // 64  # as if it had never been stopped
    assert (out / "result.json").is_file()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[1:]]
    # the first counts from 8 to 40 000 that pass a multiple of 500, none twice
    assert [row["env_steps"] for row in rows] == [-(-t // 8) * 8 for t in range(500, 40_001, 500)]

    capsys.readouterr()
    assert main(["resume", str(out)]) == 2
    assert capsys.readouterr().err == f"rlab: {out} is finished; rlab eval {out} judges it.\n"


class InterruptAt:
    """A listener that presses Ctrl+C at the first report from `env_steps` on."""

    def __init__(self, env_steps: int) -> None:
        self.env_steps = env_steps

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        if env_steps >= self.env_steps:
            signal.raise_signal(signal.SIGINT)

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None: ...

    def on_save(self, env_steps: int) -> None: ...


def test_resume_goes_on_with_replay_counters_and_logs(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {**QUICK, "seeds": 2, "env_steps": 4000, "log_every": 400, "final_eval_episodes": 3}
    request = request_from_keywords("dqn", EnvSpec.parse("CartPole-v1"), "none", settings)
    folder = RunFolder.create(out, request.to_json())
    assert Session(request).train(folder, [InterruptAt(2000)]) == Outcome(False, 2000, None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # put back
    state, chunks = load_checkpoint(folder)
    assert state["loop"]["env_steps"] == 2000
    assert sum(chunk.arrays()["valid"].shape[2] for chunk in chunks) == 250  # rows of 8 envs
    stopped = rlab.load(out, 1).state_dict()

    run = api.resume(out)
    assert run.finished
    assert run.evaluation is not None
    assert json.loads((out / "result.json").read_text())["resumed_at"] == [2000]
    assert run.evaluation.returns.shape == (2, 3)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[1:]]
    assert [row["env_steps"] for row in rows] == list(range(400, 4001, 400))
    # one at each multiple of 64 from env step 500 on, as if it had never been stopped
    assert [row["train/updates"] for row in rows] == [max(0, t // 64 - 7) for t in range(400, 4001, 400)]
    finished = rlab.load(out, 1).state_dict()
    assert any(not torch.equal(stopped[name], finished[name]) for name in stopped)
    assert load_checkpoint(folder)[0]["loop"]["collector"]["env"]["restart"] == 1  # fresh episodes, other seeds
    with pytest.raises(UsageError, match="is finished"):
        api.resume(out)


def test_a_run_from_python_gives_its_evaluation_report_and_policies(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = rlab.train("dqn", "CartPole-v1", env_steps=600, seed=7, seeds=2, final_eval_episodes=4, out=out, **QUICK)
    assert run.path == out
    assert run.evaluation is not None
    assert run.evaluation.returns.shape == (2, 4)
    assert str(out) in run.report()
    assert run.policy().seed == 7
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for policy in (run.policy(8), rlab.load(out, seed=8), rlab.load(out / "policy", seed=8)):
        actions = policy(obs)
        assert actions.shape == (5,)
        assert actions.tolist() == [int(policy(row)) for row in obs]
        assert torch.equal(policy(torch.from_numpy(obs)), torch.from_numpy(actions))
    with pytest.raises(UsageError, match="no member with training seed 9; there are 7, 8"):
        rlab.load(out, seed=9)


def test_a_run_in_a_thread_needs_no_signals(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        settings = {"env_steps": 600, "final_eval_episodes": 1, **QUICK}
        run = pool.submit(rlab.train, "dqn", "CartPole-v1", out=tmp_path / "run", **settings).result()
    assert run.evaluation is not None


def test_a_finished_run_without_a_final_evaluation_is_known_to_be_finished(tmp_path: Path) -> None:
    settings = {**QUICK, "env_steps": 200, "final_eval_episodes": 0}
    run = rlab.train("dqn", "CartPole-v1", experiment="none", out=tmp_path / "run", **settings)
    assert run.finished
    assert run.evaluation is None
    assert run.report().startswith("finished, not judged")
    with pytest.raises(UsageError, match="is finished"):
        api.resume(run.path)


def test_a_run_that_lost_its_checkpoint_is_not_begun_anew_over_what_it_has(tmp_path: Path) -> None:
    settings = {**QUICK, "env_steps": 800}
    out = tmp_path / "run"
    folder = RunFolder.create(
        out, request_from_keywords("dqn", EnvSpec.parse("CartPole-v1"), "none", settings).to_json()
    )
    request = request_from_keywords("dqn", EnvSpec.parse("CartPole-v1"), "none", {**settings, "log_every": 100})
    assert not Session(request).train(folder, [InterruptAt(400)]).finished
    shutil.rmtree(out / "checkpoint")
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(RlabError, match="has lost its checkpoint"):
        api.resume(out)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    request = request_from_keywords("dqn", EnvSpec.parse("CartPole-v1"), "none", {**QUICK, "env_steps": 200})
    folder = RunFolder.create(tmp_path / "run", request.to_json())
    with folder.held(), pytest.raises(RlabError, match="another process is writing"):
        api.resume(folder.path)


def test_tuned_settings_are_for_the_env_as_it_is() -> None:
    reward = ["--env-kwargs", "sutton_barto_reward=true"]
    tuned, _ = read_request("dqn", "CartPole-v1", [])
    changed, _ = read_request("dqn", "CartPole-v1", ["--wrapper", "TimeAwareObservation"])
    asked, _ = read_request("dqn", "CartPole-v1", [*reward, "--experiment", "dqn-CartPole-v1"])
    assert (tuned.settings.n_step, changed.settings.n_step, asked.settings.n_step) == (5, 1, 5)
