"""n-step windows against a slow reference that walks each episode row by row in plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.samplers import UniformSampler
from rlab.experience.storage import Storage
from rlab.learning.returns import continuation, n_step_return

STYLES = ("same", "next", "disabled")


def sample(storage, draws, batch_size, n_step=1):
    return UniformSampler(storage, draws, n_step).sample(batch_size)


def walk(rows, start, n_step):
    """The window from `start`: up to n rows, none behind an end, none that has not happened yet."""
    window = []
    for row in rows[start : start + n_step]:
        window.append(row)
        if row.terminated or row.truncated:
            break
    return window


def check_windows(world, storage, batch, n_step, gamma):
    """Every sampled window, its return and its discount are those of a walk along the lane."""
    returns = n_step_return(batch["reward"], gamma)
    discount = continuation(batch["terminated"], gamma, batch["steps"])
    index = {row.obs: (lane, t) for lane, rows in world.lanes.items() for t, row in enumerate(rows)}
    for s, b in np.ndindex(*batch["steps"].shape):
        lane, t = index[batch["obs"][s, b, 0].item()]
        window = walk(world.lanes[lane], t, n_step)
        last, rewards = window[-1], [row.reward for row in window]
        assert lane[0] == s
        assert t >= storage.rows_written - storage.rows
        assert all(row.valid for row in window)
        assert batch["steps"][s, b].item() == len(window)
        assert batch["reward"][s, b].tolist() == rewards + [0.0] * (n_step - len(window))
        assert batch["action"][s, b].item() == window[0].action
        assert batch["terminated"][s, b].item() is last.terminated
        assert batch["truncated"][s, b].item() is last.truncated
        assert batch["next_obs"][s, b].tolist() == [last.next_obs, -last.next_obs]
        expected = sum(gamma**k * reward for k, reward in enumerate(rewards))
        assert returns[s, b].item() == pytest.approx(expected, abs=1e-4)  # float32, rewards up to 6.25
        bootstrap = 0.0 if last.terminated else gamma ** len(window)
        assert discount[s, b].item() == pytest.approx(bootstrap, abs=1e-6)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(10))
def test_windows_equal_the_slow_reference(make_world, draws, seed, style):
    rng = np.random.default_rng(seed)
    members, num_envs = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    world = make_world(members, num_envs, style, rng.uniform(0.0, 0.25), seed)
    storage = world.storage(num_envs * int(rng.integers(3, 40)))
    members_draws = draws(members, seed)
    for _ in range(4):
        world.play(int(rng.integers(1, 40)), storage)
        n_step = int(rng.integers(1, 12))  # also longer than a lane
        check_windows(world, storage, sample(storage, members_draws, 100, n_step), n_step, gamma=0.9)


def check_any_window(make_world, draws, data):
    """Any sizes, any endings, any n and any gamma."""
    members, num_envs = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    ending, seed = data.draw(st.sampled_from([0.0, 0.1, 0.3])), data.draw(st.integers(0, 2**32))
    world = make_world(members, num_envs, data.draw(st.sampled_from(STYLES)), ending, seed)
    storage = world.storage(num_envs * data.draw(st.integers(world.least_rows, 12)))
    world.play(data.draw(st.integers(1, 30)), storage)
    n_step, gamma = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0))
    check_windows(world, storage, sample(storage, draws(members, seed), 6, n_step), n_step, gamma)


@given(st.data())
def test_any_window_equals_the_slow_reference(make_world, draws, data):
    check_any_window(make_world, draws, data)


@pytest.mark.prove
@settings(max_examples=10_000)
@given(st.data())
def test_any_window_equals_the_slow_reference_ten_thousand_times(make_world, draws, data):
    check_any_window(make_world, draws, data)


def test_the_length_of_a_window_does_not_change_which_rows_are_drawn(make_world, draws):
    world = make_world(2, 2, "next", 0.2)
    storage = world.storage(40)
    world.play(70, storage)
    short, long = sample(storage, draws(2), 100, 1), sample(storage, draws(2), 100, 5)
    assert torch.equal(short["obs"], long["obs"])


def lane_of(flags):
    """One env, rewards 1, 2, 4, ..., observations 0, 1, 2, ..., and one letter per row: `.`, `T`erminated or `C`ut."""
    storage = Storage(1, 1, 10, (Field("obs", (1,), "float32"), Field("action", (), "int64")))
    for t, flag in enumerate(flags):
        obs, successor = torch.full((1, 1, 1), float(t)), torch.full((1, 1, 1), t + 1.0)
        true = torch.full((1, 1, 1), 100.0 + t) if flag != "." else successor
        reward, terminated, truncated = (torch.tensor([[value]]) for value in (2.0**t, flag == "T", flag == "C"))
        step = Step(successor, true, reward, terminated, truncated, valid=torch.ones(1, 1, dtype=torch.bool))
        storage.add(obs, torch.zeros(1, 1, dtype=torch.int64), step)
    return storage


@pytest.mark.parametrize(
    ("flags", "rewards", "steps", "terminated", "next_obs"),
    [
        ("....", [1, 2, 4], 3, False, 3),  # a full window
        (".T..", [1, 2, 0], 2, True, 101),  # the world ended: nothing behind, no bootstrap
        (".C..", [1, 2, 0], 2, False, 101),  # cut: bootstraps from the observation that the reset hid
        ("..", [1, 2, 0], 2, False, 2),  # the newest row: bootstraps from there, with 2 steps
        ("T...", [1, 0, 0], 1, True, 100),
    ],
)
def test_windows_worked_on_paper(draws, flags, rewards, steps, terminated, next_obs):
    batch = sample(lane_of(flags), draws(1), 50, n_step=3)
    first = int((batch["obs"][0, :, 0] == 0).nonzero()[0])
    assert batch["reward"][0, first].tolist() == rewards
    assert batch["steps"][0, first].item() == steps
    assert batch["terminated"][0, first].item() is terminated
    assert batch["next_obs"][0, first].tolist() == [next_obs]
