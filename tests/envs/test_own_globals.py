"""Envs that use what is global in a process: random generators and settings. Each has its own, seeded with it."""

import random
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.envs import EnvSpec, make_env, make_vec, own_globals
from rlab.errors import RlabWarning

pytestmark = pytest.mark.usefixtures("registered_here")
DRAWS = {
    "numpy": lambda: np.random.normal(),  # draws pairs, of which one waits for the next call
    "random": lambda: random.gauss(0.0, 1.0),
    "torch": lambda: float(torch.randn(())),
}
NAMED = {"numpy": "np.random", "random": "random", "torch": "torch"}


class Draws(gym.Env):
    """Observes a world that was drawn when it was made, and a number drawn at each step, which is the reward too."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, kind="numpy"):
        self.draw = DRAWS[kind]
        self.world = self.draw()

    def observed(self):
        self.number = self.draw()
        return np.array([self.world, self.number], np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observed(), {}

    def step(self, action):
        self.t += 1
        return self.observed(), self.number, self.t == 3, False, {}


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch):
    monkeypatch.setattr(own_globals, "_warned", set())


def episodes_of(spec, seeds, vector, steps=8):
    """Everything that the envs give, `[steps, S, 2, ...]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RlabWarning)
        env = make_vec(spec, seeds, 2, vector)
    found = [env.reset()]
    for _ in range(steps):
        step = env.step(np.zeros((len(seeds), 2), np.int64))
        found += [step.obs, step.next_obs, step.reward[..., None].repeat(2, axis=-1).astype(np.float32)]
    env.close()
    return np.stack(found)


@pytest.mark.parametrize("kind", sorted(DRAWS))
def test_global_generators_draw_the_same_in_every_process_and_beside_any_members(register, kind):
    spec = EnvSpec(register(Draws), {"kind": kind})
    both = episodes_of(spec, (4, 7), "sync")
    DRAWS[kind]()  # whatever the program itself draws in between
    assert np.array_equal(episodes_of(spec, (4, 7), "sync"), both)
    assert np.array_equal(episodes_of(spec, (4, 7), "async"), both)
    assert np.array_equal(episodes_of(spec, (7,), "sync")[:, 0], both[:, 1])
    assert len(np.unique(both[0])) == 8  # two numbers of each of 2 x 2 sub-envs: no two of them draw alike


class DrawsLate(Draws):
    """Draws nothing before its third episode, when nobody looks any more."""

    def __init__(self):
        self.episodes, self.kind = 0, "numpy"
        self.world = 0.0

    def draw(self):
        return DRAWS[self.kind]() if self.episodes > 2 else 0.0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)


def test_a_late_draw_in_a_worker_process_is_seeded_by_sub_env(register, monkeypatch):
    monkeypatch.setattr(own_globals, "WATCHED_CALLS", 2)
    spec = EnvSpec(register(DrawsLate))
    first, again = (episodes_of(spec, (0, 1), "async", steps=14) for _ in range(2))
    late = first[-1][..., 0]  # [S, N], the last rewards
    assert np.unique(late).size == 4  # four workers of one fork draw four numbers
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_run_in_such_an_env_comes_back_to_the_byte_and_is_judged_by_episode(register, tmp_path):
    env_id = register(Draws)
    small = {"env_steps": 64, "num_envs": 2, "rollout_steps": 16, "eval_every": 32, "eval_episodes": 2}
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    with pytest.warns(RlabWarning, match="draws from the global generator of np.random, which .* self.np_random"):
        first = rlab.train("ppo", env_id, out=tmp_path / "a", final_eval_episodes=4, **small)
    assert np.random.get_state()[1].tolist() == before
    np.random.random(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        second = rlab.train("ppo", env_id, out=tmp_path / "b", final_eval_episodes=4, vector="async", **small)
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    one_by_one = rlab.evaluate(first.path, episodes=4, envs=1)
    assert one_by_one.returns.tolist() == first.evaluation.returns.tolist()


@pytest.mark.parametrize("kind", sorted(DRAWS))
def test_the_generator_that_an_env_uses_is_named_once(register, kind):
    env_id = register(Draws)
    with pytest.warns(RlabWarning, match=f"global generator of {NAMED[kind]}, which"):
        make_env(EnvSpec(env_id, {"kind": kind}))
    make_env(EnvSpec(env_id, {"kind": kind}))  # pytest would make an error of a second warning


def test_envs_that_use_nothing_global_are_soon_left_alone():
    env = make_env(EnvSpec("MountainCar-v0"))
    env.reset(seed=0)
    for _ in range(own_globals.WATCHED_CALLS):
        env.step(1)
    assert env._own.idle


class DrawsInStep40(DrawsLate):
    """Draws from step 40 on, when the calls 1 to 16 and 32 were looked at; the next one is call 64, its step 63."""

    def reset(self, *, seed=None, options=None):
        self.t = self.episodes = 0
        return self.observed(), {}

    def step(self, action):
        self.t += 1
        self.episodes = 3 if self.t >= 40 else 0
        return self.observed(), self.number, False, False, {}


def test_a_late_draw_is_seen_at_the_next_power_of_two_and_seeded_from_there(register):
    env = make_env(EnvSpec(register(DrawsInStep40)))
    drawn = []
    for program in (1, 2):
        np.random.seed(program)
        env.reset(seed=7)
        found = []
        for step in range(1, 70):
            if program == 1 and step == 63:
                said = "np.random.*from now on. It was first seen to draw long after .* Draw from self.np_random"
                with pytest.warns(RlabWarning, match=said):
                    found.append(env.step(0)[1])
            else:
                found.append(env.step(0)[1])
        drawn.append(found)
    again = make_env(EnvSpec(env.spec.id))
    again.reset(seed=7)
    third = [again.step(0)[1] for _ in range(69)]
    assert drawn[0][38] == 0.0
    assert drawn[0][39:62] != third[39:62]  # the program's generator went on
    assert drawn[0][62:] == third[62:]  # seeded with the episode's
    assert drawn[1][39:46] == drawn[0][62:]  # the second episode has its own from its beginning


class Rude(gym.Env):
    """Sets what is global in torch and NumPy, as a simulation may, and relies on it in each step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    rude = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if self.rude:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            np.seterr(all="raise")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if self.rude:
            assert torch.zeros(1).dtype is torch.float64
            assert not torch.is_grad_enabled()
            assert np.geterr()["under"] == "raise"
        self.t += 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action), self.t == 5, False, {}


class Polite(Rude):
    rude = False


def test_settings_that_an_env_changes_are_its_own(register, tmp_path):
    small = {"env_steps": 128, "num_envs": 2, "rollout_steps": 32, "eval_every": 64, "eval_episodes": 2}
    found = []
    for kind in (Polite, Rude):
        run = rlab.train("ppo", register(kind), out=tmp_path / kind.__name__, final_eval_episodes=2, **small)
        found.append({path.name for path in run.path.glob("policy/*.safetensors")})
    assert found[0] == found[1]  # the name is the checksum
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    assert np.geterr()["under"] == "ignore"
