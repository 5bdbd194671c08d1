"""Each initialisation has the law that its name promises, and a member's weights are its own."""

import math

import pytest
import torch
from torch import nn

from rlab.errors import UsageError
from rlab.networks.initialization import INITIALISERS, initialise
from rlab.networks.spec import LayerSpec, NetworkSpec, build


def drawn(name, shape, gain=1.0, seed=0):
    weight, bias = torch.full(shape, torch.nan), torch.full(shape[:1], torch.nan)
    initialise(weight, bias, name, gain, torch.Generator().manual_seed(seed))
    return weight, bias


@pytest.mark.parametrize(("shape", "fan_in"), [((64, 100), 100), ((32, 8, 5, 5), 200)])
def test_pytorchs_default_is_uniform_within_one_over_the_root_of_fan_in(shape, fan_in):
    weight, bias = drawn("pytorch", shape)
    bound = 1 / math.sqrt(fan_in)
    for tensor in (weight, bias):
        assert tensor.abs().max() <= bound
        assert tensor.abs().max() > 0.9 * bound
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    # and that is what torch itself does
    torch.manual_seed(0)
    own = nn.Linear(100, 64) if len(shape) == 2 else nn.Conv2d(8, 32, 5)
    assert own.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert own.bias.abs().max().item() <= bound


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (4, 3, 2, 2)])
def test_orthogonal_rows_or_columns_are_orthonormal_times_the_gain(shape):
    weight, bias = drawn("orthogonal", shape, gain=2.0)
    flat = weight.flatten(1) if shape[0] <= weight[0].numel() else weight.flatten(1).T
    torch.testing.assert_close(flat @ flat.T, 4.0 * torch.eye(len(flat)), atol=1e-5, rtol=0)
    assert bias.eq(0).all()


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), [((60, 90), 90, 60), ((16, 8, 3, 3), 72, 144)])
def test_xavier_is_uniform_with_a_variance_of_two_over_both_fans(shape, fan_in, fan_out):
    weight, bias = drawn("xavier", shape, gain=3.0)
    bound = 3.0 * math.sqrt(6 / (fan_in + fan_out))
    assert 0.9 * bound < weight.abs().max() <= bound
    assert weight.var().item() == pytest.approx(9.0 * 2 / (fan_in + fan_out), rel=0.1)
    assert bias.eq(0).all()


@pytest.mark.parametrize(("shape", "fan_in"), [((100, 80), 80), ((32, 8, 4, 4), 128)])
def test_he_is_normal_with_a_variance_of_two_over_fan_in(shape, fan_in):
    weight, bias = drawn("he", shape, gain=0.5)
    assert weight.var().item() == pytest.approx(0.25 * 2 / fan_in, rel=0.1)
    assert weight.mean().abs().item() < 4 * weight.std().item() / math.sqrt(weight.numel())
    deviations = weight.abs() / weight.std()
    assert (deviations > 2).double().mean().item() == pytest.approx(0.0455, abs=0.01)  # a normal's share behind 2 sigma
    assert bias.eq(0).all()


def test_an_unknown_initialisation_is_answered_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"^unknown initialisation 'ortogonal'\. Did you mean 'orthogonal'\?$"):
        drawn("ortogonal", (2, 2))


def spec_with(init):
    return NetworkSpec(
        (
            LayerSpec("conv2d", {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "stride": 1, "init": init}),
            LayerSpec("relu"),
            LayerSpec("flatten"),
            LayerSpec("linear", {"in_features": 16, "out_features": 24, "init": init, "gain": 0.7}),
            LayerSpec("linear", {"in_features": 24, "out_features": 3, "init": init}),
        )
    )


def weights(network, member):
    return [parameter[member] for parameter in network.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("init", sorted(INITIALISERS))
def test_a_members_weights_depend_on_its_seed_and_use_alone(init):
    spec = spec_with(init)
    stack, alone, elsewhere = build(spec, [0, 1, 2]), build(spec, [1]), build(spec, [7, 8, 9, 1])
    assert equal(weights(stack, 1), weights(alone, 0))
    assert equal(weights(stack, 1), weights(elsewhere, 3))
    assert not equal(weights(stack, 0), weights(stack, 1))
    assert not equal(weights(build(spec, [1], use="critic"), 0), weights(alone, 0))
    torch.manual_seed(1)
    assert equal(weights(build(spec, [1]), 0), weights(alone, 0))  # and not on torch's own stream


def test_a_stacked_linear_layer_reads_its_fans_the_right_way_round():
    linear = build(NetworkSpec((LayerSpec("linear", {"in_features": 400, "out_features": 4}),)), [0])[0]
    assert linear.weight.shape == (1, 400, 4)
    assert 0.9 / 20 < linear.weight.abs().max() <= 1 / 20  # 1 / sqrt(400), not 1 / sqrt(4)


def test_the_gain_of_a_layer_scales_its_weights():
    args = {"in_features": 30, "out_features": 30, "init": "orthogonal"}
    plain, scaled = (
        build(NetworkSpec((LayerSpec("linear", {**args, "gain": gain}),)), [3])[0].weight for gain in (1.0, 0.01)
    )
    torch.testing.assert_close(scaled, 0.01 * plain)
