"""One absurd number from an env does not decide running statistics, and it is said whose it was."""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.errors import RlabError, RlabWarning
from rlab.learning.reward_scaling import RewardScaler
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk", "registered_here")
RUN: dict[str, Any] = {"seed": 5, "seeds": 2, "num_envs": 2, "env_steps": 400, "experiment": "none", "hidden": (8,)}
RUN |= {"eval_every": 0, "final_eval_episodes": 0, "checkpoint_every": 200, "log_every": 100, "progress": False}
DQN = {**RUN, "learning_starts": 20, "batch_size": 8, "learn_every": 4, "updates_per_learn": 1}
PPO = {**RUN, "rollout_steps": 16, "epochs": 2, "minibatches": 2}


class Spikes(gym.Env[np.ndarray, np.int64]):
    """Episodes of five steps; the fourth env that is made gives one huge number in its 118th step."""

    observation_space, action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Discrete(2)
    made: ClassVar[int] = 0
    what: ClassVar[str] = "obs"
    size: ClassVar[float] = 1e30

    def __init__(self) -> None:
        Spikes.made += 1
        self.number, self.total = Spikes.made, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t, self.total = self.t + 1, self.total + 1
        spike = self.number == 5 and self.total == 118  # the first was made to look at the spaces
        obs, reward = np.array([self.t / 5, 1.0], np.float32), 1.0
        if spike and Spikes.what == "obs":
            obs[1] = Spikes.size
        return obs, Spikes.size if spike and Spikes.what == "reward" else reward, self.t == 5, False, {}


@pytest.fixture
def spikes(monkeypatch: pytest.MonkeyPatch) -> str:
    if "rlab-test/Spikes-v0" not in gym.registry:
        gym.register("rlab-test/Spikes-v0", entry_point=Spikes)
    monkeypatch.setattr(Spikes, "made", 0)
    return "rlab-test/Spikes-v0"


def statistics(run: Path, part: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(RunFolder.open(run))[0]["loop"]["agent"][part]
    return found


@pytest.mark.parametrize(("name", "settings"), [("dqn", DQN), ("ppo", PPO)])
def test_an_absurd_observation_is_named_with_its_env_seed_and_feature_and_left_out(
    tmp_path: Path, spikes: str, name: str, settings: dict[str, Any]
) -> None:
    with pytest.warns(
        RlabWarning, match=r"^1e\+30 as feature 1 of an observation in env 1 of seed 6 is absurd .* left out"
    ):
        rlab.train(name, spikes, out=tmp_path / "run", obs_scaling="running", **settings)
    found = statistics(tmp_path / "run", "policy")
    assert found["preprocess.mean"].abs().max() <= 1.0
    assert found["preprocess.variance"].max() <= 1.0
    seen = found["preprocess.count"]
    assert seen[0] - seen[1] == 1


def test_an_absurd_reward_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spikes: str) -> None:
    monkeypatch.setattr(Spikes, "what", "reward")
    with pytest.warns(RlabWarning, match=r"^1e\+30 as a reward in env 1 of seed 6 is absurd beside what came before"):
        rlab.train("ppo", spikes, out=tmp_path / "run", reward_scaling="running", **PPO)
    rewards = statistics(tmp_path / "run", "rewards")
    assert rewards["variance"].max() < 5.0  # of sums of one to five rewards of 1
    assert rewards["count"][0] - rewards["count"][1] == 1


@pytest.mark.parametrize(
    ("what", "words"), [("obs", "Observations are the cause: '(next_)?obs'"), ("reward", "Rewards")]
)
def test_without_running_statistics_an_absurd_number_stops_the_run_and_is_called_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spikes: str, what: str, words: str
) -> None:
    monkeypatch.setattr(Spikes, "what", what)
    monkeypatch.setattr(Spikes, "size", 3e38)
    with pytest.raises(RlabError, match=rf"of the member with seed 6 is not finite at update .*{words}"):
        rlab.train(
            "dqn", spikes, out=tmp_path / "run", loss="squared", layer_norm=False, **{**DQN, "replay_capacity": 16}
        )


def test_an_absurd_reward_counts_as_0_in_the_sums_of_its_episode() -> None:
    found = RewardScaler(1, 0.5, torch.device("cpu"))
    reward, never = torch.ones(1, 2, 3), torch.zeros(1, 2, 3, dtype=torch.bool)
    reward[0, 1, 1] = 1e30
    scaled = found.scale(reward, never, ~never)
    assert scaled[0, 1, 1] == 10.0
    # env 0: 1, 1.5, 1.75; env 1: 1, left out, 1 + 0.5 * (0 + 0.5 * 1) = 1.25
    sums = torch.tensor([1.0, 1.5, 1.75, 1.0, 1.25], dtype=torch.float64)
    assert found.state()["mean"].item() == pytest.approx(sums.mean().item(), rel=1e-12)
    assert found.state()["variance"].item() == pytest.approx(sums.var(correction=0).item(), rel=1e-12)
    assert [each.lane for each in found.outliers.found()] == [1]
