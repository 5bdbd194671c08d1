"""Neurons that are cut out: what is left computes what the whole network computes without them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.compression.neuron_pruning import IMPORTANCE, cut, hidden_layers, neuron_masks, prune_neurons
from rlab.compression.quantize import weight_only
from rlab.errors import UsageError
from rlab.learning.adapters import with_lora
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.describe import with_network
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.networks.stacking import stack, unstack
from rlab.runs.policies import load_policy, save_policy

VECTOR = Box((5,), "float32", float("-inf"), float("inf"))
IMAGE = Box((8, 7, 3), "bool", 0.0, 1.0)
CONVOLUTIONS = NetworkSpec(
    (
        LayerSpec("conv2d", {"in_channels": 3, "out_channels": 6, "kernel_size": 3}),
        LayerSpec("relu"),
        LayerSpec("conv2d", {"in_channels": 6, "out_channels": 4, "kernel_size": 2, "stride": 2}),
        LayerSpec("tanh"),
        LayerSpec("flatten"),
        LayerSpec("linear", {"in_features": 4 * 3 * 2, "out_features": 8}),
        LayerSpec("relu"),
        LayerSpec("linear", {"in_features": 8, "out_features": 3}),
    )
)
NETWORKS = {
    **{name: q_network_spec(VECTOR, 3, BodySettings((12, 8), name)) for name in ACTIVATIONS},
    "dueling": q_network_spec(VECTOR, 3, BodySettings((12, 8), "silu"), dueling=True),
    "dropout": q_network_spec(VECTOR, 3, BodySettings((12, 8), dropout=0.5)),
    "one hidden layer": q_network_spec(VECTOR, 3, BodySettings((4,), "gelu")),
    "log_std": actor_network_spec(VECTOR, 4, BodySettings((12, 8)), log_std=-0.5),
    "convolutions": CONVOLUTIONS,
    "image": q_network_spec(IMAGE, 3, BodySettings((10,), "elu"), dueling=True),
}
NORMED = {
    "layer norm": q_network_spec(VECTOR, 3, BodySettings((12, 8), "tanh", layer_norm=True)),
    "dueling layer norm": q_network_spec(VECTOR, 3, BodySettings((12, 8), layer_norm=True), dueling=True),
    "batch renorm": q_network_spec(VECTOR, 3, BodySettings((12, 8), "tanh", batch_renorm=True)),
    "batch renorm of an image": q_network_spec(IMAGE, 3, BodySettings((10,), batch_renorm=True)),
    "layer norm of a flattened image": NetworkSpec(
        (
            LayerSpec("conv2d", {"in_channels": 3, "out_channels": 4, "kernel_size": 3}),
            LayerSpec("flatten"),
            LayerSpec("layer_norm", {"features": 4 * 6 * 5}),
            LayerSpec("relu"),
            LayerSpec("linear", {"in_features": 4 * 6 * 5, "out_features": 3}),
        )
    ),
}


def plain(name, seed=0):
    """A network with weights of its own everywhere, LayerNorm and log_std too."""
    network = unstack(build({**NETWORKS, **NORMED}[name], [seed]), 0).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def features(name, rows=20):
    is_image = isinstance(plain(name)[0], nn.Conv2d)
    return torch.randn(rows, *((3, 8, 7) if is_image else (5,)), generator=torch.Generator().manual_seed(9))


def named_weights(network):
    return {name: layer.weight for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}


@pytest.mark.parametrize("by", IMPORTANCE)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_equals_the_masked_original(name, by, masked):
    network, x = plain(name), features(name)
    masks = neuron_masks(network, 0.5, by, x)
    pruned = prune_neurons(network, 0.5, by, x)
    torch.testing.assert_close(pruned(x), masked(network, masks)(x), atol=1e-5, rtol=1e-5)
    assert (pruned(x) - network(x)).abs().max() > 1e-2  # or the test would be about nothing
    for layer in hidden_layers(network):
        weight = named_weights(pruned)[layer.name]
        assert len(weight) == layer.width // 2 == int(masks[layer.name].sum())


@given(name=st.sampled_from(list(NETWORKS)), share=st.floats(0.0, 0.999), seed=st.integers(0, 99))
def test_so_it_does_for_any_share_and_any_choice_of_neurons(name, share, seed, masked):
    network, x = plain(name, seed), features(name, 5)
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for layer in hidden_layers(network):
        keep = torch.rand(layer.width, generator=generator) >= share
        keep[seed % layer.width] = True
        masks[layer.name] = keep
    pruned = cut(network, masks)
    torch.testing.assert_close(pruned(x), masked(network, masks)(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NORMED)
def test_behind_a_layer_norm_it_equals_the_masked_original_with_the_same_reduced_layer_norm(name, masked):
    network, x = plain(name), features(name)
    masks = neuron_masks(network, 0.5)
    pruned, silenced = cut(network, masks), masked(network, masks)
    torch.testing.assert_close(pruned(x), silenced(x), atol=1e-5, rtol=1e-5)


def two_three_one():
    """Weights into three neurons, (3, 4), (0, 1) and (6, 8), biases 0; weights out of them 12, 0 and 1."""
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]]))
        network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[12.0, 0.0, 1.0]]))
    return network


def test_importance_on_numbers_worked_by_hand():
    network = two_three_one()
    layers = hidden_layers(network)
    (norm,) = IMPORTANCE["norm"](network, layers, None)
    assert norm.tolist() == pytest.approx([13.0, 1.0, 101**0.5])  # sqrt(9 + 16 + 144), 1, sqrt(36 + 64 + 1)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # activations: 3 0 6, 4 1 8, 0 0 0
    (activation,) = IMPORTANCE["activation"](network, layers, x)
    assert activation.tolist() == pytest.approx([7 / 3, 1 / 3, 14 / 3])
    (gradient,) = IMPORTANCE["gradient"](network, layers, x)
    assert gradient.tolist() == pytest.approx([12 * 7 / 3, 0.0, 14 / 3])


def test_the_gradient_tells_exactly_how_far_linear_outputs_would_move(masked):
    network, x = plain("one hidden layer"), features("one hidden layer")
    (score,) = IMPORTANCE["gradient"](network, hidden_layers(network), x)
    for neuron in range(4):
        without = masked(network, {"0": torch.arange(4) != neuron})
        assert score[neuron].item() == pytest.approx((without(x) - network(x)).abs().sum(dim=1).mean().item(), rel=1e-4)


def test_a_channel_is_judged_by_all_its_pixels():
    network, x = plain("convolutions"), features("convolutions", rows=300)  # more than are judged at once
    layers = hidden_layers(network)
    assert [(layer.name, layer.width) for layer in layers] == [("0", 6), ("2", 4), ("5", 8)]
    first, second, _ = IMPORTANCE["activation"](network, layers, x)
    read = F.relu(network[0](x))
    torch.testing.assert_close(first, read.abs().mean(dim=(0, 2, 3)))
    torch.testing.assert_close(second, torch.tanh(network[2](read)).abs().mean(dim=(0, 2, 3)))


def test_the_pixels_of_a_channel_may_cancel_out():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(4, 1))  # two channels of two pixels
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, 0.5]]))
    (score,) = IMPORTANCE["gradient"](network, hidden_layers(network), torch.tensor([[[[2.0, 2.0]]]]))
    assert score.tolist() == [0.0, 3.0]  # 2 - 2 and 2 + 1


def test_q_values_are_made_of_both_streams_and_lose_none_of_their_parts():
    network = nn.Sequential(*plain("dueling"), nn.Linear(3, 2))
    assert {layer.name: layer.readers for layer in hidden_layers(network)} == {
        "0": ["2.value.0", "2.advantage.0"],
        "2.value.0": ["2.value.2"],
        "2.advantage.0": ["2.advantage.2"],
    }
    assert prune_neurons(network, 0.5)(features("dueling")).shape == (20, 2)


@pytest.mark.parametrize("by", ["activation", "gradient"])
def test_neurons_that_are_always_zero_go_first_and_nothing_changes(by):
    network, x = plain("relu"), features("relu")
    with torch.no_grad():
        network[0].bias[::2] = -1e3  # half of the ReLUs never fire
        network[2].bias[::2] = -1e3
    pruned = prune_neurons(network, 0.5, by, x)
    torch.testing.assert_close(pruned(x), network(x), atol=1e-5, rtol=1e-5)


def test_outputs_and_log_std_stay_and_so_does_one_neuron_of_every_layer():
    pruned = prune_neurons(plain("log_std"), 0.99)
    assert [layer.out_features for layer in pruned if isinstance(layer, nn.Linear)] == [1, 1, 2]
    assert torch.equal(pruned[-1].log_std, plain("log_std")[-1].log_std)
    dueling = prune_neurons(plain("dueling"), 0.99)
    assert [len(weight) for weight in named_weights(dueling).values()] == [1, 1, 1, 1, 3]
    one_each = prune_neurons(plain("relu"), (0.75, 0.0))
    assert [len(weight) for weight in named_weights(one_each).values()] == [3, 8, 3]


@pytest.mark.parametrize("name", [*NETWORKS, *NORMED])
def test_the_network_that_was_given_stays_as_it_was(name):
    network, before = plain(name).train(), plain(name).state_dict()
    for by in IMPORTANCE:
        prune_neurons(network, 0.5, by, features(name))
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_members_choose_neurons_of_their_own_and_form_a_policy_that_loads_like_any_other(tmp_path):
    spec = PolicySpec(VECTOR, Discrete(3), {"scaling": "none", "scale": None}, NORMED["layer norm"])
    policy = build_policy(spec, (3, 4, 5))
    members = [unstack(policy.network, i) for i in range(3)]
    chosen = [neuron_masks(network, 0.5)["0"].tolist() for network in members]
    assert len({tuple(mask) for mask in chosen}) == 3
    pruned = with_network(policy, stack([prune_neurons(network, 0.5) for network in members]))
    save_policy(tmp_path / "pruned", pruned, {})
    again = load_policy(tmp_path / "pruned").policy
    obs = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.outputs(obs), pruned.outputs(obs))
    for i, network in enumerate(members):
        torch.testing.assert_close(again.outputs(obs)[i], prune_neurons(network, 0.5)(obs[i]), atol=1e-6, rtol=1e-5)


def test_adapters_are_merged_before():
    stacked = build(with_lora(NETWORKS["tanh"], rank=2, alpha=2.0), [0])
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    network = unstack(stacked, 0).eval()
    torch.testing.assert_close(prune_neurons(network, 0.0)(features("tanh")), network(features("tanh")))


def unflattened():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 2), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (plain("relu"), {"share": 1.0}, r"in \[0, 1\), not 1.0"),
        (plain("relu"), {"share": float("nan")}, r"in \[0, 1\), not nan"),
        (plain("relu"), {"share": (0.5, 0.5, 0.5)}, "3 shares do not fit 2 hidden layers"),
        (plain("relu"), {"share": 0.5, "by": "gradeint"}, "Did you mean 'gradient'"),
        (plain("relu"), {"share": 0.5, "by": "activation"}, "needs features"),
        (nn.Sequential(nn.Linear(3, 2)), {"share": 0.5}, "no hidden layer"),
        (weight_only(plain("relu")), {"share": 0.5}, "QuantizedLinear.*before quantizing"),
        (unflattened(), {"share": 0.5}, "layer 1 cannot be pruned"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3)), {"share": 0.5}, "in groups"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(network, options, message):
    with pytest.raises(UsageError, match=message) as error:
        prune_neurons(network, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"9": torch.ones(3, dtype=torch.bool)}, "unknown hidden layer '9'"),
        ({"0": torch.zeros(12, dtype=torch.bool)}, "must keep one or more of its 12"),
        ({"0": torch.ones(3, dtype=torch.bool)}, "must keep one or more of its 12"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message):
    with pytest.raises(UsageError, match=message):
        cut(plain("relu"), masks)
