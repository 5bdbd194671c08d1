"""From a network back to its spec: what is built from it has the same tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.errors import RlabError
from rlab.learning.adapters import with_lora
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.branches import Dueling
from rlab.networks.describe import spec_of, with_network
from rlab.networks.layers import ACTIVATIONS, LogStd
from rlab.networks.spaces import Box
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork, build
from rlab.networks.stacking import stack, unstack

SEEDS = (0, 1)
LINEAR = {"in_features": 6, "out_features": 4}
CONV = {"in_channels": 3, "out_channels": 4, "kernel_size": 2, "stride": 2}
SPECS = {
    "integers": (
        LayerSpec("quantized_conv2d", {**CONV, "bits": 2, "activations": "dynamic", "init": "he"}),
        LayerSpec("flatten"),
        LayerSpec("quantized_linear", {**LINEAR, "bits": 4, "activations": "static", "init": "xavier", "gain": 0.5}),
    ),
    "half": (
        LayerSpec("half_conv2d", {**CONV, "dtype": "float16", "init": "pytorch"}),
        LayerSpec("half_linear", {**LINEAR, "dtype": "bfloat16", "init": "pytorch"}),
    ),
    "sequence": (
        LayerSpec("embedding", {"num_embeddings": 9, "features": 5, "padding_index": 0}),
        LayerSpec("gru", {"in_features": 5, "hidden": 6, "sequence": True}),
        LayerSpec("gru", {"in_features": 6, "hidden": 6, "sequence": False}),
    ),
    "log_std": (LayerSpec("linear", {**LINEAR, "init": "pytorch"}), LayerSpec("log_std", {"features": 4})),
}


def shapes(network):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()}


def check(network, expected=None):
    spec = spec_of(network)
    assert shapes(build(spec, SEEDS)) == shapes(network)
    plain = [unstack(network, i) for i in range(len(SEEDS))]
    again = build(spec_of(plain[1]), SEEDS)
    assert shapes(again) == shapes(stack(plain))
    again.load_state_dict(network.state_dict())
    assert expected in (None, spec)
    return again


def test_a_body_gives_its_own_spec_back_and_its_weights_fit(body):
    _, spec = body
    check(build(spec, SEEDS), spec)


def test_a_body_with_adapters_gives_its_own_spec_back(body):
    _, spec = body
    adapted = with_lora(spec, 2, 4.0)
    check(build(adapted, SEEDS), adapted)


@pytest.mark.parametrize("name", SPECS)
def test_every_other_kind_gives_its_own_spec_back(name):
    check(build(NetworkSpec(SPECS[name]), SEEDS), NetworkSpec(SPECS[name]))


@given(
    st.lists(st.integers(1, 5), max_size=3).map(tuple),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.5, 1.0]),
)
def test_any_network_gives_its_own_spec_back(hidden, activation, layer_norm, dueling, gain):
    body = BodySettings(hidden=hidden, activation=activation, layer_norm=layer_norm, gain=gain)
    space = Box((3,), "float32", -1.0, 1.0)
    spec = q_network_spec(space, 2, body, dueling)
    check(build(spec, SEEDS), spec)


def test_a_plain_network_that_somebody_wrote_gets_a_spec_that_builds_it():
    plain = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2), LogStd(2)).eval()
    spec = spec_of(plain)
    assert [layer.kind for layer in spec.layers] == ["linear", "layer_norm", "tanh", "linear", "log_std"]
    assert spec.layers[0].args == {"in_features": 3, "out_features": 4, "init": "pytorch"}
    network = build(spec, [7]).eval()
    network.load_state_dict(stack([plain]).state_dict())
    x = torch.randn(5, 3)
    torch.testing.assert_close(network(x.unsqueeze(0))[0], plain(x))


def test_a_policy_takes_another_network_and_says_so_in_its_spec(make_policy, random_obs):
    policy = make_policy(scaling="running")
    policy.preprocess.observe(torch.randn(3, 50, 4) * 3.0, torch.ones(3, 50, dtype=torch.bool))
    network = build(actor_network_spec(policy.spec.obs_space, 3, BodySettings(hidden=(2,))), (1, 2, 3))
    changed = with_network(policy, network)
    assert changed.spec.network == spec_of(network)
    assert changed.spec.head == policy.spec.head
    assert changed.seeds == policy.seeds
    obs = random_obs(policy.spec.obs_space, 3, 5)
    assert torch.equal(changed.preprocess(obs), policy.preprocess(obs))
    assert changed.preprocess is not policy.preprocess
    assert not changed.network.training


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Linear(2, 2), "Linear has no spec; a StackedNetwork or an nn.Sequential of layers has."),
        (nn.Sequential(nn.LSTM(2, 2)), "LSTM has no stacked counterpart"),
        (nn.Sequential(nn.Linear(2, 2, bias=False)), "it has settings that a stack lacks."),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1)), "it has settings that a stack lacks."),
        (nn.Sequential(nn.LeakyReLU(0.3)), "LeakyReLU(negative_slope=0.3) has a setting that a spec cannot hold"),
        (StackedNetwork(nn.Identity()), "Identity has no kind in a network's spec."),
        (nn.Sequential(nn.Sequential(nn.Linear(2, 2))), "put its layers into the outer one."),
        (nn.Sequential(Dueling(nn.Linear(2, 1), nn.Linear(2, 2))), "StackedLinear has no spec"),
    ],
)
def test_what_a_spec_cannot_hold_gets_one_line(network, said):
    with pytest.raises(RlabError) as caught:
        spec_of(network)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
