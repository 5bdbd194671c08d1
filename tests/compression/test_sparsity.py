"""Weights set to zero: which, how many, when, and that they stay zero while the others learn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.compression.fake_quantize import convert, prepare_qat
from rlab.compression.quantize import weight_only
from rlab.compression.sparsity import MaskedTraining, gradual_sparsity, prune_weights, sparsity, weight_masks
from rlab.errors import UsageError
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


@given(share=st.floats(0.0, 0.999), scope=st.sampled_from(["layer", "global"]), seed=st.integers(0, 50))
def test_every_member_loses_as_many_weights_and_none_larger_than_one_that_stays(share, scope, seed):
    network = build(SPEC, [seed, seed + 1])
    masks = weight_masks(network, share, scope)
    assert set(masks) == {"0.weight", "3.weight", "6.weight"}
    groups = [list(masks)] if scope == "global" else [[name] for name in masks]
    for names in groups:
        for member in range(2):
            keep = torch.cat([masks[name][member].flatten() for name in names])
            size = torch.cat([network.get_parameter(name)[member].abs().flatten() for name in names])
            assert int((~keep).sum()) == round(share * len(keep))
            if 0 < keep.sum() < len(keep):
                assert size[~keep].max() <= size[keep].min()


def test_a_member_of_a_stack_loses_the_weights_that_it_loses_alone():
    network = build(SPEC, [3, 4])
    together = prune_weights(network, 0.6)
    alone = stack([prune_weights(unstack(network, i), 0.6) for i in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(together.parameters(), alone.parameters(), strict=True))
    # 36 of 60, 58 of 96 and 14 of 24 weights, out of 180
    torch.testing.assert_close(sparsity(together), torch.full((2,), 108 / 180))


def test_the_schedule_on_numbers_worked_by_hand():
    # from 0 to 0.8 over updates 100 to 300: at the middle 0.8 - 0.8 / 8
    found = [gradual_sparsity(update, 100, 300, 0.8) for update in (0, 100, 200, 300, 10**6)]
    assert found == pytest.approx([0.0, 0.0, 0.7, 0.8, 0.8])
    assert gradual_sparsity(150, 100, 300, 0.8, initial=0.4) == pytest.approx(0.8 - 0.4 * 27 / 64)


@given(final=st.floats(0.0, 0.99), updates=st.lists(st.integers(0, 400), min_size=2))
def test_the_schedule_never_falls(final, updates):
    shares = [gradual_sparsity(update, 50, 350, final) for update in sorted(updates)]
    assert shares == sorted(shares)
    assert 0.0 <= shares[0] <= shares[-1] <= final


def test_what_is_zero_stays_zero_while_the_others_learn():
    network = prune_weights(build(SPEC, [3, 4]), 0.5)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    train(network, 5, MaskedTraining(network).after_update)
    for name in ("0.weight", "3.weight", "6.weight"):
        now = network.get_parameter(name)
        assert torch.equal(now == 0, before[name] == 0)
        assert (now != before[name])[before[name] != 0].all()
    free = prune_weights(build(SPEC, [3, 4]), 0.5)
    train(free, 5)
    assert sparsity(free).max() < 0.05  # without masks Adam fills the zeros again


def test_gradual_pruning_follows_the_schedule_and_ends_at_the_share():
    network = build(SPEC, [3, 4])
    masked = MaskedTraining(network, 0.7, begin=5, end=25, every=10)
    seen = {}

    def after_update(update):
        masked.after_update(update)
        seen[update] = sparsity(network)

    train(network, 30, after_update)
    for update, share in seen.items():
        due = 25 if update >= 25 else 15 if update >= 15 else 5
        want = sum(round(gradual_sparsity(due, 5, 25, 0.7) * size) for size in (60, 96, 24)) / 180
        torch.testing.assert_close(share, torch.full((2,), want))


def test_a_network_prepared_for_quantization_keeps_its_zeros_through_training_and_rounding():
    network = prepare_qat(prune_weights(build(SPEC, [3, 4]), 0.5), bits=8)
    before = sparsity(network)
    train(network, 5, MaskedTraining(network).after_update)
    assert torch.equal(sparsity(network), before)
    rounded = convert(network.eval())
    dense = [layer.dense() for layer in rounded if hasattr(layer, "dense")]
    zeros = torch.stack([(weight == 0).flatten(1).sum(dim=1) for weight in dense]).sum(dim=0)
    assert (zeros >= 180 * before).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prune_weights(small(), 1.0), r"in \[0, 1\), not 1.0"),
        (lambda: prune_weights(small(), 0.5, "layers"), "Did you mean 'layer'"),
        (lambda: prune_weights(weight_only(small()), 0.5), "before quantizing"),
        (lambda: MaskedTraining(small(), 0.5, begin=7, end=7), "from update 7 to 7"),
        (lambda: MaskedTraining(small(), -0.1), r"in \[0, 1\), not -0.1"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(call, message):
    with pytest.raises(UsageError, match=message):
        call()
