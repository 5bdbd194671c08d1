"""Every call of an env has a time limit, also in the program's own process."""

import ctypes
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.ending import end_program
from rlab.envs import EnvSpec, make_env, make_episodes, make_vec, obs_packing, watch
from rlab.errors import RlabError, RlabWarning, UsageError

LIMIT = 0.3  # seconds
STEP = np.zeros((1, 2), np.int64)


def sleep():
    time.sleep(600)


def spin():
    while True:
        pass


def wait_for_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def catch_everything_once():
    try:
        time.sleep(600)
    except BaseException:
        return


WAYS = (sleep, spin, wait_for_a_lock, catch_everything_once)


class Hanging(gym.Env):
    """Hangs in one of its functions: the constructor and close at their first call, others at their third."""

    observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, place, way):
        self.place, self.way, self.calls = place, way, {"step": 0, "reset": 0}
        self.at("__init__")

    def at(self, place):
        if place == self.place:
            self.way()

    def reset(self, *, seed=None, options=None):
        if seed != 0:  # of the env that is made to find out the packing
            self.at("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.calls["step"] += 1
        if self.calls["step"] == 3:
            self.at("step")
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def close(self):
        self.at("close")


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch):
    monkeypatch.setattr(obs_packing, "_warned", set())


@pytest.fixture
def hanging(register):
    return lambda place, way=sleep: EnvSpec(register(lambda: Hanging(place, way)), timeout=LIMIT)


def timed(call):
    began = time.monotonic()
    with pytest.raises(RlabError) as caught:
        call()
    assert LIMIT <= time.monotonic() - began < LIMIT + 1.0
    return str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_hangs_is_named_in_time_in_training_and_judging(hanging, way):
    spec = hanging("step", way)
    place = "" if way is catch_everything_once else r" (test_env_watch.py:"
    env = make_vec(spec, (5,), 2, "sync")
    env.reset()
    env.step(STEP)
    env.step(STEP)
    line = timed(lambda: env.step(STEP))
    assert line.startswith(f"{spec.env_id} failed in env 0 of seed 5 at vector step 3: no answer for 0.3 s{place}")
    episodes = make_episodes(spec, 1)
    episodes.reset([4])
    [episodes.step(STEP[0, :1], np.ones(1, bool)) for _ in range(2)]
    line = timed(lambda: episodes.step(STEP[0, :1], np.ones(1, bool)))
    assert line.startswith(f"{spec.env_id} failed in the episode of seed 4 at step 3: no answer for 0.3 s{place}")


def test_a_reset_that_hangs_is_named_in_time_in_training_and_judging(hanging):
    spec = hanging("reset")
    line = timed(make_vec(spec, (5,), 2, "sync").reset)
    assert line.startswith(f"{spec.env_id} failed in env 0 of seed 5 at vector step 0: no answer for 0.3 s")
    episodes = make_episodes(spec, 1)
    line = timed(lambda: episodes.reset([4]))
    assert line.startswith(f"{spec.env_id} failed in the episode of seed 4 at step 0: no answer for 0.3 s")


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_a_constructor_that_hangs_is_named_in_time(hanging, vector):
    spec = hanging("__init__", spin)
    line = timed(lambda: make_vec(spec, (5,), 2, vector))
    assert line.startswith(f"{spec.env_id} cannot be made: no answer for 0.3 s (test_env_watch.py:")


def test_a_close_that_hangs_is_named_in_time_and_loses_nothing(hanging):
    spec = hanging("close")
    began = time.monotonic()
    with pytest.warns(RlabWarning, match=rf"^{spec.env_id} failed in close: no answer for 0.3 s \(test_env_watch.py:"):
        env = make_env(spec)  # the env that is made to find out the packing is closed
    env.close()
    assert time.monotonic() - began < 2 * (LIMIT + 1.0)


def test_outside_the_main_thread_python_code_is_interrupted_too(hanging):
    env, caught = make_env(hanging("step", spin)), []
    env.reset(seed=1)

    def play():
        try:
            [env.step(0) for _ in range(3)]
        except RlabError as error:
            caught.append(str(error))

    thread = threading.Thread(target=play)
    thread.start()
    thread.join(LIMIT + 5)
    assert "at step 3: no answer for 0.3 s (test_env_watch.py:" in caught[0]


def test_a_call_inside_another_one_has_the_time_of_the_outer_one():
    line = lambda fault: fault.line("An env", "", "")  # noqa: E731
    inner = lambda: watch.watched(60.0, line, sleep)  # noqa: E731
    began = time.monotonic()
    with pytest.raises(watch.Hung, match=r"no answer for 0\.3 s"):
        watch.watched(LIMIT, line, inner)
    assert time.monotonic() - began < LIMIT + 1.0


def test_what_is_under_the_limit_is_left_alone_and_nothing_is_raised_later(hanging):
    env = make_env(hanging("step", lambda: time.sleep(LIMIT * 0.5)))
    env.reset(seed=1)
    assert [env.step(0)[1] for _ in range(4)] == [1.0] * 4
    time.sleep(2 * LIMIT)


def test_a_call_that_cannot_be_interrupted_is_named_in_time(hanging):
    if not sys.platform.startswith("linux"):
        pytest.skip("a call in C that a signal cannot end: made with glibc's timed lock, which is on Linux alone")
    lock = ctypes.create_string_buffer(128)  # a pthread_mutex_t of zeros, which can be locked once
    libc = ctypes.CDLL(None)

    def in_c():
        until = (ctypes.c_long * 2)(int(time.time()) + 3, 0)
        libc.pthread_mutex_lock(lock)
        libc.pthread_mutex_timedlock(lock, until)

    env, told = make_env(hanging("step", in_c)), []
    watch.when_lost(lambda line: told.append((line, time.monotonic())))
    env.reset(seed=1)
    [env.step(0) for _ in range(2)]
    began = time.monotonic()
    with pytest.raises(RlabError, match=r"at step 3: no answer for 0\.3 s"):
        env.step(0)
    watch.when_lost(end_program)
    ((line, moment),) = told
    begin = f"{env.packing.env_id} failed in the episode of seed 1 at step 3: no answer for 0.3 s (test_env_watch.py:"
    assert line.startswith(begin)
    assert "), and it cannot be interrupted; --vector async plays" in line
    assert moment - began < LIMIT + 1.0


def test_the_limit_of_a_run_is_that_of_its_envs(hanging, tmp_path):
    env_id = hanging("step").env_id
    settings = {"env_steps": 32, "num_envs": 2, "rollout_steps": 8, "minibatches": 1, "hidden": (4,)}
    line = timed_run = None
    began = time.monotonic()
    with pytest.raises(RlabError) as caught:
        rlab.train("ppo", env_id, out=tmp_path / "run", env_timeout=LIMIT, **settings)
    line, timed_run = str(caught.value), time.monotonic() - began
    assert line.startswith(f"{env_id} failed in env 0 of seed 0 at vector step 3: no answer for 0.3 s")
    assert timed_run < 20


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf"), 86_401.0])
def test_a_limit_is_never_absent(limit):
    with pytest.raises(UsageError, match=r"must be above 0 and at most 86400 seconds \(a day\)"):
        EnvSpec("CartPole-v1", timeout=limit)
    with pytest.raises(UsageError, match=r"env_timeout .* must be above 0"):
        rlab.train("dqn", "CartPole-v1", env_timeout=limit)


def test_watching_costs_less_than_a_microsecond():
    line, calls = (lambda fault: fault.line("An env", "", "")), 2_000
    for _ in range(20):  # the best of several: a busy machine is no reason to fail
        began = time.perf_counter()
        for _ in range(calls):
            watch.watched(60.0, line, object)
        watched = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(calls):
            object()
        cost = (watched - (time.perf_counter() - began)) / calls
        if cost < 1e-6:
            return
    raise AssertionError(f"{cost * 1e6:.2f} us")
