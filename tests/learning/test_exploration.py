"""Epsilon-greedy: exact over a run, one coin per env, each member on its own stream."""

import copy

import pytest
import torch
from torch import Tensor

from rlab.learning.exploration import AHEAD, EpsilonGreedy, linear


def test_epsilon_is_exact_at_start_middle_and_end() -> None:
    assert [linear(1.0, 0.1, 0.5, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert linear(1.0, 0.1, fraction=0.0, progress=0.0) == 0.1


def test_every_env_has_its_own_coin() -> None:
    greedy = torch.zeros((2, 1000), dtype=torch.int64)
    actions = EpsilonGreedy(10, seeds=(1, 2)).choose(greedy, 0.5)
    # half the coins fall, and one in ten of those picks action 0 anyway: 45 % differ from greedy
    assert ((actions != 0).float().mean(dim=1) - 0.45).abs().max() < 0.06
    assert 0 < (actions[0, :8] != 0).sum() < 8  # one coin for all eight envs would give 0 or 8


def test_a_member_draws_the_same_beside_any_others() -> None:
    both, alone = EpsilonGreedy(10, seeds=(1, 2)), EpsilonGreedy(10, seeds=(2,))
    for _ in range(AHEAD + 3):
        together = both.choose(torch.zeros((2, 3), dtype=torch.int64), 0.5)
        assert (alone.choose(torch.zeros((1, 3), dtype=torch.int64), 0.5)[0] == together[1]).all()


def test_epsilon_zero_is_greedy_and_one_is_uniform() -> None:
    explore, greedy = EpsilonGreedy(4, seeds=(0,)), torch.full((1, 4000), 2)
    assert (explore.choose(greedy, 0.0) == 2).all()
    counts = torch.bincount(explore.choose(greedy, 1.0)[0], minlength=4)
    # chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 16.3


def test_coins_differ_from_step_to_step_and_epsilon_changes_no_draw_that_follows() -> None:
    one, other = EpsilonGreedy(1000, seeds=(0,)), EpsilonGreedy(1000, seeds=(0,))
    greedy = torch.zeros((1, 3), dtype=torch.int64)
    one.choose(greedy, 0.0)
    first = other.choose(greedy, 1.0)
    second = one.choose(greedy, 1.0)
    assert (second == other.choose(greedy, 1.0)).all()
    assert (second != first).any()


@pytest.mark.parametrize("steps", [0, 1, AHEAD - 1, AHEAD, AHEAD + 7])
def test_exploration_goes_on_from_its_state(steps: int) -> None:
    one, other = EpsilonGreedy(5, seeds=(3, 4)), EpsilonGreedy(5, seeds=(3, 4))
    greedy = torch.zeros((2, 2), dtype=torch.int64)
    for _ in range(steps):
        one.choose(greedy, 1.0)
    other.load_state(copy.deepcopy(one.state()))
    for _ in range(AHEAD + 3):
        assert (one.choose(greedy, 0.7) == other.choose(greedy, 0.7)).all()


def random_masks(steps: int, num_actions: int) -> Tensor:
    """`[steps, 1, 50, A]`, one action or more allowed in each row."""
    allowed = torch.rand((steps, 1, 50, num_actions), generator=torch.Generator().manual_seed(0)) < 0.4
    allowed[..., 0] |= ~allowed.any(dim=-1)
    return allowed


@pytest.mark.parametrize("exponent", [None, 2.0])
def test_a_forbidden_action_is_never_chosen(exponent: float | None) -> None:
    explore = EpsilonGreedy(5, seeds=(0,), duration_exponent=exponent)
    for allowed in random_masks(AHEAD + 10, 5):
        greedy = allowed.int().argmax(dim=-1)
        chosen = explore.choose(greedy, 0.8, allowed)
        assert allowed.gather(-1, chosen[..., None]).all()
        assert (chosen != greedy).any()


def test_exploration_is_uniform_among_what_is_allowed() -> None:
    allowed = torch.tensor([False, True, False, True, True]).repeat(1, 3000, 1)
    explore = EpsilonGreedy(5, seeds=(0,))
    counts = torch.bincount(explore.choose(torch.ones((1, 3000), dtype=torch.int64), 1.0, allowed)[0], minlength=5)
    assert counts[[0, 2]].tolist() == [0, 0]
    # chi-square with 2 degrees of freedom: 13.8 is passed once in a thousand
    assert ((counts[[1, 3, 4]] - 1000.0) ** 2 / 1000.0).sum() < 13.8


def test_the_coins_are_the_same_with_a_mask_and_without() -> None:
    masked, plain = EpsilonGreedy(4, seeds=(3,)), EpsilonGreedy(4, seeds=(3,))
    greedy = torch.full((1, 40), -1)
    one, other = masked.choose(greedy, 0.5, torch.ones((1, 40, 4), dtype=torch.bool)), plain.choose(greedy, 0.5)
    assert ((one == -1) == (other == -1)).all()


def test_a_held_action_ends_where_it_is_forbidden() -> None:
    explore = EpsilonGreedy(2, seeds=(0,), duration_exponent=1.05)  # held for long
    greedy, only_one = torch.zeros((1, 200), dtype=torch.int64), torch.tensor([False, True]).repeat(1, 200, 1)
    assert (explore.choose(greedy, 1.0, only_one) == 1).all()
    both = torch.ones((1, 200, 2), dtype=torch.bool)
    held = explore.choose(greedy, 0.0, both)
    assert held.float().mean() > 0.5  # most go on
    assert (explore.choose(greedy, 0.0, ~only_one) == 0).all()
    assert (explore.choose(greedy, 0.0, both) == 0).all()  # and do not come back


def test_masked_exploration_goes_on_from_its_state_and_not_beside_others() -> None:
    one, other, both = (EpsilonGreedy(5, seeds=s) for s in ((4,), (4,), (3, 4)))
    masks = random_masks(2 * AHEAD, 5)
    for step, allowed in enumerate(masks):
        chosen = one.choose(allowed.int().argmax(dim=-1), 0.7, allowed)
        pair = torch.cat([masks[-1 - step], allowed])
        assert (both.choose(pair.int().argmax(dim=-1), 0.7, pair)[1] == chosen[0]).all()
        if step == AHEAD + 5:
            other.load_state(copy.deepcopy(one.state()))
        if step > AHEAD + 5:
            assert (other.choose(allowed.int().argmax(dim=-1), 0.7, allowed) == chosen).all()
