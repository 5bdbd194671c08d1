"""What the envs room refuses, with which words, and how Gymnasium's spaces become plain data."""

import importlib.util
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rlab.envs
from rlab.envs import EnvSpec, SingleEpisodes, make_env, make_episodes, make_vec, space_from_gym
from rlab.errors import UsageError
from rlab.networks.spaces import Box, Discrete
from rlab.randomness import FIRST_TRAINING_ENV_SEED

CARTPOLE = EnvSpec("CartPole-v1")


def test_the_package_refuses_any_other_name(monkeypatch):
    path = Path(rlab.envs.__file__)
    spec = importlib.util.spec_from_file_location("envs", path, submodule_search_locations=[str(path.parent)])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "envs", module)
    with pytest.raises(ImportError, match=r"import this package as rlab\.envs, not as envs"):
        spec.loader.exec_module(module)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (gym.spaces.Box(0, 255, (3, 4, 1), np.uint8), Box((3, 4, 1), "uint8", 0.0, 255.0)),
        (gym.spaces.Box(-np.inf, np.inf, (2,), np.float64), Box((2,), "float64", -np.inf, np.inf)),
        (
            gym.spaces.Box(np.array([-1, -2]), np.array([5, 5]), dtype=np.int64),
            Box((2,), "int64", (-1.0, -2.0), 5.0),
        ),
        (gym.spaces.Box(0, 1, (10, 10, 4), np.bool_), Box((10, 10, 4), "bool", 0.0, 1.0)),
        (gym.spaces.Box(-1, 1, (), np.float32), Box((), "float32", -1.0, 1.0)),
        (gym.spaces.Discrete(3), Discrete(3)),
        (gym.spaces.Discrete(3, start=-1), Discrete(3, -1)),
    ],
)
def test_spaces_become_plain_data(space, expected):
    assert space_from_gym(space) == expected


def test_other_spaces_are_refused_with_what_is_supported():
    with pytest.raises(UsageError) as caught:
        space_from_gym(gym.spaces.Tuple([gym.spaces.Discrete(2)]), "the action space of Odd-v0", " So.")
    assert str(caught.value) == (
        "the action space of Odd-v0 is Tuple(Discrete(2)); rlab works with Box and Discrete spaces. So."
    )
    with pytest.raises(UsageError, match=r"the observation space of Blackjack-v1 .* --wrapper FlattenObservation"):
        make_vec(EnvSpec("Blackjack-v1"), (0,), 1)  # observations are a tuple
    assert make_vec(EnvSpec("Blackjack-v1", wrappers=(("FlattenObservation", {}),)), (0,), 1).obs_space.shape == (45,)


@pytest.mark.parametrize(
    ("seeds", "num_envs", "vector", "message"),
    [
        ((0,), 1, "sinc", "unknown kind of vector env 'sinc'. Did you mean 'sync'?"),
        ((), 1, "auto", "expected one member and one env or more, not 0 and 1"),
        ((0,), 0, "auto", "expected one member and one env or more, not 1 and 0"),
    ],
)
def test_bad_requests_give_one_line(seeds, num_envs, vector, message):
    with pytest.raises(UsageError) as caught:
        make_vec(CARTPOLE, seeds, num_envs, vector)
    assert str(caught.value) == message


def test_a_constructor_that_refuses_gives_one_line():
    with pytest.raises(UsageError, match="FrozenLake-v1 cannot be made: "):
        make_env(EnvSpec("FrozenLake-v1", kwargs={"map_name": "9x9"}))


def test_a_drawn_env_draws_and_one_that_cannot_says_so():
    env = make_env(CARTPOLE, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    env.close()
    with pytest.raises(UsageError) as caught:
        make_env(EnvSpec("rlab/ProbeAction-v0"), render_mode="rgb_array")
    assert str(caught.value) == "rlab/ProbeAction-v0 cannot be drawn as 'rgb_array'; it knows: nothing"
    assert isinstance(make_episodes(CARTPOLE, 1, render_mode="rgb_array"), SingleEpisodes)


def test_a_spec_reaches_every_kind_of_env():
    spec = EnvSpec("MountainCar-v0", {"goal_velocity": 0.01}, (("TimeAwareObservation", {}),), max_episode_steps=5)
    vector = make_vec(spec, (0,), 2)
    assert vector.obs_space.shape == (3,)
    vector.reset()
    steps = [vector.step(np.zeros((1, 2), dtype=int)) for _ in range(5)]
    assert [step.truncated.all() for step in steps] == [False, False, False, False, True]
    episodes = make_episodes(spec, 2)
    assert episodes.reset([1, 2]).shape == (2, 3)
    assert episodes.envs[0].unwrapped.goal_velocity == 0.01


def test_discrete_observations_come_as_integers():
    env = make_vec(EnvSpec("FrozenLake-v1"), (0,), 3)
    obs = env.reset()
    assert env.obs_space == Discrete(16)
    assert obs.tolist() == [[0, 0, 0]]
    assert obs.dtype == np.int64
    assert env.step(np.ones((1, 3), dtype=int)).next_obs.shape == (1, 3)


def test_continuous_actions_arrive():
    env = make_vec(EnvSpec("Pendulum-v1"), (0, 1), 2)
    env.reset()
    assert env.action_space.shape == (1,)
    assert env.step(np.zeros((2, 2, 1), dtype=np.float32)).reward.shape == (2, 2)


def test_training_and_evaluation_seeds_never_meet(monkeypatch):
    used = []
    reset = gym.vector.SyncVectorEnv.reset
    monkeypatch.setattr(
        gym.vector.SyncVectorEnv, "reset", lambda self, *, seed: used.extend(seed) or reset(self, seed=seed)
    )
    make_vec(EnvSpec("Acrobot-v1"), tuple(range(5)), 4).reset()
    assert len(set(used)) == 20
    assert min(used) >= FIRST_TRAINING_ENV_SEED
