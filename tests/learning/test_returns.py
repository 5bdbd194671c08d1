"""The arithmetic of returns and errors, on numbers worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from rlab.learning.returns import (
    LOSSES,
    continuation,
    greedy_policy,
    huber,
    n_step_return,
    q_td_error,
    rescaled,
    squared,
    unscaled,
)


def test_rescaled_values_on_numbers_worked_by_hand_and_back():
    # sqrt(8 + 1) - 1 + 8 / 1000, and the same below 0; sqrt(1e4) - 1 + 9.999
    x = torch.tensor([8.0, -8.0, 0.0, 9_999.0])
    torch.testing.assert_close(rescaled(x), torch.tensor([2.008, -2.008, 0.0, 108.999]))
    many = torch.cat([-torch.logspace(-4, 6, 200), torch.logspace(-4, 6, 200)])
    # near 0 a root loses what is below half an ulp of 1; elsewhere a few roundings of squares and roots
    torch.testing.assert_close(unscaled(rescaled(many)), many, rtol=2e-6, atol=1e-6)
    exact = many.double()
    torch.testing.assert_close(unscaled(rescaled(exact)), exact, rtol=1e-12, atol=1e-13)


def test_q_td_error_on_numbers_worked_by_hand() -> None:
    error = q_td_error(
        tensor([[1.0, 2.0], [3.0, 0.0]]),
        action=tensor([1, 0]),
        reward=tensor([1.0, 1.0]),
        discount=tensor([0.5, 0.0]),
        next_value=tensor([4.0, 99.0]),
    )
    assert error.tolist() == [1.0, -2.0]  # 1 + 0.5*4 - 2 ;  1 + 0*99 - 3


def test_q_td_error_keeps_the_seed_axis_apart() -> None:
    q = tensor([[[1.0, 2.0]], [[5.0, 6.0]]])  # [S=2, B=1, A=2]
    row = tensor([[0.0], [10.0]])
    error = q_td_error(q, tensor([[0], [1]]), row, torch.ones(2, 1), torch.zeros(2, 1))
    assert error.tolist() == [[-1.0], [4.0]]  # 0 - 1 ;  10 - 6


@pytest.mark.parametrize("which", ["action", "reward", "discount", "next_value"])
def test_q_td_error_refuses_a_column_that_would_broadcast(which: str) -> None:
    rows = {
        "action": torch.zeros(3, dtype=torch.int64),
        "reward": torch.zeros(3),
        "discount": torch.zeros(3),
        "next_value": torch.zeros(3),
    }
    rows[which] = rows[which].unsqueeze(-1)  # [B, 1], where [B] is meant
    with pytest.raises(ValueError, match=rf"{which} \(3, 1\).*q's shape \(3, 2\)"):
        q_td_error(torch.zeros(3, 2), **rows)


def test_no_gradient_flows_into_the_target() -> None:
    q = torch.ones(1, 2, requires_grad=True)
    next_value, reward = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    q_td_error(q, tensor([1]), reward, tensor([0.9]), next_value).sum().backward()
    assert q.grad is not None
    assert q.grad.tolist() == [[0.0, -1.0]]  # only the action that was taken
    assert next_value.grad is None
    assert reward.grad is None


def test_continuation_discounts_by_the_steps_really_taken_and_is_zero_only_at_an_ending() -> None:
    discount = continuation(tensor([False, False, True]), 0.5, tensor([1, 3, 2]))
    assert discount.tolist() == [0.5, 0.125, 0.0]


def test_n_step_return_on_numbers_worked_by_hand() -> None:
    assert n_step_return(tensor([[[1.0, 10.0, 100.0]]]), 0.5).tolist() == [[31.0]]  # 1 + 5 + 25
    assert n_step_return(tensor([[[7.0]]]), 0.5).tolist() == [[7.0]]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.floats(0, 1))
def test_n_step_return_equals_a_plain_sum(rewards: list[float], gamma: float) -> None:
    plain = sum(gamma**k * r for k, r in enumerate(rewards))
    assert n_step_return(tensor(rewards)[None], gamma).item() == pytest.approx(plain, rel=1e-4, abs=1e-3)


def test_a_greedy_policy_is_sure_of_the_first_of_the_best_that_is_allowed() -> None:
    q = tensor([[1.0, 5.0, -torch.inf], [3.0, 3.0, 2.0]])
    assert greedy_policy(q).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_losses_on_numbers_worked_by_hand() -> None:
    error = tensor([0.0, 0.5, -1.0, 3.0])
    assert squared(error).tolist() == [0.0, 0.125, 0.5, 4.5]
    assert huber(error).tolist() == [0.0, 0.125, 0.5, 2.5]  # |3| - 1/2 outside


@given(st.floats(-1e6, 1e6, width=32))
def test_huber_s_gradient_is_the_error_clipped_at_one(value: float) -> None:
    error = tensor(value, requires_grad=True)
    huber(error).backward()
    assert error.grad is not None
    assert error.grad.item() == pytest.approx(float(np.clip(value, -1.0, 1.0)), rel=1e-5)


def test_the_squared_loss_has_the_error_as_its_gradient() -> None:
    error = tensor([-3.0, 0.25], requires_grad=True)
    squared(error).sum().backward()
    assert error.grad is not None
    assert error.grad.tolist() == [-3.0, 0.25]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_that_is_not_finite_stays_visible(name: str) -> None:
    assert math.isnan(LOSSES[name](tensor(math.nan)).item())
    assert not math.isfinite(LOSSES[name](tensor(math.inf)).item())
