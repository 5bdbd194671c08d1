"""A run that fails says where and for whom, keeps its last good save, and can be gone on with."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab import api
from rlab.agents import load_agent
from rlab.cli.main import main
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.experience.env_contract import Step
from rlab.learning.contract import Now
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk", "registered_here")
FAMILY = ("dqn", "double_dqn")


class Fragile(gym.Env[np.ndarray, np.int64]):
    """Three steps, reward 1 each; breaks after `lives` steps of all of them together, in the way that `how` says."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32), gym.spaces.Discrete(2)
    lives, how = math.inf, "raise"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        Fragile.lives -= 1
        obs, reward = np.full(1, self.t / 3, np.float32), 1.0
        if Fragile.lives < 0:
            if Fragile.how == "raise":
                raise OSError("the cable is out")
            obs = np.full(1, np.inf, np.float32) if Fragile.how == "obs" else obs
            reward = math.nan if Fragile.how == "reward" else reward
        return obs, reward, self.t == 3, False, {}


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of the env; it holds for ever unless told otherwise."""
    if "rlab-test/Fragile-v0" not in gym.registry:
        gym.register("rlab-test/Fragile-v0", entry_point=Fragile)
    monkeypatch.setattr(Fragile, "lives", math.inf)
    monkeypatch.setattr(Fragile, "how", "raise")
    return "rlab-test/Fragile-v0"


BUDGET = {"env_steps": 1200, "checkpoint_every": 400, "eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 4}
SETTINGS = {"learning_starts": 50, "batch_size": 16, "experiment": "none", "num_envs": 2, **BUDGET}


BREAKS = {
    "raise": "failed in env 0 of seed 5 at vector step 451: OSError: the cable is out",
    "reward": "gave a non-finite reward in env 0 of seed 5 at vector step 451: nan",
    "obs": "gave a non-finite observation in env 0 of seed 5 at vector step 451: [inf]",
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("dqn", "raise"), ("double_dqn", "reward"), ("dqn", "obs")),
        *(pytest.param("double_dqn", how, marks=pytest.mark.prove) for how in ("raise", "obs")),
        pytest.param("dqn", "reward", marks=pytest.mark.prove),
    ],
)
def test_an_env_that_breaks_ends_the_run_with_a_save_and_resume_finishes_it(
    tmp_path: Path, fragile: str, name: str, how: str
) -> None:
    out = tmp_path / "run"
    Fragile.lives, Fragile.how = 901, how  # one is spent on seeing whether steps carry a mask
    with pytest.raises(RlabError) as caught:
        rlab.train(name, fragile, out=out, seed=5, **SETTINGS)
    kept = f"The run is kept up to its last save; once that is fixed: rlab resume {out} --trust"
    told = re.sub(r" \(test_runs_that_go_wrong.py:\d+\)", "", str(caught.value))
    assert told.endswith(f"Fragile {BREAKS[how]}. {kept}")
    state, _ = load_checkpoint(RunFolder.open(out))
    assert state["loop"]["env_steps"] == 900  # all that was learned, not only what the checkpoint of 800 has
    assert not (out / "result.json").exists()
    before = state["loop"]["updates"]

    Fragile.lives = math.inf
    with pytest.warns(RlabWarning, match="goes on with fresh episodes"):  # in what state the env broke nobody knows
        run = api.resume(out)
    assert run.evaluation is not None
    assert (run.evaluation.returns == 3.0).all()
    state, _ = load_checkpoint(RunFolder.open(out))
    assert (state["loop"]["env_steps"], state["loop"]["collector"]["transitions"].tolist()) == (1200, [1200])
    assert state["loop"]["updates"] == before + 4 * (1200 // 8 - 900 // 8)  # four whenever a multiple of 8 is passed
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[1:]]
    assert [row["env_steps"] for row in rows] == sorted({row["env_steps"] for row in rows})  # none twice


def test_an_env_that_breaks_is_one_line_and_exit_code_1_and_what_was_trained_is_kept(
    tmp_path: Path, fragile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Fragile.lives = 100
    words = ["train", "dqn", fragile, "--num-envs", "2", "--compile", "off", "--out", str(tmp_path / "run")]
    assert main(words) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("rlab: rlab-test/Fragile-v0 failed")
    assert last.endswith(f"The run is kept up to its last save; once that is fixed: rlab resume {tmp_path / 'run'}")
    Fragile.lives = math.inf
    with pytest.warns(RlabWarning, match="goes on with fresh episodes"):
        assert main(["resume", str(tmp_path / "run"), "--env-steps", "200", "--final-eval-episodes", "2"]) == 0


def poisoned(name: str, where: str, at: int) -> type:
    """The agent, with NaN put into member 1 after `at` env steps."""

    class Poisoned(load_agent(name)):  # type: ignore[misc]
        env_steps = 0

        def observe(self, obs: torch.Tensor, step: Step, now: Now) -> None:
            super().observe(obs, step, now)
            self.env_steps += obs.shape[1]
            if self.env_steps == at:
                network = self.q_network if where == "weights" else self.target_network
                with torch.no_grad():
                    next(network.parameters())[1].fill_(math.nan)

        def update(self, batch: dict[str, torch.Tensor], now: Now) -> Any:
            assert self.env_steps <= at, "the run went on after it"
            return super().update(batch, now)

    return Poisoned


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("where", "said"), [("weights", "metric 'loss/td_huber'"), ("target", "batch tensor 'next_outputs'")]
)
def test_weights_that_break_stop_the_run_within_one_update_and_name_the_member(
    lab: SimpleNamespace, name: str, where: str, said: str
) -> None:
    settings = {"learning_starts": 8, "learn_every": 4, "updates_per_learn": 1, "batch_size": 8}
    with pytest.raises(RlabError, match=rf"{said} of the member with seed 22 is not finite"):
        lab.train_members(poisoned(name, where, 100), "CartPole-v1", (11, 22, 33), 400, **settings)


def test_learning_that_blows_up_is_stopped_and_the_last_good_weights_stay(tmp_path: Path) -> None:
    out = tmp_path / "run"
    wild = {"optimizer": "sgd", "loss": "squared", "learning_rate": 1e4, "max_grad_norm": None}
    with pytest.raises(RlabError, match=r"of the member with seed \d+ is not finite at update \d+") as caught:
        rlab.train("dqn", "CartPole-v1", out=out, seeds=2, **{**SETTINGS, "checkpoint_every": 50}, **wild)
    assert "A lower --learning-rate" in str(caught.value)
    assert all(torch.isfinite(v).all() for v in rlab.load(out).state_dict().values())


def test_weights_broken_by_the_very_last_update_are_not_saved(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # One update in all, at the last env step, and its step overflows: the loss before it was finite.
    last = {"learn_every": 400, "updates_per_learn": 1, "env_steps": 400, "learning_rate": 3e38}
    wild = {"optimizer": "sgd", "loss": "squared", "max_grad_norm": None, "layer_norm": False, "l1": 1e10}
    with pytest.raises(RlabError, match=r"^metric 'grad/norm' .*seed 0 is not finite at update 1"):  # it shows there
        rlab.train("dqn", "CartPole-v1", out=out, **{**SETTINGS, "checkpoint_every": 200, **last, **wild})
    assert all(torch.isfinite(v).all() for v in rlab.load(out).state_dict().values())


def test_a_folder_that_is_not_empty_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty; nothing in it was touched"):
        rlab.train("dqn", "CartPole-v1", out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


WRONG = [
    (["dqm", "CartPole-v1"], "unknown agent 'dqm'. Did you mean 'dqn'?"),
    (["dqn", "CartPole-v7"], "Did you mean 'CartPole-v1'?"),
    (["dqn", "Pendulum-v1"], "dqn cannot choose the actions Box((1,), float32) of Pendulum-v1; agents that can: "),
    (["double_dqn", "Pendulum-v1"], "double_dqn cannot choose the actions Box((1,), float32) of Pendulum-v1"),
    (["dqn", "CartPole-v1", "--gamme", "0.9"], "--gamma"),
    (["dqn", "CartPole-v1", "--seeds", "0"], "seeds 0 must be 1 or more."),
    (["dqn", "CartPole-v1", "--env-steps", "-5"], "-5"),
    (["dqn", "CartPole-v1", "--num-envs", "0"], "num_envs 0 must be 1 or more."),
    (["dqn", "CartPole-v1", "--batch-size", "0"], "batch_size 0 must be 1 or more."),
    (["dqn", "CartPole-v1", "--learning-rate", "0"], "learning_rate 0.0 must be above 0 and finite."),
    (["dqn", "CartPole-v1", "--learning-rate", "nan"], "nan"),
    (["dqn", "CartPole-v1", "--num-envs", "99999"], "replay_capacity 50000 must be at least num_envs"),
    (["dqn", "CartPole-v1", "--replay-capacity", "1000000000000"], "GiB"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_request_is_one_line_exit_code_2_and_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "run").exists()
