"""Layers without their zeros: what they store, that no weight changes, and that files get smaller."""

import copy
import json
from importlib.util import find_spec
from shutil import which

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.compression import quantize
from rlab.compression.export.member_file import export
from rlab.compression.export.runtimes import SUFFIXES
from rlab.compression.float_layers import float_weight
from rlab.compression.quantized_layers import CompressedLayer, HalfLinear, QuantizedLinear, full_precision
from rlab.compression.sparse_layers import (
    SparseLayer,
    SparseLinear,
    SparseQuantizedLinear,
    present,
)
from rlab.compression.weight_pruning import packed, prune_weights, sparse_layer
from rlab.errors import RlabError
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.describe import spec_of, with_network
from rlab.networks.layers import StackedConv2d, StackedLinear
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec, StackedNetwork, build
from rlab.networks.stacking import stack, unstack
from rlab.runs.policies import load_policy, save_policy

VECTOR = Box((4,), "float32", float("-inf"), float("inf"))
PIXELS = Box((8, 9, 3), "uint8", 0.0, 255.0)
KINDS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4, "int2": 2}  # name to bits


def rounded(network, kind, features=None):
    """The network with its weights stored as `kind` says."""
    if kind == "float32":
        return network
    if kind in ("float16", "bfloat16"):
        return quantize.half(network, kind)
    if kind == "static":
        return quantize.static(network, features, corrected=False)
    return quantize.dynamic(network) if kind == "dynamic" else quantize.weight_only(network, int(kind[3:]))


def bits(tensor):
    """Its bits as integers: the two zeros differ, and a NaN is like itself."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.element_size()])


def dense(layer):
    return layer.dense() if isinstance(layer, CompressedLayer) else float_weight(layer)


def make_layer(kernel, out, share, seed, kind="float32", members=3):
    """A stack of linear layers or convolutions, each weight 0 with the chance `share`, stored as `kind` says."""
    generator = torch.Generator().manual_seed(seed)
    layer = StackedLinear(members, 5, out) if kernel is None else StackedConv2d(members, 3, out, kernel, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        layer.weight[torch.rand(layer.weight.shape, generator=generator) < share] = 0.0
        return rounded(StackedNetwork(layer), kind)[0]


def make_input(layer, rows=4):
    shape = (rows, 5) if len(layer.weight_shape) == 2 else (rows, 3, 7, 8)
    return torch.randn(*layer.lead, *shape, generator=torch.Generator().manual_seed(1))


def make_policy(seeds=(3, 4), hidden=(64, 64), share=0.8):
    network = actor_network_spec(VECTOR, 2, BodySettings(hidden, "tanh", layer_norm=True), output_gain=1.0)
    spec = PolicySpec(VECTOR, Discrete(2), {"scaling": "running", "scale": None}, network, {"kind": "categorical"})
    policy = build_policy(spec, seeds)
    return with_network(policy, prune_weights(policy.network, share))


# ---- what is stored ----


def test_mask_and_values_of_floats_worked_by_hand():
    layer = SparseLinear(None, 5, 2, kept=4)
    layer.load_dense(torch.tensor([[0.0, 3.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.5, 0.0, 2.0]]))
    # weights 1, 4, 7 and 9 of ten: 2 + 16 + 128, and the second bit of the next byte
    assert layer.mask.tolist() == [146, 2]
    assert layer.values.tolist() == [3.0, -1.0, 0.5, 2.0]
    assert (layer.mask.dtype, layer.values.dtype) == (torch.uint8, torch.float32)
    assert {name for name, _ in layer.named_parameters()} == {"bias"}  # an optimizer moves nothing else
    # 2 - 4 = -3 x 1 and so on: y = [3 x1 - x4, 0.5 x2 + 2 x4]
    assert layer(torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])).tolist() == [[-10.0, 34.0]]


def test_mask_and_values_of_packed_integers_worked_by_hand():
    layer = SparseQuantizedLinear(None, 5, 2, kept=3, bits=4)
    layer.load_dense(torch.tensor([[0.0, 6.0, 0.0, 0.0, -2.0], [0.0, 0.2, 0.0, 0.0, -4.0]]), torch.tensor([2.0, 0.5]))
    # 3 and -1 of the first row (scale 2), -8 of the second (scale 0.5), where 0.2 is rounded to 0
    assert layer.mask.tolist() == [2 + 16, 2]
    assert layer.values.tolist() == [3 | 15 << 4, 8]
    assert layer.dense().tolist() == [[0.0, 6.0, 0.0, 0.0, -2.0], [0.0, 0.0, 0.0, 0.0, -4.0]]
    assert layer.quantized_weight()[0].tolist() == [[0, 3, 0, 0, -1], [0, 0, 0, 0, -8]]


def test_a_member_with_fewer_weights_keeps_zeros_of_its_own():
    layer = SparseLinear(2, 3, 1, kept=2)
    layer.load_dense(torch.tensor([[[0.0, 5.0, 7.0]], [[0.0, 0.0, -1.0]]]))
    assert layer.mask.tolist() == [[2 + 4], [1 + 4]]
    assert layer.values.tolist() == [[5.0, 7.0], [0.0, -1.0]]
    assert layer.dense().tolist() == [[[0.0, 5.0, 7.0]], [[0.0, 0.0, -1.0]]]


def test_the_smallest_are_lost_where_more_are_given_than_are_kept():
    layer = SparseLinear(None, 4, 1, kept=2)
    layer.load_dense(torch.tensor([[1.0, -3.0, 0.5, 1.0]]))
    assert layer.dense().tolist() == [[1.0, -3.0, 0.0, 0.0]]  # of equals the first
    integers = SparseQuantizedLinear(None, 2, 2, kept=2)
    integers.load_dense(torch.tensor([[1.27, 0.02], [127.0, -128.0]]), torch.tensor([0.01, 1.0]))
    assert integers.integers().tolist() == [[0, 0], [127, -128]]  # by what they mean: 127 x 0.01 is small


def test_a_zero_with_a_sign_and_a_nan_come_back_bit_by_bit():
    weight = torch.tensor([[0.0, -0.0, float("nan"), -1e-45, 1.0, 0.0]])
    layer = SparseLinear(None, 6, 1, kept=4)
    layer.keep(weight)
    assert torch.equal(bits(layer.dense()), bits(weight))
    assert present(weight).tolist() == [[False, True, True, True, True, False]]
    assert int(present(torch.tensor([0.0, -1e-9]).half()).sum()) == 1  # too small for 16 bits, but not its sign


# ---- no weight changes ----

LAYERS = {
    "kernel": st.sampled_from([None, 1, 3]),
    "out": st.integers(1, 9),
    "share": st.sampled_from([0.0, 0.3, 0.8, 0.97, 1.0]),
    "seed": st.integers(0, 10**6),
    "kind": st.sampled_from(sorted(KINDS)),
}


@given(members=st.integers(1, 3), **LAYERS)
def test_weights_of_every_shape_kind_and_density_come_back_to_the_bit(members, kernel, out, share, seed, kind):
    layer = make_layer(kernel, out, share, seed, kind, members)
    sparse = sparse_layer(layer)
    assert torch.equal(bits(sparse.dense()), bits(dense(layer)))
    n = sparse.dense()[0].numel()
    kept = int(present(sparse.stored()).flatten(1).sum(dim=1).max())
    assert sparse.kept == kept
    assert sparse.mask.shape == (members, -(-n // 8))
    assert sparse.values.nbytes == members * -(-kept * KINDS[kind] // 8)


@given(**LAYERS)
def test_the_ways_out_of_a_stack_and_back_lead_to_the_same_layer(kernel, out, share, seed, kind):
    layer = make_layer(kernel, out, share, seed, kind)
    sparse = sparse_layer(layer)
    alone = [sparse.unstack(i) for i in range(3)]
    assert all(torch.equal(alone[i].dense(), sparse.dense()[i]) for i in range(3))
    again = type(sparse).stack(alone)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(again.buffers(), sparse.buffers(), strict=True))
    x = make_input(sparse)
    for other in (layer, again, sparse.full_precision()):
        torch.testing.assert_close(sparse(x), other(x))
    torch.testing.assert_close(sparse(x), torch.stack([alone[i](x[i]) for i in range(3)]))
    # the number that they keep is the stack's: one alone may keep fewer
    assert all(sparse_layer(layer.unstack(i)).kept <= sparse.kept for i in range(3))


@pytest.mark.parametrize("kind", [*KINDS, "dynamic", "static"])
@pytest.mark.parametrize("space", ["vector", "pixels"])
def test_a_network_says_what_it_said_in_its_dense_kind(kind, space):
    spec = q_network_spec({"vector": VECTOR, "pixels": PIXELS}[space], 3, BodySettings((64, 48)), dueling=True)
    shape = (2, 20, 4) if space == "vector" else (2, 20, 3, 8, 9)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    network = rounded(prune_weights(build(spec, [3, 4]), 0.9), kind, x)
    sparse = packed(network)
    found = [layer for layer in sparse.modules() if isinstance(layer, SparseLayer)]
    assert len(found) >= 2
    assert not any(isinstance(layer, SparseLayer) for layer in network.modules())  # a copy was packed
    torch.testing.assert_close(sparse(x), network(x))
    if kind != "float32":  # whose sums are taken in another order
        assert torch.equal(sparse(x), network(x))
    for i in range(2):
        torch.testing.assert_close(unstack(sparse, i)(x[i]), network(x)[i])
        torch.testing.assert_close(packed(unstack(network, i))(x[i]), network(x)[i])
    assert not any(isinstance(layer, CompressedLayer) for layer in full_precision(sparse).modules())


def test_a_spec_rebuilds_the_layers_and_json_holds_it():
    network = packed(rounded(prune_weights(build(q_network_spec(PIXELS, 3, BodySettings((64,))), [3, 4]), 0.8), "int4"))
    spec = NetworkSpec.from_json(json.loads(json.dumps(spec_of(network).to_json())))
    kinds = [layer.kind for layer in spec.layers]
    assert kinds.count("sparse_quantized_conv2d") == 1
    assert kinds.count("sparse_quantized_linear") >= 1
    fresh = build(spec, [5, 6])
    assert spec_of(fresh) == spec
    x = torch.rand(2, 7, 3, 8, 9)
    assert not torch.equal(fresh(x), network(x))
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(x), network(x))


@pytest.mark.parametrize("kind", KINDS)
def test_plain_networks_become_a_stack_again_and_have_a_spec(kind):
    spec = q_network_spec(PIXELS, 3, BodySettings((64, 48)), dueling=True)
    network = packed(rounded(prune_weights(build(spec, [3, 4]), 0.9), kind))
    alone = [unstack(network, i) for i in range(2)]
    again = stack(alone)
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), network.state_dict().values(), strict=True)
    )
    assert spec_of(again) == spec_of(alone[0])
    kinds = [layer.kind for layer in spec_of(alone[0]).layers]
    assert any(kind.startswith("sparse_") for kind in kinds)


def test_fresh_weights_are_the_largest_that_the_dense_layer_draws():
    dense_spec = NetworkSpec((LayerSpec("linear", {"in_features": 6, "out_features": 5}),))
    sparse_spec = NetworkSpec((LayerSpec("sparse_linear", {"in_features": 6, "out_features": 5, "kept": 12}),))
    pruned = prune_weights(build(dense_spec, [3, 4]), 0.6)  # 12 of 30 are left
    assert torch.equal(build(sparse_spec, [3, 4])[0].dense(), float_weight(pruned[0]))


# ---- files ----


def test_a_saved_policy_answers_the_same_and_knows_its_layers(tmp_path):
    policy = packed(make_policy())
    obs = torch.randn(2, 30, 4)
    save_policy(tmp_path / "policy", policy, {})
    again = load_policy(tmp_path / "policy").policy
    assert again.spec == policy.spec
    assert [layer.kind for layer in again.spec.network.layers].count("sparse_linear") == 3
    assert torch.equal(again.outputs(obs), policy.outputs(obs))
    torch.testing.assert_close(again.only(4).outputs(obs[1:]), policy.outputs(obs)[1:])
    torch.testing.assert_close(again.member(4).outputs(obs[1]), policy.outputs(obs)[1])


# Layers of 256, 4096 and 128 weights, of which 51, 819 and 26 stay: 4480 weights, 896 of them, and 560 bytes of masks.
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("float32", 4 * 4480, 4 * 896 + 560),
        ("float16", 2 * 4480, 2 * 896 + 560),
        ("int8", 4480, 896 + 560),
        # In 4 bits the first layer's 128 bytes would be 26 + 32, and 70 bytes are what the words for a tensor take; the
        # last one's 64 would be 13 + 16.
        ("int4", 4480 // 2, 128 + 410 + 512 + 64),
    ],
)
def test_a_policy_is_smaller_by_the_bytes_worked_by_hand(kind, before, after, tmp_path):
    policy = make_policy()
    policy = with_network(policy, rounded(policy.network, kind))
    small = packed(policy)
    saved = sum(tensor.nbytes for tensor in policy.state_dict().values())
    saved -= sum(tensor.nbytes for tensor in small.state_dict().values())
    assert saved == 2 * (before - after)  # two members
    found = bytes_of_file(policy, tmp_path / "dense") - bytes_of_file(small, tmp_path / "sparse")
    assert saved - 300 < found < saved  # the file has words for three more tensors


def test_at_80_percent_zeros_a_wide_policy_takes_a_quarter_of_the_room(tmp_path):
    """Of 32 bits for each weight, a fifth and one more are left: 7.4, or 0.231."""
    policy = make_policy((3,), (256, 256))
    small = packed(policy)
    weights = sum(t.nbytes for n, t in policy.network.state_dict().items() if t.dim() == 3 and t.shape[1] > 1)
    packed_weights = sum(t.nbytes for n, t in small.network.state_dict().items() if n.endswith(("mask", "values")))
    assert packed_weights / weights == pytest.approx(0.2 + 1 / 32, abs=1e-4)
    ratio = bytes_of_file(small, tmp_path / "b") / bytes_of_file(policy, tmp_path / "a")
    assert ratio < 0.26  # biases and norms stay as they are


def bytes_of_file(policy, folder):
    save_policy(folder, policy, {})
    (file,) = folder.glob("*.safetensors")
    return file.stat().st_size


def test_layers_that_would_not_get_smaller_stay():
    mixed = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(2, 2), nn.Conv2d(1, 20, 9, padding=1))
    with torch.no_grad():
        mixed[0].weight[:30] = 0.0  # a quarter stays
        mixed[1].weight[:1] = 0.0  # 1 weight in 40 is less than the bit that each of them costs
        mixed[2].weight.zero_()  # the words for two tensors take more than four weights
        mixed[3].weight.zero_()  # no sparse layer knows padding
    found = [type(layer) for layer in packed(mixed)]
    assert found == [SparseLinear, nn.Linear, nn.Linear, nn.Conv2d]
    assert [type(layer) for layer in packed(packed(mixed))] == found
    assert [type(layer) for layer in packed(copy.deepcopy(mixed).double())] == [nn.Linear] * 3 + [nn.Conv2d]
    alike = packed(rounded(mixed[:2], "int8"))
    assert [type(layer) for layer in alike] == [SparseQuantizedLinear, QuantizedLinear]
    assert type(packed(rounded(mixed[:2], "float16"))[1]) is HalfLinear


@pytest.mark.parametrize(
    ("kind", "space"),
    [*((kind, "vector") for kind in ("float32", "int8", "int4", "static", "dynamic")), ("float32", "pixels")],
)
def test_every_format_says_what_a_sparse_member_says(kind, space, exports, tmp_path):
    space = getattr(exports, space)
    member, obs = exports.member(space=space, body=BodySettings((64, 37))), exports.obs(space, 1000)
    network = rounded(prune_weights(member.network, 0.85), kind, member.preprocess(torch.from_numpy(obs)))
    dense_member, sparse_member = (exports.with_network(member, part) for part in (network, packed(network)))
    assert any(isinstance(layer, SparseLayer) for layer in sparse_member.network)
    done = {}
    for format, suffix in SUFFIXES.items():
        if (format == "c" and which("gcc") is None) or (format == "onnx" and find_spec("onnxruntime") is None):
            continue
        if format == "torch-export" and kind != "int4":  # slow, and it runs the layers themselves
            continue
        done[format] = export(sparse_member, obs, format, tmp_path / f"p{suffix}")
        assert done[format].parity.failure is None
        assert kind in ("static", "dynamic") or done[format].parity.relative_error < 2e-6
    assert done["numpy"].bytes < export(dense_member, obs, "numpy", tmp_path / "p.npz").bytes
    if "onnx" in done:  # it has no such layers: the zeros are written out
        assert done["onnx"].bytes == export(dense_member, obs, "onnx", tmp_path / "p.onnx").bytes


# ---- what is refused ----


def test_a_mask_that_does_not_fit_its_values_is_refused():
    layer = make_layer(None, 4, 0.5, 0)
    sparse = sparse_layer(layer)
    state = {name: tensor.clone() for name, tensor in sparse.state_dict().items()}
    state["mask"][1, 0] ^= 1
    with pytest.raises(RlabError, match=r"the mask of a sparse layer keeps \[.*\] weights and not \d+\. Was the file"):
        sparse.load_state_dict(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SparseLinear(None, 2, 2, kept=5), "a layer of 4 weights cannot keep 5 of them."),
        (lambda: SparseLinear(None, 2, 2, kept=-1), "cannot keep -1"),
        (lambda: SparseLinear(None, 2, 2, kept=1, dtype="float8"), "unknown type of sparse weights 'float8'."),
        (lambda: SparseQuantizedLinear(None, 2, 2, kept=1, bits=3), "weights of 3 bits are not known; 8, 4 and 2 are."),
        (
            lambda: SparseLinear(None, 1, 1, kept=1, dtype="float16").load_dense(torch.tensor([[1e6]])),
            "1e+06 do not fit float16",
        ),
        (
            lambda: SparseLinear.stack([SparseLinear(None, 2, 2, kept=1), SparseLinear(None, 2, 2, kept=2)]),
            "only layers with the same settings",
        ),
    ],
)
def test_wrong_requests_are_refused_in_one_line(call, message):
    with pytest.raises(RlabError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
