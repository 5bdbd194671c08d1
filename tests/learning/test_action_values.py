"""The arithmetic of actor-critics that learn from replay, on numbers worked on paper and against finite differences."""

import math

import pytest
import torch
from torch import tensor

from rlab.learning.action_values import critic_errors, smoothed, soft_value, temperature_loss


def test_both_critics_are_measured_against_the_one_target() -> None:
    q = tensor([[[1.0, 2.0], [3.0, 0.0]]])  # one member, two critics, two rows
    errors = critic_errors(q, tensor([[1.0, 1.0]]), tensor([[0.5, 0.0]]), tensor([[4.0, 99.0]]))
    assert errors.tolist() == [[[2.0, -1.0], [0.0, 1.0]]]  # 1 + .5*4 = 3 and 1 + 0*99 = 1, less q


def test_no_gradient_flows_into_the_target_of_the_critics() -> None:
    q, next_value = torch.zeros(1, 2, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    critic_errors(q, torch.zeros(1, 3), torch.ones(1, 3), next_value).sum().backward()
    assert q.grad is not None
    assert q.grad.tolist() == [[[-1.0] * 3] * 2]
    assert next_value.grad is None


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reward \(1, 3\), .* must all be q's shape \(1, 2, 4\) without its axis of"):
        critic_errors(torch.zeros(1, 2, 4), torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3))


def test_the_soft_value_of_choices_on_numbers_worked_by_hand() -> None:
    log_prob = tensor([0.25, 0.75]).log()
    value = soft_value(tensor([2.0, 4.0]), log_prob, tensor(0.5))
    entropy = 0.25 * math.log(4.0) + 0.75 * math.log(4.0 / 3.0)
    assert value.item() == pytest.approx(3.5 + 0.5 * entropy)  # .25*2 + .75*4 and half of the entropy


def test_a_choice_that_is_not_allowed_counts_nothing_and_gets_no_gradient() -> None:
    logits = tensor([1.0, 2.0, 3.0], requires_grad=True)
    log_prob = logits.masked_fill(tensor([False, False, True]), -torch.inf).log_softmax(-1)
    value = soft_value(tensor([2.0, 4.0, 1e6]), log_prob, tensor(0.5))
    without = soft_value(tensor([2.0, 4.0]), tensor([1.0, 2.0]).log_softmax(-1), tensor(0.5))
    assert value.item() == pytest.approx(without.item())
    (grad,) = torch.autograd.grad(value, logits)
    assert grad[2] == 0.0
    assert grad.isfinite().all()


def test_the_temperature_rises_where_the_entropy_is_too_small() -> None:
    log_temperature = tensor([[0.0], [0.0]], requires_grad=True)
    temperature_loss(log_temperature, tensor([[-3.0, -2.0], [1.0, 2.0]]), -1.0).mean(dim=-1).sum().backward()
    assert log_temperature.grad is not None
    # the mean of entropy minus target: -1.5, so that the step goes up; 2.5, down
    assert log_temperature.grad.tolist() == [[-1.5], [2.5]]


def test_target_actions_are_smoothed_within_the_clip_and_the_bounds() -> None:
    noise = tensor([1.0, -1.0, 10.0, -10.0, 10.0])
    found = smoothed(tensor([0.0, 0.0, 0.0, 0.0, 0.8]), noise, 0.2, 0.5)
    assert found.tolist() == pytest.approx([0.2, -0.2, 0.5, -0.5, 1.0])  # 0.8 + 0.5 is beyond the bound


def differences(function: object, point: torch.Tensor) -> torch.Tensor:
    """The gradient at a float64 point by central differences."""
    found = torch.zeros_like(point)
    for index in range(point.numel()):
        step = torch.zeros_like(point).view(-1)
        step[index] = 1e-6
        up, down = (function(point + sign * step.view_as(point)) for sign in (1.0, -1.0))  # type: ignore[operator]
        found.view(-1)[index] = (up - down) / 2e-6
    return found


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    q, logits, noise = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(3))
    one = torch.ones(2, 4, dtype=torch.float64)
    cases = [
        (lambda x: critic_errors(x, one, 0.9 * one, 2.0 * one).square().sum(), q),
        (lambda x: soft_value(x, logits.log_softmax(-1), one[:, :3]).sum(), q),
        (lambda x: soft_value(q, x.log_softmax(-1), 0.3 * one[:, :3]).square().sum(), logits),
        (lambda x: temperature_loss(x, q, -1.0).square().sum(), logits),
        (lambda x: smoothed(x, noise, 0.2, 0.5).square().sum(), 0.3 * logits),
    ]
    for function, point in cases:
        at = point.clone().requires_grad_()
        (grad,) = torch.autograd.grad(function(at), at)
        torch.testing.assert_close(grad, differences(function, point), rtol=1e-6, atol=1e-7)
