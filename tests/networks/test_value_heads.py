"""Heads that say what an action is worth, and the deterministic head of continuous actions."""

import math

import pytest
import torch

from rlab.errors import UsageError
from rlab.networks.heads import build_head
from rlab.networks.spaces import Box, Discrete

C51 = {"kind": "categorical_value", "atoms": 3, "low": -1.0, "high": 3.0}  # returns -1, 1 and 3
QUANTILES = {"kind": "quantile", "quantiles": 2}


def test_a_categorical_value_is_the_mean_return_of_its_atoms():
    head = build_head(C51, Discrete(2, start=5))
    # action 0: all mass on 1; action 1: a half each on -1 and 3, and then a quarter, a quarter and a half
    outputs = torch.tensor([[0.0, 100.0, 0.0, 50.0, -100.0, 50.0], [0.0, 100.0, 0.0, 0.0, 0.0, math.log(2)]])
    assert head.width == 6
    assert head.mask_width == 2
    torch.testing.assert_close(head.values(outputs), torch.tensor([[1.0, 1.0], [1.0, 0.25 * -1 + 0.25 * 1 + 0.5 * 3]]))
    assert head.to_env(head.act(outputs[1])) == 6
    assert head.act(outputs[1], torch.tensor([True, False])) == 0
    assert head.logits(outputs).shape == (2, 2, 3)


def test_a_quantile_value_is_the_mean_of_its_quantiles():
    head = build_head(QUANTILES, Discrete(3))
    outputs = torch.tensor([0.0, 4.0, 1.0, 1.0, -1.0, 6.0])
    assert head.values(outputs).tolist() == [2.0, 1.0, 2.5]
    assert head.act(outputs) == 2
    assert head.returns(outputs)[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", [C51, QUANTILES, {"kind": "q"}])
def test_values_explore_with_the_epsilon_of_their_head_among_allowed_actions(kind):
    head = build_head({**kind, "epsilon": 1.0}, Discrete(3))
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    outputs = torch.randn(2, 300, head.width)
    drawn = head.sample(outputs, generators)
    assert [(drawn == action).double().mean().item() for action in range(3)] == pytest.approx([1 / 3] * 3, abs=0.06)
    mask = torch.tensor([True, False, True]).expand(2, 300, 3)
    assert set(head.sample(outputs, generators, mask).flatten().tolist()) == {0, 2}
    calm = head.sampling(0.0, False)
    assert head.explores
    assert not calm.explores
    assert torch.equal(calm.sample(outputs, generators), head.act(outputs))


@pytest.mark.parametrize(
    ("head", "space", "said"),
    [
        ({"kind": "categorical_value"}, Discrete(2), "needs atoms, 2 or more, and returns low < high of the first and"),
        ({**C51, "high": -1.0}, Discrete(2), "not atoms 3, low -1.0, high -1.0."),
        ({"kind": "quantile"}, Discrete(2), "the policy head 'quantile' needs quantiles, 1 or more; not 0."),
        (QUANTILES, Box((1,), "float32", 0.0, 1.0), "the policy head 'quantile' is for Discrete actions, not Box"),
        ({"kind": "deterministic"}, Box((1,), "float32", 0.0, math.inf), "each element needs two finite bounds."),
        ({"kind": "deterministic", "noise": -1}, Box((1,), "float32", 0.0, 1.0), "the noise -1.0 of the policy head"),
    ],
)
def test_what_a_head_lacks_is_told_in_one_line(head, space, said):
    with pytest.raises(UsageError) as caught:
        build_head(head, space)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_deterministic_action_is_the_tanh_scaled_to_the_bounds_and_passes_the_gradient():
    head = build_head({"kind": "deterministic"}, Box((2,), "float64", (0.0, -1.0), (4.0, 1.0)))
    outputs = torch.tensor([math.atanh(0.5), -math.inf], requires_grad=True)
    action = head.act(outputs)
    torch.testing.assert_close(action, torch.tensor([3.0, -1.0]))
    assert head.width == 2
    assert head.to_env(action).dtype == torch.float64
    torch.testing.assert_close(head.normalised(action), torch.tensor([0.5, -1.0]))
    (gradient,) = torch.autograd.grad(action[0], outputs)
    assert gradient[0].item() == pytest.approx(2.0 * (1 - 0.5**2))  # half the range times the slope of tanh
    assert not head.explores


def test_a_deterministic_policy_explores_with_normal_noise_within_the_bounds():
    head = build_head({"kind": "deterministic", "noise": 0.1}, Box((1,), "float32", -2.0, 2.0))
    drawn = head.sample(torch.zeros(2, 4000, 1), [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    assert drawn.std().item() == pytest.approx(0.2, rel=0.05)  # 0.1 of half the range
    assert not torch.equal(drawn[0], drawn[1])
    edge = head.sample(torch.full((1, 500, 1), 20.0), [torch.Generator().manual_seed(0)])
    assert edge.max() == 2.0
    assert edge.min() < 2.0
