"""The losses on demonstrated actions, on numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor

from rlab.learning.demonstration_losses import advantage_weight, conservative, expectile, large_margin

INF = math.inf


@pytest.mark.parametrize(
    ("q", "action", "expected"),
    [
        ((1.0, 3.0, 2.0), 1, 0.0),  # the best by more than the margin
        ((1.0, 3.0, 2.5), 1, 0.3),  # 2.5 + 0.8 - 3
        ((1.0, 3.0, 2.5), 0, 2.8),  # 3 + 0.8 - 1
        ((1.0, 1.0, 1.0), 2, 0.8),
        ((1.0, -INF, 0.5), 0, 0.3),  # what is forbidden is no rival
        ((2.0, -INF, -INF), 0, 0.0),
    ],
)
def test_the_large_margin_is_how_far_an_action_is_from_being_the_best_by_it(
    q: tuple[float, ...], action: int, expected: float
) -> None:
    loss = large_margin(tensor([q]), tensor([action]), 0.8)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_large_margin_pushes_the_action_up_and_its_strongest_rival_down() -> None:
    q = tensor([[1.0, 3.0, 2.5], [9.0, 0.0, 0.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(large_margin(q, tensor([0, 0]), 0.8).sum(), q)
    assert grad.tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("q", "action", "expected"),
    [
        ((0.0, 0.0), 0, math.log(2)),
        ((math.log(3), 0.0), 0, math.log(4 / 3)),
        ((math.log(3), 0.0), 1, math.log(4)),
        ((100.0, 0.0), 0, 0.0),
        ((math.log(3), 0.0, -INF), 1, math.log(4)),
    ],
)
def test_the_conservative_loss_is_the_surprise_of_the_action_under_softmax(
    q: tuple[float, ...], action: int, expected: float
) -> None:
    assert conservative(tensor([q]), tensor([action])).item() == pytest.approx(expected, abs=1e-6)


def test_the_conservative_loss_lowers_every_action_by_its_share_and_lifts_the_data_s() -> None:
    q = tensor([[math.log(3), 0.0, -INF]], requires_grad=True)
    (grad,) = torch.autograd.grad(conservative(q, tensor([0])).sum(), q)
    torch.testing.assert_close(grad, tensor([[0.75 - 1.0, 0.25, 0.0]]))


values = st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3)


@given(st.lists(values, min_size=2, max_size=4), st.integers(0, 2), st.floats(0, 2))
def test_rows_stand_alone_and_neither_loss_is_negative(rows: list[list[float]], action: int, margin: float) -> None:
    q, actions = tensor(rows), torch.full((len(rows),), action)
    for whole, alone in (
        (large_margin(q, actions, margin), [large_margin(row, actions[0], margin) for row in q]),
        (conservative(q, actions), [conservative(row, actions[0]) for row in q]),
    ):
        torch.testing.assert_close(whole, torch.stack(alone))
        assert (whole >= -1e-6).all()


@pytest.mark.parametrize(
    ("error", "tau", "expected"),
    [(2.0, 0.7, 2.8), (-2.0, 0.7, 1.2), (2.0, 0.5, 2.0), (-2.0, 0.5, 2.0), (0.0, 0.9, 0.0)],
)
def test_an_expectile_weighs_what_is_missing_by_tau_and_what_is_too_much_by_the_rest(
    error: float, tau: float, expected: float
) -> None:
    assert expectile(tensor([error]), tau).item() == pytest.approx(expected)


@pytest.mark.parametrize(("tau", "expected"), [(0.5, 0.0), (0.7, 0.4), (0.9, 0.8), (0.1, -0.8)])
def test_the_expectile_of_1_and_minus_1_lies_where_it_should(tau: float, expected: float) -> None:
    # tau (1 - v) = (1 - tau) (v + 1), so v = 2 tau - 1
    targets, value = tensor([1.0, -1.0]), torch.linspace(-1.0, 1.0, 2001)
    loss = expectile(targets - value.unsqueeze(-1), tau).mean(dim=-1)
    assert value[loss.argmin()].item() == pytest.approx(expected, abs=2e-3)


def test_an_advantage_weighs_exponentially_and_no_more_than_it_may() -> None:
    weight: Tensor = advantage_weight(tensor([0.0, 1.0, -1.0, 2.0, 1e9]), beta=3.0, most=100.0)
    expected = [1.0, math.exp(3), math.exp(-3), 100.0, 100.0]  # exp(6) is 403
    assert weight.tolist() == pytest.approx(expected, rel=1e-5)
    assert advantage_weight(tensor([5.0]), beta=0.0, most=100.0).item() == 1.0
