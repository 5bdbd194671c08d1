"""Weights in few bits: numbers worked by hand, bytes as promised, and stacks whose members answer as if alone."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.compression import rounding
from rlab.compression.quantized_layers import (
    HalfLinear,
    QuantizedConv2d,
    QuantizedLinear,
    full_precision,
    replaced,
)
from rlab.errors import RlabError, UsageError
from rlab.networks.layers import StackedConv2d, StackedLinear
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.networks.stacking import stack, unstack

SEEDS = (3, 4, 5)
GEOMETRY = {
    "linear": ({"in_features": 7, "out_features": 5}, (3, 6, 7)),
    "conv2d": ({"in_channels": 3, "out_channels": 5, "kernel_size": 3, "stride": 2}, (3, 6, 3, 8, 9)),
}
OPTIONS = {
    "quantized": [{"bits": b, "activations": a} for b in (8, 4, 2) for a in ("none", "dynamic", "static")],
    "half": [{"dtype": "float16"}, {"dtype": "bfloat16"}],
}
LAYERS = [
    pytest.param(f"{form}_{shape}", {**GEOMETRY[shape][0], **options}, GEOMETRY[shape][1], id=f"{shape} {options}")
    for shape in GEOMETRY
    for form, choices in OPTIONS.items()
    for options in choices
]
EVERY_LAYER = pytest.mark.parametrize(("kind", "args", "shape"), LAYERS)


def network_of(kind, args, seeds=SEEDS):
    """A stack with one layer, whose static range suits inputs of a standard normal distribution."""
    network = build(NetworkSpec((LayerSpec(kind, args),)), seeds)
    if args.get("activations") == "static":
        network[0].input_scale.copy_(torch.tensor([0.04, 0.05, 0.06])[: len(seeds)])
        network[0].input_zero_point.copy_(torch.tensor([128, 100, 140])[: len(seeds)])
    return network


def inputs(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_integers_on_numbers_worked_by_hand():
    x = torch.tensor([-9.0, -0.75, -0.25, 0.25, 0.75, 1.25, 9.0])
    # / 0.5: -18, -1.5, -0.5, 0.5, 1.5, 2.5, 18; halves to even: -18, -2, 0, 0, 2, 2, 18
    assert rounding.to_integers(x, torch.tensor(0.5), 0, -8, 7).tolist() == [-8, -2, 0, 0, 2, 2, 7]
    assert rounding.to_integers(x, torch.tensor(0.5), 10, 0, 255).tolist() == [0, 8, 10, 10, 12, 12, 28]
    assert rounding.to_floats(torch.tensor([0.0, 8.0, 28.0]), torch.tensor(0.5), 10).tolist() == [-5.0, -1.0, 9.0]


def test_the_gradient_passes_rounding_and_stops_at_saturation():
    x, scale = torch.tensor([0.6, 3.0, -9.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    rounding.to_floats(rounding.to_integers(x, scale, 0, -2, 1), scale).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 0.0]  # 0.6 / 0.5 rounds to 1; the others lie outside -2 .. 1
    # Esser et al. 2020, equation 3: round(v) - v = 1 - 1.2 inside, the limit outside: 1 and -2
    torch.testing.assert_close(scale.grad, torch.tensor(-0.2 + 1.0 - 2.0))


def test_scales_and_zero_points_on_numbers_worked_by_hand():
    weight = torch.tensor([[0.5, -1.27], [0.0, 0.0], [14.0, 2.0]])
    torch.testing.assert_close(rounding.max_abs_scale(weight, 8, 1), torch.tensor([0.01, 1.0, 14.0 / 127]))
    assert rounding.max_abs_scale(weight, 4, 1)[2].item() == 2.0
    scale, zero_point = rounding.u8_affine(torch.tensor([-1.0, 2.0, -5.1, 0.0]), torch.tensor([4.1, 5.1, -2.0, 0.0]))
    torch.testing.assert_close(scale, torch.tensor([0.02, 0.02, 0.02, 1.0]))  # the range always holds 0
    assert zero_point.tolist() == [50.0, 0.0, 255.0, 0.0]


@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_rounding_is_that_of_onnx_to_the_bit(spread):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    h, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        h.make_node("DynamicQuantizeLinear", ["x"], ["dynamic", "scale", "zero_point"]),
        h.make_node("QuantizeLinear", ["x", "step", "zero"], ["static"]),
    ]
    step, zero = (
        onnx.numpy_helper.from_array(np.float32(0.125), "step"),
        onnx.numpy_helper.from_array(np.uint8(3), "zero"),
    )
    types = {"dynamic": kinds.UINT8, "scale": kinds.FLOAT, "zero_point": kinds.UINT8, "static": kinds.UINT8}
    outputs = [h.make_tensor_value_info(name, kind, None) for name, kind in types.items()]
    inputs = [h.make_tensor_value_info("x", kinds.FLOAT, [None])]
    graph = h.make_graph(nodes, "rounding", inputs, outputs, [step, zero])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * spread
    x[:1000] = (x[:1000] * 16).round() / 16  # every other one lies halfway between two integers
    scale, zero_point = rounding.u8_affine(x.amin(), x.amax())
    ours = [
        rounding.to_integers(x, scale, zero_point, *rounding.U8),
        scale,
        zero_point,
        rounding.to_integers(x, torch.tensor(0.125), 3, *rounding.U8),
    ]
    for name, own, theirs in zip(types, ours, session.run(list(types), {"x": x.numpy()}), strict=True):
        np.testing.assert_array_equal(own.numpy(), theirs.astype(np.float32), err_msg=name)


def test_integers_are_packed_with_the_first_in_the_lowest_bits():
    assert rounding.pack(torch.tensor([1, -1, 7, -8, 3], dtype=torch.int8), 4).tolist() == [0xF1, 0x87, 0x03]
    # 01 | 11 << 2 | 10 << 4 | 00 << 6
    assert rounding.pack(torch.tensor([1, -1, -2, 0, 1], dtype=torch.int8), 2).tolist() == [0b00101101, 1]


@given(st.sampled_from((8, 4, 2)), st.integers(1, 4), st.integers(1, 19), st.integers(0, 2**31))
def test_packed_integers_come_back(bits, rows, count, seed):
    low, high = rounding.limits(bits)
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(low, high + 1, (2, rows, count), generator=generator, dtype=torch.int8)
    packed = rounding.pack(integers, bits)
    assert packed.shape == (2, rows, -(-count * bits // 8))
    assert packed.dtype == torch.uint8
    assert torch.equal(rounding.unpack(packed, bits, count), integers)


WEIGHTS = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=4)


@given(WEIGHTS, st.sampled_from((8, 4, 2)))
def test_every_weight_is_at_most_half_a_scale_off(rows, bits):
    weight = torch.tensor(rows)
    layer = QuantizedLinear(None, 5, len(rows), bits=bits)
    layer.load_dense(weight)
    off = (layer.dense() - weight).abs()
    assert bool((off <= layer.scale.unsqueeze(1) * (0.5 + 1e-4)).all())


@given(st.integers(0, 2**31), st.sampled_from([("float16", 2.0**-11), ("bfloat16", 2.0**-8)]))
def test_half_weights_are_off_by_half_of_their_last_bit(seed, kind):
    dtype, share = kind
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) + 0.1
    layer = HalfLinear(None, 5, 6, dtype=dtype)
    layer.load_dense(weight)
    assert bool(((layer.dense() - weight).abs() <= share * weight.abs() + 1e-7).all())
    assert layer(torch.ones(1, 5)).dtype == torch.float32


def test_a_layer_computes_with_its_integers_on_numbers_worked_by_hand():
    layer = QuantizedLinear(None, 2, 2, bits=4, activations="static")
    layer.load_dense(torch.tensor([[7.0, -3.2], [0.7, 0.3]]))
    layer.bias.data.copy_(torch.tensor([1.0, 2.0]))
    layer.input_scale.fill_(0.5)
    layer.input_zero_point.fill_(2)
    integers, scale = layer.quantized_weight()
    assert integers.tolist() == [[7, -3], [7, 3]]
    np.testing.assert_allclose(scale, [1.0, 0.1], rtol=1e-6)
    # -3 is below the range, which begins at (0 - 2) * 0.5 = -1; 1.2 / 0.5 = 2.4 rounds to 2, which is 1
    expected = torch.tensor([[7 * -1.0 - 3 * 1.0 + 1.0, 0.7 * -1.0 + 0.3 * 1.0 + 2.0]])
    torch.testing.assert_close(layer(torch.tensor([[-3.0, 1.2]])), expected)


def test_dynamic_ranges_are_those_of_the_batch_of_each_member():
    layer = QuantizedLinear(2, 1, 1, activations="dynamic")
    layer.load_dense(torch.ones(2, 1, 1))
    x = torch.tensor([[[-1.0], [0.012], [4.1]], [[0.0], [0.012], [0.255]]])  # steps of 0.02 and of 0.001
    expected = torch.tensor([[[-1.0], [0.02], [4.1]], [[0.0], [0.012], [0.255]]])
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


@EVERY_LAYER
def test_the_forward_is_that_of_the_float_layer_with_the_same_weights(kind, args, shape):
    network, x = network_of(kind, args), inputs(shape)
    layer = network[0]
    plain = full_precision(network)
    assert type(plain[0]) in (StackedLinear, StackedConv2d)
    torch.testing.assert_close(layer(x), plain(layer.entering(x)), rtol=1e-5, atol=1e-6)
    if args.get("activations", "none") != "none":
        off = (layer.entering(x) - x).abs().flatten(1).amax(dim=1)
        assert bool((off > 1e-4).all())
        assert bool((off < 0.1).all())


@EVERY_LAYER
def test_a_member_leaves_the_stack_and_comes_back_to_the_bit(kind, args, shape):
    network, x = network_of(kind, args), inputs(shape)
    plain = [unstack(network, i) for i in range(3)]
    for i, member in enumerate(plain):
        torch.testing.assert_close(member(x[i]), network(x)[i], rtol=1e-5, atol=1e-6)
        assert type(full_precision(member)[0]) in (nn.Linear, nn.Conv2d)
        torch.testing.assert_close(full_precision(member)[0].weight, network[0].dense()[i])
    again = stack(plain)
    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert torch.equal(again(x), network(x))
    kept = plain[0][0].dense().clone()
    with torch.no_grad():
        for tensor in [*network.state_dict().values(), *again.state_dict().values()]:
            tensor.zero_()
    assert torch.equal(plain[0][0].dense(), kept)  # a copy


@EVERY_LAYER
def test_fresh_layers_depend_on_the_seed_alone_and_round_the_float_ones_weights(kind, args, shape):
    network, alone = network_of(kind, args), network_of(kind, args, SEEDS[:1])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor[:1], alone.state_dict()[name]), name
    geometry = {name: args[name] for name in args if name not in ("bits", "activations", "dtype")}
    exact = build(NetworkSpec((LayerSpec(kind.partition("_")[2], geometry),)), SEEDS)
    off = (full_precision(network)[0].weight - exact[0].weight).abs().max()
    assert 0.0 < off < exact[0].weight.abs().max() / (1.9 if args.get("bits") == 2 else 7)
    assert torch.equal(full_precision(network)[0].bias, exact[0].bias)


@EVERY_LAYER
def test_a_spec_with_these_layers_survives_json(kind, args, shape):
    spec = NetworkSpec((LayerSpec(kind, args),))
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    network = build(spec, SEEDS)
    for name, tensor in network.state_dict().items():
        assert tensor.shape[0] == len(SEEDS), name
    assert [name for name, _ in network.named_parameters()] == ["0.bias"]  # an optimizer must not move integers


@pytest.mark.parametrize(("bits", "row"), [(8, 7), (4, 4), (2, 2)])  # ceil(7 * bits / 8)
def test_weights_take_the_bytes_that_their_bits_need(bits, row):
    layer = QuantizedLinear(2, 7, 5, bits=bits)
    assert layer.weight.numel() * layer.weight.element_size() == 2 * 5 * row
    assert QuantizedConv2d(None, 2, 4, 2, bits=bits).weight.nbytes == 4 * bits  # 8 weights per channel


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_gradients_reach_the_input_through_rounded_activations(activations):
    layer, x = (
        network_of("quantized_linear", {**GEOMETRY["linear"][0], "activations": activations})[0],
        inputs((3, 6, 7)),
    )
    x.requires_grad_()
    layer(x).sum().backward()
    expected = layer.dense().sum(dim=1, keepdim=True).expand_as(x)
    inside = layer.entering(x.detach()).sub(x.detach()).abs() < 0.01
    torch.testing.assert_close(x.grad[inside], expected[inside])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: QuantizedLinear(None, 2, 2, bits=3), "weights of 3 bits are not known; 8, 4 and 2 are."),
        (lambda: QuantizedLinear(None, 2, 2, activations="statik"), "Did you mean 'static'?"),
        (lambda: HalfLinear(None, 2, 2, dtype="float8"), "unknown type of half precision 'float8'."),
        (lambda: HalfLinear(None, 1, 1).load_dense(torch.tensor([[1e6]])), "weights up to 1e+06 do not fit float16;"),
        (lambda: QuantizedLinear(2, 2, 2).quantized_weight(), "a stack of 2 needs the number"),
        (lambda: QuantizedLinear(None, 2, 2).quantized_weight(1), "has no members"),
        (
            lambda: stack([QuantizedLinear(None, 2, 2, bits=4), QuantizedLinear(None, 2, 2, bits=8)]),
            "only networks alike",
        ),
        (
            lambda: QuantizedLinear.stack([QuantizedLinear(None, 2, 2), QuantizedLinear(None, 2, 3)]),
            "only layers with the same settings",
        ),
    ],
)
def test_what_cannot_be_gets_one_line(make, said):
    with pytest.raises(RlabError) as caught:
        make()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError) == ("known" in said or "fit" in said or "Did you mean" in said)


def test_a_layer_that_stands_in_two_places_is_replaced_once():
    shared = nn.Linear(2, 2)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    seen = []

    def change(module):
        if module is shared:
            seen.append(module)
            return QuantizedLinear(None, 2, 2)
        return None

    again = replaced(network.eval(), change)
    assert again[0] is again[2]
    assert seen == [shared]
    assert network[0] is shared
    assert not again[0].training


def test_each_kind_says_its_settings_where_torch_prints_it():
    assert repr(QuantizedLinear(None, 3, 2, bits=4)) == (
        "QuantizedLinear(in_features=3, out_features=2, bits=4, activations=none)"
    )
