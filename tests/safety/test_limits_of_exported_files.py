"""An `.onnx` or `.npz` of somebody else is looked through first, and runs within limits of time and memory."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.compression.export.onnx_check import check_onnx
from rlab.compression.export.runtimes import LimitedRunner, open_exported
from rlab.errors import RlabError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, TensorProto = onnx.helper, onnx.TensorProto


def changed(good: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """The good file with a change."""
    model = onnx.load(good / "policy.onnx")
    change(model)
    (folder / "sent.onnx").write_bytes(model.SerializeToString())
    return folder / "sent.onnx"


def loop(model: Any) -> None:
    """A loop whose condition stays true."""
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    same = [helper.make_node("Identity", ["c"], ["again"])]
    outputs = [helper.make_tensor_value_info("again", TensorProto.BOOL, [])]
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(same, "body", [count, condition], outputs)
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.node.append(helper.make_node("Loop", ["", "yes"], [], body=body))


def loop_in_a_function(model: Any) -> None:
    inner = [helper.make_node("Scan", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "Hidden", ["x"], ["y"], inner, []))


def external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def external_in_a_node(model: Any) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    external(type("", (), {"graph": type("", (), {"initializer": [tensor]})}))
    model.graph.node.append(helper.make_node("Constant", [], ["t"], value=tensor))


def not_finite(value: float, raw: bool) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        numbers = np.full(1, value, np.float32)
        model.graph.initializer.append(
            helper.make_tensor("w", TensorProto.FLOAT, [1], numbers.tobytes() if raw else numbers, raw=raw)
        )

    return change


def random(model: Any) -> None:
    model.graph.node.append(helper.make_node("RandomUniform", [], ["r"], shape=[1]))


@pytest.mark.parametrize(
    ("change", "because"),
    [
        (loop, "has an operation Loop, which may never end; --trust runs it without limits"),
        (loop_in_a_function, "has an operation Scan"),
        (random, "has an operation RandomUniform, which draws random numbers"),
        (external, "keeps numbers in other files"),
        (external_in_a_node, "keeps numbers in other files"),
        (not_finite(np.nan, raw=True), "holds a constant 'w' that is NaN or infinite"),
        (not_finite(np.inf, raw=False), "holds a constant 'w' that is NaN or infinite"),
    ],
)
def test_what_an_onnx_of_somebody_else_must_not_hold(
    good: Path, tmp_path: Path, change: Callable[[Any], None], because: str
) -> None:
    path = changed(good, tmp_path, change)
    with pytest.raises(RlabError, match=because):
        check_onnx(path.read_bytes(), path)


def test_infinity_is_a_bound_of_clip_and_what_where_puts_in_place_of_a_choice(good: Path, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        not_finite(-np.inf, raw=True)(model)
        model.graph.node.append(helper.make_node("Clip", ["obs", "w"], ["clipped"]))

    check_onnx(changed(good, tmp_path, change).read_bytes(), "here")


def test_the_limited_file_answers_as_the_trusted_one(good: Path) -> None:
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for name in ("policy.onnx", "policy.npz"):
        limited_one, trusted = open_exported(good / name), open_exported(good / name, trust=True)
        assert isinstance(limited_one, LimitedRunner)
        for mine, theirs in zip(limited_one.run(obs), trusted.run(obs), strict=True):
            assert (mine == theirs).all()
        assert limited_one.metadata == trusted.metadata


def test_too_much_memory_is_refused(good: Path, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        shape = helper.make_tensor("shape", TensorProto.INT64, [1], [10**9])  # 4 GB
        model.graph.initializer.append(shape)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["large"]))
        model.graph.output.append(helper.make_tensor_value_info("large", TensorProto.FLOAT, [10**9]))

    if not sys.platform.startswith("linux"):
        pytest.skip("the limit of memory needs Linux")
    with pytest.raises(RlabError, match=r"llocate memory|more memory|cannot be run"):
        open_exported(changed(good, tmp_path, change)).run(np.zeros((1, 4), np.float32))


def test_too_much_time_is_refused_and_the_process_is_gone(good: Path) -> None:
    runner = open_exported(good / "policy.npz")
    session = runner._session
    began = time.monotonic()
    with pytest.raises(RlabError, match=r"policy\.npz takes more than 0\.2 s to answer"), session._limit("answer", 0.2):
        session._answer()  # of a question that was not asked
    assert time.monotonic() - began < 5
    assert session._process.wait(5) != 0
    with pytest.raises(RlabError, match=r"policy\.npz ended its process"):
        runner.run(np.zeros((1, 4), np.float32))
