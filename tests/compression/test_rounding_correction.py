"""Corrections by visited states: on numbers worked by hand, and against the formulas that they are made of."""

import pytest
import torch
from torch import nn

from rlab.compression import rounding, rounding_correction
from rlab.compression.quantize import half, weight_only
from rlab.compression.rounding_correction import _compensated, _halved, correct


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chain(*weights):
    """Linear layers of one input and one output each."""
    network = nn.Sequential(*[nn.Linear(1, 1) for _ in weights])
    with torch.no_grad():
        for layer, weight in zip(network, weights, strict=True):
            layer.weight.fill_(weight)
            layer.bias.zero_()
    return network


def test_roundings_make_up_for_each_other_where_inputs_go_together():
    network = nn.Sequential(nn.Linear(3, 1))
    network.load_state_dict({"0.weight": torch.tensor([[7.0, 1.4, 1.4]]), "0.bias": torch.tensor([0.0])})
    features = normal(200, 2)[:, [0, 1, 1]]  # of the last two only their sum counts
    small = weight_only(network, 4)
    small[0].load_dense(network[0].weight.data, torch.tensor([1.0]))
    correct(network, small, features, candidates=0)
    assert small[0].integers().tolist() == [[7, 1, 2]]  # 2.8 is nearer to 1 + 2 than to 1 + 1
    correct(network, small, features)
    assert small[0].integers().tolist() == [[5, 1, 1]]  # exact at a scale of 1.4, the largest that is tried
    torch.testing.assert_close(small[0].scale, torch.tensor([1.4]))


def test_weights_of_16_bits_make_up_for_each_other_too():
    network = nn.Sequential(nn.Linear(2, 1))
    network.load_state_dict({"0.weight": torch.tensor([[1.003, 1.003]]), "0.bias": torch.tensor([0.0])})
    features = normal(200, 1)[:, [0, 0]]
    assert half(network, "bfloat16")[0].dense().tolist() == [[1.0, 1.0]]
    # bfloat16 has steps of 1 / 128 above 1: 2.006 is nearer to 2 + 1 / 128 than to 2
    assert half(network, "bfloat16", features)[0].dense().tolist() == [[1.0, 1.0 + 1 / 128]]


def test_weights_of_16_bits_stay_finite():
    rows = normal(50, 1)
    assert _halved(torch.tensor([[60_000.0]]), rows, 120_000.0 * rows, torch.float16).tolist() == [[65_504.0]]


def test_a_layer_makes_up_for_what_those_before_it_lost():
    network, features = chain(1.0, 1.0), normal(100, 1)
    small = weight_only(network)
    small[0].load_dense(torch.tensor([[1.0]]), torch.tensor([0.8]))
    small[1].load_dense(torch.tensor([[1.0]]), torch.tensor([0.01]))
    correct(network, small, features, candidates=0)
    assert small[0].integers().tolist() == [[1]]  # 0.8 in the place of 1
    assert small[1].integers().tolist() == [[125]]  # 1.25 gives 1 again
    torch.testing.assert_close(small(features), network(features))


def test_a_constant_that_layers_before_it_add_goes_into_the_bias():
    network, features = chain(1.0, 1.0), normal(100, 1)
    small = weight_only(network)
    with torch.no_grad():
        network[0].bias.fill_(5.0)
    correct(network, small, features)
    torch.testing.assert_close(small[0].bias, torch.tensor([0.0]), rtol=0, atol=1e-5)  # it was right already
    torch.testing.assert_close(small[1].bias, torch.tensor([5.0]))


@pytest.mark.parametrize("inputs", [3, 32, 33, 70])  # less than a block of columns, one, and more
def test_compensated_roundings_are_those_of_the_formula(inputs):
    rows, weight = normal(200, inputs).double() @ normal(inputs, inputs, seed=1).double(), normal(5, inputs, seed=2)
    covariance = rows.T @ rows / len(rows)
    steps = torch.tensor([[0.3] * 5, [0.5] * 5], dtype=torch.double)  # two candidates for each of five channels

    def grid(x):
        return rounding.to_floats(rounding.to_integers(x, steps, 0, -8, 7), steps)

    found, error = _compensated(weight.double().expand(2, -1, -1), covariance, grid)
    for candidate, step in enumerate((0.3, 0.5)):
        expected = by_equation_2(weight.double(), covariance, step)
        torch.testing.assert_close(found[candidate], expected)
        missed = weight.double() - expected
        torch.testing.assert_close(error[candidate], ((missed @ covariance) * missed).sum(dim=1))


def by_equation_2(weight, covariance, step):
    """Frantar et al. 2023, equations 2 and 3, without their section 3.3: after each column the inverse is taken anew
    of what is left."""
    left, found = weight.clone(), torch.zeros_like(weight)
    rest = covariance.diagonal().argsort(descending=True).tolist()
    while rest:
        column = rest[0]
        inverse = torch.linalg.inv(covariance[rest][:, rest])
        found[:, column] = (left[:, column] / step).round().clamp(-8, 7) * step
        error = (left[:, column] - found[:, column]) / inverse[0, 0]
        left[:, rest] -= error.unsqueeze(1) * inverse[0]
        rest = rest[1:]
    return found


def wide():
    """A layer of 4 inputs and 20 outputs."""
    network = nn.Sequential(nn.Linear(4, 20))
    network.load_state_dict({"0.weight": normal(20, 4, seed=3), "0.bias": normal(20, seed=4)})
    return network


@pytest.mark.parametrize(("bits", "share"), [(8, 0.3), (4, 0.9), (2, 1.0)])
def test_searched_scales_miss_less_than_those_that_were_there(bits, share):
    network, features = wide(), normal(500, 4)
    errors = []
    with torch.no_grad():
        for candidates in (0, 256):
            small = correct(network, weight_only(network, bits), features, candidates)
            errors.append((small(features) - network(features)).square().mean(dim=0))
    assert bool((errors[1] <= 1.001 * errors[0]).all())  # each channel for itself
    assert errors[1].mean() < share * errors[0].mean()


def test_large_layers_try_fewer_scales(monkeypatch):
    network, features = wide(), normal(500, 4)
    kept = weight_only(network, 4)
    many = correct(network, weight_only(network, 4), features)
    assert not torch.equal(many[0].scale, kept[0].scale)
    monkeypatch.setattr(rounding_correction, "WORK", 4 * 4 * 20 - 1)  # not one is affordable
    none = correct(network, weight_only(network, 4), features)
    assert torch.equal(none[0].scale, kept[0].scale)
    monkeypatch.setattr(rounding_correction, "WORK", 4 * 4 * 20 * 2)  # both ends of the span
    two = correct(network, weight_only(network, 4), features)
    ratios = two[0].scale / kept[0].scale
    assert {round(ratio, 3) for ratio in ratios.tolist()} <= {0.7, 1.0, 1.4}
