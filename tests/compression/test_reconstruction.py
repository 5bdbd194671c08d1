"""Least squares behind a cut: what one neuron told is told by others where they can."""

import pytest
import torch
from torch import nn

from rlab.compression.neuron_pruning import cut, neuron_masks, prune_neurons
from rlab.compression.reconstruction import reconstruct
from rlab.errors import UsageError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 2))


@torch.no_grad()
def test_a_neuron_that_is_the_sum_of_two_others_can_go_without_a_trace():
    whole = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    whole[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    whole[0].bias.zero_()
    whole[2].weight.copy_(torch.tensor([[2.0, 3.0, 5.0]]))
    x = torch.rand(500, 2)  # above 0, where a ReLU is the identity
    masks = {"0": torch.tensor([True, True, False])}
    fitted = reconstruct(whole, cut(whole, masks), masks, x)
    # 2 a + 3 b + 5 (a + b) = 7 a + 8 b, but for the damping of a thousandth
    assert torch.allclose(fitted[2].weight, torch.tensor([[7.0, 8.0]]), atol=0.02)
    assert torch.allclose(fitted(x), whole(x), atol=0.02)


def test_fitting_leaves_a_fraction_of_the_error_of_the_cut_on_states_it_has_not_seen():
    whole, x = network(), torch.randn(2000, 4)
    fresh = torch.randn(500, 4)
    bare = prune_neurons(whole, 0.5, "activation", x)
    fitted = prune_neurons(whole, 0.5, "activation", x, reconstructed=True)
    assert [p.shape for p in bare.parameters()] == [p.shape for p in fitted.parameters()]
    errors = [(each(fresh) - whole(fresh)).square().mean().item() for each in (bare, fitted)]
    assert errors[1] < 0.1 * errors[0]


def test_nothing_cut_means_nothing_changed():
    whole, x = network(), torch.randn(300, 4)
    masks = neuron_masks(whole, 0.0)
    again = reconstruct(whole, cut(whole, masks), masks, x)
    assert torch.allclose(again(x), whole(x), atol=1e-5)


def test_features_are_needed():
    with pytest.raises(UsageError, match="layers are fitted on features of visited states; there are none"):
        prune_neurons(network(), 0.5, reconstructed=True)
