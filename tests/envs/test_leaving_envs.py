"""An env that ends the program, `sys.exit()`, or raises another BaseException: it fails like any other."""

import os
import signal
import sys
import time

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.envs import EnvSpec, make_env, make_episodes, make_vec, obs_packing
from rlab.errors import RlabError, RlabWarning, UsageError

TINY = {"env_steps": 32, "num_envs": 2, "rollout_steps": 8, "minibatches": 1, "hidden": (4,), "eval_episodes": 1}


class Panic(BaseException):
    """As extensions that are written in Rust raise."""


class Leaving(gym.Env):
    """Leaves in one of its functions, step at its third; episodes of five steps."""

    observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, place="", leave=sys.exit):
        self.place, self.leave = place, leave
        self.at("__init__")

    def at(self, place):
        if place == self.place:
            self.leave(3)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        self.at("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == 3:
            self.at("step")
        return np.zeros(1, np.float32), 1.0, self.t == 5, False, {}

    def close(self):
        self.at("close")


def panic(code):
    raise Panic(code)


def interrupt(code):
    raise KeyboardInterrupt(code)


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch):
    monkeypatch.setattr(obs_packing, "_warned", set())


@pytest.mark.parametrize(
    ("leave", "name"), [(sys.exit, "SystemExit"), (panic, "Panic"), (interrupt, "KeyboardInterrupt")]
)
def test_an_env_that_leaves_in_step_has_failed(register, leave, name):
    spec = EnvSpec(register(lambda: Leaving("step", leave)))
    why = rf"at (vector )?step 3: {name}: 3 \(test_leaving_envs\.py:\d+\)$"
    for vector in ("sync", "async"):
        env = make_vec(spec, (5,), 2, vector)
        env.reset()
        with pytest.raises(RlabError, match=rf"^{spec.env_id} failed in env [01] of seed 5 {why}"):
            [env.step(np.zeros((1, 2), np.int64)) for _ in range(3)]
        if vector == "sync":
            env.close()
    episodes = make_episodes(spec, 1)
    episodes.reset([4])
    with pytest.raises(RlabError, match=rf"^{spec.env_id} failed in the episode of seed 4 {why}"):
        [episodes.step(np.zeros(1, np.int64), np.ones(1, bool)) for _ in range(3)]


def test_an_env_that_leaves_in_reset_or_when_it_is_made_has_failed(register):
    spec = EnvSpec(register(lambda: Leaving("reset")))
    with pytest.raises(RlabError, match=rf"^{spec.env_id} failed in its first reset or step: SystemExit: 3 \(test_"):
        make_env(spec)
    spec = EnvSpec(register(lambda: Leaving("__init__")))
    with pytest.raises(
        UsageError, match=rf"^{spec.env_id} cannot be made: SystemExit: 3 \(test_leaving_envs\.py:\d+\)$"
    ):
        make_env(spec)


def test_an_env_that_leaves_in_close_loses_nothing(register, tmp_path):
    env_id = register(lambda: Leaving("close"))
    with pytest.warns(RlabWarning, match=rf"^{env_id} failed in close: SystemExit: 3 \(test_leaving_envs\.py:\d+\)$"):
        run = rlab.train("ppo", env_id, out=tmp_path / "run", final_eval_episodes=2, **TINY)
    assert run.status == "finished"
    assert run.evaluation.returns.tolist() == [[5.0, 5.0]]


def test_check_finds_an_env_that_leaves():
    codes = lambda place: [(f.code, f.severity) for f in rlab.check(lambda: Leaving(place), steps=20).findings][:1]  # noqa: E731
    assert codes("step") == [("raised", "error")]
    assert codes("close") == [("close", "warning")]
    assert codes("__init__") == [("not-made", "error")]


def test_a_module_that_leaves_while_it_is_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"cannot import the module 'leaves_at_once': SystemExit: 4$"):
        make_env(EnvSpec("leaves_at_once:Env"))


def caught(code):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("in an env's own words") from None


@pytest.mark.parametrize("interrupt", [lambda code: os.kill(os.getpid(), signal.SIGINT), caught])
def test_ctrl_c_in_an_env_is_the_users(register, interrupt):
    env = make_env(EnvSpec(register(lambda: Leaving("step", interrupt))))
    env.reset(seed=0)
    env.step(0)
    env.step(0)
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
