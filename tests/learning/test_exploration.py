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


def random_masks(steps: int, num_actions: int) -> np.ndarray:
    """`[steps, 1, 50, A]`, one action or more allowed in each row."""
    rng = np.random.default_rng(0)
    allowed = rng.random((steps, 1, 50, num_actions)) < 0.4
    allowed[..., 0] |= ~allowed.any(axis=-1)
    return allowed


@pytest.mark.parametrize("exponent", [None, 2.0])
def test_a_forbidden_action_is_never_chosen(exponent: float | None) -> None:
    explore = EpsilonGreedy(5, seeds=(0,), duration_exponent=exponent, masked=True)
    for allowed in random_masks(BLOCK + 10, 5):
        greedy = allowed.argmax(axis=-1)
        chosen = explore.choose(greedy, 0.8, allowed)
        assert np.take_along_axis(allowed, chosen[..., None], axis=-1).all()
        assert (chosen != greedy).any()


def test_exploration_is_uniform_among_what_is_allowed() -> None:
    allowed = np.tile(np.array([False, True, False, True, True]), (1, 3000, 1))
    explore = EpsilonGreedy(5, seeds=(0,), masked=True)
    counts = np.bincount(explore.choose(np.ones((1, 3000), np.int64), 1.0, allowed)[0], minlength=5)
    assert counts[[0, 2]].tolist() == [0, 0]
    # chi-square with 2 degrees of freedom: 13.8 is passed once in a thousand
    assert ((counts[[1, 3, 4]] - 1000.0) ** 2 / 1000.0).sum() < 13.8


def test_the_coins_are_the_same_with_a_mask_and_without() -> None:
    masked, plain = EpsilonGreedy(4, seeds=(3,), masked=True), EpsilonGreedy(4, seeds=(3,))
    greedy = np.full((1, 40), -1)
    one, other = masked.choose(greedy, 0.5, np.ones((1, 40, 4), bool)), plain.choose(greedy, 0.5)
    assert ((one == -1) == (other == -1)).all()


def test_a_held_action_ends_where_it_is_forbidden() -> None:
    explore = EpsilonGreedy(2, seeds=(0,), duration_exponent=1.05, masked=True)  # held for long
    greedy, only_one = np.zeros((1, 200), np.int64), np.tile(np.array([False, True]), (1, 200, 1))
    assert (explore.choose(greedy, 1.0, only_one) == 1).all()
    both = np.ones((1, 200, 2), bool)
    held = explore.choose(greedy, 0.0, both)
    assert held.mean() > 0.5  # most go on
    assert (explore.choose(greedy, 0.0, ~only_one) == 0).all()
    assert (explore.choose(greedy, 0.0, both) == 0).all()  # and do not come back


def test_masked_exploration_goes_on_from_its_state_and_not_beside_others() -> None:
    one, other, both = (EpsilonGreedy(5, seeds=s, masked=True) for s in ((4,), (4,), (3, 4)))
    masks = random_masks(2 * BLOCK, 5)
    for step, allowed in enumerate(masks):
        chosen = one.choose(allowed.argmax(axis=-1), 0.7, allowed)
        pair = np.concatenate([masks[-1 - step], allowed])
        assert (both.choose(pair.argmax(axis=-1), 0.7, pair)[1] == chosen[0]).all()
        if step == BLOCK + 5:
            other.load_state(copy.deepcopy(one.state()))
        if step > BLOCK + 5:
            assert (other.choose(allowed.argmax(axis=-1), 0.7, allowed) == chosen).all()


@pytest.mark.parametrize("masked", [False, True])
def test_a_mask_is_given_where_it_was_announced_and_nowhere_else(masked: bool) -> None:
    explore = EpsilonGreedy(2, seeds=(0,), masked=masked)
    with pytest.raises(ValueError, match=f"masked is {masked}"):
        explore.choose(np.zeros((1, 1), np.int64), 0.5, None if masked else np.ones((1, 1, 2), bool))
