"""The main job in small: CartPole is learned, and a pendulum; runs can be interrupted, gone on with, and are judged."""

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
from rlab.cli.train import read_request
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.experience.border import HostEnv
from rlab.jobs.request import train_request
from rlab.jobs.session import Outcome, Session
from rlab.learning.contract import Batch
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder
from rlab.types import Clock

ROOT = Path(rlab.__file__).parent.parent
# Few updates: these runs are not meant to learn.
QUICK = {"learn_every": 64, "updates_per_learn": 1, "batch_size": 16, "eval_every": 10**6, "eval_episodes": 1}


@pytest.mark.prove  # 9 s; every day it learns a probe world
def test_double_dqn_learns_cartpole_in_every_seed_with_the_shipped_settings(tmp_path: Path) -> None:
    budget = {"seeds": 3, "env_steps": 30_000, "eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 20}
    run = rlab.train("double_dqn", "CartPole-v1", out=tmp_path / "run", **budget)
    assert run.evaluation is not None
    assert (run.evaluation.returns.mean(axis=1) > 195.0).all()  # the worst of 20 seeds had 372, a random policy has 22


# Plain defaults and a short budget; the worst of 20 seeds had 269, 155 and 171, a random policy about 22. Every day a2c
# learns a probe world.
LEARNS = [
    ("ppo", 20_000, {}, 195.0),
    pytest.param("a2c", 30_000, {"entropy_weight": 0.01}, 100.0, marks=pytest.mark.prove),
    ("reinforce", 20_000, {}, 100.0),
]


@pytest.mark.parametrize(("agent", "env_steps", "settings", "more_than"), LEARNS)
def test_every_policy_gradient_agent_learns_cartpole_in_every_seed(
    tmp_path: Path, agent: str, env_steps: int, settings: dict[str, float], more_than: float
) -> None:
    budget = {"seeds": 3, "env_steps": env_steps, "eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 20}
    run = rlab.train(agent, "CartPole-v1", experiment="none", out=tmp_path / "run", **budget, **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns.mean(axis=1) > more_than).all()


@pytest.mark.prove  # 13 s; that Gaussian policies learn is shown in seconds by the probe worlds
def test_ppo_swings_the_pendulum_up_in_every_seed(tmp_path: Path) -> None:
    budget = {"seeds": 2, "env_steps": 40_000, "eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 20}
    scaled = {"obs_scaling": "fixed", "reward_scaling": "running", "gamma": 0.9}
    quick = {"learning_rate": 5e-3, "rollout_steps": 64}
    run = rlab.train("ppo", "Pendulum-v1", experiment="none", out=tmp_path / "run", **budget, **scaled, **quick)
    assert run.evaluation is not None
    # a random policy has about -1200; the worst of ten seeds had -414
    assert (run.evaluation.returns.mean(axis=1) > -700.0).all()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "rlab", *words]


def wait_for_rows(path: Path, process: "subprocess.Popen[str]") -> None:
    """Until the run has written its first row of metrics."""
    give_up = time.monotonic() + 600.0  # on a busy machine too
    while time.monotonic() < give_up:
        if path.is_file() and len(path.read_text().splitlines()) > 1:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the run wrote nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.prove)])
def test_an_interrupted_process_saves_says_how_to_resume_and_is_finished_by_it(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    words = ["train", "dqn", "CartPole-v1", "--env-steps=12000", "--log-every=500", "--final-eval-episodes=3"]
    words += ["--experiment=none", f"--out={out}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    wait_for_rows(out / "metrics.jsonl", process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr  # stopped is not done
    assert f"rlab resume {out}" in stdout
    assert "Traceback" not in stderr
    stopped_at = load_checkpoint(RunFolder.open(out))[0]["loop"]["env_steps"]
    assert 500 <= stopped_at < 12_000
    assert not (out / "result.json").exists()
    assert rlab.load(out)(np.zeros(4, np.float32)) in (0, 1)  # what there is can be used

    assert main(["resume", str(out)]) == 0
    loop = load_checkpoint(RunFolder.open(out))[0]["loop"]
    assert loop["env_steps"] == 12_000
    assert loop["updates"] == 12_000 // 64 - 499 // 64  # as if it had never been stopped
    assert (out / "result.json").is_file()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[1:]]
    # the first counts from 8 to 12 000 that pass a multiple of 500, none twice
    assert [row["env_steps"] for row in rows] == [-(-t // 8) * 8 for t in range(500, 12_001, 500)]

    capsys.readouterr()
    assert main(["resume", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: finished, after 12,000 env steps; --env-steps N, with N above")


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
    request = train_request("dqn", "CartPole-v1", (), (), "none", settings)
    folder = RunFolder.create(out, request.to_json())
    assert Session(request).train(folder, [InterruptAt(2000)]) == Outcome(False, 2000, None, interrupted=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # put back
    state, chunks = load_checkpoint(folder)
    assert state["loop"]["env_steps"] == 2000
    assert sum(chunk.arrays()["valid"].shape[2] for chunk in chunks) == 250  # rows of 8 envs
    stopped = rlab.load(out, 1).state_dict()

    run = api.resume(out)
    assert run.finished
    assert run.evaluation is not None
    assert json.loads((out / "result.json").read_text())["resumed_at"] == []  # it went on exactly
    assert run.evaluation.returns.shape == (2, 3)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[1:]]
    assert [row["env_steps"] for row in rows] == list(range(400, 4001, 400))
    # one at each multiple of 64 from env step 500 on, as if it had never been stopped
    assert [row["train/updates"] for row in rows] == [max(0, t // 64 - 7) for t in range(400, 4001, 400)]
    finished = rlab.load(out, 1).state_dict()
    assert any(not torch.equal(stopped[name], finished[name]) for name in stopped)
    again = api.resume(out)  # nothing is left to do
    assert again.finished
    assert again.evaluation is not None
    assert run.evaluation is not None
    assert again.evaluation.returns.tolist() == run.evaluation.returns.tolist()


# 8 envs x 20 vector steps make a rollout of 160 env steps, and 6 updates.
ROLLOUTS = {"rollout_steps": 20, "hidden": (16,), "obs_scaling": "running", "reward_scaling": "running"}
OF_PPO = {**ROLLOUTS, "epochs": 2, "minibatches": 3}
TWO_MEMBERS = {"seeds": 2, "env_steps": 2400, "log_every": 80, "eval_every": 10**6, "eval_episodes": 1}


def stopped(agent: str, env_id: str, out: Path, at: int, **settings: Any) -> tuple[Session, RunFolder]:
    """A run that somebody stopped at `at` env steps."""
    request = train_request(agent, env_id, (), (), "none", {"final_eval_episodes": 3, **settings})
    folder = RunFolder.create(out, request.to_json())
    session = Session(request)
    assert session.train(folder, [InterruptAt(at)]) == Outcome(False, at, None, interrupted=True)
    return session, folder


def test_ppo_that_was_stopped_in_mid_rollout_goes_on_with_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _, folder = stopped("ppo", "CartPole-v1", out, 1040, **TWO_MEMBERS, **OF_PPO)
    state, chunks = load_checkpoint(folder)
    assert (state["loop"]["env_steps"], state["loop"]["updates"]) == (1040, 6 * 6)  # half of the 7th is collected
    assert sum(chunk.arrays()["valid"].shape[2] for chunk in chunks) == 20
    before = rlab.load(out, 1).state_dict()

    run = api.resume(out)
    assert run.finished
    assert json.loads((out / "result.json").read_text())["resumed_at"] == []  # it went on exactly
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[1:]]
    assert [row["env_steps"] for row in rows] == list(range(80, 2401, 80))
    # all updates of a rollout come at its end, as if the run had never been stopped
    assert [row["train/updates"] for row in rows] == [t // 160 * 6 for t in range(80, 2401, 80)]
    assert ["loss/policy" in row for row in rows] == [t % 160 == 0 for t in range(80, 2401, 80)]
    for row in rows:  # reset rows are no transitions; at a stop and at the end up to 8 envs wait for theirs
        for transitions, episodes in zip(row["train/transitions"], row["train/episodes"], strict=True):
            assert episodes - 16 <= row["env_steps"] - transitions <= episodes
    after, loop = rlab.load(out, 1).state_dict(), load_checkpoint(folder)[0]["loop"]
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert loop["agent"]["noise"]["draw"] == 300  # vector steps
    # every transition of both parts counts once
    assert loop["agent"]["rewards"]["count"].tolist() == loop["collector"]["transitions"].tolist()
    assert loop["agent"]["policy"]["preprocess.count"].tolist() == loop["collector"]["transitions"].tolist()


@pytest.mark.parametrize("name", ["a2c", "ppo", "reinforce"])
def test_an_agent_from_a_checkpoint_goes_on_with_the_same_bits(tmp_path: Path, name: str) -> None:
    settings = {**TWO_MEMBERS, **(OF_PPO if name == "ppo" else ROLLOUTS)}
    session, folder = stopped(name, "CartPole-v1", tmp_path / "run", 1040, **settings)
    fresh = Session(session.request)
    fresh.env.close()
    kept, again = session.agent, fresh.agent
    again.load_state(load_checkpoint(folder)[0]["loop"]["agent"])
    rng, now = np.random.default_rng(0), kept.scheduled(Clock(1200, 2400))
    for obs in torch.from_numpy(rng.normal(size=(300, 2, 8, 4)).astype(np.float32)):  # more than one block of noise
        assert torch.equal(kept.act(obs, now, {}).action, again.act(obs, now, {}).action)
    for agent in (kept, again):
        rows = agent.prepare(session.loop.sampler.sample(0))
        for _ in range(agent.config.epochs * agent.config.minibatches):
            agent.update(rows, now)
    assert torch.equal(kept.optimizer.flat, again.optimizer.flat)
    one, other = kept.optimizer.state()["state"][0], again.optimizer.state()["state"][0]
    assert all(torch.equal(one[moment], other[moment]) for moment in ("step", "exp_avg", "exp_avg_sq"))
    for (key, value), loaded in zip(
        kept.policy().state_dict().items(), again.policy().state_dict().values(), strict=True
    ):
        assert torch.equal(value, loaded), key
    rewards, loaded_rewards = kept.state()["rewards"], again.state()["rewards"]
    assert all(torch.equal(rewards[key], loaded_rewards[key]) for key in rewards)


def test_reinforce_without_a_baseline_leaves_out_the_episodes_that_a_stop_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Episodes of two steps; after 9 vector steps every env is in mid-episode.
    settings = {"seeds": 2, "env_steps": 800, "log_every": 8, "eval_every": 10**6, "eval_episodes": 1}
    learning = {"baseline": False, "rollout_steps": 20, "hidden": (16,)}
    session, folder = stopped("reinforce", "rlab/ProbeCredit-v0", tmp_path / "run", 72, **settings, **learning)
    again = Session(session.request)
    counted: list[torch.Tensor] = []  # which rows [S, N, T] of each rollout were learned from
    weight = again.agent.weight

    def noted(batch: Batch) -> torch.Tensor:
        counted.append(weight(batch))
        return counted[-1]

    monkeypatch.setattr(again.agent, "weight", noted)
    load = HostEnv.load_state
    monkeypatch.setattr(HostEnv, "load_state", lambda env, state: load(env, state) or "it forgets")
    again.restore(folder)
    with pytest.warns(RlabWarning, match="goes on with fresh episodes"):
        assert again.train(folder).finished
    left_out = [(~rows).all(dim=(0, 1)).nonzero().flatten().tolist() for rows in counted]
    # the cut step, and the first step of an episode whose second one is in the next rollout
    assert left_out == [[8, 19], [19], [19], [19], [19]]
    assert all(rows.sum().item() == 2 * 8 * (20 - len(cut)) for rows, cut in zip(counted, left_out, strict=True))
    loop = load_checkpoint(folder)[0]["loop"]
    assert (loop["env_steps"], loop["updates"]) == (800, 5)
    # 9 vector steps hold 4 episodes of each env, the 91 that followed 45; what was cut is no episode
    assert loop["collector"]["episodes"].tolist() == [8 * (4 + 45)] * 2
    assert loop["collector"]["transitions"].tolist() == [800, 800]


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
    with pytest.raises(UsageError, match="no member with training seed 9; this policy has training seeds 7, 8"):
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
    assert api.resume(run.path) == run


def test_a_run_that_lost_its_checkpoint_is_not_begun_anew_over_what_it_has(tmp_path: Path) -> None:
    settings = {**QUICK, "env_steps": 800}
    out = tmp_path / "run"
    folder = RunFolder.create(out, train_request("dqn", "CartPole-v1", (), (), "none", settings).to_json())
    request = train_request("dqn", "CartPole-v1", (), (), "none", {**settings, "log_every": 100})
    assert not Session(request).train(folder, [InterruptAt(400)]).finished
    shutil.rmtree(out / "checkpoint")
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(RlabError, match="has lost its checkpoint"):
        api.resume(out)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    request = train_request("dqn", "CartPole-v1", (), (), "none", {**QUICK, "env_steps": 200})
    folder = RunFolder.create(tmp_path / "run", request.to_json())
    with folder.held(), pytest.raises(RlabError, match="another process is writing"):
        api.resume(folder.path)


def test_tuned_settings_are_for_the_env_as_it_is() -> None:
    reward = ["--env-kwargs", "sutton_barto_reward=true"]
    tuned, _ = read_request("dqn", "CartPole-v1", [])
    changed, _ = read_request("dqn", "CartPole-v1", ["--wrapper", "TimeAwareObservation"])
    asked, _ = read_request("dqn", "CartPole-v1", [*reward, "--experiment", "dqn-CartPole-v1"])
    assert (tuned.settings.n_step, changed.settings.n_step, asked.settings.n_step) == (5, 1, 5)
