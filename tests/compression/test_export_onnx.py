"""ONNX files: they say what their member says, hold what they should, and nothing of the machine that made them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rlab.compression import quantize
from rlab.compression.export.member_file import export
from rlab.compression.export.member_step import answers
from rlab.compression.export.parity import check, rounding_effect
from rlab.compression.export.runtimes import OnnxRunner, open_exported
from rlab.errors import RlabError, UsageError
from rlab.networks.bodies import BodySettings

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class Swish(nn.Module):
    """A layer of somebody else's."""

    def __init__(self):
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return x * torch.sigmoid(self.steepness * x)


@pytest.fixture(scope="module")
def plain(exports):
    """An MLP 4-37-20-3 and 1000 observations."""
    return exports.member(), exports.obs(exports.vector, 1000)


def kinds_of_tensors(path):
    model = onnx.load(path)
    return [onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer]


def kinds_of_nodes(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_file_says_what_its_member_says(case, tmp_path):
    member, obs = case
    done = export(member, obs, "onnx", tmp_path / "p.onnx")
    assert (done.writer, done.parity.rows) == ("rlab", 1000)
    assert done.parity.relative_error < 2e-6
    assert done.parity.agreement == 1.0


def test_a_file_is_valid_whole_and_takes_any_batch(case, tmp_path):
    member, obs = case
    path = export(member, obs, "onnx", tmp_path / "p.onnx").path
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert list(tmp_path.iterdir()) == [path]
    assert [port.name for port in model.graph.input] == ["obs"]
    assert [port.name for port in model.graph.output] == ["action", "outputs"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    action, outputs = answers(member, obs[:7], 7)
    for optimise in (True, False):
        found, said = OnnxRunner(path, optimise=optimise).run(obs[:7])
        assert (found.dtype, found.shape, said.shape) == (action.dtype, action.shape, outputs.shape)


@pytest.mark.parametrize(("bits", "kind", "opset"), [(8, "INT8", 21), (4, "INT4", 21), (2, "INT2", 25)])
def test_integer_weights_stay_integers(bits, kind, opset, plain, exports, tmp_path):
    member, obs = plain
    small = exports.with_network(member, quantize.weight_only(member.network, bits))
    done = export(small, obs, "onnx", tmp_path / "p.onnx")
    assert kinds_of_tensors(done.path).count(kind) == kinds_of_nodes(done.path).count("DequantizeLinear") == 3
    assert done.parity.relative_error < 2e-6
    assert onnx.load(done.path).opset_import[0].version == opset


def test_weights_of_few_bits_take_few_bytes(exports, tmp_path):
    member = exports.member(body=BodySettings(hidden=(128, 128)))
    obs, sizes = exports.obs(exports.vector, 1000), {}
    for bits in (32, 16, 8, 4, 2):
        network = member.network
        if bits < 32:
            network = quantize.half(network) if bits == 16 else quantize.weight_only(network, bits)
        sizes[bits] = export(exports.with_network(member, network), obs, "onnx", tmp_path / "p.onnx").bytes
    weights = 4 * 128 + 128 * 128 + 128 * 3
    for bits in (16, 8, 4, 2):
        saved = sizes[32] - sizes[bits]
        # an int8 tensor has a scale of four bytes for each of the 259 outputs; 500 bytes for names and nodes
        assert abs(saved - weights * (32 - bits) / 8) < 4 * 259 + 500


def test_little_is_in_a_file_besides_its_numbers(exports, tmp_path):
    """An MLP 4-64-64-3: 4 * 64 + 64 * 64 + 64 * 3 = 4544 weights, and a bias and a scale for each of 131 outputs."""
    member = exports.member(body=BodySettings(hidden=(64, 64)))
    obs = exports.obs(exports.vector, 1000)
    small = exports.with_network(member, quantize.weight_only(member.network, 8))
    for policy, numbers in ((member, 4 * 4544 + 4 * 131), (small, 4544 + 4 * (131 + 131))):
        path = export(policy, obs, "onnx", tmp_path / "p.onnx").path
        model = onnx.load(path)
        assert sum(len(tensor.raw_data) for tensor in model.graph.initializer) == numbers + 8  # the first action
        (told,) = model.metadata_props
        assert path.stat().st_size - numbers - len(told.value) < 700  # nodes, names and shapes
        assert ", " not in told.value


def test_names_are_as_short_as_they_can_be(exports, tmp_path):
    member = exports.member(**exports.cases["masked"])
    path = export(member, exports.obs(member.spec.obs_space, 1000), "onnx", tmp_path / "p.onnx").path
    graph = onnx.load(path).graph
    made = {name for node in graph.node for name in node.output}
    names = {tensor.name for tensor in graph.initializer} | made - {"action", "outputs"}
    assert {"action", "outputs"} < made
    assert len(names) == len(graph.initializer) + len(made) - 2 > 26
    assert {name for name in names if len(name) == 1} == set("abcdefghijklmnopqrstuvwxyz")
    assert {len(name) for name in names} == {1, 2}
    named = {node.name for node in graph.node} - {""}
    # onnxruntime 1.20 makes one node of slices, called after them, and refuses two that are called alike
    assert named == {node.output[0] for node in graph.node if node.op_type == "Slice"} != set()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_weights_are_cast(dtype, plain, exports, tmp_path):
    member, obs = plain
    done = export(exports.with_network(member, quantize.half(member.network, dtype)), obs, "onnx", tmp_path / "p.onnx")
    assert kinds_of_tensors(done.path).count(dtype.upper()) == kinds_of_nodes(done.path).count("Cast") == 3
    assert done.parity.relative_error < 2e-6


@pytest.mark.parametrize("method", ["dynamic", "static"])
@pytest.mark.parametrize("space", ["vector", "pixels"])
def test_rounded_inputs_are_those_of_the_fake_quantized_member(method, space, exports, tmp_path):
    space = getattr(exports, space)
    member = exports.member(space=space)
    obs = exports.obs(space, 1000)
    features = member.preprocess(torch.from_numpy(obs))
    make = {
        "dynamic": lambda net: quantize.dynamic(net, keep_first_input=False),
        "static": lambda net: quantize.static(net, features, keep_first_input=False),
    }[method]
    small = exports.with_network(member, make(member.network))
    path = export(small, obs, "onnx", tmp_path / "p.onnx").path
    # onnxruntime multiplies u8 by int8 in 16 bits where a CPU has no VNNI, and those are too few
    assert "INT8" not in kinds_of_tensors(path)
    runner = OnnxRunner(path, optimise=False)
    _, outputs = answers(small, obs, 250)
    found = np.concatenate([runner.run(obs[i : i + 250])[1] for i in range(0, 1000, 250)])
    error = np.abs(found - outputs).max(axis=1) / np.abs(outputs).max()
    # A number on the edge between two integers may go either way, in the few rows that have one; the rest is equal.
    assert np.mean(error < 1e-6) > 0.9
    assert error.max() * np.abs(outputs).max() <= rounding_effect(small, obs, 250, outputs)
    wanted = {"dynamic": "DynamicQuantizeLinear", "static": "QuantizeLinear"}[method]
    assert kinds_of_nodes(path).count(wanted) == sum(isinstance(m, nn.Linear | nn.Conv2d) for m in member.network)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_one_rounded_layer_is_equal_in_every_row(bits, activations, exports, tmp_path):
    """Both round the very same numbers, so that none can fall to the other side."""
    member = exports.member(body=BodySettings(hidden=()))
    obs = exports.obs(exports.vector, 1000)
    layer = quantize.quantized_layer(member.network[0], bits, activations)
    if activations == "static":
        quantize.set_input_range(layer, torch.tensor(-2.5), torch.tensor(3.0))
    small = exports.with_network(member, nn.Sequential(layer))
    path = export(small, obs, "onnx", tmp_path / "p.onnx").path
    for optimise in (True, False):
        parity = check(small, OnnxRunner(path, optimise=optimise), obs)
        assert parity.relative_error < 1e-6
        assert parity.rounding > 1e-3


def test_input_buffers_change_no_answer(plain, tmp_path):
    member, obs = plain
    path = export(member, obs, "onnx", tmp_path / "p.onnx").path
    runner, bound = OnnxRunner(path), OnnxRunner(path, binding=True)
    for batch in (obs[:3], obs[3:6], obs[:1]):
        kept = bound(batch)
        assert kept.tolist() == runner(batch).tolist()
        others = obs[runner(obs) != kept[0]][: len(batch)]
        assert bound(others).tolist() != kept.tolist()
        assert kept.tolist() == runner(batch).tolist()  # what was given stays as it was


def test_a_layer_of_somebody_else_goes_through_torch(plain, exports, tmp_path):
    pytest.importorskip("onnxscript")
    member, obs = plain
    first, _, last = member.network[0], member.network[1], nn.Linear(37, 3)
    foreign = exports.with_network(member, nn.Sequential(first, Swish(), last))
    done = export(foreign, obs, "onnx", tmp_path / "p.onnx")
    assert (done.writer, done.parity.agreement) == ("torch.onnx", 1.0)
    assert done.parity.relative_error < 2e-6
    assert list(tmp_path.iterdir()) == [done.path]
    assert open_exported(done.path)(obs[:5]).tolist() == foreign(obs[:5]).tolist()
    content = done.path.read_bytes()
    assert not re.search(rb"\.py\b|site-packages", content)
    assert str(Path(__file__).parent.parent).encode() not in content
    with pytest.raises(UsageError, match=r"onnx cannot express the layer Swish; exporter torch \(torch.onnx\) can"):
        export(foreign, obs, "onnx", tmp_path / "p.onnx", exporter="own")


IMPORTS_IT = """
import os, sys
from pathlib import Path
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
from rlab.compression.export.sessions import onnxruntime
onnxruntime(Path("policy.onnx"))
"""


@pytest.mark.parametrize(("own", "expected"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_onnxruntime_is_told_to_report_to_nobody_before_it_is_imported_unless_the_user_wants_it(own, expected):
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | own
    done = subprocess.run([sys.executable, "-c", IMPORTS_IT], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(package, plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r'pip install "rlab-agents\[onnx\]"'):
        export(*plain, "onnx", tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_and_one_of_somebody_else_are_refused(plain, tmp_path):
    path = export(*plain, "onnx", tmp_path / "p.onnx").path
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RlabError, match=r"other\.onnx is not a file of rlab"):
        open_exported(tmp_path / "other.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RlabError, match=r"cut\.onnx is not a complete ONNX file"):
        open_exported(tmp_path / "cut.onnx")
