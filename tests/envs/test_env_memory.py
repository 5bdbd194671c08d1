"""What an env remembers is found in its attributes, and put back without touching what others share."""

import random
from collections import deque
from dataclasses import dataclass
from enum import Enum

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs.env_memory import NotDataError, as_data, look_through, memory_of, part_of, put_back, same_data
from rlab.envs.generators import generator_state, new_generator, set_generator_state


class Phase(Enum):
    DAY = 1
    NIGHT = 2


@dataclass(frozen=True)
class Shared:
    number: int = 3


class Inside:
    def __init__(self):
        self.level = 1


class Env(gym.Env):
    def __init__(self):
        self.count, self.name, self.pair = 0, "a", (1, 2.0)
        self.array, self.items, self.last, self.seen = np.zeros(2), [1], deque([1], maxlen=2), {"x": 1}
        self.inside, self.phase, self.shared, self.rng = Inside(), Phase.DAY, SHARED, np.random.default_rng(1)
        self.same, self.large, self.kind, self.call = self.items, np.zeros(2000), Env, random.random


SHARED = Shared()


def test_plain_values_and_generators_are_found_and_put_back_in_place():
    env, other = Env(), Env()
    env.count, env.name, env.pair, env.inside.level = 4, "b", (5, np.nan), 9
    env.array[:], env.seen["y"] = 7.0, np.int64(8)
    env.items += [2, 3]
    env.last.extend([4, 5])
    env.rng.normal()
    array, items, inside = other.array, other.items, other.inside
    assert put_back(other, {}, memory_of(look_through(env, {}))) is None
    assert (other.count, other.name, other.pair[0], other.inside.level) == (4, "b", 5, 9)
    assert (other.array.tolist(), other.seen) == ([7.0, 7.0], {"x": 1, "y": 8})
    assert (other.items, list(other.last), other.last.maxlen) == ([1, 2, 3], [4, 5], 2)
    assert all(now is then for now, then in [(other.array, array), (other.items, items), (other.inside, inside)])
    assert other.same is items
    assert other.rng.normal() == env.rng.normal()


def test_what_others_may_share_and_what_is_large_is_left_alone():
    env = Env()
    env.phase, env.large[:] = Phase.NIGHT, 1.0
    memory = memory_of(look_through(env, {}))
    places = {path[0] for path, _ in memory["values"]}
    assert not places & {"phase", "shared", "large", "kind", "call"}
    assert put_back(Env(), {}, memory) is None
    assert (Phase.DAY.value, SHARED.number) == (1, 3)


def test_what_has_no_place_is_named():
    env, other = Env(), Env()
    env.items[:] = [Inside(), Inside()]
    assert put_back(other, {}, memory_of(look_through(env, {}))) == "items.0.level"


def test_two_names_of_one_generator_stay_names_of_one():
    env, other = Env(), Env()
    env.second = env.rng
    env.rng.normal()
    assert put_back(other, {}, memory_of(look_through(env, {}))) is None
    assert other.second is other.rng
    assert other.rng.normal() == env.rng.normal()


@pytest.mark.parametrize(
    "value", [{1, 2}, b"x", 1j, object(), np.array(["a"]), np.ma.array([1]), {(1, 2): 3}, Phase.DAY]
)
def test_what_is_not_data_is_refused(value):
    with pytest.raises(NotDataError):
        as_data([value])


def test_data_are_equal_to_the_bit_or_not_at_all():
    same = [np.float32(1), [1, (2.0, None)], {"a": np.array([np.nan])}, float("nan")]
    assert all(same_data(as_data(value), as_data(value)) for value in same)
    pairs = [(1, True), (1, 1.0), (np.float32(1), np.float64(1)), ([1], (1,)), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
    assert not any(same_data(first, second) for first, second in pairs)


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64", "legacy", "python"])
def test_every_generator_draws_on_from_its_state(name):
    made = {"legacy": np.random.RandomState, "python": random.Random}
    make = made.get(name, lambda seed: np.random.Generator(getattr(np.random, name)(seed)))
    first, other = make(1), make(2)
    draw = "gauss" if name == "python" else "normal"
    getattr(first, draw)(0, 1)  # one of a pair, where it draws them in pairs
    state = generator_state(first)
    set_generator_state(other, state)
    expected = [getattr(first, draw)(0, 1) for _ in range(3)]
    assert [getattr(other, draw)(0, 1) for _ in range(3)] == expected
    assert [getattr(new, draw)(0, 1) for new in [new_generator(state)] for _ in range(3)] == expected


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("MT19937", {"state": {"key": np.zeros(624, np.uint32), "pos": 10**6}}),
        ("MT19937", {"state": {"key": np.zeros(3, np.uint32), "pos": 1}}),
        ("Philox", {"buffer_pos": 10**6}),
        ("Philox", {"buffer_pos": -1}),
        ("PCG64", {"bit_generator": "os.system"}),
    ],
)
def test_a_state_that_lets_numpy_read_elsewhere_is_refused(name, changes):
    generator = np.random.Generator(getattr(np.random, name)(1))
    state = {"numpy": {**generator_state(generator)["numpy"], **changes}}
    with pytest.raises(ValueError, match=r"is not a (state|bit generator) of"):
        new_generator(state)
    with pytest.raises(ValueError, match=r"."):
        set_generator_state(generator, state)


def test_generators_that_a_process_shares_are_not_an_envs():
    assert generator_state(np.random.mtrand._rand) is None
    assert generator_state(random._inst) is None
    assert generator_state(random.SystemRandom()) is None


def test_parts_are_found_by_keys_and_attributes():
    assert part_of({"a": 1}, "a") == part_of([0, 1], 1) == part_of(Inside(), "level") == 1
    for holder, key in (({}, "a"), ([], 1), (Inside(), "no")):
        with pytest.raises(LookupError):
            part_of(holder, key)
