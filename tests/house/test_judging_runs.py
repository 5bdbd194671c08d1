"""Nothing that was trained is lost: judging in envs that are few, that fail, or that are interrupted."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab import api
from rlab.cli.main import main
from rlab.errors import RlabError, RlabWarning
from rlab.experience.border import HostEnv
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.listing import list_runs

pytestmark = pytest.mark.usefixtures("quick_disk", "registered_here")
SINGLE = "rlab-test/Single-v0"
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 1, "env_steps": 96, "rollout_steps": 16, "minibatches": 1}
SMALL |= {"epochs": 1, "eval_episodes": 2, "final_eval_episodes": 6, "hidden": (4,)}


class Single(gym.Env[np.ndarray, np.int64]):
    """Episodes of four steps that pay 1 each; no more than `most` instances live at once, as of a port in use."""

    observation_space = gym.spaces.Box(0.0, 4.0, (1,), np.float32)
    action_space: gym.spaces.Space = gym.spaces.Discrete(2)
    alive: ClassVar[int] = 0
    most: ClassVar[int] = 1
    made: ClassVar[int] = 0
    peak: ClassVar[int] = 0

    def __init__(self) -> None:
        if Single.alive >= Single.most:
            raise OSError("port in use")
        Single.alive, Single.made = Single.alive + 1, Single.made + 1
        Single.peak = max(Single.peak, Single.alive)
        self.t, self.open = 0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == 4, False, {}

    def close(self) -> None:
        if self.open:
            self.open, Single.alive = False, Single.alive - 1


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    gym.register(SINGLE, Single)
    Single.alive, Single.most, Single.made, Single.peak = 0, 1, 0, 0
    yield
    del gym.registry[SINGLE]
    assert Single.alive == 0  # whatever happened, nothing was left open


def env_steps_of(path: Path) -> int:
    return int(load_checkpoint(RunFolder.open(path))[0]["loop"]["env_steps"])


def evaluations(path: Path) -> list[tuple[int, bool]]:
    rows = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()[1:]]
    return [(row["env_steps"], row.get("final", False)) for row in rows]


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
@pytest.mark.parametrize(
    ("how", "judged"),
    [
        ({}, [(96, False), (96, True)]),  # the training envs are closed before the last judgements
        ({"eval_every": 0}, [(96, True)]),
        ({"eval_every": 32, "eval_alone": True}, [(32, False), (64, False), (96, False), (96, True)]),
    ],
)
def test_an_env_of_which_one_instance_may_live_is_trained_in_and_judged(
    tmp_path: Path, agent: str, how: dict[str, Any], judged: list[tuple[int, bool]]
) -> None:
    own = {} if agent == "ppo" else {"learning_starts": 16, "batch_size": 8, "replay_capacity": 96}
    shared = {k: v for k, v in SMALL.items() if agent == "ppo" or k not in ("rollout_steps", "minibatches", "epochs")}
    run = rlab.train(agent, SINGLE, out=tmp_path / "run", **shared, **own, **how)
    assert run.evaluation is not None
    assert run.evaluation.returns.tolist() == [[4.0] * 6]
    assert evaluations(run.path) == judged
    assert Single.peak == 1


def test_judging_between_two_stretches_with_the_training_envs_closed_changes_no_episode(tmp_path: Path) -> None:
    """16 env steps in episodes of 4, judged alone every 6: new envs go on in the middle of the old ones' episodes."""
    how = {"eval_every": 6, "eval_alone": True, "log_every": 6, "env_steps": 16, "final_eval_episodes": 0}
    how |= {"learning_starts": 4, "batch_size": 4, "replay_capacity": 64, "experiment": "none", "num_envs": 1}
    run = rlab.train("dqn", SINGLE, out=tmp_path / "run", eval_episodes=1, **how)
    _, (chunk,) = load_checkpoint(RunFolder.open(run.path))
    rows = chunk.arrays()
    assert np.flatnonzero(rows["terminated"][0, 0]).tolist() == [3, 7, 11, 15]
    assert not rows["truncated"].any()
    assert rows["obs"][0, 0, :, 0].tolist() == [0, 1, 2, 3] * 4


def test_episodes_that_new_envs_cannot_take_up_are_cut_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = HostEnv.load_state
    monkeypatch.setattr(HostEnv, "load_state", lambda env, state: load(env, state) or "it forgets")
    how = {"eval_every": 6, "eval_alone": True, "log_every": 6, "env_steps": 16, "final_eval_episodes": 0}
    how |= {"learning_starts": 4, "batch_size": 4, "replay_capacity": 64, "experiment": "none", "num_envs": 1}
    with pytest.warns(RlabWarning, match="fresh episodes begin behind every judgement.*: it forgets") as said:
        run = rlab.train("dqn", SINGLE, out=tmp_path / "run", eval_episodes=1, **how)
    assert len(said) == 1
    _, (chunk,) = load_checkpoint(RunFolder.open(run.path))
    rows = chunk.arrays()
    assert np.flatnonzero(rows["terminated"][0, 0]).tolist() == [3, 9, 15]  # of 4 steps each, from 0, 6 and 12 on
    assert np.flatnonzero(rows["truncated"][0, 0]).tolist() == [5, 11]


def test_what_cannot_be_judged_is_saved_and_resume_or_eval_judges_it_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items() if k != "hidden"]
    assert main(["train", "ppo", SINGLE, "--out", out, *flags, "--eval-every", "32"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"rlab: {SINGLE} cannot be made: port in use (test_judging_runs.py:")
    assert "). It happened while judging; what was" in said
    assert f"saved, up to 32 env steps. Go on without judging: rlab resume {out} --eval-every 0" in said
    assert env_steps_of(tmp_path / "run") == 32
    assert main(["list", "runs", "--root", str(tmp_path), "--json", "--status", "failed"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert "port in use" in row["reason"]
    assert main(["eval", out, "--episodes", "2", "--envs", "1"]) == 0

    assert main(["resume", out, "--eval-alone"]) == 0
    assert evaluations(tmp_path / "run") == [(32, False), (64, False), (96, False), (96, True)]  # none is missing
    filters = ["--status", "finished", "--agent", "ppo", "--env", SINGLE]
    assert main(["list", "runs", "--root", str(tmp_path), *filters]) == 0
    assert out in capsys.readouterr().out


def test_a_final_evaluation_that_fails_leaves_a_trained_run_that_resume_judges(
    tmp_path: Path,
) -> None:
    class TakesThePort(rlab.Listener):
        def on_save(self, env_steps: int) -> None:
            Single.most = 0

    out = tmp_path / "run"
    with pytest.raises(RlabError, match=r"port in use \(.*\)\. The run is trained and saved, but not judged: "):
        rlab.train("ppo", SINGLE, out=out, listeners=[TakesThePort()], **SMALL)
    assert env_steps_of(out) == 96
    status = json.loads((out / "status.json").read_text())
    assert status["status"] == "not-judged"
    assert "cannot be made: port in use (test_judging_runs.py:" in status["reason"]
    Single.most = 1
    assert not (out / "result.json").exists()
    run = api.resume(out)
    assert run.evaluation is not None
    assert evaluations(out) == [(96, False), (96, True)]


def test_envs_that_judge_are_few_and_kept_from_one_judgement_to_the_next(tmp_path: Path) -> None:
    Single.most = 1000
    settings = {**SMALL, "eval_every": 16, "final_eval_episodes": 50, "eval_episodes": 5}
    rlab.train("ppo", SINGLE, out=tmp_path / "one", **settings)
    assert Single.peak == 2  # one trains, one judges
    assert Single.made == 1 + 1 + 1 + 1  # and each kind was looked at once before
    Single.peak = 0
    rlab.train("ppo", SINGLE, out=tmp_path / "ten", **{**settings, "seeds": 10, "eval_every": 96})
    assert Single.peak == 10  # those that train are closed before the last judgement
    Single.peak = 0
    rlab.train("ppo", SINGLE, out=tmp_path / "two", **{**settings, "seeds": 3, "eval_envs": 2})
    assert Single.peak == 3 + 2


class Interrupts(Single):
    """The program is asked to end while an episode is judged."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        if seed is not None and 100_000 <= seed < 2**30:  # the seeds of training are above, those of a look below
            signal.raise_signal(signal.SIGTERM)
        return super().reset(seed=seed, options=options)


class PressesCtrlC(rlab.Listener):
    """In training."""

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("env", "listeners", "status", "env_steps"),
    [(Single, [PressesCtrlC()], "stopped", 16), (Interrupts, [], "not-judged", 96)],
)
def test_a_script_that_is_interrupted_saves_and_does_not_go_on_to_its_next_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    env: type[Single],
    listeners: list[rlab.Listener],
    status: str,
    env_steps: int,
) -> None:
    """By Ctrl+C in training, and by SIGTERM in the final evaluation: an exception leaves `rlab.train`."""
    out = tmp_path / "run"
    monkeypatch.setattr(gym.registry[SINGLE], "entry_point", env)
    settings = {**SMALL, "eval_every": 0, "log_every": 16}
    with pytest.raises(KeyboardInterrupt) as stopped:
        rlab.train("ppo", SINGLE, out=out, listeners=listeners, **settings)
    assert f"rlab resume {out}" in str(stopped.value)
    (row,) = list_runs(tmp_path)
    assert (row["status"], row["reason"], row["final_iqm"]) == (status, "interrupted", None)
    assert env_steps_of(out) == row["env_steps"] == env_steps
    assert not (out / "result.json").exists()
