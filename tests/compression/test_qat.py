"""Quantization-aware training: what trains in float answers exactly as the integers that it becomes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlab.compression.fake_quantize import FakeConv2d, FakeLinear, convert, prepare_qat
from rlab.compression.quantize import static, weight_only
from rlab.compression.quantized_layers import QuantizedConv2d, QuantizedLinear
from rlab.compression.rounding import u8_affine
from rlab.errors import RlabError, UsageError
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.describe import spec_of, with_network
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import build
from rlab.networks.stacking import unstack
from rlab.runs.policies import load_policy, save_policy

SEEDS = (0, 1, 2)
VECTOR = Box((4,), "float32", -3.0, 3.0)
IMAGE = Box((10, 10, 2), "bool", 0.0, 1.0)
CASES = [(bits, activations, learned) for bits in (8, 4, 2) for activations in ("none", "static") for learned in (0, 1)]
EVERY_CASE = pytest.mark.parametrize(("bits", "activations", "learned"), CASES)


@pytest.fixture(scope="module")
def states():
    return torch.randn(3, 1000, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def teacher(states):
    """A stack of policies that have learned to tell three groups of states apart."""
    network = build(actor_network_spec(VECTOR, 3, BodySettings(hidden=(32, 32), activation="tanh"), 1.0), SEEDS)
    labels = (states[..., 0] + states[..., 1] * states[..., 2] > 0).long() + (states[..., 3] > 0.5).long()
    return train(network, states, lambda outputs: F.cross_entropy(outputs.flatten(0, 1), labels.flatten())).eval()


def train(network, states, loss_of, steps=150, learning_rate=5e-3):
    """At a rate that falls to 0: at a steady one weights of few bits jump between two integers to the end, and how good
    they are after the last step depends on how the CPU rounds its sums."""
    optimizer = torch.optim.Adam(network.train().parameters(), lr=learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        loss = loss_of(network(states)) * len(states)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def distil(network, teacher, states, **options):
    with torch.no_grad():
        wanted = teacher(states).log_softmax(-1)

    def loss_of(outputs):
        return F.kl_div(outputs.log_softmax(-1), wanted, reduction="sum", log_target=True) / states[..., 0].numel()

    return train(network, states, loss_of, **options).eval()


def agreement(network, other, states):
    with torch.no_grad():
        return (network(states).argmax(-1) == other(states).argmax(-1)).float().mean().item()


@EVERY_CASE
def test_outputs_before_and_after_conversion_are_equal(bits, activations, learned, teacher, states):
    prepared = prepare_qat(teacher, bits, activations, learned_scales=bool(learned), keep_first_input=False)
    distil(prepared, teacher, states, steps=5)
    integers = convert(prepared)
    assert not any("Fake" in type(layer).__name__ for layer in integers.modules())
    assert [layer.bits for layer in integers.modules() if isinstance(layer, QuantizedLinear)] == [bits] * 3
    with torch.no_grad():
        assert torch.equal(integers(states), prepared(states))
    for i in range(3):
        alone = unstack(prepared, i)
        torch.testing.assert_close(convert(alone)(states[i]), alone(states[i]), rtol=0, atol=0)
        assert spec_of(convert(alone)).to_json() == spec_of(integers).to_json()


@pytest.mark.parametrize("stacked", [True, False])
def test_convolutions_and_dueling_streams_train_and_convert_too(stacked):
    network = build(q_network_spec(IMAGE, 3, BodySettings(hidden=(16,), layer_norm=True), dueling=True), SEEDS).eval()
    images = (torch.rand(3, 20, 2, 10, 10, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    network, images = (network, images) if stacked else (unstack(network, 1), images[1])
    prepared = prepare_qat(network, 4, "static")
    assert [type(m) for m in prepared.modules() if "Fake" in type(m).__name__] == [FakeConv2d, *[FakeLinear] * 4]
    before = {name: parameter.clone() for name, parameter in prepared.named_parameters()}
    train(prepared, images, lambda outputs: outputs.square().mean(), steps=3).eval()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in prepared.named_parameters())
    integers = convert(prepared)
    assert isinstance(integers[0], QuantizedConv2d)
    with torch.no_grad():
        torch.testing.assert_close(integers(images), prepared(images), rtol=0, atol=1e-6)


# What is left of the loss: 0.07 to 0.10 at either width, however sums are rounded; agreement rises by 0.01 and more.
@pytest.mark.parametrize(("bits", "share"), [(4, 0.5), (2, 0.3)])
def test_training_for_few_bits_brings_the_policy_back(bits, share, teacher, states):
    seen, unseen = states[:, :800], states[:, 800:]
    rounded, trained = weight_only(teacher, bits), convert(distil(prepare_qat(teacher, bits), teacher, seen))
    with torch.no_grad():
        wanted = teacher(unseen).log_softmax(-1)
        before, after = (
            F.kl_div(network(unseen).log_softmax(-1), wanted, reduction="sum", log_target=True)
            for network in (rounded, trained)
        )
    assert after < share * before
    assert agreement(teacher, trained, unseen) > agreement(teacher, rounded, unseen)


def test_learned_scales_agree_more_than_those_of_the_largest_weight_at_2_bits(teacher, states):
    found = [
        agreement(teacher, distil(prepare_qat(teacher, 2, learned_scales=learned), teacher, states), states)
        for learned in (False, True)
    ]
    assert found[1] > found[0]


def test_before_any_training_it_computes_as_the_weights_rounded_at_once(teacher, states):
    for bits in (8, 4, 2):
        learned = bits < 8
        with torch.no_grad():
            fake, real = prepare_qat(teacher, bits, learned_scales=learned), weight_only(teacher, bits)
            torch.testing.assert_close(fake(states), real(states), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_it_can_start_from_a_rounding_that_was_corrected(bits, teacher, states):
    rounded = weight_only(teacher, bits, states)
    prepared = prepare_qat(teacher, bits, rounded=rounded)
    with torch.no_grad():
        # The same integers and scales; 32 terms a unit and outputs of about 20 round by 32 * 20 * 6e-8 at most.
        torch.testing.assert_close(prepared(states), rounded(states), rtol=0, atol=4e-5)
    again = convert(prepared)
    assert torch.equal(again[2].integers(), rounded[2].integers())
    assert not torch.equal(again[2].integers(), weight_only(teacher, bits)[2].integers())
    assert torch.equal(again[2].bias, rounded[2].bias)
    torch.testing.assert_close(again[2].scale, rounded[2].scale)


def test_gradients_pass_the_rounding_straight_through():
    layer = FakeLinear(None, 2, 1, bits=4, learned_scales=True)
    layer.weight.data.copy_(torch.tensor([[0.6, 9.0]]))
    layer.log_scale.data.fill_(0.0)
    layer(torch.tensor([[2.0, 3.0]])).sum().backward()
    assert layer.dense().tolist() == [[1.0, 7.0]]
    assert layer.weight.grad.tolist() == [[2.0, 0.0]]  # 9 is beyond 7: saturated
    # by the scale, equation 3 of Esser et al.: (1 - 0.6) * 2 + 7 * 3; its logarithm's is the same at a scale of 1
    torch.testing.assert_close(layer.log_scale.grad, torch.tensor([21.8]))


def test_running_ranges_follow_each_batch_in_training_alone():
    layer = FakeLinear(2, 1, 1, activations="static")
    first = torch.tensor([[[-1.0], [3.0]], [[1.0], [5.0]]])
    layer(first)
    assert layer.input_range.tolist() == [[-1.0, 3.0], [0.0, 5.0]]  # 0 is always inside
    layer(3 * first)
    torch.testing.assert_close(layer.input_range, torch.tensor([[-1.02, 3.06], [0.0, 5.1]]))  # 0.99 old + 0.01 new
    kept = layer.input_range.clone()
    layer.eval()(100 * first)
    assert torch.equal(layer.input_range, kept)


def test_running_ranges_become_the_integers_ranges(teacher, states):
    prepared = prepare_qat(teacher, 8, "static").train()
    prepared(states)  # one batch: its range is what `minmax` finds, but for the weights, which are rounded here
    integers, calibrated = convert(prepared), static(teacher, states, corrected=False)
    for i in (2, 4):
        scale, zero_point = u8_affine(*prepared[i].input_range.unbind(-1))
        assert torch.equal(integers[i].input_scale, scale)
        assert torch.equal(integers[i].input_zero_point.float(), zero_point)
        torch.testing.assert_close(integers[i].input_scale, calibrated[i].input_scale, rtol=0.02, atol=0)
    assert [integers[i].activations for i in (0, 2, 4)] == ["none", "static", "static"]


def test_a_wild_neighbour_changes_nothing(teacher, states):
    # To the bit: the sums of a member have the same shapes beside any neighbour.
    calm = states[:, :200]
    wild = torch.cat([100 * calm[:1], calm[1:]])
    one, other = (distil(prepare_qat(teacher, 4, "static"), teacher, each, steps=10) for each in (calm, wild))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor[1:], other.state_dict()[name][1:]), name
    assert not torch.equal(one[0].weight[0], other[0].weight[0])  # or the test would be about nothing


def test_a_trained_policy_is_saved_and_loaded_to_the_bit(tmp_path, teacher, states):
    spec = PolicySpec(
        VECTOR, Discrete(3), {"scaling": "none", "scale": None}, spec_of(teacher), {"kind": "categorical"}
    )
    policy = build_policy(spec, SEEDS)
    policy.network.load_state_dict(teacher.state_dict())
    network = convert(distil(prepare_qat(policy.network, 4, "static"), teacher, states, steps=3))
    save_policy(tmp_path, with_network(policy, network), {})
    assert torch.equal(load_policy(tmp_path).policy.outputs(states), network(states))


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda n: prepare_qat(n, 5), UsageError, "weights of 5 bits are not known; 8, 4 and 2 are."),
        (lambda n: prepare_qat(n, 8, "dynamic"), UsageError, "'dynamic' cannot be trained for; none and static can."),
        (
            lambda n: prepare_qat(n, 4, rounded=weight_only(n, 2)),
            UsageError,
            "weights rounded to 2 bits cannot be the start for 4 bits.",
        ),
        (lambda n: prepare_qat(weight_only(n)), UsageError, "already quantized"),
        (lambda n: prepare_qat(prepare_qat(n)), UsageError, "already quantized (layer '0' is FakeLinear)"),
        (convert, UsageError, "call prepare_qat first."),
        (lambda n: convert(prepare_qat(n, 8, "static")), UsageError, "a range of activations has seen no batch"),
        (lambda n: spec_of(prepare_qat(n)), RlabError, "FakeLinear has no kind in a network's spec. Convert it first."),
        (lambda n: prepare_qat(nn.Sequential(nn.Linear(2, 2, bias=False))), RlabError, "settings that such a layer"),
    ],
)
def test_what_cannot_be_gets_one_line(make, kind, said, teacher):
    with pytest.raises(kind) as caught:
        make(teacher)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
