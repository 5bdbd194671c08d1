"""Weights set to zero after training, in networks plain, prepared for quantization and packed."""

import pytest
import torch
from torch import nn

from rlab.compression.fake_quantize import convert, prepare_qat
from rlab.compression.quantize import weight_only
from rlab.compression.quantized_layers import full_precision
from rlab.compression.weight_pruning import packed, prune_weights
from rlab.errors import UsageError
from rlab.learning.sparsity import MaskedTraining, sparsity
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.spaces import Box
from rlab.networks.spec import build
from rlab.networks.stacking import stack, unstack

VECTOR = Box((5,), "float32", float("-inf"), float("inf"))
SPEC = q_network_spec(VECTOR, 3, BodySettings((12, 8), "tanh", layer_norm=True))


def small():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -5.0], [2.0, -0.5]]))
        network[2].weight.copy_(torch.tensor([[0.1, -0.2]]))
    return network


def train(network, steps, after_update=lambda update: None):
    """A few steps of Adam on random targets."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for update in range(1, steps + 1):
        x, y = torch.randn(2, 8, 5, generator=generator), torch.randn(2, 8, 3, generator=generator)
        optimizer.zero_grad()
        (network(x) - y).square().mean(dim=(1, 2)).sum().backward()
        optimizer.step()
        after_update(update)


def test_the_smallest_weights_go_on_numbers_worked_by_hand():
    network = small()
    by_layer = prune_weights(network, 0.5)
    assert by_layer[0].weight.tolist() == [[0.0, -5.0], [2.0, 0.0]]
    assert by_layer[2].weight.tolist() == [[0.0, pytest.approx(-0.2)]]
    everywhere = prune_weights(network, 0.5, "global")
    assert everywhere[0].weight.tolist() == [[1.0, -5.0], [2.0, 0.0]]
    assert everywhere[2].weight.tolist() == [[0.0, 0.0]]
    assert torch.equal(everywhere[0].bias, network[0].bias)
    assert network[0].weight.tolist() == [[1.0, -5.0], [2.0, -0.5]]  # a copy was pruned


def test_a_member_of_a_stack_loses_the_weights_that_it_loses_alone():
    network = build(SPEC, [3, 4])
    together = prune_weights(network, 0.6)
    alone = stack([prune_weights(unstack(network, i), 0.6) for i in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(together.parameters(), alone.parameters(), strict=True))
    # 36 of 60, 58 of 96 and 14 of 24 weights, out of 180
    torch.testing.assert_close(sparsity(together), torch.full((2,), 108 / 180))


def test_a_network_prepared_for_quantization_keeps_its_zeros_through_training_and_rounding():
    network = prepare_qat(prune_weights(build(SPEC, [3, 4]), 0.5), bits=8)
    before = sparsity(network)
    train(network, 5, MaskedTraining(network).after_update)
    assert torch.equal(sparsity(network), before)
    rounded = convert(network.eval())
    dense = [layer.dense() for layer in rounded if hasattr(layer, "dense")]
    zeros = torch.stack([(weight == 0).flatten(1).sum(dim=1) for weight in dense]).sum(dim=0)
    assert (zeros >= 180 * before).all()


def test_packed_layers_learn_again_as_plain_ones_and_their_zeros_are_plain_zeros():
    pruned = prune_weights(build(q_network_spec(VECTOR, 3, BodySettings((40, 30), "tanh")), [3, 4]), 0.8)
    small = packed(pruned)
    again = full_precision(small)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), pruned.parameters(), strict=True))
    assert torch.equal(sparsity(again), sparsity(pruned))
    train(again, 5, MaskedTraining(again).after_update)
    assert torch.equal(sparsity(again), sparsity(pruned))
    with pytest.raises(UsageError, match="before quantizing"):
        prune_weights(small[:1], 0.5)  # what stores no zeros has no weights that could become one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prune_weights(small(), 1.0), r"in \[0, 1\), not 1.0"),
        (lambda: prune_weights(small(), 0.5, "layers"), "Did you mean 'layer'"),
        (lambda: prune_weights(weight_only(small()), 0.5), "before quantizing"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(call, message):
    with pytest.raises(UsageError, match=message):
        call()
