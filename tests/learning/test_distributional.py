"""The arithmetic of return distributions, on numbers worked by hand, against finite differences and by its laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from rlab.learning.distributional import chosen, divergence, mixed, projected, quantile_loss


def test_what_an_action_has_and_what_a_policy_mixes() -> None:
    per_action = tensor([[[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]])  # [B = 1, A = 2, n = 3]
    assert chosen(per_action, tensor([1])).tolist() == [[5.0, 6.0, 7.0]]
    assert mixed(per_action, tensor([[0.0, 1.0]])).tolist() == [[5.0, 6.0, 7.0]]
    assert mixed(per_action, tensor([[0.75, 0.25]])).tolist() == [[2.0, 3.0, 4.0]]


def test_a_projection_on_numbers_worked_by_hand() -> None:
    support = tensor([-1.0, 0.0, 1.0, 2.0])
    # 0.25 lies between atoms 0 and 1, 1 on an atom, 5 and -9 beyond the ends
    moved = projected(tensor([0.4, 0.3, 0.2, 0.1]), tensor([0.25, 1.0, 5.0, -9.0]), support)
    assert moved.tolist() == pytest.approx([0.1, 0.4 * 0.75, 0.4 * 0.25 + 0.3, 0.2])


@pytest.mark.parametrize(("low", "atoms"), [(-10.0, 51), (0.0, 2), (-1.0, 9)])
def test_a_return_that_is_an_atom_keeps_all_of_its_probability(low: float, atoms: int) -> None:
    support = torch.linspace(low, -low if low else 1.0, atoms, dtype=torch.float64)
    probability = torch.rand(7, atoms, dtype=torch.float64).softmax(dim=-1)
    torch.testing.assert_close(projected(probability, support.expand(7, -1), support), probability, rtol=0, atol=1e-13)


@given(st.lists(st.tuples(st.floats(-30.0, 30.0), st.floats(0.0, 1.0)), min_size=1, max_size=20), st.integers(2, 60))
def test_a_projection_keeps_the_mass_and_the_mean_of_what_is_within(
    rows: list[tuple[float, float]], atoms: int
) -> None:
    returns, weight = (tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    probability = (weight + 1e-3) / (weight + 1e-3).sum()
    support = torch.linspace(-10.0, 12.0, atoms, dtype=torch.float64)
    moved = projected(probability, returns, support)
    assert (moved >= 0.0).all()
    assert moved.sum().item() == pytest.approx(1.0, abs=1e-12)
    mean = (probability * returns.clamp(-10.0, 12.0)).sum().item()
    assert (moved * support).sum().item() == pytest.approx(mean, abs=1e-9)


def test_a_divergence_is_zero_where_two_distributions_agree_and_the_logarithm_of_the_odds_elsewhere() -> None:
    target = tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    logits = tensor([[3.0, 3.0, -torch.inf], [0.0, 0.0, 0.0]]).clamp(min=-200.0)
    found = divergence(target, logits.log_softmax(dim=-1))
    assert found.tolist() == pytest.approx([0.0, np.log(3.0)], abs=1e-6)


def test_the_quantile_loss_on_numbers_worked_by_hand() -> None:
    # Two predicted quantiles, of 1/4 and 3/4, both 0; the targets are 1 and -3. Huber losses are 0.5 and 2.5.
    error = tensor([[[1.0, -3.0], [1.0, -3.0]]])
    fraction = tensor([0.25, 0.75])
    # (1/4 0.5 + 3/4 2.5) / 2 + (3/4 0.5 + 1/4 2.5) / 2
    assert quantile_loss(error, fraction, 1.0).tolist() == [1.5]
    # the absolute errors: (1/4 1 + 3/4 3) / 2 + (3/4 1 + 1/4 3) / 2
    assert quantile_loss(error, fraction, 0.0).tolist() == [2.0]
    # with kappa 2: 1/4 within it, 3 - 1 beyond: (1/4 1/4 + 3/4 2) / 2 + (3/4 1/4 + 1/4 2) / 2
    assert quantile_loss(error, fraction, 2.0).tolist() == [1.125]
    # a low quantile minds a target below it more, a high one a target above: 1/4 1 + 3/4 3 and 3/4 1 + 1/4 3, by 2
    rows = tensor([[[1.0, -3.0]], [[1.0, -3.0]]])  # each with a fraction of its own
    assert quantile_loss(rows, tensor([[0.25], [0.75]]), 0.0).tolist() == [1.25, 0.75]


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_the_gradients_of_both_losses_are_those_of_finite_differences(kappa: float) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    goal = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    fraction = torch.rand(3, 5, dtype=torch.float64, generator=generator)
    target = torch.randn(3, 5, dtype=torch.float64, generator=generator).softmax(dim=-1)
    assert torch.autograd.gradcheck(
        lambda x: quantile_loss(goal.unsqueeze(-2) - x.unsqueeze(-1), fraction, kappa), predicted
    )
    assert torch.autograd.gradcheck(lambda x: divergence(target, x.log_softmax(dim=-1)), predicted)


def test_quantile_regression_finds_the_quantiles_of_a_known_distribution() -> None:
    # of the exponential distribution: -ln(1 - f). Sums of large numbers of draws end at their own quantiles, whose
    # standard error is sqrt(f (1 - f) / n) / density, here at most 0.023 (f = 0.9, n = 20 000).
    fraction = tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    draws = torch.from_numpy(np.random.default_rng(0).exponential(size=20_000))
    found = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    for rate in np.geomspace(0.5, 1e-3, 300):
        error = draws - found.unsqueeze(-1)
        (gradient,) = torch.autograd.grad(quantile_loss(error, fraction, 0.0), found)
        with torch.no_grad():
            found -= rate * gradient / (fraction * (1 - fraction))
    torch.testing.assert_close(found.detach(), -torch.log(1 - fraction), rtol=0, atol=0.07)
