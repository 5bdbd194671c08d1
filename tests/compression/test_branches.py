"""Networks with a branch for each image are compressed and fine-tuned like others."""

import pytest
import torch

from rlab.compression import quantize
from rlab.compression.low_rank import factorise
from rlab.compression.neuron_pruning import cut, hidden_layers, neuron_masks, prune_neurons
from rlab.compression.quantized_layers import full_precision
from rlab.compression.search import hidden_widths
from rlab.errors import UsageError
from rlab.learning.finetuning import layers_of
from rlab.learning.layer_transfer import refit_policy
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Box, Dict, Discrete
from rlab.networks.spec import build
from rlab.networks.stacking import stack, unstack

INF = float("inf")


def scene(side=6, numbers=3):
    view, speed = Box((side, side, 2), "uint8", 0.0, 255.0), Box((numbers,), "float32", -INF, INF)
    return Dict((("speed", speed), ("view", view)))


SPEC = q_network_spec(scene(), 4, BodySettings(hidden=(12,), activation="tanh"))
FEATURES = torch.rand(40, 75, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plain():
    return unstack(build(SPEC, [3, 4]).eval(), 1)


def test_channels_and_hidden_neurons_are_pruned_and_what_joins_the_branches_stays(plain, masked):
    assert [layer.name for layer in hidden_layers(plain)] == ["0.branches.0.1", "1"]
    masks = neuron_masks(plain, 0.5, "activation", FEATURES)
    assert [int(mask.sum()) for mask in masks.values()] == [8, 6]
    pruned = cut(plain, masks)
    torch.testing.assert_close(pruned(FEATURES), masked(plain, masks)(FEATURES), rtol=1e-5, atol=1e-6)
    members = [prune_neurons(unstack(build(SPEC, [3, 4]).eval(), i), 0.5) for i in range(2)]
    assert stack(members)(FEATURES.expand(2, 40, 75)).shape == (2, 40, 4)


def test_layers_inside_branches_are_factorised_and_quantized(plain):
    (whole,) = factorise([plain], energy=1.0)
    torch.testing.assert_close(whole(FEATURES), plain(FEATURES), rtol=1e-4, atol=1e-5)
    (narrow,) = factorise([plain], rank=2)
    assert len(narrow.get_submodule("0.branches.0")) == 7  # one linear layer more
    rounded = quantize.weight_only(plain, 8)
    assert not torch.equal(rounded(FEATURES), plain(FEATURES))
    torch.testing.assert_close(full_precision(rounded)(FEATURES), rounded(FEATURES), rtol=1e-4, atol=1e-5)


def test_widths_and_strategies_speak_of_the_layers_behind_the_branches():
    assert hidden_widths(SPEC) == (12,)
    assert layers_of(SPEC) == [(0,), (1,), (3,)]


def test_branches_are_kept_for_the_same_images_and_refused_for_others():
    source = PolicySpec(scene(), Discrete(4), {"scaling": "none", "scale": None}, SPEC)
    kept = refit_policy(source, scene(), Discrete(2), {"kind": "q"}, ("q",))
    assert list(kept.fresh) == ["network.3"]
    assert kept.kept == ("network.0.branches.0.1", "network.0.branches.0.4", "network.1")
    for other in (scene(side=7), scene(side=6, numbers=4)):
        with pytest.raises(UsageError, match=r"the source has a branch for each image of Dict\(.*and do not fit"):
            refit_policy(source, other, Discrete(4), {"kind": "q"}, ("q",))
