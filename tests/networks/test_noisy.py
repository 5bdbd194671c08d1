"""Noisy layers are the equations of their paper in training, and the linear layer of their means everywhere else."""

import copy

import pytest
import torch

from rlab.errors import RlabError
from rlab.networks.describe import spec_of
from rlab.networks.layers import StackedLinear
from rlab.networks.merging import merged, merged_spec
from rlab.networks.noisy import Noise, StackedNoisyLinear
from rlab.networks.spec import LayerSpec, NetworkSpec, build, draws_in_training
from rlab.networks.stacking import unstack

SPEC = NetworkSpec((LayerSpec("noisy_linear", {"in_features": 4, "out_features": 2, "init": "pytorch", "sigma": 0.6}),))


def layer_of(network):
    (layer,) = network
    assert isinstance(layer, StackedNoisyLinear)
    return layer


def test_the_noise_is_the_outer_product_of_one_number_for_each_input_and_output():
    layer = layer_of(build(SPEC, (3,)))
    assert layer.weight_noise.unique().item() == layer.bias_noise.unique().item() == pytest.approx(0.6 / 4**0.5)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight_noise.copy_(torch.arange(8.0).reshape(1, 4, 2))
        layer.bias_noise.copy_(torch.tensor([[[10.0, 20.0]]]))
    drawn = copy.deepcopy(layer.draws).normal(1, 6)[0, 0]
    f = [abs(float(x)) ** 0.5 * (1 if x > 0 else -1) for x in drawn]
    found = layer(torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]]))[0]
    expected = [
        [(0 * f[0] + 10) * f[4], (1 * f[0] + 20) * f[5]],
        [(2 * 4 * f[2] + 10) * f[4], (2 * 5 * f[2] + 20) * f[5]],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_noise_is_drawn_anew_in_every_call_and_for_each_member_by_itself():
    both, alone = build(SPEC, (4, 5)), build(SPEC, (5,))
    assert draws_in_training(both)
    x = torch.randn(2, 6, 4)
    first, second = both(x), both(x)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first[1:], alone(x[1:]))
    torch.testing.assert_close(second[1:], alone(x[1:]))


def test_in_evaluation_and_merged_and_out_of_the_stack_it_is_the_linear_layer_of_its_means():
    network = build(SPEC, (4, 5)).eval()
    x = torch.randn(2, 6, 4)
    expected = torch.baddbmm(network[0].bias, x, network[0].weight)
    assert torch.equal(network(x), expected)
    plain = merged(network)
    assert torch.equal(plain(x), expected)
    assert type(plain[0]) is StackedLinear
    assert spec_of(plain) == merged_spec(SPEC)
    assert spec_of(network) == SPEC
    for member in range(2):
        torch.testing.assert_close(unstack(network, member)(x[member]), expected[member])


def test_a_block_with_noise_leaves_dropout_alone_and_the_network_as_it_was():
    layers = (LayerSpec("dropout", {"p": 0.99}), *SPEC.layers)
    network = build(NetworkSpec(layers), (1,)).eval()
    x = torch.ones(1, 50, 4)
    with Noise(network):
        rows = network(x)[0]
    assert (rows == rows[0]).all()  # one noise for all rows, and no unit dropped
    assert not torch.allclose(rows, network(x)[0])
    assert torch.equal(network(x), network(x))


def test_noise_needs_random_numbers():
    layer = StackedNoisyLinear(1, 4, 2)
    with pytest.raises(RlabError, match="noisy layers in training need random numbers"):
        layer(torch.ones(1, 1, 4))
