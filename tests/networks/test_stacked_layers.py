"""Each stacked layer is S plain torch layers: equal values and equal gradients, member by member."""

import pytest
import torch
from torch import nn

from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.networks.branches import Dueling
from rlab.networks.layers import (
    LogStd,
    StackedConv2d,
    StackedDropout,
    StackedFlatten,
    StackedLayerNorm,
    StackedLinear,
    StackedLogStd,
    StackedTanh,
)

LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), StackedLinear, (7, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3), StackedConv2d, (7, 2, 6, 5)),
    "conv2d with stride": (lambda: nn.Conv2d(2, 4, 3, stride=2), StackedConv2d, (7, 2, 8, 9)),
    "layer norm": (lambda: nn.LayerNorm(5), StackedLayerNorm, (7, 5)),
    "flatten": (lambda: nn.Flatten(), StackedFlatten, (7, 2, 3, 4)),
    "log std": (lambda: LogStd(5), StackedLogStd, (7, 5)),
    "dropout, off": (lambda: nn.Dropout(0.5).eval(), StackedDropout, (7, 5)),
}


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", list(LAYERS))
def test_values_and_gradients_equal_the_plain_layers_member_by_member(name, members):
    make, stacked_type, shape = LAYERS[name]
    torch.manual_seed(0)
    plain = [make() for _ in range(members)]
    for layer in plain:
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    stacked = stacked_type.stack(plain).train(plain[0].training)
    x = torch.randn(members, *shape, requires_grad=True)
    y = stacked(x)
    weights = torch.randn(y.shape)
    (y * weights).sum().backward()
    for i, layer in enumerate(plain):
        alone = x.detach()[i].clone().requires_grad_()
        expected = layer(alone)
        (expected * weights[i]).sum().backward()
        torch.testing.assert_close(y[i], expected)
        torch.testing.assert_close(x.grad[i], alone.grad)
        back = stacked.unstack(i)
        for stacked_parameter, parameter in zip(back.parameters(), layer.parameters(), strict=True):
            assert torch.equal(stacked_parameter, parameter)
        for kind in dict(layer.named_parameters()):
            grad = getattr(stacked, kind).grad[i]
            grad = grad.T if isinstance(layer, nn.Linear) and kind == "weight" else grad
            expected_grad = getattr(layer, kind).grad
            torch.testing.assert_close(grad.reshape(expected_grad.shape), expected_grad)


def test_convolutions_behind_each_other_keep_members_and_rows_apart():
    torch.manual_seed(0)
    plain = [nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Flatten()) for _ in range(3)]
    first, second = (StackedConv2d.stack([p[i] for p in plain]) for i in (0, 2))
    stacked = nn.Sequential(first, nn.ReLU(), second, StackedFlatten(3))
    x = torch.randn(3, 5, 2, 7, 6)
    for i in range(3):
        torch.testing.assert_close(stacked(x)[i], plain[i](x[i]))


def test_dropout_keeps_its_share_scales_the_rest_and_draws_per_member():
    dropout = StackedDropout(2, 0.25)
    dropout.draws = Draws((1, 2), "dropout", "cpu")
    y = dropout(torch.ones(2, 100, 100))
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    for member in y:  # 10 000 coins: standard deviation 0.0043
        assert (member == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(y[0], y[1])
    alone = StackedDropout(1, 0.25)
    alone.draws = Draws((2,), "dropout", "cpu")
    assert torch.equal(alone(torch.ones(1, 100, 100))[0], y[1])  # member 1 draws the same beside nobody


def test_dropouts_gradient_is_zero_where_its_value_was():
    dropout = StackedDropout(1, 0.5)
    dropout.draws = Draws((0,), "dropout", "cpu")
    x = torch.ones(1, 4, 50, requires_grad=True)
    y = dropout(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # x is one, so the factor is both


def test_dropout_without_random_numbers_says_so_in_training():
    dropout = StackedDropout.stack([nn.Dropout(0.5), nn.Dropout(0.5)])
    x = torch.ones(2, 1, 3)
    assert torch.equal(dropout.eval()(x), x)
    with pytest.raises(RlabError, match="dropout in training needs random numbers: set its `draws`, or"):
        dropout.train()(x)


def test_dueling_on_numbers_worked_by_hand():
    value, advantage = nn.Linear(1, 1), nn.Linear(1, 3)
    with torch.no_grad():
        for parameter in (value.weight, value.bias, advantage.weight, advantage.bias):
            parameter.zero_()
        value.bias.fill_(10.0)
        advantage.bias.copy_(torch.tensor([1.0, 2.0, 6.0]))
    q = Dueling(value, advantage)(torch.zeros(2, 1))
    assert q.tolist() == [[8.0, 9.0, 13.0]] * 2  # 10 + (1, 2, 6) - 3


@pytest.mark.parametrize("initial", [-0.5, 1])
def test_a_free_log_std_stands_behind_the_means_whatever_the_input(initial):
    x = torch.randn(3, 4, 2)
    for layer, means in ((StackedLogStd(3, 2, initial), x), (LogStd(2, initial), x[0])):
        y = layer(means)
        assert torch.equal(y[..., :2], means)
        assert (y[..., 2:] == initial).all()
        y.sum().backward()
        assert (layer.log_std.grad == 4).all()  # one for each row


@pytest.mark.parametrize(
    "plain",
    [
        nn.Linear(2, 2, bias=False),
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, (3, 2)),
        nn.Conv2d(1, 1, 3, bias=False),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(1, 1, 3, stride=(1, 2)),
        nn.LayerNorm(2, eps=0.1),
        nn.LayerNorm(2, elementwise_affine=False),
        nn.LayerNorm((3, 2)),
        nn.Flatten(2),
        nn.Dropout(0.5, inplace=True),
    ],
    ids=str,
)
def test_a_plain_layer_with_a_setting_that_the_stack_would_lose_is_refused(plain):
    counterpart = {
        nn.Linear: StackedLinear,
        nn.Conv2d: StackedConv2d,
        nn.LayerNorm: StackedLayerNorm,
        nn.Flatten: StackedFlatten,
        nn.Dropout: StackedDropout,
    }[type(plain)]
    with pytest.raises(RlabError, match=r"cannot be stacked as .*it has settings that a stack lacks"):
        counterpart.stack([plain, plain])


def test_tanh_of_a_large_tensor_is_tanh_with_its_gradient() -> None:
    layer = StackedTanh(2)
    x = torch.linspace(-12.0, 12.0, 2 * layer.LARGE).reshape(2, -1, 1)
    plain, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, found = plain.tanh(), layer(ours)
    assert found.grad_fn.name() != expected.grad_fn.name()  # the other way was taken
    # A sigmoid and a tanh within a unit in the last place, 1.2e-7 at 1; the first is doubled and rounded again: 4.2e-7.
    torch.testing.assert_close(found, expected, rtol=0.0, atol=5e-7)
    weights = torch.linspace(-1.0, 1.0, x.numel()).reshape(x.shape)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), plain)
    (found_grad,) = torch.autograd.grad((found * weights).sum(), ours)
    torch.testing.assert_close(found_grad, expected_grad, rtol=0.0, atol=1e-6)
    few = x[:, :10]
    assert torch.equal(layer(few), few.tanh())
