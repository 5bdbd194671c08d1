"""Epsilon-greedy: exact over a run, one coin per env, each member on its own stream."""

import copy

import numpy as np
import pytest

from rlab.learning.exploration import BLOCK, EpsilonGreedy, linear


def test_epsilon_is_exact_at_start_middle_and_end() -> None:
    assert [linear(1.0, 0.1, 0.5, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert linear(1.0, 0.1, fraction=0.0, progress=0.0) == 0.1


def test_every_env_has_its_own_coin() -> None:
    greedy = np.zeros((2, 1000), np.int64)
    actions = EpsilonGreedy(10, seeds=(1, 2)).choose(greedy, 0.5)
    # half the coins fall, and one in ten of those picks action 0 anyway: 45 % differ from greedy
    assert np.abs((actions != 0).mean(axis=1) - 0.45).max() < 0.06
    assert 0 < (actions[0, :8] != 0).sum() < 8  # one coin for all eight envs would give 0 or 8


def test_a_member_draws_the_same_beside_any_others() -> None:
    both, alone = EpsilonGreedy(10, seeds=(1, 2)), EpsilonGreedy(10, seeds=(2,))
    for _ in range(BLOCK + 3):
        together = both.choose(np.zeros((2, 3), np.int64), 0.5)
        assert (alone.choose(np.zeros((1, 3), np.int64), 0.5)[0] == together[1]).all()


def test_epsilon_zero_is_greedy_and_one_is_uniform() -> None:
    explore, greedy = EpsilonGreedy(4, seeds=(0,)), np.full((1, 4000), 2)
    assert (explore.choose(greedy, 0.0) == 2).all()
    counts = np.bincount(explore.choose(greedy, 1.0)[0], minlength=4)
    # chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 16.3


def test_coins_differ_from_step_to_step_and_epsilon_changes_no_draw_that_follows() -> None:
    one, other = EpsilonGreedy(1000, seeds=(0,)), EpsilonGreedy(1000, seeds=(0,))
    greedy = np.zeros((1, 3), np.int64)
    one.choose(greedy, 0.0)
    first = other.choose(greedy, 1.0)
    second = one.choose(greedy, 1.0)
    assert (second == other.choose(greedy, 1.0)).all()
    assert (second != first).any()


@pytest.mark.parametrize("steps", [0, 1, BLOCK - 1, BLOCK, BLOCK + 7])
def test_exploration_goes_on_from_its_state(steps: int) -> None:
    one, other = EpsilonGreedy(5, seeds=(3, 4)), EpsilonGreedy(5, seeds=(3, 4))
    greedy = np.zeros((2, 2), np.int64)
    for _ in range(steps):
        one.choose(greedy, 1.0)
    other.load_state(copy.deepcopy(one.state()))
    for _ in range(BLOCK + 3):
        assert (one.choose(greedy, 0.7) == other.choose(greedy, 0.7)).all()
