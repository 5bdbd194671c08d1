"""Models of a Triton repository: their config is what Triton's own schema reads, and fits the ONNX file beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlab.compression import quantize
from rlab.compression.export import triton
from rlab.compression.export.graph import ACTION, NEXT_STATE, OBS, OUTPUTS, STATE
from rlab.compression.export.triton import CONFIG, MODEL, config_text, export_triton
from rlab.errors import RlabError, UsageError
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] has Triton's schema")
text_format = pytest.importorskip("google.protobuf.text_format")

NUMPY_TYPES = {"FP32": "float32", "FP64": "float64", "BOOL": "bool"}
ONNX_TYPES = {"float32": "tensor(float)", "float64": "tensor(double)"}


def read_config(folder: Path) -> Any:
    """The config as Triton's schema reads it; a field that the schema does not know is an error."""
    return text_format.Parse((folder / CONFIG).read_text(), schema.ModelConfig())


class Backend:
    """A model as Triton's onnxruntime backend opens it (`ModelInstanceState` in its onnxruntime.cc): as many inputs as
    the file has, of the file's types and shapes, which are the config's behind a free batch axis."""

    def __init__(self, folder: Path, version: int = 1) -> None:
        self.config = read_config(folder)
        assert (self.config.name, self.config.backend) == (folder.name, "onnxruntime")
        self.session = ort.InferenceSession(str(folder / str(version) / MODEL), providers=["CPUExecutionProvider"])
        for ports, found in (
            (self.config.input, self.session.get_inputs()),
            (self.config.output, self.session.get_outputs()),
        ):
            assert sorted(port.name for port in ports) == sorted(port.name for port in found)
            by_name = {port.name: port for port in found}
            for port in ports:
                assert port.dims  # else Triton refuses it: "must specify 'dims'"
                assert by_name[port.name].type == onnx_type(dtype_of(port))
                batch, *row = by_name[port.name].shape
                assert isinstance(batch, str)  # which is any number
                assert row == inner_dims(port)

    def infer(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """What a client gets: arrays have the dims of the config, behind the batch axis."""
        given = {}
        for port in self.config.input:
            array = arrays[port.name]
            assert (array.dtype.name, list(array.shape[1:])) == (dtype_of(port), list(port.dims))
            assert len(array) <= self.config.max_batch_size
            given[port.name] = array.reshape(len(array), *inner_dims(port))
        names = [port.name for port in self.config.output]
        found = dict(zip(names, self.session.run(names, given), strict=True))
        rows = len(given[OBS])
        return {port.name: found[port.name].reshape(rows, *port.dims) for port in self.config.output}


def dtype_of(port: Any) -> str:
    """NumPy's name of a port's type."""
    name = schema.DataType.Name(port.data_type).removeprefix("TYPE_")
    return NUMPY_TYPES.get(name, name.lower())


def onnx_type(dtype: str) -> str:
    """onnxruntime's name of it."""
    return ONNX_TYPES.get(dtype, f"tensor({dtype})")


def inner_dims(port: Any) -> list[int]:
    """The shape of a row inside the model."""
    return list(port.reshape.shape) if port.HasField("reshape") else list(port.dims)


def test_the_config_of_a_choice_among_three_is_this_text() -> None:
    inputs = {"obs": {"shape": [4], "dtype": "float32"}}
    outputs = {"action": {"shape": [], "dtype": "int64"}, "outputs": {"shape": [3], "dtype": "float32"}}
    assert config_text("pole", inputs, outputs, batching=True) == (
        'name: "pole"\nbackend: "onnxruntime"\nmax_batch_size: 1024\n'
        'input {\n  name: "obs"\n  data_type: TYPE_FP32\n  dims: [4]\n}\n'
        'output {\n  name: "action"\n  data_type: TYPE_INT64\n  dims: [1]\n  reshape { shape: [] }\n}\n'
        'output {\n  name: "outputs"\n  data_type: TYPE_FP32\n  dims: [3]\n}\n'
        "dynamic_batching {}\n"
    )


def test_the_type_of_every_port_is_one_of_the_schema() -> None:
    assert set(triton.TYPES.values()) <= set(schema.DataType.keys())
    for dtype, name in triton.TYPES.items():
        assert schema.DataType.Value(name) > 0
        assert np.dtype(dtype).name == dtype


def test_a_model_of_every_kind_loads_by_the_rules_of_the_backend_and_answers_as_its_member(
    fourth_case: Any, tmp_path: Path
) -> None:
    member, obs = fourth_case
    folder = tmp_path / "repository" / "policy"
    done = export_triton(member, obs, folder)
    assert (done.path, done.format) == (folder / "1" / MODEL, "triton")
    model = Backend(folder)
    assert model.config.HasField("dynamic_batching")
    (port,) = model.config.input
    found = model.infer(obs=obs[:40].reshape(40, *port.dims))
    expected = np.stack([np.asarray(member(row)) for row in obs[:40]])
    np.testing.assert_allclose(found[ACTION].reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def test_a_model_with_memory_takes_the_state_and_gives_the_next_one(tmp_path: Path) -> None:
    body = BodySettings((8,), "tanh", memory=MemorySettings("gru", 8, 4))
    space, actions = Box((4,), "float32", -1.0, 1.0), Discrete(2)
    spec = PolicySpec(space, actions, {"scaling": "none", "scale": None}, q_network_spec(space, 2, body))
    member = build_policy(spec, (3,)).member()
    export_triton(member, np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32), tmp_path / "memory")
    model, own = Backend(tmp_path / "memory"), member.initial_state()
    assert [port.name for port in model.config.input] == [OBS, STATE]
    assert {port.name for port in model.config.output} == {ACTION, OUTPUTS, NEXT_STATE}
    state = np.zeros((1, *model.config.input[1].dims), np.float32)
    for obs in np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32):
        found = model.infer(obs=obs[None], state=state)
        expected, own = member(obs, state=own)
        assert found[ACTION].tolist() == [[expected]]
        state = found[NEXT_STATE]
    assert state.any()


@pytest.mark.parametrize(("activations", "batching"), [("none", True), ("static", True), ("dynamic", False)])
def test_requests_are_put_together_only_where_a_row_does_not_depend_on_the_others(
    exports: Any, tmp_path: Path, activations: str, batching: bool
) -> None:
    member, obs = exports.member(), exports.obs(exports.vector, 1000)
    layer = quantize.quantized_layer(member.network[0], 8, activations)
    if activations == "static":
        quantize.set_input_range(layer, torch.tensor(-2.5), torch.tensor(3.0))
    small = exports.with_network(member, nn.Sequential(layer, *member.network[1:]))
    export_triton(small, obs, tmp_path / "small")
    assert Backend(tmp_path / "small").config.HasField("dynamic_batching") is batching
    export_triton(member, obs, tmp_path / "large")
    if batching:
        assert export_triton(small, obs, tmp_path / "large").path == tmp_path / "large" / "2" / MODEL
    else:
        with pytest.raises(UsageError, match=r"config\.pbtxt has dynamic_batching, and activations that are rounded"):
            export_triton(small, obs, tmp_path / "large")


def test_a_model_that_exists_gets_the_next_version_and_keeps_its_config(exports: Any, tmp_path: Path) -> None:
    obs = exports.obs(exports.vector, 1000)
    folder = tmp_path / "policy"
    export_triton(exports.member(), obs, folder)
    edited = (folder / CONFIG).read_text() + "instance_group { count: 2 kind: KIND_CPU }\n"
    (folder / CONFIG).write_text(edited)
    (folder / "notes").mkdir()  # not a version
    (folder / "7").mkdir()  # one without a file, which is somebody's work in progress
    (folder / "2").mkdir()
    (folder / "2" / "half-written").touch()  # so is this: it is in the way
    other = exports.member(body=BodySettings(hidden=(9,)))
    assert export_triton(other, obs, folder).path == folder / "3" / MODEL
    assert export_triton(other, obs, folder).path == folder / "4" / MODEL
    assert (folder / CONFIG).read_text() == edited
    found = Backend(folder, 3).infer(obs=obs[:9])[ACTION]
    assert found.reshape(-1).tolist() == [other(row) for row in obs[:9]]
    with pytest.raises(UsageError, match=r"4/model\.onnx has other inputs or outputs; versions of a model share"):
        export_triton(exports.member(actions=Discrete(7)), obs, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3", "4", "7", CONFIG, "notes"]
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a b", "'a b' cannot be a model's name: letters, digits, and inside also"),
        (".hidden", "cannot be a model's name"),
        ('x"y', "cannot be a model's name"),
        ("gone/away/policy", r"away is not a folder and cannot be made one\. Name REPOSITORY/NAME"),
        ("file/policy", "file is not a folder and cannot be made one"),
        ("taken", r"taken exists and is not a model with a config\.pbtxt; nothing was touched"),
        ("file", "file exists and is not a model"),
    ],
)
def test_what_cannot_be_a_model_is_refused_and_left_alone(
    exports: Any, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=message):
        export_triton(exports.member(), exports.obs(exports.vector, 1000), tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "taken"]


def test_a_file_that_is_not_its_member_leaves_no_model(
    exports: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlab.compression.export.parity.FLOAT_ERROR", -1.0)
    with pytest.raises(RlabError, match="Nothing was written"):
        export_triton(exports.member(), exports.obs(exports.vector, 1000), tmp_path / "new" / "policy")
    assert list(tmp_path.iterdir()) == []
