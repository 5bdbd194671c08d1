"""What a client reads that asked for something wrong: one line with what was wrong and what is allowed."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

INFER = "/v2/models/cartpole/infer"
FINE: dict[str, Any] = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}


def body_of(**changes: Any) -> bytes:
    """A body with one input, of which something is changed; `...` takes it away."""
    tensor = {name: value for name, value in {**FINE, **changes}.items() if value is not ...}
    return json.dumps({"inputs": [tensor]}).encode()


DEEP = b"[" * 100_000 + b"]" * 100_000
# What is wrong -> a body, and words of the refusal.
BODIES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "NaN": (body_of(data=[0.1, float("nan"), 0.3, 0.4]), ("NaN",)),
    "infinity": (body_of(data=[0.1, float("inf"), 0.3, 0.4]), ("Infinity",)),
    "a number that overflows when it is read": (body_of().replace(b"0.1", b"1e999"), ("obs",)),
    "a number that float32 does not hold": (body_of(data=[0.1, 3.5e38, 0.3, 0.4]), ("3.5e+38", "float32")),
    "an integer that float32 does not hold": (body_of(data=[0.1, 10**40, 0.3, 0.4]), ("1e+40", "float32")),
    "null among numbers": (body_of(data=[0.1, None, 0.3, 0.4]), ("obs", "FP32")),
    "a string among numbers": (body_of(data=[0.1, "0.2", 0.3, 0.4]), ("obs", "FP32")),
    "a boolean among numbers": (body_of(data=[0.1, True, 0.3, 0.4]), ("obs", "FP32")),
    "another datatype": (body_of(datatype="FP64"), ("obs", "FP64", "FP32")),
    "a datatype that is a number": (body_of(datatype=32), ("datatype",)),
    "another name": (body_of(name="observation"), ("observation", "obs")),
    "a name of 100 000 characters": (body_of(name="x" * 100_000), ("obs",)),
    "a shape without the batch": (body_of(shape=[4]), ("obs", "[rows, 4]")),
    "a shape of another width": (body_of(shape=[1, 5], data=[0.0] * 5), ("obs", "[1, 5]", "[rows, 4]")),
    "a negative number of rows": (body_of(shape=[-1, 4]), ("rows",)),
    "no rows": (body_of(shape=[0, 4], data=[]), ("rows",)),
    "a number of rows beyond 64 bits": (body_of(shape=[2**70, 4]), ("rows",)),
    "a number of rows beyond all floats": (body_of(shape=[10**400, 4]), ("rows",)),
    "a number of rows that is a float": (body_of(shape=[1.5, 4]), ("shape",)),
    "too few numbers": (body_of(data=[0.1, 0.2, 0.3]), ("obs", "4")),
    "too many numbers": (body_of(data=[0.1] * 5), ("obs", "4")),
    "lists and numbers side by side": (body_of(data=[[0.1, 0.2], 0.3, 0.4]), ("obs",)),
    "lists of other shapes": (body_of(shape=[2, 4], data=[[0.1] * 3, [0.1] * 5]), ("obs",)),
    "data as a string": (body_of(data="0.1 0.2 0.3 0.4"), ("obs",)),
    "no data": (body_of(data=...), ("data",)),
    "no shape": (body_of(shape=...), ("shape",)),
    "no inputs": (b'{"inputs": []}', ("obs",)),
    "inputs that are not a list": (b'{"inputs": {"obs": 1}}', ("inputs",)),
    "an input twice": (json.dumps({"inputs": [FINE, FINE]}).encode(), ("obs", "twice")),
    "an unknown output": (json.dumps({"inputs": [FINE], "outputs": [{"name": "x"}]}).encode(), ("x", "action")),
    "an id that is a number": (json.dumps({"inputs": [FINE], "id": 7}).encode(), ("id",)),
    "a list in place of an object": (b"[1, 2]", ()),
    "nothing": (b"", ()),
    "half of the body": (body_of()[:40], ()),
    "more than the body": (body_of() + b"{}", ()),
    "bytes that are not UTF-8": (body_of().replace(b"obs", b"o\xff\xfes"), ()),
    "an overlong NUL": (body_of().replace(b"obs", b"o\xc0\x80s"), ()),
    "half a character": (body_of().replace(b"obs", b"\\ud800"), ()),
    "100 000 lists in data": (body_of(data="here").replace(b'"here"', DEEP), ()),
    "100 000 lists in parameters": (b'{"parameters": {"a": ' + DEEP + b"}, " + body_of()[1:], ()),
    "100 000 objects": (b'{"a":' * 100_000, ()),
    "a number of 100 000 digits": (body_of().replace(b"0.1", b"1" * 100_000), ()),
    "a body in gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", ()),
}  # fmt: skip


@pytest.mark.parametrize("what", list(BODIES))
def test_a_body_that_is_wrong_is_refused_in_one_line_that_says_why(server: Any, what: str) -> None:
    body, words = BODIES[what]
    answer = server.request("POST", INFER, body)
    assert answer.status == 400
    assert len(answer.error) <= 400
    assert answer.error.isprintable()
    assert all(word in answer.error for word in words), answer.error


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v2/models/cartpol/infer", 404, ("cartpol", "cartpole")),
        ("POST", "/v2/models/cartpole/versions/77/infer", 404, ("77",)),
        ("GET", "/v2/models/cartpole/infer", 405, ("POST",)),
        ("PUT", INFER, 405, ("POST",)),
        ("POST", "/v2/health/live", 405, ("GET",)),
        ("GET", "/nowhere", 404, ()),
        ("GET", "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404, ()),
        ("GET", "/v2/models/../../../etc/passwd", 404, ()),
        ("GET", "/v2/models/%00", 404, ()),
        ("GET", "/v2/models/%ff%fe", 404, ()),
        ("GET", "/v2/models/" + "a" * 4000, 404, ()),
        ("GET", "/v2/models/%0d%0aSet-Cookie:x=1", 404, ()),
    ],
)
def test_a_path_or_method_that_is_not_there_is_refused_in_one_line(
    server: Any, method: str, path: str, status: int, words: tuple[str, ...]
) -> None:
    answer = server.request(method, path, b"{}" if method in ("POST", "PUT") else None)
    assert answer.status == status
    assert len(answer.error) <= 400
    assert answer.error.isprintable()
    assert all(word in answer.error for word in words), answer.error
    assert "set-cookie" not in answer.headers
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\u202eb", "x\ny"])
def test_no_answer_can_be_taken_for_a_page_whatever_name_was_asked_for(
    server: Any, input_tensor: Callable[..., Any], name: str
) -> None:
    for answer in (
        server.get(f"/v2/models/{quote(name, safe='')}"),
        server.post(INFER, {"inputs": [{**FINE, "name": name}]}),
    ):
        assert answer.error
        assert answer.headers["content-type"] == "application/json"
        assert answer.error.isprintable()


def test_the_log_has_a_line_of_json_for_each_refusal_and_no_line_that_a_client_wrote(server: Any) -> None:
    server.get("/v2/models/%0a%7b%22level%22%3a%22forged%22%7d")
    server.get("/nowhere%0aforged")
    for line in server.log_lines:
        assert isinstance(json.loads(line), dict), line
        assert json.loads(line).get("level") != "forged"
