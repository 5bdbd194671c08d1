"""With `env_restarts`, an env that fails is made again: its episode is discarded, and nothing is learned across it."""

import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.envs import EnvSpec, make_vec
from rlab.errors import RlabError, RlabWarning
from rlab.experience.env_contract import Step
from rlab.experience.episode_counts import EpisodeCounts
from rlab.experience.fields import Field
from rlab.experience.samplers import read_windows
from rlab.experience.sequence_samplers import read_rollout
from rlab.experience.storage import Storage

pytestmark = pytest.mark.usefixtures("registered_here")
STEP = np.zeros((1, 2), np.int64)


def raises():
    raise ValueError("no more fuel")


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    time.sleep(600)


class Failing(gym.Env):
    """Observes its step; fails once, in step 3 of the episode that its first seed began, or in every step 3."""

    observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fail, file, again=False):
        self.fail, self.file, self.again = fail, file, again

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == 3 and (self.again or self.is_first()):
            self.fail()
        return np.full(1, self.t, np.float32), 1.0, self.t == 5, False, {}

    def is_first(self):
        try:
            self.file.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@pytest.mark.parametrize(
    ("vector", "fail", "why"),
    [
        ("sync", raises, r"ValueError: no more fuel \("),
        ("sync", hangs, r"no answer for 0\.3 s \("),
        ("async", raises, r"ValueError: no more fuel \("),
        ("async", dies, r"its worker process died \(exit code -9\)"),
        ("async", hangs, r"no answer for 0\.3 s \("),
    ],
)
def test_an_env_that_fails_is_made_again_in_a_fresh_episode(register, tmp_path, vector, fail, why):
    spec = EnvSpec(register(lambda: Failing(fail, tmp_path / "failed")), timeout=0.3)
    env = make_vec(spec, (5,), 2, vector, restarts=1)
    assert env.has_reset_rows
    env.reset()
    steps = [env.step(STEP) for _ in range(2)]
    line = (
        rf"^{spec.env_id} failed in env [01] of seed 5 at vector step 3: {why}.*\. It was made again, .*restart 1 of 1"
    )
    with pytest.warns(RlabWarning, match=line):
        steps.append(env.step(STEP))
    steps += [env.step(STEP) for _ in range(2)]
    lost = int(np.argmin(steps[2].valid[0]))
    assert [step.valid[0, lost] for step in steps] == [True, True, False, True, True]
    assert [step.cuts for step in steps] == [False, False, True, False, False]
    assert [step.obs[0, lost, 0] for step in steps] == [1.0, 2.0, 0.0, 1.0, 2.0]
    assert (steps[2].reward[0, lost], steps[2].terminated[0, lost], steps[2].truncated[0, lost]) == (0.0, False, False)
    other = 1 - lost
    assert [step.valid[0, other] for step in steps] == [True] * 5  # the other env has not noticed
    assert [step.terminated[0, other] for step in steps] == [False] * 4 + [True]
    assert env.restarts.tolist() == [1]
    env.close()


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_an_env_that_goes_on_failing_fails_the_run_with_the_usual_error(register, tmp_path, vector):
    spec = EnvSpec(register(lambda: Failing(raises, tmp_path / "failed", again=True)))
    env = make_vec(spec, (5,), 1, vector, restarts=2)
    env.reset()
    with pytest.warns(RlabWarning, match="restart [12] of 2"), pytest.raises(RlabError) as caught:
        [env.step(STEP[:, :1]) for _ in range(9)]
    assert str(caught.value).startswith(
        f"{spec.env_id} failed in env 0 of seed 5 at vector step 9: ValueError: no more"
    )
    env.close()


def test_without_restarts_the_first_failure_is_the_last(register, tmp_path):
    spec = EnvSpec(register(lambda: Failing(raises, tmp_path / "failed")))
    env = make_vec(spec, (5,), 1, "sync")
    assert not env.has_reset_rows
    assert env.restarts is None
    env.reset()
    with pytest.raises(RlabError, match="no more fuel"):
        [env.step(STEP[:, :1]) for _ in range(3)]


def test_how_often_envs_were_made_again_is_saved_with_their_state(register, tmp_path):
    made = lambda: make_vec(EnvSpec(env_id), (5,), 1, "sync", restarts=1)  # noqa: E731
    env_id = register(lambda: Failing(raises, tmp_path / "failed"))
    env, again = made(), made()
    env.reset()
    with pytest.warns(RlabWarning, match="restart 1 of 1"):
        [env.step(STEP[:, :1]) for _ in range(4)]
    assert again.load_state(env.state()) is None
    assert again.restarts.tolist() == [1]
    assert again.step(STEP[:, :1]).obs.tolist() == env.step(STEP[:, :1]).obs.tolist()


def lost_step(obs, valid, cuts):
    zeros = torch.zeros(1, 1, dtype=torch.bool)
    obs = torch.full((1, 1, 1), obs)
    return Step(obs, obs, torch.full((1, 1), float(valid)), zeros, zeros, torch.full((1, 1), valid), cuts=cuts)


def test_nothing_is_learned_across_a_step_that_was_lost():
    """The env observes 0, 1, 2, fails in its third step, and begins again at 10: rewards of 1 for each step."""
    fields = [Field("obs", (1,), "float32"), Field("action", (), "int64")]
    storage, counts = Storage(1, 1, 6, fields), EpisodeCounts(1, 1, torch.device("cpu"), 1)
    obs = [0.0, 1.0, 2.0, 10.0, 11.0]
    steps = [lost_step(1.0, True, False), lost_step(2.0, True, False), lost_step(10.0, False, True)]
    steps += [lost_step(11.0, True, False), lost_step(12.0, True, False)]
    for at, step in zip(obs, steps, strict=True):
        if step.cuts:
            storage.cut_newest(~step.valid)
        storage.add(torch.full((1, 1, 1), at), torch.zeros(1, 1, dtype=torch.int64), step)
        counts.count(step)
        counts.took(1, True)
    batch = read_windows(storage, torch.tensor([[0, 1, 3]]), n_step=3)
    assert batch["steps"].tolist() == [[2, 1, 2]]  # up to the lost step, or to the newest one
    assert batch["reward"].tolist() == [[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]]
    assert batch["next_obs"].flatten().tolist() == [2.0, 2.0, 12.0]  # which is bootstrapped from
    assert batch["truncated"].tolist() == [[True, True, False]]
    rollout = read_rollout(storage, 5)
    assert rollout["valid"].flatten().tolist() == [True, True, False, True, True]
    assert rollout["truncated"].flatten().tolist() == [False, True, False, False, False]
    assert rollout["final_row"].shape == (1, 0)
    assert counts.finished() == []
    assert counts.episodes.tolist() == [0]
    assert counts.transitions.tolist() == [4]
    assert counts._returns.tolist() == [[2.0]]  # of the episode that began at 10


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_a_run_goes_on_and_reports_how_often_its_envs_were_made_again(register, tmp_path, agent):
    env_id = register(lambda: Failing(raises, tmp_path / "failed"))
    settings = {"env_steps": 64, "num_envs": 2, "hidden": (4,), "log_every": 16, "eval_every": 0, "vector": "sync"}
    with pytest.warns(RlabWarning, match=r"at vector step 3: .* made again"):
        run = rlab.train(agent, env_id, out=tmp_path / "run", env_restarts=1, final_eval_episodes=1, **settings)
    assert run.finished
    assert run.curve("train/env_restarts")[1].tolist() == [[1.0, 1.0, 1.0, 1.0]]
    # 32 steps of each env, of which one was lost: a whole episode takes five
    assert run.curve("train/transitions")[1][0, -1] == 63.0
    assert run.curve("train/episodes")[1][0, -1] == 6 + 5
