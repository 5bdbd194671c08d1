"""LoRA layers: plain ones at the start, low-rank beside them, and plain ones again when they are merged."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.errors import UsageError
from rlab.learning.adapters import (
    LORA_KINDS,
    LORA_LAYERS,
    LoraConv2d,
    LoraLinear,
    StackedLoraConv2d,
    StackedLoraLinear,
    with_lora,
)
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.branches import Dueling
from rlab.networks.layers import StackedConv2d, StackedLinear
from rlab.networks.merging import merge_policy, merged, merged_spec, named_layers
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork, build
from rlab.networks.stacking import stack, unstack
from rlab.randomness import torch_stream

SEEDS = (3, 4, 5)
LAYERS = {
    "linear": (lambda **kwargs: StackedLoraLinear(3, 6, 5, **kwargs), StackedLinear(3, 6, 5), (3, 7, 6)),
    "conv2d": (
        lambda **kwargs: StackedLoraConv2d(3, 2, 5, 3, stride=2, **kwargs),
        StackedConv2d(3, 2, 5, 3, stride=2),
        (3, 7, 2, 8, 9),
    ),
}
EVERY_LAYER = pytest.mark.parametrize("kind", list(LAYERS))


def layer_of(kind, rank=2, alpha=6.0, trained=True):
    """A layer with an adapter that does something, and its input."""
    make, _, shape = LAYERS[kind]
    layer = make(rank=rank, alpha=alpha)
    layer.initialise([torch_stream(seed, "init/test") for seed in SEEDS])
    if trained:
        nn.init.normal_(layer.up, generator=torch.Generator().manual_seed(1))
    return layer, torch.randn(shape, generator=torch.Generator().manual_seed(2))


def trained_network(spec):
    """A stack of the spec whose adapters do something."""
    network = build(spec, SEEDS).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return network


def test_a_linear_adapter_on_numbers_worked_by_hand():
    layer = StackedLoraLinear(1, 2, 3, rank=1, alpha=2.0)
    for name, value in {
        "weight": [[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]],
        "bias": [[[10.0, 20.0, 30.0]]],
        "down": [[[1.0], [-1.0]]],
        "up": [[[1.0, 0.0, 3.0]]],
    }.items():
        layer.get_parameter(name).data = torch.tensor(value)
    # x W + b = (13, 24, 36); x down = -1; times alpha / rank = 2 and up: (-2, 0, -6)
    assert layer(torch.tensor([[[3.0, 4.0]]])).tolist() == [[[11.0, 24.0, 30.0]]]
    # W + 2 down up
    assert layer.merge().weight.tolist() == [[[3.0, 0.0, 8.0], [-2.0, 1.0, -6.0]]]
    assert layer.merge().bias.tolist() == [[[10.0, 20.0, 30.0]]]


@EVERY_LAYER
def test_a_fresh_layer_answers_exactly_as_the_plain_one_with_its_weights(kind):
    layer, x = layer_of(kind, trained=False)
    plain = LAYERS[kind][1]
    assert {k: v.shape for k, v in plain.named_parameters()}.items() <= {
        k: v.shape for k, v in layer.named_parameters()
    }.items()
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k in plain.state_dict()})
    assert torch.equal(layer(x), plain(x))
    assert layer.down.abs().min() > 0


@EVERY_LAYER
def test_the_adapter_changes_outputs_in_proportion_to_alpha_over_rank(kind):
    layer, x = layer_of(kind)
    full = layer(x)
    layer.alpha = layer.alpha / 2
    half = layer(x)
    layer.alpha = 0.0
    base = layer(x)
    assert (full - base).abs().max() > 0.1
    torch.testing.assert_close(full - base, 2 * (half - base), rtol=1e-4, atol=1e-5)


@EVERY_LAYER
def test_a_merged_layer_is_plain_and_has_equal_outputs(kind):
    layer, x = layer_of(kind)
    plain = layer.merge()
    assert type(plain) is type(LAYERS[kind][1])
    torch.testing.assert_close(plain(x), layer(x), rtol=1e-5, atol=1e-5)
    before = plain.weight.detach().clone()
    nn.init.zeros_(layer.weight)
    assert torch.equal(plain.weight, before)  # a copy


@EVERY_LAYER
def test_a_change_of_weights_has_the_rank_of_the_adapter(kind):
    layer, _ = layer_of(kind, rank=2)
    change = (layer.merge().weight - layer.weight).detach()
    assert torch.linalg.matrix_rank(change.flatten(2), rtol=1e-4).tolist() == [2, 2, 2]


@EVERY_LAYER
def test_a_member_leaves_the_stack_and_comes_back(kind):
    layer, x = layer_of(kind)
    plain = [unstack(layer, i) for i in range(3)]
    assert {type(module) for module in plain} <= {LoraLinear, LoraConv2d}
    for i, member in enumerate(plain):
        torch.testing.assert_close(member(x[i]), layer(x)[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(merged(member)(x[i]), layer(x)[i], rtol=1e-5, atol=1e-5)
        assert type(merged(member)) in (nn.Linear, nn.Conv2d)
    again = stack(plain)
    assert type(again) is type(layer)
    assert (again.rank, again.alpha) == (layer.rank, layer.alpha)
    assert all(torch.equal(a, layer.get_parameter(name)) for name, a in again.named_parameters())
    assert torch.equal(again(x), layer(x))


@EVERY_LAYER
def test_gradients_of_the_adapter_are_those_of_its_member_alone(kind):
    layer, x = layer_of(kind)
    layer(x).square().sum().backward()
    for i in range(3):
        alone = unstack(layer, i)
        alone(x[i]).square().sum().backward()
        for name in ("down", "up"):
            grad = layer.get_parameter(name).grad[i]
            grad = grad.T if kind == "linear" else grad
            torch.testing.assert_close(grad, alone.get_parameter(name).grad, rtol=1e-4, atol=1e-3)


@EVERY_LAYER
def test_fresh_adapters_depend_on_the_seed_alone_and_have_the_bound_of_their_fan_in(kind):
    make, _, _ = LAYERS[kind]
    layer, again = make(rank=5, alpha=1.0), make(rank=5, alpha=1.0)
    layer.initialise([torch_stream(seed, "init/test") for seed in SEEDS])
    again.initialise([torch_stream(seed, "init/test") for seed in (9, 4, 8)])
    assert torch.equal(layer.down[1], again.down[1])
    assert not torch.equal(layer.down[0], again.down[0])
    bound = (6 if kind == "linear" else 2 * 3 * 3) ** -0.5  # U(+-1/sqrt(fan_in))
    assert 0.8 * bound < layer.down.abs().max() <= bound


@EVERY_LAYER
@pytest.mark.parametrize(
    ("rank", "alpha", "said"),
    [
        (0, 1.0, "LoRA rank 0 does not fit a "),
        (6, 1.0, "it must be in 1 .. 5."),
        (2, 0.0, "LoRA alpha 0.0 must be above 0."),
        (2, float("nan"), "LoRA alpha nan must be above 0."),
    ],
)
def test_a_rank_or_scale_that_cannot_be_gets_one_line(kind, rank, alpha, said):
    with pytest.raises(UsageError) as caught:
        LAYERS[kind][0](rank=rank, alpha=alpha)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_linear_layer_and_convolution_of_a_body_gets_an_adapter_and_loses_it_again(body, random_obs):
    space, spec = body
    adapted = with_lora(spec, rank=3, alpha=6.0)
    kinds = [layer.kind for _, layer in named_layers(adapted)]
    assert not {"linear", "conv2d"} & set(kinds)
    assert kinds == [LORA_KINDS.get(layer.kind, layer.kind) for _, layer in named_layers(spec)]
    assert merged_spec(adapted) == spec
    assert NetworkSpec.from_json(json.loads(json.dumps(adapted.to_json()))) == adapted
    network = trained_network(adapted)
    x = Preprocess(space, "none", None, len(SEEDS))(random_obs(space, len(SEEDS), 4))
    plain = merged(network)
    assert isinstance(plain, StackedNetwork)
    assert not any(isinstance(module, LORA_LAYERS) for module in plain.modules())
    assert plain.state_dict().keys() == build(spec, SEEDS).state_dict().keys()
    torch.testing.assert_close(plain(x), network(x), rtol=1e-5, atol=1e-5)
    for i in range(len(SEEDS)):
        torch.testing.assert_close(merged(unstack(network, i))(x[i]), network(x)[i], rtol=1e-5, atol=1e-5)


def test_names_are_those_of_the_state_dict(body):
    _, spec = body
    names = {f"network.{name}".rpartition(".")[0] for name in build(spec, [0]).state_dict()}
    assert names <= {name for name, _ in named_layers(spec)}


def test_layers_that_are_named_stay_plain():
    spec = q_network_spec(Box((4,), "float32", -1.0, 1.0), 3, BodySettings(hidden=(8, 6)), dueling=True)
    adapted = with_lora(spec, 2, 2.0, plain=("network.0", "network.2.value.2"))
    kinds = {name: layer.kind for name, layer in named_layers(adapted) if "linear" in layer.kind}
    assert kinds == {
        "network.0": "linear",
        "network.2.value.0": "lora_linear",
        "network.2.value.2": "linear",
        "network.2.advantage.0": "lora_linear",
        "network.2.advantage.2": "lora_linear",
    }


def test_a_narrow_layer_takes_as_much_rank_as_it_has_at_the_same_scale():
    spec = q_network_spec(Box((4,), "float32", -1.0, 1.0), 2, BodySettings(hidden=(64, 64)))
    layers = [layer.args for _, layer in named_layers(with_lora(spec, 16, 32.0)) if layer.kind == "lora_linear"]
    assert [(args["rank"], args["alpha"]) for args in layers] == [(4, 8.0), (16, 32.0), (2, 4.0)]


def test_a_rank_that_no_layer_has_gets_one_line():
    spec = q_network_spec(Box((4,), "float32", -1.0, 1.0), 2, BodySettings(hidden=(8,)))
    with pytest.raises(UsageError, match=r"^LoRA rank 5 does not fit: the layers' smaller sides are 4, 2\.$"):
        with_lora(spec, 5, 1.0)
    with pytest.raises(UsageError, match=r"^LoRA needs a linear layer or a convolution that is not fresh"):
        with_lora(spec, 2, 1.0, plain=("network.0", "network.2"))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 100.0))
def test_any_low_rank_layer_merges_to_equal_outputs(in_features, out_features, rank, alpha):
    spec = NetworkSpec((LayerSpec("linear", {"in_features": in_features, "out_features": out_features}),))
    if rank > min(in_features, out_features):
        with pytest.raises(UsageError):
            with_lora(spec, rank, alpha)
        return
    network = trained_network(with_lora(spec, rank, alpha))
    x = torch.randn(3, 4, in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(merged(network)(x), network(x), rtol=1e-4, atol=1e-4)


def test_a_merged_policy_answers_the_same_in_every_way(random_obs):
    space = Box((4,), "float32", -2.0, 2.0)
    network = with_lora(actor_network_spec(space, 4, BodySettings(hidden=(8,)), 1.0, log_std=-0.5), 2, 4.0)
    actions, scaling = Box((2,), "float32", -1.0, 1.0), {"scaling": "running", "scale": None}
    policy = build_policy(PolicySpec(space, actions, scaling, network, {"kind": "gaussian"}), SEEDS)
    policy.preprocess.observe(torch.randn(3, 50, 4) * 3.0, torch.ones(3, 50, dtype=torch.bool))
    nn.init.normal_(policy.network[2].up)
    plain = merge_policy(policy)
    obs = random_obs(space, 3, 6)
    assert [layer.kind for _, layer in named_layers(plain.spec.network)] == ["linear", "relu", "linear", "log_std"]
    assert plain.seeds == policy.seeds
    torch.testing.assert_close(plain.outputs(obs), policy.outputs(obs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain.member(4)(obs[1]), policy.member(4)(obs[1]), rtol=1e-5, atol=1e-5)
    again = build_policy(plain.spec, SEEDS)
    again.load_state_dict(plain.state_dict())
    torch.testing.assert_close(again(obs), policy(obs), rtol=1e-5, atol=1e-5)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    with torch.no_grad():
        for tensor in plain.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())  # a copy


def test_the_mode_and_the_streams_of_dropout_are_kept():
    spec = with_lora(q_network_spec(Box((4,), "float32", -1.0, 1.0), 2, BodySettings(hidden=(8,), dropout=0.5)), 2, 2.0)
    network = build(spec, SEEDS)
    plain = merged(network)
    assert plain.training
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(plain(x), network(x), rtol=1e-5, atol=1e-5)
    assert not merged(network.eval()).training
    dueling = Dueling(StackedNetwork(), StackedNetwork()).eval()
    assert not merged(dueling).training


def test_plain_modules_without_adapters_are_copied():
    plain = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    again = merged(plain)
    assert again is not plain
    assert again[0] is not plain[0]
    x = torch.randn(4, 2)
    assert torch.equal(again(x), plain(x))


def test_adapters_are_stated_where_torch_prints_a_layer():
    stacked, _ = layer_of("linear")
    assert repr(unstack(stacked, 0)) == "LoraLinear(in_features=6, out_features=5, rank=2, alpha=6.0)"
    stacked, _ = layer_of("conv2d")
    assert repr(unstack(stacked, 0)) == "LoraConv2d(2, 5, kernel_size=3, stride=2, rank=2, alpha=6.0)"


def test_the_spaces_of_the_lab_s_agents_build_with_adapters():
    spec = with_lora(q_network_spec(Box((84, 84, 4), "uint8", 0.0, 255.0), 6, BodySettings(hidden=(32,))), 4, 32.0)
    space, preprocess = Box((84, 84, 4), "uint8", 0.0, 255.0), {"scaling": "none", "scale": None}
    policy = build_policy(PolicySpec(space, Discrete(6), preprocess, spec), SEEDS[:1])
    assert policy(torch.zeros(1, 2, 84, 84, 4, dtype=torch.uint8)).shape == (1, 2)
