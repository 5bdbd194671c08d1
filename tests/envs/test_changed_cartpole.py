"""CartPole with other physics: a related world with the same spaces."""

import math

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs import EnvSpec, make_env, make_vec
from rlab.envs.wrappers import CartPolePhysics
from rlab.errors import UsageError

DEFAULTS = {"gravity": 9.8, "masscart": 1.0, "masspole": 0.1, "length": 0.5, "force_mag": 10.0}


def changed(**settings):
    return make_env(EnvSpec("CartPole-v1", wrappers=(("CartPolePhysics", settings),)))


def step_by_hand(state, force, gravity, masscart, masspole, length):
    """One step by the equations of motion of Barto, Sutton and Anderson (1983), without friction."""
    x, x_dot, theta, theta_dot = state
    total = masscart + masspole
    push = (force + masspole * length * theta_dot**2 * math.sin(theta)) / total
    angular = (gravity * math.sin(theta) - math.cos(theta) * push) / (
        length * (4.0 / 3.0 - masspole * math.cos(theta) ** 2 / total)
    )
    linear = push - masspole * length * angular * math.cos(theta) / total
    return [x + 0.02 * x_dot, x_dot + 0.02 * linear, theta + 0.02 * theta_dot, theta_dot + 0.02 * angular]


@pytest.mark.parametrize(
    "settings",
    [
        {"length": 1.0, "gravity": 15},
        {"masscart": 2.5, "masspole": 0.4},
        {"force_mag": 4.0},
        {"gravity": 3.7, "masscart": 0.5, "masspole": 0.3, "length": 0.25, "force_mag": 20.0},
    ],
)
def test_the_cart_moves_by_the_physics_that_were_asked_for(settings):
    env = changed(**settings)
    env.reset(seed=3)
    physics = DEFAULTS | settings
    push = physics.pop("force_mag")
    for action in (1, 0, 0, 1, 1):
        expected = step_by_hand(env.unwrapped.state, push if action else -push, **physics)
        np.testing.assert_allclose(env.step(action)[0], expected, rtol=1e-5, atol=1e-6)


def test_what_cartpole_derives_is_derived_anew():
    inner = changed(masspole=0.5, length=2.0).unwrapped
    assert (inner.total_mass, inner.polemass_length) == (1.5, 1.0)
    assert (inner.gravity, inner.masscart, inner.force_mag) == (9.8, 1.0, 10.0)


def test_the_default_physics_are_those_of_the_plain_env():
    env, plain = changed(**DEFAULTS), gym.make("CartPole-v1")
    assert env.reset(seed=1)[0].tolist() == plain.reset(seed=1)[0].tolist()
    for action in (1, 0, 0, 1, 1):
        mine, theirs = env.step(action), plain.step(action)
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert mine[1:4] == theirs[1:4]
    assert env.observation_space == plain.observation_space


def test_it_works_by_the_words_of_a_command_line_among_other_wrappers_and_side_by_side():
    words = ["CartPolePhysics:length=1.0,gravity=15", "TimeAwareObservation"]
    spec = EnvSpec.parse("CartPole-v1", wrappers=words)
    assert spec.wrappers[0] == ("CartPolePhysics", {"length": 1.0, "gravity": 15})
    assert EnvSpec.from_json(spec.to_json()) == spec
    env = make_env(spec)
    assert env.unwrapped.length == 1.0
    late = make_env(EnvSpec.parse("CartPole-v1", wrappers=words[::-1]))  # also around another one
    assert late.unwrapped.gravity == 15.0
    vector = make_vec(EnvSpec.parse("CartPole-v1", wrappers=words[:1]), seeds=(0, 1), num_envs=2)
    plain = make_vec(EnvSpec("CartPole-v1"), seeds=(0, 1), num_envs=2, vector="sync")
    assert np.array_equal(vector.reset(), plain.reset())
    steps = [each.step(np.ones((2, 2), np.int64)) for each in (vector, plain)]
    assert not np.allclose(steps[0].obs, steps[1].obs)
    vector.close()
    plain.close()


@pytest.mark.parametrize(
    ("env_id", "settings", "said"),
    [
        ("MountainCar-v0", {"gravity": 1.0}, "CartPolePhysics is for CartPole alone"),
        ("CartPole-v1", {"gravity": 0}, "gravity 0 must be a number above 0"),
        ("CartPole-v1", {"length": -0.5}, "length -0.5 must be a number above 0"),
        ("CartPole-v1", {"masspole": "heavy"}, "masspole 'heavy' must be a number above 0"),
        ("CartPole-v1", {"masscart": True}, "masscart True must be a number above 0"),
        ("CartPole-v1", {"lenght": 1.0}, "unknown setting 'lenght'. Did you mean 'length'?"),
        ("CartPole-v1", {}, "give one or more of gravity, masscart, masspole, length, force_mag"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(env_id, settings, said):
    with pytest.raises(UsageError) as caught:
        make_env(EnvSpec(env_id, wrappers=(("CartPolePhysics", settings),)))
    assert "wrapper CartPolePhysics cannot be applied to" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_infinite_and_undefined_numbers_are_refused():
    for value in (math.inf, math.nan):
        with pytest.raises(ValueError, match="must be a number above 0"):
            CartPolePhysics(gym.make("CartPole-v1"), gravity=value)
