"""Batch renormalisation: numbers worked on paper, gradients, members apart; the same in programs and after a stop."""

import math

import pytest
import torch
from torch import nn

from rlab.learning.program import Program
from rlab.networks.batch_renorm import BatchRenorm, StackedBatchRenorm
from rlab.networks.bodies import BodySettings, mlp_spec
from rlab.networks.describe import spec_of
from rlab.networks.spec import build, in_training
from rlab.networks.stacking import stack, unstack

FAR = torch.tensor([[[0.0], [200.0]]])  # mean 100, variance 10 000


def test_a_batch_far_from_the_running_statistics_is_clipped_as_on_paper() -> None:
    layer = StackedBatchRenorm(1, 1, warm_up=0)
    # r = 100 / 1 is held at 3 and d = 100 / 1 at 5: (x - 100) / 100 * 3 + 5, but for 0.001 that variances get
    torch.testing.assert_close(layer(FAR).flatten(), torch.tensor([2.0, 8.0]), rtol=0.0, atol=1e-5)
    assert layer.mean.item() == pytest.approx(1.0)  # 0.99 * 0 + 0.01 * 100
    assert layer.variance.item() == pytest.approx(100.99)  # 0.99 * 1 + 0.01 * 10 000
    assert layer.batches.tolist() == [1]
    layer.eval()
    expected = (7.0 - 1.0) / math.sqrt(100.99 + 1e-3)
    assert layer(torch.tensor([[[7.0]]])).item() == pytest.approx(expected, rel=1e-6)
    assert layer.batches.tolist() == [1]  # evaluation changes nothing
    assert layer.mean.item() == pytest.approx(1.0)


def test_until_the_warm_up_is_over_it_is_batch_normalisation() -> None:
    layer = StackedBatchRenorm(1, 1, warm_up=2)
    for expected in ([-1.0, 1.0], [-1.0, 1.0], [2.0, 8.0]):
        with torch.no_grad():
            layer.mean.zero_()
            layer.variance.fill_(1.0)
        torch.testing.assert_close(layer(FAR).flatten(), torch.tensor(expected), rtol=0.0, atol=1e-5)


def test_within_the_bounds_a_batch_is_normalised_by_the_running_statistics() -> None:
    """Ioffe 2017, equation 5: the correction undoes the batch's own statistics."""
    layer = StackedBatchRenorm(2, 3, warm_up=0)
    x = 1.0 + 1.5 * torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
    expected = layer.eval()(x)
    torch.testing.assert_close(layer.train()(x), expected, rtol=1e-5, atol=1e-5)


def test_in_the_warm_up_values_gradients_and_statistics_are_those_of_torch_s_batch_normalisation() -> None:
    torch.manual_seed(0)
    theirs, mine = nn.BatchNorm1d(4, eps=1e-3, momentum=0.01).double(), BatchRenorm(4).double()
    x = torch.randn(16, 4, dtype=torch.float64)
    results = []
    for layer in (theirs, mine):
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        (y * torch.arange(64.0).view(16, 4)).sum().backward()
        results.append((y, inputs.grad, layer.weight.grad, layer.bias.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mine.mean, theirs.running_mean)
    # torch's running variance is that of a sample, 16 / 15 of the batch's
    torch.testing.assert_close((mine.variance - 0.99) * 16 / 15, theirs.running_var - 0.99)


def test_its_gradient_is_that_of_finite_differences_with_r_and_d_held_at_their_bounds() -> None:
    layer = StackedBatchRenorm(2, 3, warm_up=0).double()
    x = 100.0 + 50.0 * torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def normalised(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            layer.mean.zero_()
            layer.variance.fill_(1.0)
        return layer(x)

    assert torch.autograd.gradcheck(normalised, (x.requires_grad_(),))


def test_members_have_their_own_statistics() -> None:
    x = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e3, 1e-3])[:, None, None]
    together = StackedBatchRenorm(3, 4, warm_up=1)
    alone = [StackedBatchRenorm(1, 4, warm_up=1) for _ in range(3)]
    for _ in range(3):
        y = together(x)
        for member, layer in enumerate(alone):
            torch.testing.assert_close(y[member], layer(x[member : member + 1])[0])
    for member, layer in enumerate(alone):
        torch.testing.assert_close(together.mean[member], layer.mean[0])
        torch.testing.assert_close(together.variance[member], layer.variance[0])


def test_a_batch_that_is_not_finite_leaves_the_statistics_of_its_member_and_of_all_others() -> None:
    layer = StackedBatchRenorm(2, 1)
    layer(torch.stack([FAR[0], FAR[0] * math.inf]))
    assert layer.mean.flatten().tolist() == pytest.approx([1.0, 0.0])
    assert layer.variance.flatten().tolist() == pytest.approx([100.99, 1.0])


def test_a_stack_of_it_comes_apart_and_together_with_statistics_and_settings() -> None:
    stacked = build(mlp_spec(3, 2, BodySettings((4,), batch_renorm=True)), [0, 1])
    kinds = ["batch_renorm", "linear", "relu", "batch_renorm", "linear"]
    assert [layer.kind for layer in spec_of(stacked).layers] == kinds
    in_training(stacked.eval())(5.0 + torch.randn(2, 8, 3))
    assert not stacked.training
    plain = [unstack(stacked, member) for member in range(2)]
    x = torch.randn(2, 7, 3)
    for member, network in enumerate(plain):
        torch.testing.assert_close(network(x[member]), stacked(x)[member])
    again = stack(plain)
    for name, tensor in stacked.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert StackedBatchRenorm(1, 2, warm_up=7).settings() == {"features": 2, "warm_up": 7}
    assert StackedBatchRenorm.stack([BatchRenorm(2, 7)]).warm_up == 7


def test_a_program_changes_its_statistics_as_a_call_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # a graph that is run operator by operator, without the compiler's time
    monkeypatch.setattr("rlab.learning.program.compiled", lambda graph, arguments: graph)
    x = torch.randn(4, 2, 8, 3, generator=torch.Generator().manual_seed(0)) * 20.0
    eager, traced = (StackedBatchRenorm(2, 3, warm_up=2) for _ in range(2))
    program = Program(lambda each: traced(each).detach(), "renormalise")
    for each in x:
        torch.testing.assert_close(program(each), eager(each).detach())
    assert traced.batches.tolist() == [4, 4]
    torch.testing.assert_close(traced.mean, eager.mean)
    torch.testing.assert_close(traced.variance, eager.variance)


def test_it_goes_on_to_the_bit_from_its_state() -> None:
    x = torch.randn(4, 2, 8, 3, generator=torch.Generator().manual_seed(0)) * 20.0
    whole, again = (StackedBatchRenorm(2, 3, warm_up=1) for _ in range(2))
    for each in x[:2]:
        whole(each)
    again.load_state_dict(whole.state_dict())
    for each in x[2:]:
        assert torch.equal(whole(each), again(each))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())
