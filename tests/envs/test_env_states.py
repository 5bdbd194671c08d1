"""Envs that are saved and loaded go on, to the bit, as if nothing had happened."""

import copy
import os
import random
import re
import weakref
from collections import deque
from random import random as drawn_at_import

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from rlab.envs import (
    BOX_PROBES,
    MEMORY_PROBES,
    PROBES,
    SPACE_PROBES,
    SPARSE_PROBES,
    EnvSpec,
    GymVectorEnv,
    make_vec,
)
from rlab.envs import journal as journal_module
from rlab.envs.watched import WatchedSyncVectorEnv
from rlab.envs.workers import WatchedAsyncVectorEnv, sub_env_maker
from rlab.errors import RlabError
from rlab.networks.spaces import MASK_KEY, Box, Discrete, MultiDiscrete
from rlab.runs.encoding import decode, encode

pytestmark = pytest.mark.filterwarnings("ignore:.*draws from the global generator")

STEPS = 200  # vector steps compared
STOPS = (0, 1, 2, 13, 14, 15, 16, 33, 60, 61, 99, 150)


class Walk(gym.Env):
    """A random walk of `noise()` and the actions; ends beyond 3, or is cut after 11 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def noise(self):
        return self.np_random.normal()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, self.noise()
        return self.observe(), {}

    def observe(self):
        return np.array([self.x, self.t])

    def step(self, action):
        self.t += 1
        self.x += self.noise() + 0.1 * float(np.sum(action))
        return self.observe(), self.x * 0.5, abs(self.x) > 3, self.t >= 11, {}


class Continuous(Walk):
    """Takes vectors, and changes what it was given."""

    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def step(self, action):
        result = super().step(action)
        action[:] = 7.0
        return result


class OwnGenerator(Walk):
    """Has a generator of its own, which no seed reaches."""

    def __init__(self):
        self.rng = np.random.default_rng(5)

    def noise(self):
        return self.rng.normal()


class Game:
    """An object with generators inside, as of a game that an env wraps."""

    def __init__(self):
        self.dice, self.parts = random.Random(3), {"legacy": [np.random.RandomState(4)]}


class Nested(Walk):
    """Draws from generators inside another object, the second of a pair of normal numbers included."""

    def __init__(self):
        self.game = Game()

    def noise(self):
        return self.game.dice.gauss(0, 1) + self.game.parts["legacy"][0].normal()


class TheirGame(Game):
    __module__ = "elsewhere.games"


class TheirWalk(Walk):
    """An env of another package with two games, which draw from one generator once it is seeded."""

    __module__ = "elsewhere.envs"

    def __init__(self):
        self.games = TheirGame(), TheirGame()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.games[0].dice = self.games[1].dice = random.Random(seed)
        return super().reset(seed=seed, options=options)

    def noise(self):
        return self.games[0].dice.gauss(0, 1) + self.games[1].dice.random()


class Extended(TheirWalk):
    """Extends it, as rlab's own class extends MinAtar's: what is of that package is the env's own, too."""


class ActionSpace(Walk):
    """Draws from its action space."""

    def __init__(self):
        self.action_space = gym.spaces.Discrete(3, seed=2)

    def noise(self):
        return float(self.action_space.sample() - 1)


class UnseededSpaces(Walk):
    """Draws from spaces that it has not seeded."""

    def __init__(self):
        self.action_space = gym.spaces.Discrete(3)
        self.things = gym.spaces.Dict({"a": gym.spaces.Box(-1.0, 1.0, (2,)), "b": gym.spaces.Discrete(2)})

    def noise(self):
        thing = self.things.sample()
        return float(self.action_space.sample() - 1 + thing["a"].sum() + thing["b"])


class GlobalNumpy(Walk):
    def noise(self):
        return np.random.normal()


class GlobalPython(Walk):
    def noise(self):
        return random.gauss(0, 1) + drawn_at_import()


class GlobalTorch(Walk):
    def noise(self):
        import torch

        return torch.randn(()).item()


class LateGlobal(Walk):
    """Draws from a global generator from its 64th call on, which is watched."""

    calls = 0

    def noise(self):
        self.calls += 1
        return np.random.normal() if self.calls >= 64 else self.np_random.normal()


class RareGlobal(Walk):
    """Draws from a global generator now and then, and never in a call that is watched."""

    calls = 0

    def noise(self):
        self.calls += 1
        rare = self.calls > 16 and self.calls % 7 == 0
        return np.random.normal() + random.random() if rare else self.np_random.normal()


class Aliased(Walk):
    """Holds its generator under a second name, from its first reset on."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            gym.Env.reset(self, seed=seed)
            self.rng = self.np_random
        return super().reset()

    def noise(self):
        return self.np_random.normal() + self.rng.normal()


class Settings(Walk):
    """Changes what NumPy does about errors, and depends on it."""

    def reset(self, *, seed=None, options=None):
        np.seterr(over="ignore" if np.geterr()["over"] == "warn" else "warn")
        return super().reset(seed=seed)

    def noise(self):
        return super().noise() + (np.geterr()["over"] == "warn")


class Remembers(Walk):
    """Each episode depends on the earlier ones, in numbers, lists, deques, dicts and arrays, none of which is observed
    before an episode's third step."""

    def __init__(self):
        self.episodes, self.visits, self.lengths = 0, {"far": 0}, deque([1], maxlen=3)
        self.table, self.starts, self.pair = np.zeros(4), [], (0, 0.0)
        self.alias = self.table

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.episodes += 1
        self.starts.append(self.x)
        self.pair = (self.episodes, self.x)
        return found

    def step(self, action):
        result = super().step(action)
        self.visits["far"] += abs(self.x) > 1
        self.table[self.t % 4] += self.x
        if result[2] or result[3]:
            self.lengths.append(self.t)
        if self.t > 2:
            past = self.episodes + self.visits["far"] + sum(self.lengths) + sum(self.starts) + self.pair[1]
            self.x += 0.01 * (past + self.alias.sum())
        return result


class Rules:
    def __init__(self):
        self.last = 0


class RemembersInside(Walk):
    """Another object remembers the last action of the last episode."""

    def __init__(self):
        self.rules = Rules()

    def step(self, action):
        self.x += 0.01 * self.rules.last
        self.rules.last = int(action) + self.rules.last % 5
        return super().step(action)


class NoModule(type):
    """Of classes that say not where they are from, as some extensions' do."""

    @property
    def __module__(cls):
        raise AttributeError("__module__")


class HoldsOddThings(Walk):
    """Holds what cannot be looked at like other things."""

    def __init__(self):
        self.odd = NoModule("Odd", (), {})()
        self.gone = weakref.proxy(Rules())

    def noise(self):
        return self.np_random.normal()


class OwnState(Walk):
    """Keeps its position where no attribute shows it, and says what it is itself."""

    def __init__(self):
        self.cell = {frozenset(): 0.0}
        self.salt = os.urandom(8)  # so that no replay ends as it did

    @property
    def x(self):
        return self.cell[frozenset()]

    @x.setter
    def x(self, value):
        self.cell[frozenset()] = value

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)

    def get_state(self):
        return {"position": self.x, "pair": (1, np.float32(2))}

    def set_state(self, state):
        assert state["pair"] == (1, 2.0)
        self.x = state["position"]


class MaskMethod(Walk):
    """Gives the mask of actions by a method."""

    def action_masks(self):
        return np.array([True, self.t % 2 == 0, True])


class MaskInInfo(Walk):
    """Gives the mask of actions in its infos."""

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed)
        return obs, {MASK_KEY: np.array([1, 0, 1])}

    def step(self, action):
        return (*super().step(action)[:4], {MASK_KEY: np.array([1, int(self.x > 0), 1])})


class Urandom(Walk):
    def noise(self):
        return int.from_bytes(os.urandom(4), "big") / 2**32


class Hidden(Walk):
    """Its generator is where rlab does not look, and nothing of it shows before an episode's third step."""

    def __init__(self):
        self.hidden = {(0, 0): np.random.default_rng(1)}

    def step(self, action):
        self.x += self.hidden[0, 0].normal() if self.t > 2 else 0.0
        return super().step(action)


class UnseenUrandom(Walk):
    """Only its rewards are of the operating system's making."""

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, os.urandom(1)[0], terminated, truncated, info


class Wrapped(gym.Wrapper):
    """A wrapper that rlab does not know, with a memory of its own."""

    total = 0.0

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        self.total = 0.5 * self.total + reward
        return (obs, self.total, *rest)


GYMNASIUM = [
    *("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1"),
    *("FrozenLake-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4", "Blackjack-v1"),
]
OWN = [
    *(Walk, Continuous, OwnGenerator, Nested, Extended, ActionSpace, GlobalNumpy, GlobalPython, GlobalTorch, Settings),
    *(Remembers, OwnState, MaskMethod, MaskInInfo, Aliased, UnseededSpaces, RemembersInside, HoldsOddThings),
]
WRAPPED = {
    "frame stack": ("CartPole-v1", [("FrameStackObservation", {"stack_size": 3})]),
    "zero frames": ("CartPole-v1", [("FrameStackObservation", {"stack_size": 3, "padding_type": "zero"})]),
    "delay": ("Pendulum-v1", [("DelayObservation", {"delay": 2})]),
    "time": ("MountainCar-v0", [("TimeAwareObservation", {})]),
    "sticky": ("FrozenLake-v1", [("StickyAction", {"repeat_action_probability": 0.4})]),
    "sticky span": (
        "CartPole-v1",
        [("StickyAction", {"repeat_action_probability": 0.3, "repeat_action_duration": (2, 4)})],
    ),
    "repeat": ("CartPole-v1", [("RepeatAction", {"num_repeats": 2})]),
    "flat": ("Blackjack-v1", [("FlattenObservation", {})]),
    "frames": ("CartPole-v1", [("NoVelocity", {}), ("FrameStack", {"frames": 3})]),
    "no velocity": ("Pendulum-v1", [("NoVelocity", {})]),
    "physics": ("CartPole-v1", [("CartPolePhysics", {"length": 0.7})]),
    "clip": ("MountainCarContinuous-v0", [("ClipAction", {}), ("RepeatAction", {"num_repeats": 3})]),
}


def through_a_file(state):
    """What a checkpoint gives back."""
    return decode(*encode(state))


def actions(env, rng):
    """Random ones, `[S, N]` or `[S, N, *action]`."""
    space, shape = env.action_space, (len(env.seeds), env.num_envs)
    if isinstance(space, Discrete):
        return rng.integers(space.n, size=shape)
    if isinstance(space, MultiDiscrete):
        return rng.integers(space.nvec, size=(*shape, len(space.nvec)))
    if isinstance(space, Box):
        return rng.uniform(-1.0, 1.0, size=(*shape, *space.shape)).astype(np.float32)
    return rng.integers(2, size=(*shape, *space.shape))


def rows(env, rng, steps):
    """All that so many vector steps of random actions give, as bytes."""
    found = []
    for _ in range(steps):
        step = env.step(actions(env, rng))
        arrays = (step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid)
        found.append([array.tobytes() for array in arrays] + [step.none_ended, step.all_valid])
    return found


def check_goes_on(make, stops=STOPS, steps=STEPS):
    """Compare an env that is never stopped with one that is saved, closed, made anew and loaded at each stop."""
    whole, parted = make(), make()
    try:
        assert whole.reset().tobytes() == parted.reset().tobytes()
        expected, found, rng, done = rows(whole, np.random.default_rng(0), steps), [], np.random.default_rng(0), 0
        assert any(row[3].count(1) or row[4].count(1) for row in expected)  # some episodes ended
        for stop in [*stops, steps]:
            found += rows(parted, rng, stop - done)
            state, done = through_a_file(parted.state()), stop
            parted.close()
            parted = make()
            assert parted.load_state(state) is None
        assert found == expected
        assert list(encode(parted.state())[0]) == list(encode(whole.state())[0])
    finally:
        whole.close(), parted.close()


def vector_env(make, kind, num=4):
    makers = [sub_env_maker(make, index, seed=index) for index in range(num)]
    vectorize = {"sync": WatchedSyncVectorEnv, "async": WatchedAsyncVectorEnv}[kind]
    return GymVectorEnv(vectorize(makers), (3, 5), "World-v0")


@pytest.mark.parametrize("stops", [[0], [1], [37], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [5, 60, 61, 130]])
def test_native_cart_poles_go_on_wherever_they_are_stopped(stops):
    check_goes_on(lambda: make_vec(EnvSpec("CartPole-v1", max_episode_steps=25), (3, 4), 5, "native"), stops)


@pytest.mark.parametrize("env_id", [*GYMNASIUM, *PROBES, *MEMORY_PROBES, *SPACE_PROBES, *BOX_PROBES, *SPARSE_PROBES])
def test_known_envs_go_on_wherever_they_are_stopped(env_id):
    limit = None if env_id.startswith("rlab") else 30
    make = lambda: make_vec(EnvSpec(env_id, max_episode_steps=limit), (3, 4), 2, "sync")  # noqa: E731
    check_goes_on(make, stops=(0, 15, 99))
    env = make()
    env.reset()
    assert all("pair" in one for one in env.state()["envs"]["state"]["sub_envs"])  # no journal is kept
    env.close()


@pytest.mark.parametrize("name", WRAPPED)
def test_envs_in_known_wrappers_go_on(name):
    env_id, wrappers = WRAPPED[name]
    spec = EnvSpec(env_id, max_episode_steps=30, wrappers=wrappers)
    check_goes_on(lambda: make_vec(spec, (3,), 3, "sync"), stops=(0, 15, 99))


def test_pictures_go_on():
    pytest.importorskip("pygame")
    wrappers = [("Pixels", {"width": 16, "height": 16}), ("FrameStackObservation", {"stack_size": 2})]
    spec = EnvSpec("FrozenLake-v1", wrappers=wrappers)
    check_goes_on(lambda: make_vec(spec, (3,), 2, "sync"), stops=(3, 8, 20), steps=40)


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "LunarLanderContinuous-v3"])
def test_lunar_landers_go_on(env_id):
    pytest.importorskip("Box2D")
    check_goes_on(lambda: make_vec(EnvSpec(env_id, max_episode_steps=60), (3,), 2, "sync"), stops=(7, 70, 111))


@pytest.mark.parametrize("game", ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"])
def test_games_of_minatar_go_on(game):
    pytest.importorskip("minatar")
    spec = EnvSpec(f"MinAtar/{game}-v1", max_episode_steps=60)
    check_goes_on(lambda: make_vec(spec, (3,), 2, "sync"), stops=(7, 70, 111), steps=140)


def test_mini_grids_go_on():
    pytest.importorskip("minigrid")
    spec = EnvSpec("MiniGrid-DoorKey-5x5-v0", max_episode_steps=40, wrappers=[("ImgObsWrapper", {})])
    check_goes_on(lambda: make_vec(spec, (3,), 2, "sync"), stops=(7, 70, 111))


@pytest.mark.parametrize("stops", [(0, 16, 150), pytest.param(STOPS, marks=pytest.mark.prove)], ids=len)
@pytest.mark.parametrize("make", OWN)
def test_envs_of_your_own_go_on_whatever_they_hold(make, stops):
    check_goes_on(lambda: vector_env(make, "sync"), stops)


@pytest.mark.parametrize("make", [Walk, GlobalNumpy, RareGlobal, Remembers, OwnState])
def test_envs_in_processes_of_their_own_go_on(make):
    check_goes_on(lambda: vector_env(make, "async", num=2), stops=(13, 60, 99), steps=120)


def test_cart_poles_in_processes_of_their_own_go_on():
    check_goes_on(lambda: make_vec(EnvSpec("CartPole-v1"), (3,), 2, "async"), stops=(13, 60), steps=80)


def test_an_env_in_an_unknown_wrapper_is_played_again():
    check_goes_on(lambda: vector_env(lambda: TimeLimit(Wrapped(Walk()), 7), "sync"))
    check_goes_on(lambda: vector_env(lambda: Wrapped(gym.make("CartPole-v1")), "sync"), stops=(15, 60, 150))


def test_an_env_that_was_seen_late_to_use_a_global_generator_goes_on_from_there():
    check_goes_on(lambda: vector_env(LateGlobal, "sync"), stops=(70, 71, 99, 150))


@pytest.mark.parametrize("make", [Urandom, UnseenUrandom])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_env_that_no_replay_restores_begins_fresh_episodes_and_says_why(make, kind):
    env, again = vector_env(make, kind), vector_env(make, kind)
    env.reset()
    rows(env, np.random.default_rng(0), 5)
    why = again.load_state(through_a_file(env.state()))
    how = (
        "replaying its episode (ended in another observation|gave other rewards)|restored twice, it went on in two ways"
    )
    line = f"{make.__name__} draws from something that rlab cannot save: ({how})"
    assert re.fullmatch(rf"{line} \(sub-env \d\)", why), why
    again.reset()
    assert again.state()["restart"] == 1
    env.close(), again.close()


def test_an_env_whose_randomness_has_not_shown_yet_begins_fresh_episodes():
    env, again = vector_env(Hidden, "sync"), vector_env(Hidden, "sync")
    env.reset()
    rows(env, np.random.default_rng(0), 1)
    why = again.load_state(through_a_file(env.state()))
    assert "Hidden draws from something that rlab cannot save: restored twice, it went on in two ways" in why


def test_an_episode_that_is_too_long_is_not_played_again(monkeypatch):
    monkeypatch.setattr(journal_module, "BLOCK", 4)
    monkeypatch.setattr(journal_module, "LONGEST", 8)
    env, again = vector_env(Walk, "sync"), vector_env(Walk, "sync")
    env.reset()
    rows(env, np.random.default_rng(0), 7)
    assert again.load_state(env.state()) is None
    while not any("8 steps" in str(one) for one in env.state()["envs"].values()):
        rows(env, np.random.default_rng(0), 1)
    assert "an episode has 8 steps or more" in again.load_state(env.state())


def test_a_vector_env_that_rlab_did_not_make_begins_fresh_episodes(counting):
    env = GymVectorEnv(counting.VectorEnv(4, "SameStep"), (3,))
    env.reset()
    assert env.load_state(env.state()) == "CountingVectorEnv does not give the state of its sub-envs"


def test_native_envs_differ_where_one_piece_of_their_state_is_left_out():
    make = lambda: make_vec(EnvSpec("CartPole-v1", max_episode_steps=16), (3,), 8, "native")  # noqa: E731
    env, fresh, rng = make(), make(), np.random.default_rng(1)
    env.reset(), fresh.reset()
    rows(env, rng, 40)
    while env.state()["resetting"] is None:
        rows(env, rng, 1)
    state, other = env.state(), fresh.state()["envs"]["state"]
    expected = rows(env, np.random.default_rng(2), STEPS)
    assert goes_on(make, state) == expected
    assert goes_on(make, {**state, "resetting": None}) != expected
    for name, value in other.items():
        assert goes_on(make, {**state, "envs": {"state": {**state["envs"]["state"], name: value}}}) != expected, name


def goes_on(make, state):
    """The steps after a state, or why there are none."""
    env = make()
    try:
        return env.load_state(state) or rows(env, np.random.default_rng(2), STEPS)
    except RlabError as error:  # such as an env that ends again where it should be reset
        return str(error)
    finally:
        env.close()


# an env, and a piece of its saved state that it needs: where it is, and what stands there in a fresh one
PIECES = [
    (lambda: gym.make("FrozenLake-v1"), ["pair", "generator"]),
    (lambda: gym.make("FrozenLake-v1"), ["pair", "fields"]),
    (lambda: TimeLimit(Walk(), 7), ["journal", "beginning", "generators"]),
    (Walk, ["journal", "actions"]),
    (Walk, ["journal", "beginning", "seed"]),
    (GlobalNumpy, ["journal", "beginning", "globals"]),
    (OwnState, ["pair", "own"]),
    (OwnState, ["pair", "memory"]),
    (Remembers, ["journal", "beginning", "attributes"]),
    (Remembers, ["journal", "memory"]),
    (LateGlobal, ["counters"]),  # what the global generator gives is saved once it was seen in use
    (LateGlobal, ["globals"]),
]


@pytest.mark.parametrize(("make", "place"), PIECES)
def test_envs_differ_where_one_piece_of_their_state_is_left_out(make, place):
    made = lambda: vector_env(make, "sync")  # noqa: E731
    env, fresh, rng = made(), made(), np.random.default_rng(1)
    env.reset(), fresh.reset()
    rows(env, rng, 40 if place == ["counters"] else 90)
    state, other = through_a_file(env.state()), fresh.state()
    expected = rows(env, np.random.default_rng(2), STEPS)
    assert goes_on(made, state) == expected
    for one, replaced in zip(state["envs"]["state"]["sub_envs"], other["envs"]["state"]["sub_envs"], strict=True):
        *within, last = place
        for name in within:
            one, replaced = one[name], replaced[name]
        one[last] = copy.deepcopy(replaced[last])
    assert goes_on(made, state) != expected


def test_a_stop_between_an_end_and_its_reset_needs_what_waits_for_it():
    made = lambda: make_vec(EnvSpec("CartPole-v1"), (3, 5), 2, "native")  # noqa: E731
    env, rng = made(), np.random.default_rng(1)
    env.reset()
    rows(env, rng, 20)
    while env.state()["resetting"] is None:
        rows(env, rng, 1)
    state = through_a_file(env.state())
    expected = rows(env, np.random.default_rng(2), STEPS)
    assert goes_on(made, state) == expected
    assert goes_on(made, {**state, "resetting": None}) != expected


def test_a_state_that_does_not_fit_is_refused_and_fresh_episodes_begin():
    env, other = (make_vec(EnvSpec("CartPole-v1"), (3,), n, "native") for n in (4, 5))
    first = env.reset()
    assert "5 sub-envs" in other.load_state(env.state())
    assert other.reset()[:, :4].tobytes() != first.tobytes()  # on seeds of their own
    assert other.state()["restart"] == 1
    sync = make_vec(EnvSpec("CartPole-v1"), (3,), 4, "sync")
    assert "does not fit" in sync.load_state(env.state())
    three = make_vec(EnvSpec("CartPole-v1"), (3,), 3, "sync")
    three.reset()
    assert sync.load_state(three.state()) == "the state of 3 sub-envs was saved, and there are 4"
    sync.reset()
    assert "the state of Walk could not be restored" in vector_env(Walk, "sync", num=4).load_state(sync.state())


def test_a_reset_after_loading_begins_episodes_that_were_not_seen_before():
    env, again = (make_vec(EnvSpec("CartPole-v1"), (3,), 4, "native") for _ in range(2))
    first = env.reset()
    assert again.load_state(env.state()) is None
    assert again.state()["restart"] == 0
    assert again.reset().tobytes() != first.tobytes()
    assert again.state()["restart"] == 1


class Breaks(Walk):
    def step(self, action):
        if self.t == 5:
            raise RuntimeError("broken")
        return super().step(action)


def test_envs_that_broke_in_the_middle_of_a_step_begin_fresh_episodes():
    env, again = vector_env(Breaks, "sync"), vector_env(Breaks, "sync")
    assert "an env failed in the middle of a step" in again.load_state(env.state())
    env.reset()
    with pytest.raises(RlabError, match="broken"):
        rows(env, np.random.default_rng(0), 20)
    assert "an env failed in the middle of a step" in again.load_state(env.state())
    env.close()
    assert "an env failed in the middle of a step" in again.load_state(env.state())


JUNK = [None, True, -1, 2**70, 1.5, float("nan"), "junk", [], [1, "a"], {}, {"numpy": 3}, (), np.zeros(3), np.int8(4)]


def changed(value, path, junk):
    """A copy of nested data with `junk` at a path."""
    if not path:
        return junk
    if isinstance(value, dict):
        return {key: changed(part, path[1:], junk) if key == path[0] else part for key, part in value.items()}
    parts = [changed(part, path[1:], junk) if i == path[0] else part for i, part in enumerate(value)]
    return tuple(parts) if isinstance(value, tuple) else parts


def paths_in(value):
    """Of all values in nested data."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [(), *((key, *path) for key, part in parts for path in paths_in(part))]


@pytest.mark.parametrize("make", [GlobalNumpy, OwnState, Remembers, lambda: gym.make("Taxi-v4")])
def test_a_state_with_anything_in_it_is_loaded_or_refused_in_a_clause(make):
    env, rng = vector_env(make, "sync", num=2), np.random.default_rng(4)
    env.reset()
    rows(env, rng, 30)
    state = through_a_file(env.state())
    places = [path for path in paths_in(state) if path]
    again = vector_env(make, "sync", num=2)
    for place in rng.choice(len(places), 60, replace=False):
        answer = again.load_state(changed(state, places[place], JUNK[rng.integers(len(JUNK))]))
        assert answer is None or (isinstance(answer, str) and "\n" not in answer)
    assert again.load_state(state) is None or make is Remembers  # which remembers what it was given
