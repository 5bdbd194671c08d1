"""Quantization after training: the same forward in fewer bytes, on networks that were trained and in policy folders."""

import numpy as np
import pytest
import torch
from torch import nn

from rlab.compression import rounding
from rlab.compression.float_layers import first_layers
from rlab.compression.quantize import CALIBRATIONS, dynamic, half, static, weight_only, weight_scale
from rlab.compression.quantized_layers import (
    CompressedLayer,
    HalfLinear,
    QuantizedConv2d,
    QuantizedLinear,
    full_precision,
)
from rlab.errors import RlabError, UsageError
from rlab.learning.adapters import with_lora
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.describe import spec_of, with_network
from rlab.networks.layers import LogStd, is_float_layer
from rlab.networks.merging import merged
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import build
from rlab.networks.stacking import stack, unstack
from rlab.runs.policies import load_policy, save_policy

SEEDS = (0, 1, 2)
VECTOR = Box((4,), "float32", -3.0, 3.0)
IMAGE = Box((10, 10, 2), "bool", 0.0, 1.0)
METHODS = {
    "float16": half,
    "bfloat16": lambda network, features=None: half(network, "bfloat16", features),
    "int8": lambda network, features=None: weight_only(network, 8, features),
    "int4": lambda network, features=None: weight_only(network, 4, features),
    "int2": lambda network, features=None: weight_only(network, 2, features),
    "dynamic": dynamic,
    "static": lambda network, features: static(network, features, corrected=False),
    "static corrected": static,
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def states():
    """States `[S, R, 4]` that lie about a plane, as those that a policy visits do."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(3, 2, 4, generator=generator)
    return torch.randn(3, 1500, 2, generator=generator) @ plane + 0.05 * torch.randn(3, 1500, 4, generator=generator)


@pytest.fixture(scope="module")
def trained(states):
    """A stack of Q networks that learned a smooth function with a large common part, as action values have it."""
    network = build(q_network_spec(VECTOR, 3, BodySettings(hidden=(32, 32), layer_norm=True)), SEEDS)
    wanted = torch.stack([states.sum(-1), states[..., 0] * states[..., 1], states[..., 2].sin()], dim=-1) + 30.0
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(300):
        loss = (network(states) - wanted).square().mean(dim=(1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def agreement(network, other, states):
    """Share of states with the same greedy action, over all members."""
    with torch.no_grad():
        return (network(states).argmax(-1) == other(states).argmax(-1)).float().mean().item()


def apply(method, network, states):
    return METHODS[method](network, states) if "static" in method else METHODS[method](network)


def test_trained_networks_agree_with_what_is_made_of_them(trained, states):
    seen, unseen = states[:, :1000], states[:, 1000:]
    found = {method: agreement(trained, apply(method, trained, seen), unseen) for method in METHODS}
    assert found["float16"] > 0.998
    assert found["int8"] > 0.97
    assert found["int8"] > found["int4"] > found["int2"] > 0.4
    assert min(found["dynamic"], found["static"]) > 0.96


@pytest.mark.parametrize("method", ["bfloat16", "int8", "int4", "int2", "dynamic"])
def test_visited_states_put_the_biases_and_roundings_right(method, trained, states):
    seen, unseen = states[:, :1000], states[:, 1000:]
    plain, corrected = METHODS[method](trained), METHODS[method](trained, seen)
    with torch.no_grad():
        exact, before, after = trained(unseen), plain(unseen), corrected(unseen)
        mean_error = (corrected(seen) - trained(seen)).mean(dim=1).abs()
    assert (after - exact).square().mean() < 0.9 * (before - exact).square().mean()
    assert mean_error.max() < 1e-3  # of outputs about 30
    assert agreement(trained, corrected, unseen) > agreement(trained, plain, unseen) - 0.002


@EVERY_METHOD
def test_a_stack_becomes_what_its_members_become_alone(method, trained, states):
    together = apply(method, trained, states)
    alone = [apply(method, unstack(trained, i), states[i]) for i in range(3)]
    assert all(isinstance(alone[0][i], CompressedLayer) for i in (0, 3, 6))
    again = stack(alone)
    assert spec_of(again) == spec_of(together)
    for name, tensor in together.state_dict().items():
        difference = (tensor.float() - again.state_dict()[name].float()).abs()
        if tensor.dtype in (torch.int8, torch.uint8) and "corrected" in method:
            assert (difference > 0).float().mean() < 0.01, name  # a sum in another order may round the other way
        else:
            # Where one does, by a scale of up to 0.017, its bias makes up for it times a mean feature of up to 3: 0.05.
            allowed = 0.1 if "corrected" in method else 1e-3
            torch.testing.assert_close(difference, torch.zeros_like(difference), rtol=0, atol=allowed)
    for i in range(3):
        # and an output misses a feature of up to 10 times 0.017
        allowed = 0.2 if "corrected" in method else 2e-2
        torch.testing.assert_close(alone[i](states[i]), together(states)[i], rtol=1e-3, atol=allowed)


@EVERY_METHOD
def test_the_network_itself_stays_as_it_was(method, trained, states):
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    new = apply(method, trained.train(), states)
    assert new.training
    assert all(module.training for module in trained.modules())
    trained.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    with torch.no_grad():
        for tensor in new.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


@EVERY_METHOD
def test_a_quantized_policy_is_saved_and_loaded_to_the_bit(method, tmp_path, states):
    body = BodySettings(hidden=(9,), layer_norm=True)
    spec = PolicySpec(VECTOR, Discrete(3), {"scaling": "running", "scale": None}, q_network_spec(VECTOR, 3, body, True))
    policy = build_policy(spec, SEEDS)
    policy.preprocess.observe(states, torch.ones(states.shape[:2], dtype=torch.bool))
    small = with_network(policy, apply(method, policy.network, policy.preprocess(states)))
    save_policy(tmp_path, small, {})
    loaded = load_policy(tmp_path).policy
    assert loaded.spec == small.spec
    tensors = loaded.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in small.state_dict().items())
    assert torch.equal(loaded.outputs(states), small.outputs(states))
    assert torch.equal(loaded(states), small(states))
    assert torch.equal(loaded.only(1)(states[1:2]), loaded(states)[1:2])
    torch.testing.assert_close(loaded.member(2)(states[2]), loaded(states)[2])


@pytest.mark.parametrize(("method", "bits"), [("float16", 16), ("bfloat16", 16), ("int8", 8), ("int4", 4), ("int2", 2)])
def test_the_file_has_the_bits_for_each_weight_that_were_promised(method, bits, tmp_path):
    network = q_network_spec(VECTOR, 2, BodySettings(hidden=(128, 128)))
    policy = build_policy(PolicySpec(VECTOR, Discrete(2), {"scaling": "none", "scale": None}, network), (0,))
    save_policy(tmp_path, with_network(policy, METHODS[method](policy.network)), {})
    weights = 4 * 128 + 128 * 128 + 128 * 2
    biases, header = 4 * (128 + 128 + 2), 1200
    scales = 0 if bits == 16 else biases
    size = next(tmp_path.glob("*.safetensors")).stat().st_size
    assert weights * bits / 8 + biases + scales < size < weights * bits / 8 + biases + scales + header


@pytest.mark.parametrize("method", ["int8", "int4", "static corrected", "dynamic"])
def test_convolutions_and_dueling_streams_are_quantized_too(method):
    network = build(q_network_spec(IMAGE, 3, BodySettings(hidden=(16,), activation="silu"), dueling=True), SEEDS).eval()
    images = (torch.rand(3, 40, 2, 10, 10, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    small = apply(method, network, images)
    kinds = [type(layer) for layer in small.modules() if isinstance(layer, CompressedLayer)]
    assert kinds == [QuantizedConv2d, *[QuantizedLinear] * 4]
    with torch.no_grad():
        error, spread = (small(images) - network(images)).std(), network(images).std()
    assert error < (0.35 if method == "int4" else 0.04) * spread


def test_the_first_layers_keep_their_input_unless_told_otherwise(trained, states):
    kept = [layer.activations for layer in static(trained, states).modules() if isinstance(layer, QuantizedLinear)]
    assert kept == ["none", "static", "static"]
    rounded = static(trained, states, keep_first_input=False)
    assert rounded[0].activations == "static"
    low, high = states.flatten(1).amin(1), states.flatten(1).amax(1)
    torch.testing.assert_close(rounded[0].input_scale, (high - low) / 255)
    dueling = build(q_network_spec(VECTOR, 2, BodySettings(hidden=(8,)), dueling=True), SEEDS)
    assert first_layers(dueling) == {dueling[0].value[0], dueling[0].advantage[0]}
    assert dynamic(dueling)[0].value[0].activations == "none"
    assert dynamic(dueling, keep_first_input=False)[0].value[0].activations == "dynamic"


def test_calibrations_on_an_input_with_one_far_value():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 2))
    features = torch.rand(1000, 20)
    features[0, 0] = 50.0
    scales = {
        name: static(network, features, name, keep_first_input=False, corrected=False)[0].input_scale.item()
        for name in CALIBRATIONS
    }
    assert scales["minmax"] == pytest.approx(50.0 / 255)
    # numpy.percentile of 20 000 values: the place 0.9999 * 19 999 = 19 997.0 is among those below 1
    assert scales["percentile"] == pytest.approx(np.percentile(features.numpy(), 99.99) / 255, rel=1e-5)
    assert scales["percentile"] < 1.01 / 255
    assert scales["mse"] <= scales["minmax"]


@pytest.mark.parametrize("bits", [4, 2])
def test_scales_of_few_bits_have_less_error_than_those_of_the_largest_weight(bits):
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))

    def error(scale):
        integers = rounding.to_integers(weight, scale.unsqueeze(1), 0, *rounding.limits(bits))
        return (rounding.to_floats(integers, scale.unsqueeze(1)) - weight).square().mean(dim=1)

    found = weight_scale(weight, bits, 1)
    assert bool((error(found) <= error(rounding.max_abs_scale(weight, bits, 1))).all())
    brute = torch.stack([error(found * ratio) for ratio in torch.linspace(0.5, 2.0, 301)]).amin(dim=0)
    assert bool((error(found) <= 1.03 * brute).all())


@pytest.mark.parametrize(("bits", "least", "most"), [(4, 0.01154, 0.01289), (2, 0.1188, 0.1902)])
def test_scales_have_the_error_that_is_known_for_normal_variables(bits, least, most):
    weight = torch.randn(4, 40_000, generator=torch.Generator().manual_seed(0))
    layer = QuantizedLinear(None, 40_000, 4, bits=bits)
    layer.load_dense(weight, weight_scale(weight, bits, 1))
    # Max 1960, table II: the least errors of 16 and 15, and of 4 and 3 evenly spaced levels about 0. Ours have 2^bits
    # levels, one more below 0 than above.
    errors = (layer.dense() - weight).square().mean(dim=1)
    assert bool((errors > 0.98 * least).all())
    assert bool((errors < 1.02 * most).all())


def test_two_weights_on_numbers_worked_by_hand():
    # {1, 1, 1, 10}: 2 bits by the largest are {0, 0, 0, 10}, error 3; (-2 .. 1) * 10 is best, since 1s stay 0
    assert weight_scale(torch.tensor([[1.0, 1.0, 1.0, 10.0]]), 2, 1).item() == pytest.approx(10.0)
    # {1, 1, 1, 1.3}: all integers 1, and the scale is their mean
    assert weight_scale(torch.tensor([[1.0, 1.0, 1.0, 1.3]]), 2, 1).item() == pytest.approx(1.075)


def test_a_constant_error_of_the_weights_goes_into_the_bias():
    network = nn.Sequential(nn.Linear(2, 1))
    network.load_state_dict({"0.weight": torch.tensor([[1.0, 0.26]]), "0.bias": torch.tensor([5.0])})
    features = torch.tensor([[0.0, 10.0], [1.0, 10.0]])  # the second input never changes
    small = weight_only(network, 2, features)
    # integers (1, 0): the bias takes 0.26 * 10
    assert small[0].dense().tolist() == [[1.0, 0.0]]
    torch.testing.assert_close(small[0].bias, torch.tensor([7.6]))


def test_adapters_are_merged_and_all_else_stays():
    spec = with_lora(actor_network_spec(VECTOR, 4, BodySettings(hidden=(8,)), 1.0, log_std=-0.5), 2, 4.0)
    network = build(spec, SEEDS)
    nn.init.normal_(network[0].up, generator=torch.Generator().manual_seed(0))
    small = weight_only(network)
    assert [layer.kind for layer in spec_of(small).layers] == [
        "quantized_linear",
        "relu",
        "quantized_linear",
        "log_std",
    ]
    x = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(small(x), network(x), rtol=0.05, atol=0.05)
    assert torch.equal(small[3].log_std, network[3].log_std)
    torch.testing.assert_close(full_precision(small)[0].weight, merged(network)[0].weight, rtol=0, atol=0.02)


class Users(nn.Module):
    """A network that is no sequence of layers."""

    def __init__(self):
        super().__init__()
        self.entrance, self.exit, self.spread = nn.Linear(4, 8), nn.Linear(8, 2), LogStd(2)

    def forward(self, x):
        return self.spread(self.exit(torch.tanh(self.entrance(x)) + 1.0))


def test_networks_with_a_forward_of_their_own_keep_it(states):
    network = Users()
    for method in METHODS:
        small = apply(method, network, states[0])
        assert type(small) is Users
        assert isinstance(small.exit, HalfLinear | QuantizedLinear)
        torch.testing.assert_close(small(states[0]), network(states[0]), rtol=0, atol=1.0 if method == "int2" else 0.3)
    assert all(is_float_layer(layer) for layer in (network.entrance, network.exit))


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda n, x: weight_only(weight_only(n)), UsageError, "already quantized (layer '0' is QuantizedLinear)"),
        (lambda n, x: static(half(n), x), UsageError, "already quantized (layer '0' is HalfLinear)"),
        (lambda n, x: weight_only(n, 3), UsageError, "weights of 3 bits are not known"),
        (lambda n, x: half(n, "float61"), UsageError, "Did you mean 'float16'?"),
        (lambda n, x: static(n, x, "minmix"), UsageError, "unknown calibration 'minmix'. Did you mean 'minmax'?"),
        (lambda n, x: dynamic(nn.Sequential(nn.ReLU())), UsageError, "has no linear layer and no convolution"),
        (
            lambda n, x: half(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1))),
            RlabError,
            "settings that such a layer lacks",
        ),
        (lambda n, x: half(nn.Sequential(nn.Linear(2, 2, bias=False))), RlabError, "settings that such a layer lacks"),
    ],
)
def test_what_cannot_be_quantized_gets_one_line(make, kind, said, trained, states):
    with pytest.raises(kind) as caught:
        make(trained, states)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
