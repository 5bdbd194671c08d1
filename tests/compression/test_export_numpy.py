"""`.npz` files: arrays and JSON, run by one module that needs NumPy alone."""

import io
import json
import math
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.compression import quantize
from rlab.compression.export import numpy_runner
from rlab.compression.export.bit_packing import packed, without_zeros
from rlab.compression.export.graph import INTEGER_BITS, Constant, Graph
from rlab.compression.export.member_file import export
from rlab.compression.export.numpy_writer import DESCRIPTION, write_numpy
from rlab.compression.export.runtimes import open_exported
from rlab.compression.export.tracing import trace
from rlab.compression.weight_pruning import packed as without_stored_zeros
from rlab.compression.weight_pruning import prune_weights
from rlab.errors import RlabError
from rlab.networks.bodies import BodySettings


@pytest.fixture(scope="module")
def plain(exports):
    """An MLP 4-37-20-3 and 1000 observations."""
    return exports.member(), exports.obs(exports.vector, 1000)


def rewritten(source, target, **changed):
    """A copy of a .npz with other arrays in it."""
    with np.load(source) as file:
        np.savez(target, **({name: file[name] for name in file.files} | changed))
    return target


def described(path, change):
    """The description of a .npz after `change(description)`, as an array."""
    with np.load(path) as file:
        description = json.loads(file["description"].tobytes())
    change(description)
    return np.frombuffer(json.dumps(description).encode(), np.uint8)


def test_a_file_says_what_its_member_says(case, tmp_path):
    member, obs = case
    done = export(member, obs, "numpy", tmp_path / "p.npz")
    assert done.parity.relative_error < 2e-6
    assert done.parity.agreement == 1.0


def test_a_batch_of_no_rows_has_no_actions(case, tmp_path):
    member, obs = case
    runner = open_exported(export(member, obs, "numpy", tmp_path / "p.npz").path)
    assert runner(obs[:0]).shape == (0, *member(obs[:1]).shape[1:])


@pytest.mark.parametrize("kind", ["float16", "bfloat16", 8, 4, 2])
@pytest.mark.parametrize("space", ["vector", "pixels"])
def test_small_weights_are_stored_small(kind, space, exports, tmp_path):
    space = getattr(exports, space)
    member, obs = exports.member(space=space), exports.obs(space, 1000)
    network = (
        quantize.weight_only(member.network, kind) if isinstance(kind, int) else quantize.half(member.network, kind)
    )
    done = export(exports.with_network(member, network), obs, "numpy", tmp_path / "p.npz")
    assert done.parity.relative_error < 2e-6
    weights = sum(layer.weight.numel() for layer in member.network if hasattr(layer, "weight"))
    bits = kind if isinstance(kind, int) else 16
    with np.load(done.path, allow_pickle=False) as file:
        arrays = [file[name] for name in file.files if name != "description" and not name.endswith(".scale")]
    stored = sum(array.nbytes for array in arrays if array.dtype.name in ("int8", "uint8", "uint16", "float16"))
    assert weights * bits / 8 <= stored < weights * bits / 8 + len(arrays)


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_rounded_inputs_are_rounded_likewise(method, plain, exports, tmp_path):
    member, obs = plain
    make = {
        "dynamic": lambda: quantize.dynamic(member.network, keep_first_input=False),
        "static": lambda: quantize.static(member.network, torch.from_numpy(obs), keep_first_input=False),
    }
    parity = export(exports.with_network(member, make[method]()), obs, "numpy", tmp_path / "p.npz").parity
    assert parity.largest_error <= parity.rounding
    assert parity.agreement > 0.995


def test_the_runner_works_alone_without_torch_and_without_rlab(plain, tmp_path):
    member, obs = plain
    export(member, obs, "numpy", tmp_path / "p.npz")
    np.save(tmp_path / "obs.npy", obs[:50])
    shutil.copy(numpy_runner.__file__, tmp_path / "alone.py")
    program = """
import sys, numpy, alone
action, outputs = alone.load("p.npz").run(numpy.load("obs.npy"))
assert not {"torch", "rlab"} & set(sys.modules)
print(action.tolist())
"""
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'){program}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(member(obs[:50]).tolist()), done.stderr


def test_equal_members_give_equal_files_that_hold_no_objects(plain):
    member, _ = plain
    first, second = (write_numpy(trace(member), '{"format": 1}') for _ in range(2))
    assert first == second
    with np.load(io.BytesIO(first), allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} <= set("fiub")


@given(st.sampled_from([4, 2]), st.lists(st.integers(-2, 1), min_size=1, max_size=40))
def test_packed_integers_come_back(bits, integers):
    values = np.array(integers, np.int8).reshape(-1, 1)
    stored = {"w": packed(values, bits), "w.scale": np.ones(len(values), np.float32)}
    assert len(stored["w"]) == -(-len(values) * bits // 8)
    told = {"kind": f"int{bits}", "shape": values.shape}
    assert numpy_runner._dense(stored, "w", told).tolist() == values.tolist()


def test_weights_without_zeros_worked_by_hand():
    values = np.array([[0.0, 3.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.5, -0.0, 2.0]], np.float32)
    mask, kept = without_zeros(values)
    assert mask.tolist() == [146, 3]  # 2 + 16 + 128; the bits of weights 8, a zero with a sign, and 9
    assert kept.tolist() == [3.0, -1.0, 0.5, -0.0, 2.0]


@given(
    kind=st.sampled_from(["float32", "float16", "bfloat16", "int8", "int4", "int2"]),
    rows=st.integers(1, 5),
    columns=st.integers(1, 13),
    share=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 1000),
)
def test_sparse_weights_come_back_from_the_file(kind, rows, columns, share, seed):
    rng = np.random.default_rng(seed)
    if kind in INTEGER_BITS:
        top = 2 ** (INTEGER_BITS[kind] - 1)
        values = rng.integers(-top, top, (rows, columns)).astype(np.int8)
    else:
        values = rng.normal(size=(rows, columns)).astype("float16" if kind == "float16" else "float32")
        values = (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "bfloat16" else values
    values[rng.random(values.shape) < share] = 0
    scale = rng.random(rows).astype(np.float32) if kind in INTEGER_BITS else None
    constants = {name: Constant(values, kind, scale, name == "sparse") for name in ("sparse", "dense")}
    with np.load(io.BytesIO(write_numpy(Graph((), {}, constants), "{}"))) as file:
        arrays = {name: file[name] for name in file.files}
    told = json.loads(arrays[DESCRIPTION].tobytes())["constants"]
    sparse, dense = (numpy_runner._dense(arrays, name, told[name]) for name in constants)
    assert told["sparse"]["kept"] == np.count_nonzero(values)
    assert (sparse.dtype, sparse.shape) == (np.float32, (rows, columns))
    assert np.array_equal(sparse.view(np.uint32), dense.view(np.uint32))


def test_sparse_weights_that_do_not_fit_their_mask_are_refused(exports, tmp_path):
    member, obs = exports.member(body=BodySettings((64,))), exports.obs(exports.vector, 1000)
    sparse = exports.with_network(member, without_stored_zeros(prune_weights(member.network, 0.8)))
    path, bad = export(sparse, obs, "numpy", tmp_path / "p.npz").path, tmp_path / "bad.npz"
    with np.load(path) as file:
        weights = file["constant_0"]
    assert weights.dtype == np.uint8
    assert len(weights) == 32 + 51 * 4  # 256 bits, and a fifth of 256 floats
    weights[0] ^= 1
    rewritten(path, bad, constant_0=weights)
    with pytest.raises(RlabError, match=r"51 sparse weights for a mask of 5[02]; 51 are declared"):
        open_exported(bad)
    rewritten(path, bad, description=described(path, lambda told: told["constants"]["constant_0"].update(kept=50)))
    with pytest.raises(RlabError, match="51 sparse weights for a mask of 51; 50 are declared"):
        open_exported(bad)


def test_a_scale_belongs_to_a_row():
    constant = Constant(np.array([[1, -2], [3, 4]], np.int8), "int8", np.array([0.5, 2.0], np.float32))
    told = {"kind": "int8", "shape": (2, 2)}
    arrays = {"w": constant.values, "w.scale": constant.scale}
    assert constant.dense().tolist() == numpy_runner._dense(arrays, "w", told).tolist() == [[0.5, -1.0], [6.0, 8.0]]


@given(st.floats(-6, 6, width=32))
def test_the_error_function_is_off_by_rounding_alone(x):
    assert abs(numpy_runner.erf(np.array([x], np.float32))[0] - math.erf(x)) < 5e-7


def test_observations_of_another_shape_are_refused(plain, tmp_path):
    policy = numpy_runner.load(export(*plain, "numpy", tmp_path / "p.npz").path)
    with pytest.raises(ValueError, match=r"observations of shape \(2, 3\) do not fit"):
        policy.run(np.zeros((2, 3)))


def test_damaged_and_hostile_files_are_refused(plain, tmp_path):
    path = export(*plain, "numpy", tmp_path / "p.npz").path
    bad = tmp_path / "bad.npz"

    def refused(because):
        with pytest.raises(RlabError, match=because):
            open_exported(bad)

    bad.write_bytes(path.read_bytes()[:500])
    refused(r"bad\.npz is not a whole file of arrays \(it has no directory\)")
    np.savez(bad, description=np.array([{"format": 1}], dtype=object))
    refused(r"an array \(1,\) of object")
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused("the part 'hello.txt'")
    rewritten(path, bad, description=described(path, lambda told: told["operations"][0].update(kind="__import__")))
    refused("not a NumPy policy of rlab: '__import__'")
    rewritten(path, bad, description=described(path, lambda told: told["metadata"].update(format=2)))
    refused("format 2, and this runner reads 1")
    rewritten(path, bad, description=described(path, lambda told: told["metadata"].pop("obs_space")))
    refused("the file's metadata are incomplete")
