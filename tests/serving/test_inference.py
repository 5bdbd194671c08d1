"""Bodies of requests: what fits a model's inputs is read to the bit, and all else is refused in one clear line."""

import json
import re
from typing import Any

import numpy as np
import pytest

from rlab.serving.binary import LENGTH, SIZE, split
from rlab.serving.inference import answer, parse
from rlab.serving.ports import Port, ports_of
from rlab.serving.web import Refused

INPUTS = ports_of({"obs": {"shape": [2, 2], "dtype": "float32"}, "state": {"shape": [3], "dtype": "float32"}})
INTEGERS = ports_of({"obs": {"shape": [], "dtype": "int64"}})
BYTES = ports_of({"obs": {"shape": [2], "dtype": "uint8"}})
BITS = ports_of({"obs": {"shape": [2], "dtype": "bool"}})
OUTPUTS = ports_of({"action": {"shape": [], "dtype": "int64"}, "outputs": {"shape": [2], "dtype": "float32"}})
ROWS = 8


def body(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> bytes:
    tensor = {"name": "obs", "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def refusal(content: bytes, inputs: dict[str, Port] = INPUTS) -> str:
    with pytest.raises(Refused) as caught:
        parse(content, inputs, OUTPUTS, ROWS)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize(
    "data", [[1, 2.5, 3, 4, 5, 6, 7, 8], [[[1, 2.5], [3, 4]], [[5, 6], [7, 8]]]], ids=["flat", "nested"]
)
def test_data_are_read_row_by_row_flat_or_nested(data: list[Any]) -> None:
    asked = parse(body(data, [2, 2, 2], id="mine"), INPUTS, OUTPUTS, ROWS)
    assert asked.inputs["obs"].tolist() == [[[1, 2.5], [3, 4]], [[5, 6], [7, 8]]]
    assert (asked.id, asked.outputs, asked.parameters) == ("mine", [], {})


def test_integers_and_booleans_stay_what_they_are() -> None:
    large = 2**62 + 1  # which no float64 is
    assert parse(body([large, -1], [2], "INT64"), INTEGERS, OUTPUTS, ROWS).inputs["obs"].tolist() == [large, -1]
    assert parse(body([True, False], [1, 2], "BOOL"), BITS, OUTPUTS, ROWS).inputs["obs"].tolist() == [[True, False]]


def test_a_float32_comes_back_from_its_json_with_all_bits() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**32, 4000, np.uint32).view(np.float32)
    numbers = np.resize(numbers[np.isfinite(numbers)], (8, 2, 2))
    asked = parse(body(numbers.ravel().tolist(), [8, 2, 2]), INPUTS, OUTPUTS, ROWS)
    assert asked.inputs["obs"].astype(np.float32).tobytes() == numbers.tobytes()
    port = Port("outputs", (2, 2), np.dtype("float32"))
    told = json.loads(answer("m", "1", "x", [(port, numbers)]).body)
    assert np.float32(told["outputs"][0]["data"]).tobytes() == numbers.tobytes()


def test_an_answer_has_the_shape_and_the_datatype_of_its_port() -> None:
    told = json.loads(answer("m", "3", "x", [(OUTPUTS["action"], np.array([1, 0]))]).body)
    assert told == {
        "model_name": "m",
        "model_version": "3",
        "id": "x",
        "outputs": [{"name": "action", "datatype": "INT64", "shape": [2], "data": [1, 0]}],
    }


FOUR = [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the body is not an inference request"),
        (b"[]", "Expected `object`, got `array`"),
        (b"\xff\xfe", "the body is not an inference request"),
        (b'{"inputs": []} x', "the body is not an inference request"),
        (b'{"inputs": [], "surprise": 1}', "unknown field `surprise`"),
        (b"[" * 100_000, "the body is not an inference request|nested too deeply"),
        (b'{"inputs": ' + b"[" * 100_000, "nested too deeply|not an inference request"),
        (b'{"inputs": [{"name": "obs", "shape": [1, 2, 2], "datatype": "FP32", "data": ' + b"[" * 100_000, "nested"),
        (body(FOUR, [1, 4]), r"has shape \[1, 4\], expected \[rows, 2, 2\]"),
        (body(FOUR, []), r"has shape \[\], expected \[rows, 2, 2\]"),
        (body([], [0, 2, 2]), "has 0 rows; 1 to 8 are taken"),
        (body([0] * 36, [9, 2, 2]), "has 9 rows; 1 to 8 are taken"),
        (body(FOUR, [10**30, 2, 2]), "has 1e.30 rows; 1 to 8 are taken"),
        (body(FOUR, [-1, 2, 2]), "has -1 rows; 1 to 8 are taken"),
        (body(FOUR, [1, 2, 2], "FP64"), "has datatype 'FP64', expected FP32"),
        (body([1, 2, 3], [1, 2, 2]), r"are not 4 numbers of the shape \[1, 2, 2\]"),
        (body([[[1, 2], [3]]], [1, 2, 2]), r"inhomogeneous|are not 4 numbers"),
        (body([[1, 2, 3, 4]], [1, 2, 2]), r"are not FP32"),
        (body([[[1, 2, 3, 4]]], [1, 2, 2]), r"are not 4 numbers of the shape \[1, 2, 2\]"),
        (body(["1", 2, 3, 4], [1, 2, 2]), "Expected `float`, got `str`"),
        (body([True, 2, 3, 4], [1, 2, 2]), "Expected `float`, got `bool`"),
        (body([None, 2, 3, 4], [1, 2, 2]), "Expected `float`, got `null`"),
        (body("1234", [1, 2, 2]), "are not FP32"),
        (body(FOUR, [1, 2, 2]).replace(b"1, 2, 3, 4", b"NaN, 2, 3, 4"), "not an inference request"),
        (body(FOUR, [1, 2, 2]).replace(b"1, 2, 3, 4", b"1e999, 2, 3, 4"), "Number out of range"),
        (body(FOUR, [1, 2, 2]).replace(b'"obs"', b'"observation"'), "unknown input 'observation'; the inputs are obs"),
        (body(FOUR, [1, 2, 2], outputs=[{"name": "q"}]), "unknown output 'q'; the outputs are action, outputs"),
        (body(FOUR, [1, 2, 2], outputs=[{"name": "action"}] * 2), "an output is asked for twice"),
        (body(FOUR, [1, 2, 2], id="x" * 300), "the id has 300 characters; at most 256 are taken"),
        (body(FOUR, [1, 2, 2], id=3), "Expected `str`, got `int`"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(content: bytes, message: str) -> None:
    assert re.search(message, refusal(content)), refusal(content)


def test_inputs_come_once_and_with_the_same_rows() -> None:
    obs = {"name": "obs", "shape": [1, 2, 2], "datatype": "FP32", "data": FOUR}
    state = {"name": "state", "shape": [2, 3], "datatype": "FP32", "data": [0] * 6}
    assert "the input obs is there twice" in refusal(json.dumps({"inputs": [obs, obs]}).encode())
    assert "the inputs differ in their rows: 1 and 2" in refusal(json.dumps({"inputs": [obs, state]}).encode())


@pytest.mark.parametrize(
    ("content", "inputs"),
    [
        (body([1.0], [1], "INT64"), INTEGERS),
        (body([2**80], [1], "INT64"), INTEGERS),
        (body([1.5, 2], [1, 2], "UINT8"), BYTES),
        (body([1, 0], [1, 2], "BOOL"), BITS),
    ],
)
def test_numbers_of_another_kind_are_not_taken_for_integers_or_booleans(
    content: bytes, inputs: dict[str, Port]
) -> None:
    assert "the data of the input obs are not" in refusal(content, inputs)


def test_binary_inputs_are_read_one_behind_the_other_at_any_address() -> None:
    ports = {"a": Port("a", (), np.dtype("int64")), "b": Port("b", (2,), np.dtype("bool"))}
    tensors = [
        {"name": "b", "shape": [1, 2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}},
        {"name": "a", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}},
    ]
    content = json.dumps({"inputs": tensors}).encode()
    for sent in (b"\x01\x00" + (2**62 + 1).to_bytes(8, "little"), b"\x02\x00" + bytes(8)):
        behind = memoryview(b"x" + sent)[1:]
        if sent[0] == 1:
            found = parse(content, ports, OUTPUTS, ROWS, behind).inputs
            assert (found["a"].tolist(), found["b"].tolist()) == ([2**62 + 1], [[True, False]])
            assert found["a"].flags.aligned
        else:
            with pytest.raises(Refused, match="the input b has bytes other than 0 and 1, expected BOOL"):
                parse(content, ports, OUTPUTS, ROWS, behind)


def test_an_answer_in_binary_has_its_bytes_behind_the_json() -> None:
    response = answer("m", "3", "x", [(OUTPUTS["action"], np.array([1, 0]))], {"action"})
    ((name, length),) = response.headers
    assert (name, response.content_type) == (b"inference-header-content-length", b"application/octet-stream")
    (output,) = json.loads(response.body[: int(length)])["outputs"]
    assert output == {"name": "action", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}}
    assert response.body[int(length) :] == bytes([1, *[0] * 15])


def test_damaged_binary_requests_are_refused_or_read_and_nothing_else() -> None:
    ports = {"obs": Port("obs", (4,), np.dtype("float32")), "state": Port("state", (2,), np.dtype("float32"))}
    tensors = [
        {"name": name, "shape": [2, port.size], "datatype": "FP32", "parameters": {SIZE: 8 * port.size}}
        for name, port in ports.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    whole = head + np.arange(12, dtype="<f4").tobytes()
    rng, read = np.random.default_rng(0), 0
    for _ in range(2_000):
        damaged, length = bytearray(whole), len(head) + int(rng.choice([0, 0, 0, 0, 0, 0, -1, 1]))
        for at in rng.integers(0, len(whole), rng.integers(0, 3)):
            damaged[at] = rng.integers(0, 256)
        cut = int(rng.choice([0, 0, 0, 0, 1, 20, 200]))
        try:
            found, behind = split(bytes(damaged[: len(whole) - cut]), {LENGTH: str(length).encode()})
            asked = parse(found, ports, OUTPUTS, ROWS, behind)
        except Refused:
            continue
        read += 1
        for name, array in asked.inputs.items():
            assert array.shape == (2, *ports[name].shape)
    assert 200 < read < 1_800
