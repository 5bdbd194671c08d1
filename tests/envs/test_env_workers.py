"""An async vector env whose workers raise, die or hang ends with one line that names the env."""

import multiprocessing
import os
import re
import signal
import time

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs import EnvSpec, GymVectorEnv, make_vec
from rlab.envs.workers import WatchedAsyncVectorEnv, sub_env_maker
from rlab.errors import RlabError, RlabWarning
from rlab.randomness import env_seed

STEP = np.zeros((1, 2), dtype=int)


class Sick(gym.Env):
    """Its second sub-env falls ill at step 2, in the way that `illness` says."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, illness):
        self.illness = illness

    def reset(self, *, seed=None, options=None):
        self.ill, self.t = seed == env_seed(6, 1), 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.ill and self.t == 2:
            self.fall_ill()
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def fall_ill(self):
        class UnpicklableError(Exception):
            pass

        if self.illness == "raises":
            raise UnpicklableError("no more fuel")
        if self.illness == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.illness == "hangs":
            time.sleep(600)


def sick_env(illness, time_limit):
    makers = [sub_env_maker(lambda: Sick(illness), index, timeout=time_limit) for index in range(2)]
    raw = WatchedAsyncVectorEnv(makers, time_limit)
    return GymVectorEnv(raw, (6,), "Sick-v0"), raw


@pytest.mark.parametrize(
    ("illness", "time_limit", "message"),
    [
        ("raises", 60, "UnpicklableError: no more fuel (its line)"),
        ("dies", 60, "its worker process died (exit code -9)"),
        ("hangs", 3.0, "no answer for 3 s (its line)"),  # long enough for a worker that is well on a busy machine
    ],
)
def test_a_sick_worker_ends_the_run_with_one_line_and_leaves_no_process(illness, time_limit, message):
    env, raw = sick_env(illness, time_limit)
    env.reset()
    env.step(STEP)
    with pytest.raises(RlabError) as caught:
        env.step(STEP)
    told = re.sub(r" \(test_env_workers.py:\d+\)$", " (its line)", str(caught.value))
    assert told == f"Sick-v0 failed in env 1 of seed 6 at vector step 2: {message}"
    assert not any(process.is_alive() for process in raw.processes)
    env.close()  # a second time does no harm


def test_a_worker_killed_between_steps_is_named_too():
    env, raw = sick_env("never", 60)
    env.reset()
    raw.processes[0].kill()
    raw.processes[0].join()
    with pytest.raises(RlabError, match="in env 0 of seed 6 at vector step 1: its worker process died"):
        env.step(STEP)


@pytest.fixture
def stillborn_env():
    home = os.getpid()

    def make():
        if os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return Sick("never")

    gym.register("Stillborn-v0", make)
    yield "Stillborn-v0"
    del gym.registry["Stillborn-v0"]


def test_a_worker_that_dies_at_birth_gives_one_line(stillborn_env):
    with pytest.raises(RlabError) as caught:
        make_vec(EnvSpec(stillborn_env), (0,), 2, "async")
    message = r"Stillborn-v0 could not be started: sub-env [01] failed: its worker process died \(exit code -9\)"
    assert re.fullmatch(message, str(caught.value))


def test_workers_leave_ctrl_c_and_sigterm_to_their_parent():
    before = signal.getsignal(signal.SIGINT)
    env, raw = sick_env("never", 60)
    env.reset()
    os.kill(raw.processes[0].pid, signal.SIGINT)
    os.kill(raw.processes[1].pid, signal.SIGTERM)
    time.sleep(0.1)
    assert env.step(STEP).valid.all()
    env.close()
    assert signal.getsignal(signal.SIGINT) is before


def test_close_does_not_wait_for_a_worker_that_hangs():
    _, raw = sick_env("never", 0.3)
    os.kill(raw.processes[0].pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.warns(RlabWarning, match=r"^the env failed in close of sub-env 0: no answer for 0\.3 s$"):
        raw.close()
    assert time.monotonic() - start < 30  # it would wait for ever
    assert not set(raw.processes) & set(multiprocessing.active_children())


def test_async_cartpole_equals_sync_cartpole():
    spec, rng = EnvSpec("CartPole-v1", max_episode_steps=15), np.random.default_rng(0)
    envs = [make_vec(spec, (1,), 2, vector) for vector in ("async", "sync")]
    assert np.array_equal(*[env.reset() for env in envs])
    for _ in range(60):
        action = rng.integers(2, size=(1, 2))
        one, two = (env.step(action) for env in envs)
        for field in ("obs", "next_obs", "reward", "terminated", "truncated", "valid"):
            assert np.array_equal(getattr(one, field), getattr(two, field)), field
    envs[0].close()
