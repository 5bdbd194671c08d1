"""Envs that are saved and loaded go on, to the bit, as if nothing had happened."""

import numpy as np
import pytest

from rlab.envs import EnvSpec, make_vec
from rlab.errors import RlabError
from rlab.runs.encoding import decode, encode

STEPS = 200  # vector steps compared


def through_a_file(state):
    """What a checkpoint gives back."""
    return decode(*encode(state))


def rows(env, rng, steps):
    """All that so many vector steps of random actions give, as bytes."""
    found = []
    for _ in range(steps):
        step = env.step(actions(env, rng))
        arrays = (step.obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid)
        found.append([array.tobytes() for array in arrays] + [step.none_ended, step.all_valid])
    return found


def actions(env, rng):
    """Random ones, `[S, N]` or `[S, N, *action]`."""
    space, shape = env.action_space, (len(env.seeds), env.num_envs)
    if hasattr(space, "n"):
        return rng.integers(space.n, size=shape)
    raise NotImplementedError(space)


@pytest.mark.parametrize("stops", [[0], [1], [37], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [5, 60, 61, 130]])
def test_native_cart_poles_go_on_wherever_they_are_stopped(stops):
    make = lambda: make_vec(EnvSpec("CartPole-v1", max_episode_steps=25), (3, 4), 5, "native")  # noqa: E731
    whole, parted = make(), make()
    assert whole.reset().tobytes() == parted.reset().tobytes()
    expected, found, rng, done = rows(whole, np.random.default_rng(0), STEPS), [], np.random.default_rng(0), 0
    for stop in [*stops, STEPS]:
        found += rows(parted, rng, stop - done)
        state, done, parted = through_a_file(parted.state()), stop, make()
        assert parted.load_state(state) is None
    assert found == expected
    assert encode(parted.state())[0] == encode(whole.state())[0]


def test_native_envs_differ_where_one_piece_of_their_state_is_left_out():
    make = lambda: make_vec(EnvSpec("CartPole-v1", max_episode_steps=16), (3,), 8, "native")  # noqa: E731
    env, fresh, rng = make(), make(), np.random.default_rng(1)
    env.reset(), fresh.reset()
    rows(env, rng, 40)
    while env.state()["resetting"] is None:
        rows(env, rng, 1)
    state, other = env.state(), fresh.state()["envs"]["state"]
    expected = rows(env, np.random.default_rng(2), STEPS)

    def goes_on(state):
        again = make()
        assert again.load_state(state) is None
        try:
            return rows(again, np.random.default_rng(2), STEPS)
        except RlabError as error:  # without prev_done, an env that should be reset ends again
            return str(error)

    assert goes_on(state) == expected
    assert goes_on({**state, "resetting": None}) != expected
    for name, value in other.items():
        assert goes_on({**state, "envs": {"state": {**state["envs"]["state"], name: value}}}) != expected, name


def test_a_state_that_does_not_fit_is_refused_and_fresh_episodes_begin():
    env, other = (make_vec(EnvSpec("CartPole-v1"), (3,), n, "native") for n in (4, 5))
    first = env.reset()
    assert "5 sub-envs" in other.load_state(env.state())
    assert other.reset()[:, :4].tobytes() != first.tobytes()  # on seeds of their own
    assert other.state()["restart"] == 1


def test_a_reset_after_loading_begins_episodes_that_were_not_seen_before():
    env, again = (make_vec(EnvSpec("CartPole-v1"), (3,), 4, "native") for _ in range(2))
    first = env.reset()
    assert again.load_state(env.state()) is None
    assert again.state()["restart"] == 0
    assert again.reset().tobytes() != first.tobytes()
    assert again.state()["restart"] == 1
