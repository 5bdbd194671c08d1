"""Out of the stack and back: the same outputs, the same weights, and nothing lost without a word."""

import pytest
import torch
from torch import nn

from rlab.errors import RlabError
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.branches import Dueling
from rlab.networks.layers import LogStd
from rlab.networks.preprocess import Preprocess
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork, build
from rlab.networks.stacking import stack, unstack

SEEDS = (0, 1, 2)


def inputs_of(space, random_obs, rows=4):
    return Preprocess(space, "none", None, len(SEEDS))(random_obs(space, len(SEEDS), rows))


def test_an_unstacked_member_is_plain_and_answers_like_its_row_of_the_stack(body, random_obs):
    space, spec = body
    network, x = build(spec, SEEDS).eval(), inputs_of(space, random_obs)
    expected = network(x)
    for i in range(len(SEEDS)):
        plain = unstack(network, i)
        assert all(
            type(m).__module__.startswith("torch.nn") or isinstance(m, Dueling | BatchRenorm) for m in plain.modules()
        )
        torch.testing.assert_close(plain(x[i]), expected[i])


def test_stacking_the_members_gives_the_same_stack_again(body, random_obs):
    space, spec = body
    network, x = build(spec, SEEDS).eval(), inputs_of(space, random_obs, 2)
    again = stack([unstack(network, i) for i in range(len(SEEDS))])
    assert isinstance(again, StackedNetwork)
    assert again.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.equal(again(x), network(x))


def test_a_member_built_alone_answers_like_the_member_of_a_larger_stack(body, random_obs):
    space, spec = body
    x = inputs_of(space, random_obs, 2)
    torch.testing.assert_close(build(spec, [1]).eval()(x[1:2])[0], build(spec, SEEDS).eval()(x)[1])


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_travels_along(body, training):
    _, spec = body
    plain = unstack(build(spec, SEEDS).train(training), 1)
    assert all(module.training is training for module in plain.modules())
    assert all(module.training is training for module in stack([plain, plain]).modules())


def test_weights_are_copied_both_ways(body):
    _, spec = body
    network = build(spec, SEEDS)
    plain = unstack(network, 0)
    again = stack([plain, plain])
    kept = [parameter.detach().clone() for parameter in plain.parameters()]
    with torch.no_grad():
        for parameter in [*network.parameters(), *again.parameters()]:
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), kept, strict=True))


def test_a_log_std_layer_leaves_the_stack_and_comes_back():
    layers = LayerSpec("linear", {"in_features": 4, "out_features": 2}), LayerSpec("log_std", {"features": 2})
    network = build(NetworkSpec(layers), SEEDS)
    with torch.no_grad():
        network[1].log_std.copy_(torch.randn(3, 1, 2))
    x = torch.randn(3, 5, 4)
    plain = [unstack(network, i) for i in range(3)]
    assert all(type(member[1]) is LogStd for member in plain)
    for i, member in enumerate(plain):
        torch.testing.assert_close(member(x[i]), network(x)[i])
    assert torch.equal(stack(plain)(x), network(x))
    with torch.no_grad():
        network[1].log_std.zero_()
    assert plain[0][1].log_std.abs().sum() > 0  # a copy


def test_double_precision_survives():
    torch.manual_seed(0)
    plain = [nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3)).double() for _ in "ab"]
    x = torch.randn(2, 5, 1, 3, 3, dtype=torch.float64)
    stacked = stack(plain)
    assert torch.equal(unstack(stacked, 1)(x[1]), plain[1](x[1]))
    torch.testing.assert_close(stacked(x)[1], plain[1](x[1]))


def test_an_activations_settings_are_kept():
    plain = nn.Sequential(nn.LeakyReLU(0.3), nn.GELU(approximate="tanh"))
    stacked = stack([plain, plain])
    x = torch.randn(2, 3, 4)
    # a few roundings apart: where a tensor begins in memory decides what a CPU computes in vectors and what one by one
    torch.testing.assert_close(stacked(x)[0], plain(x[0]), rtol=1e-6, atol=1e-6)
    assert torch.equal(unstack(stacked, 1)(x[0]), plain(x[0]))


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([nn.Linear(2, 3), nn.Linear(2, 4)], "only networks alike can be stacked; one has Linear(in_features=2, out_"),
        ([nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())], "one has (0): Tanh() for (0): ReLU()."),
        ([nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU())], "only networks alike can be stacked"),
        ([nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)], "LeakyReLU(negative_slope=0.2) for LeakyReLU(negative_slope=0.1)"),
        ([nn.Dropout(0.1), nn.Dropout(0.2)], "only networks alike can be stacked"),
        ([nn.Sequential(nn.Linear(2, 2, bias=False))] * 2, "it has settings that a stack lacks"),
        (
            [nn.LSTM(2, 2)],
            "LSTM has no stacked counterpart. A layer of your own ",
        ),
        ([], "a stack needs one network or more."),
    ],
)
def test_what_cannot_be_stacked_is_refused_in_one_line(networks, message):
    with pytest.raises(RlabError) as caught:
        stack(networks)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layer_without_a_way_out_says_which():
    with pytest.raises(RlabError, match=r"LSTM cannot leave its stack: give its class a method unstack\(member\)"):
        unstack(StackedNetwork(nn.LSTM(2, 2)), 0)
