"""C headers: they compile without a warning, and say what their member says."""

import ctypes
import re
import subprocess
from shutil import which

import numpy as np
import pytest
import torch

from rlab.compression import quantize
from rlab.compression.export.member_file import export
from rlab.compression.export.metadata import Origin
from rlab.compression.export.runtimes import open_exported
from rlab.compression.weight_pruning import packed, prune_weights, sparse_layer
from rlab.errors import RlabError, UsageError
from rlab.networks.bodies import BodySettings
from rlab.networks.spaces import Box, Discrete

GCC = which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not installed")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def compiled(folder, source, *flags):
    """The functions of a C file."""
    (folder / "user.c").write_text(source)
    command = [GCC, *STRICT, *flags, "-shared", "-fPIC", "user.c", "-o", "user.so", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "user.so"))


@pytest.fixture(scope="module")
def plain(exports):
    """An MLP 4-37-20-3 and 1000 observations."""
    return exports.member(), exports.obs(exports.vector, 1000)


def test_a_header_says_what_its_member_says(second_case, tmp_path):
    member, obs = second_case
    done = export(member, obs, "c", tmp_path / "p.h")
    assert done.parity.relative_error < 1e-6
    assert done.parity.agreement == 1.0
    assert list(tmp_path.iterdir()) == [done.path]


@pytest.mark.parametrize(
    "body",
    [
        BodySettings(hidden=(256, 256), activation="tanh"),
        pytest.param(BodySettings(hidden=(600,)), marks=pytest.mark.prove),
    ],
)
def test_wide_layers_keep_their_digits(body, exports, tmp_path):
    space = Box((600,), "float32", -1.0, 1.0)
    member = exports.member(space=space, body=body)
    assert export(member, exports.obs(space, 1000), "c", tmp_path / "p.h").parity.relative_error < 1e-6


@pytest.mark.parametrize(
    ("space", "kind"), [*(("vector", kind) for kind in ("float16", "bfloat16", 8, 4, 2)), ("pixels", 8), ("pixels", 4)]
)
def test_small_weights_are_stored_small(kind, space, exports, tmp_path):
    space = getattr(exports, space)
    member, obs = exports.member(space=space), exports.obs(space, 1000)
    network = (
        quantize.weight_only(member.network, kind) if isinstance(kind, int) else quantize.half(member.network, kind)
    )
    small = exports.with_network(member, network)
    done = export(small, obs, "c", tmp_path / "p.h")
    assert done.parity.relative_error < 1e-6
    ctype = {8: "int8_t", 4: "uint8_t", 2: "uint8_t"}.get(kind, "uint16_t")
    arrays = re.findall(rf"static const {ctype} rlab_\w+\[(\d+)\]", done.path.read_text())
    weights = [layer.weight for layer in network if hasattr(layer, "weight_shape")]
    assert [int(length) for length in arrays] == [weight.numel() for weight in weights]


SPARSE = [("vector", None), ("vector", "float16"), ("vector", 2), ("pixels", 4)]
SPARSE += [
    pytest.param(*each, marks=pytest.mark.prove)
    for each in (("vector", "bfloat16"), ("vector", 8), ("vector", 4), ("pixels", None))
]


@pytest.mark.parametrize(("space", "kind"), SPARSE)
def test_weights_that_are_0_take_one_bit_and_nothing_else(kind, space, exports, tmp_path):
    space = getattr(exports, space)
    member, obs = exports.member(space=space, body=BodySettings((64, 37))), exports.obs(space, 1000)
    network = prune_weights(member.network, 0.85)
    if kind is not None:
        network = quantize.weight_only(network, kind) if isinstance(kind, int) else quantize.half(network, kind)
    small = exports.with_network(member, packed(network))
    done = export(small, obs, "c", tmp_path / "p.h")
    assert done.parity.relative_error < 1e-6
    assert done.parity.agreement == 1.0
    text = done.path.read_text()
    found = {name: int(size) for name, size in re.findall(r"static const \w+ rlab_(constant_\d+\w*)\[(\d+)\]", text)}
    sparse = [layer for layer in small.network if hasattr(layer, "mask")]
    masks = [name for name in found if name.endswith("_mask")]
    assert [found[name] for name in masks] == [layer.mask.numel() for layer in sparse]
    assert [found[name.removesuffix("_mask")] for name in masks] == [layer.values.numel() for layer in sparse]
    assert len(sparse) >= 1
    assert compiled(tmp_path, '#include "p.h"\nint test(void) { return rlab_selftest(); }').test() == 0
    assert text.count("_sparse_conv2d_") == (0 if space is exports.vector else 2)  # the kernel and its call


def test_a_sparse_kernel_on_numbers_worked_by_hand(exports, tmp_path):
    """Weights [[0, 3, 0, -0.5], [0, 0, 0, 0], [2, 0, 0, 0]]: bits 1, 3 and 8, of 12."""
    member = exports.member(body=BodySettings(hidden=()))
    with torch.no_grad():
        rows = [[0.0, 3.0, 0.0, -0.5], [0.0] * 4, [2.0, 0.0, 0.0, 0.0]]
        member.network[0].weight.copy_(torch.tensor(rows))
        member.network[0].bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    obs = np.tile(np.array([10.0, 20.0, 40.0, 80.0], np.float32), (1000, 1))
    sparse = exports.with_network(member, torch.nn.Sequential(sparse_layer(member.network[0])))
    path = export(sparse, obs, "c", tmp_path / "p.h").path
    assert re.search(r"uint8_t rlab_constant_0_mask\[2\] = \{\s*10, 1\}", path.read_text())
    assert re.search(r"float rlab_constant_0\[3\] = \{\s*3.0f, -0.5f, 2.0f\}", path.read_text())
    assert open_exported(path, trust=True).outputs(obs[:1]).tolist() == [[1.0 + 60.0 - 40.0, 2.0, 3.0 + 20.0]]


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_a_layer_of_nothing_but_zeros_is_its_bias(bits, exports, tmp_path):
    """C has no empty arrays."""
    member = exports.member(body=BodySettings(hidden=()))
    with torch.no_grad():
        member.network[0].weight.zero_()
    layer = member.network[0] if bits is None else quantize.weight_only(member.network, bits)[0]
    sparse = exports.with_network(member, torch.nn.Sequential(sparse_layer(layer)))
    path = export(sparse, exports.obs(exports.vector, 1000), "c", tmp_path / "p.h").path
    runner = open_exported(path, trust=True)
    assert runner.outputs(np.ones((1, 4), np.float32)).tolist() == [member.network[0].bias.tolist()]
    assert compiled(tmp_path, '#include "p.h"\nint test(void) { return rlab_selftest(); }').test() == 0


def test_a_half_precision_number_of_every_exponent_is_read_exactly(exports, tmp_path):
    """One output per weight: 0, the smallest subnormal, other subnormals, 1, the largest, and their negatives."""
    numbers = [0.0, 2.0**-24, 1023 * 2.0**-24, 2.0**-14, 1.0, 1.0 + 2.0**-10, 65504.0]
    numbers += [-number for number in numbers]
    member = exports.member(space=Box((1,), "float32", -1.0, 1.0), actions=Discrete(14), body=BodySettings(hidden=()))
    network = quantize.half(member.network)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(numbers).unsqueeze(1))
        network[0].bias.zero_()
    path = tmp_path / "p.h"
    export(exports.with_network(member, network), np.ones((1000, 1), np.float32), "c", path)
    runner = open_exported(path, trust=True)
    assert runner.outputs(np.ones((1, 1), np.float32)).tolist() == [numbers]


@pytest.mark.parametrize("optimise", ["-O0", "-O2", "-Os"])
def test_a_header_works_in_a_program_of_one_s_own(optimise, plain, tmp_path):
    member, obs = plain
    text = export(member, obs, "c", tmp_path / "p.h", prefix="arm").path.read_text()
    assert not re.search(r"\b(malloc|calloc|realloc|alloca)\b", text)
    assert not re.search(
        r"^(static )?(?!static const)[a-z_0-9]+ \w+\[", text, re.MULTILINE
    )  # no state outside functions
    user = """
    #include "p.h"
    int decide(const float *obs, int64_t *action) { return arm_act(obs, action); }
    int selftest(void) { return arm_selftest(); }
    int stack(void) { return ARM_STACK_BYTES; }
    """
    library = compiled(tmp_path, user, optimise)
    action = np.zeros(1, np.int64)
    for row, expected in zip(obs[:20], member(obs[:20]), strict=True):
        assert library.decide(ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(action.ctypes.data)) == 0
        assert action[0] == expected
    assert library.selftest() == 0
    assert 4 * (37 + 20) <= library.stack() <= 4 * (4 + 37 + 20 + 3 + 37)


def test_two_policies_live_in_one_program(plain, exports, tmp_path):
    member, obs = plain
    export(member, obs, "c", tmp_path / "left.h", prefix="left")
    image = exports.member(space=exports.pixels)
    export(image, exports.obs(exports.pixels, 1000), "c", tmp_path / "right.h", prefix="right")
    both = '#include "left.h"\n#include "right.h"\nint test(void) { return left_selftest() + right_selftest(); }'
    assert compiled(tmp_path, both).test() == 0


def test_its_own_test_notices_another_weight(plain, tmp_path):
    path = export(*plain, "c", tmp_path / "p.h").path
    text = path.read_text()
    weight = re.search(r"rlab_constant_0\[\d+\] = \{\s*([-0-9.e]+)f", text)[1]
    path.write_text(text.replace(f"{weight}f", f"{float(weight) + 0.3}f", 1))
    with pytest.raises(RlabError, match=r"its own test fails in row \d"):
        open_exported(path, trust=True)


def test_an_observation_that_is_no_number_is_reported(plain, tmp_path):
    runner = open_exported(export(*plain, "c", tmp_path / "p.h").path, trust=True)
    with pytest.raises(RlabError, match="an output of the network is not a number"):
        runner(np.full((1, 4), np.nan, np.float32))


def test_the_end_of_a_comment_inside_the_metadata_ends_no_comment(plain, tmp_path):
    origin = Origin(agent="*/ int main; /*", env={"id": "A/B-v0", "note": "\\\n??/"})
    path = export(*plain, "c", tmp_path / "p.h", origin=origin).path
    runner = open_exported(path, trust=True)
    assert (runner.metadata["agent"], runner.env) == (origin.agent, origin.env)


def test_what_c_cannot_express_is_said(plain, exports, tmp_path):
    half = exports.member(space=Box((2,), "float16", -1.0, 1.0))
    with pytest.raises(UsageError, match="format c cannot express float16 observations; onnx and numpy can"):
        export(half, exports.obs(half.spec.obs_space, 1000), "c", tmp_path / "p.h")
    member, obs = plain
    foreign = exports.with_network(member, torch.nn.Sequential(member.network[0], torch.nn.Softsign()))
    with pytest.raises(
        UsageError, match=r"format c cannot express the layer Softsign; onnx \(through torch.onnx\) can"
    ):
        export(foreign, obs, "c", tmp_path / "p.h")
    with pytest.raises(UsageError, match="prefix '7up' is not a C identifier"):
        export(member, obs, "c", tmp_path / "p.h", prefix="7up")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_compiler_and_missing_trust_are_said(plain, tmp_path, monkeypatch):
    path = export(*plain, "c", tmp_path / "p.h").path
    with pytest.raises(UsageError, match="can run code when it is opened; open it with trust=True"):
        open_exported(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs gcc to run"):
        open_exported(path, trust=True)


def test_a_header_that_does_not_fit_its_metadata_is_refused(plain, tmp_path):
    path = export(*plain, "c", tmp_path / "p.h").path
    text = path.read_text()
    path.write_text(text.replace("#define RLAB_OBS_SIZE 4", "#define RLAB_OBS_SIZE 3"))
    with pytest.raises(RlabError, match="do not fit the file's metadata"):
        open_exported(path, trust=True)
    path.write_text(text.replace("rlab-metadata:", "metadata:"))
    with pytest.raises(RlabError, match="is not a header of rlab"):
        open_exported(path, trust=True)
