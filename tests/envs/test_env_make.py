"""What the envs room refuses, with which words, and how Gymnasium's spaces become plain data."""

import importlib.util
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rlab.envs
from rlab.envs import (
    EnvSpec,
    EpisodeMaker,
    EpisodePool,
    SingleEpisodes,
    make_env,
    make_episodes,
    make_vec,
    space_from_gym,
)
from rlab.envs.watched import WatchedSyncVectorEnv
from rlab.errors import UsageError
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Tuple
from rlab.randomness import FIRST_TRAINING_ENV_SEED

CARTPOLE = EnvSpec("CartPole-v1")
BITS = gym.spaces.MultiBinary(2)


class Acting(gym.Env):
    """The reward is what arrived as the action; `seen` keeps it. Cut after two steps."""

    observation_space = gym.spaces.Discrete(2)

    def __init__(self, action_space):
        self.action_space, self.seen, self.t = action_space, [], 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return 0, {}

    def step(self, action):
        self.seen.append(action)
        self.t += 1
        return 0, float(np.sum(action)), False, self.t == 2, {}


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
        (gym.spaces.MultiDiscrete([2, 3], start=[5, -1]), MultiDiscrete((2, 3), (5, -1), (2,))),
        (gym.spaces.MultiDiscrete([[2, 3], [4, 5]]), MultiDiscrete((2, 3, 4, 5), (0,) * 4, (2, 2))),
        (gym.spaces.MultiBinary(3), MultiBinary((3,))),
        (gym.spaces.MultiBinary([2, 3]), MultiBinary((2, 3))),
        (gym.spaces.Tuple([gym.spaces.Discrete(2), BITS]), Tuple((Discrete(2), MultiBinary((2,))))),
        # Gymnasium sorts the names of a plain dict and keeps the order of pairs
        (gym.spaces.Dict({"b": BITS, "a": BITS}), Dict((("a", MultiBinary((2,))), ("b", MultiBinary((2,)))))),
        (gym.spaces.Dict([("b", BITS), ("a", BITS)]), Dict((("b", MultiBinary((2,))), ("a", MultiBinary((2,)))))),
        (
            gym.spaces.Dict({"in": gym.spaces.Dict({"deep": gym.spaces.Tuple([BITS])})}),
            Dict((("in", Dict((("deep", Tuple((MultiBinary((2,)),))),))),)),
        ),
    ],
    ids=str,
)
def test_spaces_become_plain_data(space, expected):
    assert space_from_gym(space) == expected


MASKS = [
    (gym.spaces.MultiBinary(3), 3),
    (gym.spaces.Box(0, 1, (4,), np.int8), 4),
    (gym.spaces.Box(0, 1, (4,), np.bool_), 4),
    (gym.spaces.Box(0.0, 1.0, (4,)), 4),
    (gym.spaces.MultiDiscrete([2, 2]), 2),
    (gym.spaces.Tuple([gym.spaces.MultiBinary(3), gym.spaces.MultiBinary(2)]), 5),
]


@pytest.mark.parametrize(("mask", "size"), MASKS, ids=str)
def test_a_dict_with_an_action_mask_is_a_masked_space(mask, size):
    space = gym.spaces.Dict({"action_mask": mask, "x": gym.spaces.Discrete(2)})
    assert space_from_gym(space) == Masked(Dict((("x", Discrete(2)),)), size)
    inside = gym.spaces.Dict({"x": space})  # of an env whose parts have masks of their own: mere observations
    assert isinstance(space_from_gym(inside), Dict)


@pytest.mark.parametrize(
    "mask",
    [
        gym.spaces.Box(0, 2, (4,), np.int8),
        gym.spaces.Box(0, 1, (2, 2), np.int8),
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.MultiDiscrete([2, 2], start=[0, 1]),
        gym.spaces.Discrete(2),
        gym.spaces.Text(5),
    ],
    ids=str,
)
def test_an_action_mask_that_is_none_is_refused(mask):
    space = gym.spaces.Dict({"action_mask": mask, "x": gym.spaces.Discrete(2)})
    with pytest.raises(UsageError, match=r"^Odd-v0 has an action_mask .*; expected one row of zeros and ones\.$"):
        space_from_gym(space, "Odd-v0")


GRAPH = gym.spaces.Graph(gym.spaces.Box(np.arange(900.0), np.arange(900.0) + 1, dtype=np.float64), None)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Text(7), "it is Text(1, 7, charset="),
        (gym.spaces.Sequence(BITS), "it is Sequence(MultiBinary(2), stack=False); rlab works with Box, Discrete, "),
        (gym.spaces.OneOf([BITS, BITS]), "it is OneOf("),
        (GRAPH, "it is Graph(Box([ 0. 1. 2. 3."),
        (gym.spaces.Dict(), "it is Dict(); rlab works"),
        (gym.spaces.Tuple([]), "it is Tuple(); rlab works"),
        (gym.spaces.Dict(a=BITS, b=gym.spaces.Tuple([gym.spaces.Text(7)])), "part 0 of the part 'b' of it is Text("),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_spaces_are_refused_in_one_line_with_what_is_supported(space, message):
    with pytest.raises(UsageError) as caught:
        space_from_gym(space, "it", " So.")
    said = str(caught.value)
    assert said.startswith(message)
    assert said.endswith(
        "rlab works with Box, Discrete, MultiDiscrete and MultiBinary, and with Dict and Tuple of them. So."
    )
    assert "\n" not in said
    assert len(said) < 400


def test_actions_must_be_arrays(register):
    env_id = register(lambda: Acting(gym.spaces.Dict(a=BITS)))
    with pytest.raises(UsageError) as caught:
        make_vec(EnvSpec(env_id), (0,), 1)
    assert str(caught.value) == (
        f"the action space of {env_id} is Dict('a': MultiBinary(2)); "
        "only Box, Discrete, MultiDiscrete and MultiBinary are supported here."
    )


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


@pytest.mark.parametrize(
    ("space", "action", "arrives"),
    [
        (gym.spaces.Discrete(3, start=5), [[0, 2]], [5, 7]),
        (gym.spaces.MultiDiscrete([2, 3], start=[5, -1]), [[[0, 0], [1, 2]]], [[5, -1], [6, 1]]),
        (gym.spaces.MultiDiscrete([[2], [3]], start=[[1], [2]]), [[[[0], [0]], [[1], [2]]]], [[[1], [2]], [[2], [4]]]),
        (gym.spaces.MultiDiscrete([2, 3]), [[[0, 0], [1, 2]]], [[0, 0], [1, 2]]),
        (gym.spaces.MultiBinary(2), [[[0, 1], [True, True]]], [[0, 1], [1, 1]]),
        (gym.spaces.Box(-2.0, 2.0, (1,), np.float64), [[[0.5], [-1.0]]], [[0.5], [-1.0]]),
        (gym.spaces.Box(-2.0, 2.0, (1,), np.float32), [[[0.5], [-1.0]]], [[0.5], [-1.0]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("vector", ["sync", "async"])
def test_training_actions_count_from_zero_and_arrive_as_the_envs_own(register, space, action, arrives, vector):
    env = make_vec(EnvSpec(register(lambda: Acting(space))), (0,), 2, vector)
    env.reset()
    given = np.array(action)
    assert env.step(given).reward.tolist() == [[float(np.sum(one)) for one in arrives]]
    assert given.tolist() == np.array(action).tolist()  # the stored action stays as it was
    if vector == "sync":
        for single, expected in zip(env._env.envs, arrives, strict=True):
            assert np.array_equal(single.unwrapped.seen[0], expected)
            assert space.contains(single.unwrapped.seen[0])
            assert single.unwrapped.seen[0].dtype == space.dtype
    env.close()


@pytest.mark.parametrize("space", [gym.spaces.Discrete(3, start=5), gym.spaces.MultiDiscrete([2, 3], start=[5, -1])])
def test_episodes_take_what_a_policy_gives(space):
    episodes = SingleEpisodes([Acting(space) for _ in range(2)])
    episodes.reset([0, 1])
    action = np.array([5, 7]) if space.shape == () else np.array([[5, -1], [6, 1]])
    assert episodes.step(action, np.array([True, True]))[1].tolist() == [float(np.sum(one)) for one in action]
    for env, expected in zip(episodes.envs, action, strict=True):
        assert space.contains(env.unwrapped.seen[0])
        assert np.array_equal(env.unwrapped.seen[0], expected)


@pytest.mark.parametrize(
    ("env_id", "asked", "known"),
    [
        ("CartPole-v1", None, 500),
        ("CartPole-v1", 7, 7),
        ("Acrobot-v1", None, 500),
        ("Acrobot-v1", 7, 7),
        ("Blackjack-v1", None, None),
        ("rlab/ProbeAction-v0", None, None),
    ],
)
def test_the_time_limit_is_the_one_asked_for_or_else_the_registered_one(env_id, asked, known):
    assert make_vec(EnvSpec(env_id, max_episode_steps=asked), (0,), 1).time_limit == known


def test_training_and_evaluation_seeds_never_meet(monkeypatch):
    used = []
    reset = WatchedSyncVectorEnv.reset
    monkeypatch.setattr(
        WatchedSyncVectorEnv, "reset", lambda self, *, seed: used.extend(seed) or reset(self, seed=seed)
    )
    make_vec(EnvSpec("Acrobot-v1"), tuple(range(5)), 4).reset()
    assert len(set(used)) == 20
    assert min(used) >= FIRST_TRAINING_ENV_SEED


class Lives(gym.Env):
    """One-step episodes; counts how many instances live now, how many ever lived, and refuses more than `most`."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    alive, made, most = 0, 0, 99

    def __init__(self):
        if Lives.alive >= Lives.most:
            raise OSError("port in use")
        Lives.alive, Lives.made = Lives.alive + 1, Lives.made + 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, True, False, {}

    def close(self):
        Lives.alive -= 1


@pytest.fixture
def lives():
    gym.register("rlab-test/Lives-v0", Lives, max_episode_steps=70_000)
    Lives.alive, Lives.made, Lives.most = 0, 0, 99
    yield EnvSpec("rlab-test/Lives-v0")
    del gym.registry["rlab-test/Lives-v0"]


def test_a_pool_keeps_its_envs_from_one_judgement_to_the_next(lives):
    pool = EpisodePool(lives)
    for n in (3, 3, 2, 5):
        episodes = pool(n)
        assert episodes.reset(list(range(n))).shape == (n, 1)
        episodes.close()
    assert (Lives.alive, Lives.made) == (5, 1 + 5)  # one more shows what its observations are, and is closed first
    pool.close()
    assert Lives.alive == 0


def test_where_not_all_envs_can_be_made_the_others_are_closed_and_the_error_says_how_many_can(lives):
    Lives.most = 2
    with pytest.raises(UsageError, match=r"port in use \(.*\)\. 2 of 4 could be made .* fewer do with --eval-envs 2"):
        make_episodes(lives, 4)
    assert Lives.alive == 0


@pytest.mark.parametrize(("members", "most", "expected"), [(1, None, 10), (10, None, 64), (99, None, 99), (5, 2, 2)])
def test_few_envs_live_at_once_however_many_episodes_are_asked_for(lives, members, most, expected):
    assert EpisodeMaker(lives, most).most_at_once(members) == expected
    assert EpisodeMaker(CARTPOLE, most).most_at_once(members) == (most or 4096)  # rows of one native env


def test_episodes_know_the_time_limit_that_ends_them(lives):
    assert make_episodes(lives, 1).time_limit == 70_000
    assert make_episodes(EnvSpec("rlab-test/Lives-v0", max_episode_steps=30), 1).time_limit == 30
    limited = ("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 20})
    assert make_episodes(EnvSpec("rlab-test/Lives-v0", wrappers=(limited,)), 1).time_limit == 20
    assert make_episodes(CARTPOLE, 1).time_limit == 500
    gym.register("rlab-test/NoLimit-v0", Lives)
    assert make_episodes(EnvSpec("rlab-test/NoLimit-v0"), 1).time_limit is None
    del gym.registry["rlab-test/NoLimit-v0"]
