"""What is changed for learning alone, clipped rewards and lost lives that count as endings, and what is reported."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.envs.atari import AtariFrames
from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.samplers import read_windows
from rlab.experience.storage import Storage
from rlab.networks.bounds import FIRST
from rlab.networks.spaces import Box
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

SETTINGS = {"env_steps": 96, "num_envs": 2, "learning_starts": 16, "log_every": 96, "eval_every": 0}
REWARDS = (5.0, -7.0, 0.25)  # of an episode's three steps


class Generous(gym.Env):
    """Three steps with rewards of several sizes."""

    observation_space, action_space = gym.spaces.Box(0.0, 3.0, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), REWARDS[self.t - 1], self.t == 3, False, {}


class ALE:
    """As much of an Atari game's emulator as `AtariFrames` reads."""

    def getInt(self, name):  # noqa: N802
        return {"max_num_frames_per_episode": 40}[name]


class ThreeLives(gym.Env):
    """A game in single frames that are the frame's number: lives are lost in frames 8, 16 and 24, the last ends it."""

    observation_space, action_space = gym.spaces.Box(0, 255, (8, 8), np.uint8), gym.spaces.Discrete(2)
    ale, _frameskip = ALE(), 1

    def get_action_meanings(self):
        return ["NOOP", "FIRE"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros((8, 8), np.uint8), {"lives": 3}

    def step(self, action):
        self.t += 1
        return np.full((8, 8), self.t, np.uint8), 1.0, self.t == 24, False, {"lives": 3 - self.t // 8}


class LivesCount(AtariFrames):
    """Without anything at random: frames 4, 8, ... of 8x8."""

    def __init__(self, env):
        super().__init__(env, noops=0, fire=False, life_loss=True, size=(8, 8))


def stored(run):
    """The fields of all rows of a run's replay, lane by lane, `[S, N, T, ...]`."""
    _, chunks = load_checkpoint(RunFolder.open(run.path))
    arrays = [chunk.arrays() for chunk in chunks]
    return {name: np.concatenate([one[name] for one in arrays], axis=2) for name in ("reward", "terminated", "valid")}


@pytest.mark.parametrize("agent", ["dqn", "ppo"])
def test_clipped_rewards_are_learned_from_and_whole_ones_are_reported(tmp_path, agent):
    settings = SETTINGS | ({"rollout_steps": 48, "learning_starts": None} if agent == "ppo" else {})
    settings = {name: value for name, value in settings.items() if value is not None}
    run = rlab.train(agent, Generous, out=tmp_path / "run", reward_clip=1.0, final_eval_episodes=2, **settings)
    assert set(stored(run)["reward"].ravel()) == {1.0, -1.0, 0.25}
    assert run.curve("train/episode_return")[1].ravel().tolist() == [sum(REWARDS)]
    assert run.evaluation.returns.tolist() == [[sum(REWARDS)] * 2]
    whole = rlab.train(agent, Generous, out=tmp_path / "whole", final_eval_episodes=0, **settings)
    assert set(stored(whole)["reward"].ravel()) == set(REWARDS)


def test_clipping_is_refused_where_no_env_is_learned_in_and_beside_demonstrations(tmp_path):
    data = rlab.collect_random(Generous, episodes=3, out=tmp_path / "data").path
    with pytest.raises(rlab.UsageError, match=r"--reward-clip has no effect here: bc learns from a dataset"):
        rlab.pretrain("bc", data, env=Generous, out=tmp_path / "bc", reward_clip=1.0)
    given = {"dataset": str(data), "demonstration_share": 0.5, "reward_clip": 1.0}
    with pytest.raises(rlab.UsageError, match=r"leave --reward-clip or --dataset out\."):
        rlab.train("dqn", Generous, out=tmp_path / "dqn", **given, **SETTINGS)


def test_a_lost_life_is_learned_from_as_an_ending_and_counted_as_none(tmp_path):
    run = rlab.train("dqn", lambda: LivesCount(ThreeLives()), out=tmp_path / "run", final_eval_episodes=1, **SETTINGS)
    rows = stored(run)
    # a game has six env steps of four frames; lives are lost in the second, the fourth and, with the game, the sixth
    ended = np.flatnonzero(rows["terminated"][0, 0] & rows["valid"][0, 0]) + 1
    assert ended.tolist() == list(range(2, 49, 2))
    assert run.curve("train/episodes")[1].tolist() == [[16.0]]  # 48 steps of each of two envs
    assert run.curve("train/episode_return")[1].tolist() == [[24.0]]
    assert run.evaluation.returns.tolist() == [[24.0]]


@pytest.mark.parametrize("agent", ["dqn", "ppo"])
def test_lost_lives_and_a_policy_with_memory_are_refused_whatever_env_loses_them(tmp_path, agent):
    own = {"rollout_steps": 8, "minibatches": 2} if agent == "ppo" else {"learning_starts": 48}
    settings = {name: value for name, value in SETTINGS.items() if name != "learning_starts"} | own
    settings |= {"memory": "gru", "memory_size": 4}
    with pytest.raises(UsageError, match="life_loss: a lost life would end an episode in what is learned"):
        rlab.train(agent, lambda: LivesCount(ThreeLives()), out=tmp_path / "run", **settings)


def test_a_lost_life_bootstraps_nothing_and_leaves_the_stack_of_frames_whole():
    frames, space = 2, Box((2, 1, 1), "uint8", 0, 255, FIRST, 2)
    fields = Field("obs", space.shape, "uint8"), Field("action", (), "int64")
    storage = Storage(1, 2, 20, fields, obs_space=space)
    never = torch.zeros(1, 2, dtype=torch.bool)
    shown = torch.zeros(1, 2, 2, 1, 1, dtype=torch.uint8)
    shown[:, :, -1] = 1
    for t in range(1, 5):
        led_to = torch.cat([shown[:, :, 1:], torch.full((1, 2, 1, 1, 1), t + 1, dtype=torch.uint8)], dim=2)
        # in the third row env 0 loses a life while the episode of env 1 ends, behind which a stack of zeros begins
        third = t == 3
        ended, lost = (torch.tensor([[False, third]]), torch.tensor([[third, False]]))
        following = torch.where(ended.view(1, 2, 1, 1, 1), torch.tensor([0, 9]).view(1, 1, 2, 1, 1), led_to)
        following = following.to(torch.uint8)
        step = Step(following, led_to, torch.ones(1, 2), ended, never, ~never, life_lost=lost if third else None)
        storage.add(shown, torch.zeros(1, 2, dtype=torch.int64), step)
        shown = following
    row = torch.tensor([[2 * 2, 3 * 2, 3 * 2 + 1]])  # rows 2 and 3 of env 0, row 3 of env 1
    read = read_windows(storage, row, 1)
    assert read["terminated"].tolist() == [[True, False, False]]
    assert read["obs"].reshape(3, frames).tolist() == [[2, 3], [3, 4], [0, 9]]
    assert read["next_obs"].reshape(3, frames).tolist() == [[3, 4], [4, 5], [9, 5]]
