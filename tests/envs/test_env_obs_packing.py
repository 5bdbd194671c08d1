"""Observations in parts and action masks come as arrays, the same in training, evaluation and play."""

import copy

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs import EnvSpec, GymVectorEnv, SingleEpisodes, make_env, make_episodes, make_vec
from rlab.envs.adapter import AutoresetMode
from rlab.envs.obs_packing import find_packing
from rlab.envs.pool import check_same_spaces
from rlab.envs.workers import WatchedAsyncVectorEnv, sub_env_maker
from rlab.errors import RlabError, UsageError
from rlab.networks.spaces import Box, Dict, Discrete, Masked, Tuple, pack
from rlab.randomness import env_seed

MODES = sorted(mode.value for mode in AutoresetMode)
PARTS = gym.spaces.Dict({"clock": gym.spaces.Box(0.0, np.inf, (2,), np.float32), "phase": gym.spaces.Discrete(7)})


def parts(obs):
    """`[episode, step]` of the counting world as a Dict."""
    return {"clock": obs, "phase": np.int64(obs[1])}


def allowed(obs):
    """The first action is allowed at even steps, the second always, the third at odd ones."""
    odd = int(obs[1]) % 2
    return np.array([1 - odd, 1, odd], np.int8)


@pytest.fixture
def worlds(counting):
    """The counting world, seen in parts, with a mask in its info, or with the mask as a part."""

    class InParts(counting.Env):
        observation_space = PARTS

        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return parts(obs), info

        def step(self, action):
            obs, *rest = super().step(action)
            return parts(obs), *rest

    class Info(counting.Env):
        def reset(self, **kwargs):
            obs, _ = super().reset(**kwargs)
            return obs, {"action_mask": allowed(obs), "other": 1}

        def step(self, action):
            obs, reward, terminated, truncated, _ = super().step(action)
            return obs, reward, terminated, truncated, {"action_mask": allowed(obs)}

    class Part(InParts):
        observation_space = gym.spaces.Dict({**PARTS.spaces, "action_mask": gym.spaces.MultiBinary(3)})

        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return {**obs, "action_mask": allowed(obs["clock"])}, info

        def step(self, action):
            obs, *rest = super().step(action)
            return {**obs, "action_mask": allowed(obs["clock"])}, *rest

    return {"parts": InParts, "info": Info, "part": Part}


CLOCK = Box((2,), "float32", 0.0, np.inf)
SPACES = {
    "parts": Dict((("clock", CLOCK), ("phase", Discrete(7)))),
    "info": Masked(CLOCK, 3),
    "part": Masked(Dict((("clock", CLOCK), ("phase", Discrete(7)))), 3),
}
KINDS = sorted(SPACES)


def packed(kind, obs):
    """What the counting world's `[episode, step]` should come as."""
    phase = [] if kind == "info" else [obs[1]]
    return [*obs, *phase, *([] if kind == "parts" else allowed(obs))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vector", ["sync", "async"])
def test_sync_and_async_give_the_transitions_of_a_plain_loop(counting, worlds, register, kind, vector):
    env = make_vec(EnvSpec(register(worlds[kind])), (3, 11), 2, vector)
    assert env.obs_space == SPACES[kind]
    lanes = counting.lanes_of(env, vector_steps=40)
    env.close()
    for (s, n), lane in lanes.items():
        plain = counting.lane_by_hand(env_seed((3, 11)[s], n), len(lane))
        # every observation and every true successor, the final ones with their mask
        assert lane == [
            (packed(kind, obs), a, r, packed(kind, next_obs), *ends) for obs, a, r, next_obs, *ends in plain
        ]
        assert sum(terminated or truncated for *_, terminated, truncated in lane) > 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_autoreset_mode_gives_the_same_transitions(counting, worlds, kind, mode):
    packing = find_packing(worlds[kind], "World-v0")
    makers = [sub_env_maker(worlds[kind], index, packing) for index in range(2)]
    env = GymVectorEnv(gym.vector.SyncVectorEnv(makers, autoreset_mode=mode), (5,), "World-v0", packing.obs_space)
    for (_, n), lane in counting.lanes_of(env, vector_steps=40).items():
        plain = counting.lane_by_hand(env_seed(5, n), len(lane))
        assert lane == [
            (packed(kind, obs), a, r, packed(kind, next_obs), *ends) for obs, a, r, next_obs, *ends in plain
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_and_play_see_what_training_sees(counting, worlds, register, kind):
    spec = EnvSpec(register(worlds[kind]))
    episodes, single = make_episodes(spec, 2), make_env(spec)
    assert episodes.obs_space == single.packing.obs_space == SPACES[kind]
    obs = episodes.reset([7, 8])
    assert obs.dtype == np.float32
    for row, seed in enumerate([7, 8]):
        plain = counting.Env()
        assert obs[row].tolist() == packed(kind, plain.reset(seed=seed)[0])
        assert single.reset(seed=seed)[0].tolist() == obs[row].tolist()
    after = episodes.step(np.array([1, 1]), np.array([False, True]))[0]
    assert after[0].tolist() == obs[0].tolist()
    assert after[1].tolist() == packed(kind, plain.step(1)[0]) == single.step(1)[0].tolist()
    assert single.observation_space.contains(single.reset(seed=1)[0])


def test_plain_arrays_without_a_mask_stay_as_they_are(counting, register):
    spec = EnvSpec(register(counting.Env))
    assert make_env(spec).observation_space == counting.Env.observation_space
    assert make_vec(spec, (0,), 1).obs_space == find_packing(counting.Env, "x").obs_space == CLOCK


def test_envs_are_probed_once_and_native_ones_never(counting, register, monkeypatch):
    made = []

    class Counted(counting.Env):
        def __init__(self):
            made.append(self)

    spec = EnvSpec(register(Counted))
    for make, expected in ((lambda: make_vec(spec, (0, 1), 3), 7), (lambda: make_episodes(spec, 4), 5)):
        made.clear()
        make()
        assert len(made) == expected
    monkeypatch.setattr("rlab.envs.make.find_packing", None)
    make_vec(EnvSpec("CartPole-v1"), (0,), 2)
    make_episodes(EnvSpec("CartPole-v1"), 2)


class Masking(gym.Env):
    """Observes 0.5; `masks` are what its info says at reset, and then step after step. Ends with the last."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, masks, action_space=None):
        self.masks, self.t = masks, 0
        self.action_space = action_space or gym.spaces.Discrete(2)

    def info(self):
        mask = copy.deepcopy(self.masks[self.t])
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.full(1, 0.5, np.float32), self.info()

    def step(self, action):
        self.t += 1
        return np.full(1, 0.5, np.float32), 0.0, self.t == len(self.masks) - 1, False, self.info()


CHOICES = gym.spaces.MultiDiscrete([2, 3])


def test_the_mask_of_several_choices_may_be_one_array_or_one_for_each(register):
    for masks in ([(1, 0, 0, 1, 1)], [(np.array([1, 0]), np.array([0, 1, 1]))]):
        first = np.array(masks[0], np.int8) if isinstance(masks[0][0], int) else masks[0]
        env = make_vec(EnvSpec(register(lambda first=first: Masking([first] * 3, CHOICES))), (0,), 1)
        assert env.obs_space == Masked(Box((1,), "float32", 0.0, 1.0), 5)
        assert env.reset()[0, 0].tolist() == [0.5, 1, 0, 0, 1, 1]


def test_an_integer_with_a_mask_is_packed_as_integers(register):
    newest = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
    env = make_vec(EnvSpec(newest), (0,), 2)
    assert env.obs_space == Masked(Discrete(500), 6)
    assert (env.obs_space.shape, env.reset().dtype) == ((7,), np.int32)


@pytest.mark.parametrize(
    ("mask", "actions", "message"),
    [
        (np.ones(3), gym.spaces.Discrete(2), "the action_mask of {} must be 2 zeros and ones, not 3."),
        (
            np.array([0, 2]),
            gym.spaces.Discrete(2),
            "the action_mask of {} must be 2 zeros and ones, not something else.",
        ),
        (
            np.ones((2, 1)),
            gym.spaces.Discrete(2),
            "the action_mask of {} must be 2 zeros and ones, not something else.",
        ),
        ("left", gym.spaces.Discrete(2), "the action_mask of {} must be 2 zeros and ones, not something else."),
        ((np.ones(3), np.ones(2)), CHOICES, "the action_mask of {} must be 5 zeros and ones, not 3 and 2."),
        (
            np.ones(1),
            gym.spaces.Box(-1.0, 1.0, (1,)),
            "{} gives an action_mask, and its actions are Box((1,), float32); "
            "only Discrete and MultiDiscrete actions can be masked.",
        ),
    ],
    ids=str,
)
def test_a_mask_that_does_not_fit_the_actions_is_refused_before_training(register, mask, actions, message):
    spec = EnvSpec(register(lambda: Masking([mask] * 3, actions)))
    for make in (lambda: make_vec(spec, (0,), 1), lambda: make_episodes(spec, 1), lambda: make_env(spec)):
        with pytest.raises(UsageError) as caught:
            make()
        assert str(caught.value) == message.format(spec.env_id)


def test_a_mask_as_a_part_must_fit_the_actions_too(register):
    class Wrong(Masking):
        observation_space = gym.spaces.Dict(x=Masking.observation_space, action_mask=gym.spaces.MultiBinary(3))

    env_id = register(lambda: Wrong([None]))
    with pytest.raises(UsageError, match=f"^the action_mask of {env_id} must be 2 zeros and ones, not 3\\.$"):
        make_env(EnvSpec(env_id))


YES, NO = np.ones(2, np.int8), np.zeros(2, np.int8)


@pytest.mark.parametrize(
    ("masks", "actions", "message"),
    [
        ([YES, NO, YES], None, "its action_mask allows no action, though the episode goes on."),
        ([YES, None, YES], None, "its info has no 'action_mask', though that of its first reset had one."),
        ([YES, np.ones(3), YES], None, "a mask of shape (3,) does not fit; expected 2 zeros and ones."),
        (
            [np.ones(5), np.array([1, 1, 0, 0, 0]), np.ones(5)],
            CHOICES,
            "its action_mask allows no action, though the episode goes on.",
        ),
    ],
    ids=["nothing allowed", "missing", "another size", "one choice without options"],
)
@pytest.mark.parametrize("vector", ["sync", "async"])
def test_a_mask_that_goes_wrong_in_an_episode_is_one_line(register, masks, actions, message, vector):
    spec = EnvSpec(register(lambda: Masking(masks, actions)))
    env, episodes = make_vec(spec, (4,), 1, vector), make_episodes(spec, 1)
    env.reset()
    action = np.zeros((1, 1, *env.action_space.shape), np.int64)
    with pytest.raises(RlabError) as caught:
        env.step(action)
    assert str(caught.value) == f"{spec.env_id} failed in env 0 of seed 4 at vector step 1: {message}"
    env.close()
    episodes.reset([9])
    with pytest.raises(RlabError) as caught:
        episodes.step(action[0], np.array([True]))
    assert str(caught.value) == f"{spec.env_id} failed in the episode of seed 9 at step 1: {message}"


@pytest.mark.parametrize("last", [NO, None, YES], ids=["nothing", "missing", "all"])
def test_where_the_world_ends_a_mask_may_allow_nothing_or_be_missing(register, last):
    env = make_vec(EnvSpec(register(lambda: Masking([YES, YES, last]))), (0,), 1)
    env.reset()
    env.step(np.zeros((1, 1), np.int64))
    step = env.step(np.zeros((1, 1), np.int64))
    assert step.terminated.all()
    assert step.next_obs[0, 0].tolist() == ([0.5, 0, 0] if last is NO else [0.5, 1, 1])
    assert step.obs[0, 0].tolist() == [0.5, 1, 1]


def test_at_the_end_nothing_for_one_choice_is_nothing_at_all(register):
    masks = [np.ones(5), np.array([1, 1, 0, 0, 0])]
    episodes = make_episodes(EnvSpec(register(lambda: Masking(masks, CHOICES))), 1)
    episodes.reset([0])
    assert episodes.step(np.zeros((1, 2), np.int64), np.array([True]))[0][0].tolist() == [0.5, 0, 0, 0, 0, 0]


def test_an_env_whose_first_reset_fails_is_named(register):
    class Broken(Masking):
        def reset(self, **kwargs):
            raise OSError("no display")

    env_id = register(lambda: Broken([YES]))
    with pytest.raises(RlabError) as caught:
        make_vec(EnvSpec(env_id), (0,), 1)
    message = f"{env_id} failed in its first reset or step: OSError: no display (test_env_obs_packing.py:"
    assert str(caught.value).startswith(message)


def test_envs_that_give_no_arrays_are_refused_where_nobody_packs_them(worlds):
    env = gym.vector.SyncVectorEnv([worlds["parts"]] * 2, autoreset_mode="SameStep")
    with pytest.raises(UsageError, match=r"the observation space of World-v0 is Dict\(.*; only Box, Discrete, Multi"):
        GymVectorEnv(env, (0,), "World-v0")
    with pytest.raises(UsageError, match=r"the observation space of World-v0 is Dict\(.*; only Box, Discrete, Multi"):
        SingleEpisodes([worlds["parts"]()], "World-v0")


def test_a_policy_trained_without_masks_does_not_fit_an_env_that_gives_them(counting, worlds):
    pool = counting.VectorEnv(1, "NextStep")
    check_same_spaces(pool, find_packing(counting.Env, "World-v0"), "World-v0")
    with pytest.raises(
        UsageError, match=r"EnvPool's World-v0 has observations Box.*, Gymnasium's has .* with a mask of 3"
    ):
        check_same_spaces(pool, find_packing(worlds["info"], "World-v0"), "World-v0")


def test_gymnasiums_own_envs_in_parts_come_as_arrays():
    env = make_vec(EnvSpec("Blackjack-v1"), (0,), 2)
    assert env.obs_space == Tuple((Discrete(32), Discrete(11), Discrete(2)))
    obs = env.reset()
    single = gym.make("Blackjack-v1")
    assert obs[0, 1].tolist() == pack(env.obs_space, single.reset(seed=env_seed(0, 1))[0]).tolist()
    assert obs.dtype == np.uint8


def test_a_worker_that_cannot_pack_does_not_hang(worlds):
    packing = find_packing(worlds["info"], "World-v0")
    makers = [sub_env_maker(lambda: Masking([YES] * 3), index, packing) for index in range(2)]
    env = GymVectorEnv(WatchedAsyncVectorEnv(makers), (0,), "World-v0", packing.obs_space)
    with pytest.raises(RlabError, match=r"World-v0 has the observation space Box.* in env [01] of seed 0, though"):
        env.reset()


def test_a_mask_that_comes_with_the_first_step_alone_is_refused():
    class Late(Masking):
        def reset(self, *, seed=None, options=None):
            obs, _ = super().reset(seed=seed, options=options)
            return obs, {}

    with pytest.raises(UsageError, match="gives an action_mask in its steps and none in its reset"):
        find_packing(lambda: Late([YES] * 3), "World-v0")
