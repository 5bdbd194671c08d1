"""Learning behind the rounding: integers stand still, the rest learns, and what was trained is what is stored."""

import itertools

import pytest
import torch
from torch import nn

from rlab.compression.quantize import dynamic, half, static, weight_only
from rlab.compression.quantized_layers import QuantizedConv2d, QuantizedLinear
from rlab.compression.quantized_tuning import prepare_tuning, tuned
from rlab.errors import RlabError, UsageError
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.describe import spec_of
from rlab.networks.spaces import Box
from rlab.networks.spec import build
from rlab.networks.stacking import unstack

SEEDS = (0, 1, 2)
VECTOR = Box((4,), "float32", -3.0, 3.0)
IMAGE = Box((10, 10, 2), "bool", 0.0, 1.0)
METHODS = {
    "int8": weight_only,
    "int2": lambda network, x: weight_only(network, 2, x),
    "dynamic": dynamic,
    "static": static,
}


def network_of(space):
    return build(q_network_spec(space, 3, BodySettings(hidden=(16,), layer_norm=True), dueling=True), SEEDS).eval()


def states_of(space):
    generator = torch.Generator().manual_seed(0)
    if space is IMAGE:
        return (torch.rand(3, 40, 2, 10, 10, generator=generator) < 0.5).float()
    return torch.randn(3, 40, 4, generator=generator)


def train(network, x, wanted, steps=10):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = (network(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


EVERY = list(itertools.product(METHODS, [VECTOR, IMAGE], [True, False]))
EVERY_DAY = EVERY[::5]  # each value of each


def test_every_method_and_space_is_tried_every_day():
    assert [{case[i] for case in EVERY_DAY} for i in range(3)] == [set(METHODS), {VECTOR, IMAGE}, {True, False}]


@pytest.mark.parametrize(
    ("method", "space", "stacked"),
    [pytest.param(*case, marks=() if case in EVERY_DAY else pytest.mark.prove) for case in EVERY],
)
def test_all_but_the_integers_learns_and_is_stored_to_the_bit(method, space, stacked):
    network, x = network_of(space), states_of(space)
    if not stacked:
        network, x = unstack(network, 1), x[1]
    small = METHODS[method](network, x) if method != "int8" else weight_only(network)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    learning = prepare_tuning(small)
    with torch.no_grad():
        wanted = 1.5 * network(x) + 0.3
        assert torch.equal(learning(x), small(x))
    train(learning, x, wanted)
    done = tuned(learning)
    assert spec_of(done).to_json() == spec_of(small).to_json()
    for name, tensor in done.state_dict().items():
        same = tensor.dtype in (torch.int8, torch.uint8) or name.endswith("input_scale")
        assert torch.equal(tensor, before[name]) == same, name
        assert not name.endswith("scale") or bool((tensor > 0).all())
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    with torch.no_grad():
        assert torch.equal(done(x), learning(x))
        assert (done(x) - wanted).square().mean() < (small(x) - wanted).square().mean()


def test_weights_of_16_bits_stay_and_the_rest_learns():
    network, x = network_of(VECTOR), states_of(VECTOR)
    small = half(network, "bfloat16")
    learning = prepare_tuning(small)
    train(learning, x, network(x).detach())
    for name, tensor in tuned(learning).state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]) == (tensor.dtype == torch.bfloat16), name


def test_scales_learn_by_shares_of_themselves():
    layer = QuantizedLinear(None, 1, 2)
    layer.load_dense(torch.tensor([[1.0], [100.0]]))
    learning = prepare_tuning(nn.Sequential(layer))
    with torch.no_grad():
        learning[0].log_gain.fill_(0.5)
    torch.testing.assert_close(tuned(learning)[0].scale / layer.scale, torch.full((2,), 1.6487213))  # exp(0.5)


def test_every_kind_of_quantized_layer_is_prepared():
    learning = prepare_tuning(weight_only(network_of(IMAGE)))
    assert not any(isinstance(part, QuantizedConv2d) for part in learning.children())
    with pytest.raises(RlabError, match="_Tuned has no kind in a network's spec"):
        spec_of(learning)


def test_a_network_that_is_not_rounded_gets_one_line():
    with pytest.raises(UsageError) as caught:
        prepare_tuning(network_of(VECTOR))
    assert str(caught.value) == "no layer of the network is rounded; round it first."
