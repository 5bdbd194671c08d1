"""Requests that nobody should send, made from a seed, and what a server may answer to each.

Each case is made for one policy, from a correct request, by one of the families in `FAMILIES`. What a server may answer
to its body says `reading`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from reading import EITHER, WRONG, Target, judged  # type: ignore[import-not-found, unused-ignore]


@dataclass(frozen=True)
class Case:
    """Bytes for the server and what it may answer.

    `verdict` is of the request as a whole; `arrays` are its inputs where it is right, or taken as right. `ends` is true
    where the request is cut short, so that the client can only hang up. `answers` counts the requests in `data`.
    """

    family: str
    data: bytes
    verdict: str
    why: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    id: Any = None
    ends: bool = False
    method: str = "POST"


class Raw(str):
    """Text that stands in the JSON as it is."""


def dump(value: Any, rng: np.random.Generator | None = None) -> str:
    """JSON of a value with `Raw` inside and `Pairs`, which may repeat a key; with `rng`, with spaces here and there."""
    space = "" if rng is None else " \n\t"[int(rng.integers(3))] * int(rng.integers(3))
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs | dict):
        pairs = value.pairs if isinstance(value, Pairs) else value.items()
        return "{" + space + ("," + space).join(f"{json.dumps(k)}:{space}{dump(v, rng)}" for k, v in pairs) + "}"
    if isinstance(value, list):
        return "[" + ("," + space).join(dump(each, rng) for each in value) + space + "]"
    return json.dumps(value)


@dataclass(frozen=True)
class Pairs:
    """An object as a list of its pairs."""

    pairs: list[tuple[str, Any]]


# ----------------------------------------------------------------------------------------------------- correct requests


def correct_body(target: Target, rng: np.random.Generator) -> dict[str, Any]:
    """A body as a friendly client writes it."""
    rows = int(rng.integers(1, 6))
    inputs = []
    for port in target.inputs:
        shape = (rows, *port.shape)
        if port.datatype.startswith("FP"):
            array = rng.uniform(port.low, port.high, shape).astype(np.float32)
        else:
            array = rng.integers(int(port.low), int(port.high) + 1, shape)
        data = (array if rng.random() < 0.5 else array.ravel()).tolist()
        given = {"name": port.name, "shape": list(shape), "datatype": port.datatype, "data": data}
        inputs.append(_shuffled(given, rng))
    body: dict[str, Any] = {"inputs": inputs}
    if rng.random() < 0.5:
        body["id"] = "".join(chr(int(c)) for c in rng.choice([33, 34, 92, 47, 65, 233, 8364, 0x1F600, 10, 31], 6))
    if rng.random() < 0.3:
        body["outputs"] = [{"name": "action"}]
    return _shuffled(body, rng)


def _shuffled(given: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    keys = list(given)
    return {keys[int(i)]: given[keys[int(i)]] for i in rng.permutation(len(keys))}


def framed(target: Target, body: bytes, *more: str, line: str = "", close: bool = False) -> bytes:
    """A correct request with this body and more header lines."""
    line = line or f"POST /v2/models/{target.model}/infer HTTP/1.1"
    lines = [line, "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", *more]
    return ("\r\n".join([*lines, *(["Connection: close"] if close else [])]) + "\r\n\r\n").encode("latin-1") + body


def in_chunks(target: Target, body: bytes, rng: np.random.Generator, odd: bool = False) -> bytes:
    """The same without a length, in chunks; `odd` with extensions, zeros in front and a trailer, as the RFC allows."""
    line = f"POST /v2/models/{target.model}/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    data, at = line.encode(), 0
    while at < len(body):
        size = int(rng.integers(1, max(2, len(body) // 3)))
        piece = body[at : at + size]
        extension = b";name=value" if odd and rng.random() < 0.3 else b""
        data += b"0" * (odd and int(rng.integers(3))) + b"%x" % len(piece) + extension + b"\r\n" + piece + b"\r\n"
        at += size
    return data + (b"0\r\nX-Trailer: 1\r\n\r\n" if odd and rng.random() < 0.5 else b"0\r\n\r\n")


# ------------------------------------------------------------------------------------------------------------- families


def friendly(target: Target, rng: np.random.Generator) -> Case:
    """Correct, and written in one of the many ways in which it may be."""
    body = dump(correct_body(target, rng), rng).encode()
    way = int(rng.integers(5))
    if way == 0:
        data = in_chunks(target, body, rng, odd=True)
    elif way == 1:
        data = in_chunks(target, body, rng)
    elif way == 2:
        data = framed(target, body, "X-Request-ID: 7", "Accept: */*", "accept-encoding: gzip, br")
    elif way == 3:
        data = framed(target, body).replace(b"Content-Length", b"cOnTeNt-LeNgTh").replace(b"Host: ", b"HOST:\t ")
    else:
        data = framed(target, body, "Expect: 100-continue" if rng.random() < 0.5 else "Accept-Language: de")
    return _case("friendly", target, data, body)


def rebuilt(target: Target, rng: np.random.Generator) -> Case:
    """One to three parts of the body are replaced, taken away, repeated or put elsewhere."""
    body: Any = correct_body(target, rng)
    for _ in range(int(rng.integers(1, 4))):
        body = _changed(body, rng)
    text = dump(body).encode("utf-8", "surrogatepass")
    return _case("rebuilt", target, framed(target, text), text)


HOSTILE_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e38, 3.5e38, 1e308, "", "1",
    "obs", [], [[]], {}, [[[]]], [None], "NaN", "\x00", "../../etc/passwd", "<script>alert(1)</script>", "%s%n{0}",
    "a" * 5000, Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999"), Raw("1e-999"), Raw("01"),
    Raw("+1"), Raw("1."), Raw(".5"), Raw("0x10"), Raw("1_000"), Raw("'a'"), Raw(""), Raw("undefined"), Raw("tru"),
    Raw('"\\ud800"'), Raw('"\\u0000"'), Raw('"\t"'), Raw('"\\x41"'), Raw("9" * 5000), Raw("0." + "3" * 5000),
    Raw("[" * 2000 + "]" * 2000), Raw('{"a":' * 2000 + "1" + "}" * 2000), Raw("[1," * 300), Raw("// comment\n1"),
    Raw("[1,]"), Raw("1e"), Raw("-"), Raw("1" + "0" * 400), Raw("1E+2"), Raw("5e-324"), Raw("\ufeff1"),
]  # fmt: skip
HOSTILE_WORDS = (
    "datatype",
    "FP64",
    "FP16",
    "INT64",
    "BYTES",
    "fp32",
    "BOOL",
    "UINT8",
    "obs",
    "action",
    "state",
    "Obs",
    "obs ",
)
# Bad UTF-8, a byte order mark, a NUL, and what ends or begins things in JSON.
HOSTILE_BYTES = (
    b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\xf4\x90\x80\x80",
    b"]", b"{", b'"', b",", b"\\",
)  # fmt: skip


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """A copy in which one thing is different, mostly inside an input."""
    if isinstance(value, dict) and value.get("inputs") and isinstance(value["inputs"], list) and rng.random() < 0.85:
        first, *others = value["inputs"]
        return {**value, "inputs": [_changed(first, rng), *others]}
    if isinstance(value, dict) and value.get("data") and rng.random() < 0.5:
        return {**value, "data": _changed(value["data"], rng)}
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(rng.integers(len(keys)))]
        copied: Any = dict(value) if isinstance(value, dict) else list(value)
        draw = rng.random()
        if draw < 0.12:
            del copied[key]
        elif draw < 0.2 and isinstance(copied, list):
            copied.insert(key, copied[key])
        elif draw < 0.2 and isinstance(copied, dict):
            return Pairs([*copied.items(), (key, _changed(copied[key], rng))])
        elif draw < 0.26 and isinstance(copied, dict):
            copied[str(key) + "x"] = copied.pop(key)
        elif draw < 0.3:
            copied[key] = [copied[key]]
        else:
            copied[key] = _changed(copied[key], rng)
        return copied
    if isinstance(value, str) and rng.random() < 0.5:
        return HOSTILE_WORDS[int(rng.integers(len(HOSTILE_WORDS)))]
    if isinstance(value, int | float) and rng.random() < 0.3:
        return value + int(rng.integers(-2, 3))
    return HOSTILE_VALUES[int(rng.integers(len(HOSTILE_VALUES)))]


def mutated(target: Target, rng: np.random.Generator) -> Case:
    """Bytes of a correct body are flipped, taken away, repeated, put in, or stand elsewhere."""
    body = bytearray(dump(correct_body(target, rng)).encode())
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(body))) if body else 0
        way = int(rng.integers(6))
        if way == 0 and body:
            body[at] ^= 1 << int(rng.integers(8))
        elif way == 1:
            del body[at : at + int(rng.integers(1, 20))]
        elif way == 2:
            body[at:at] = body[at : at + int(rng.integers(1, 20))]
        elif way == 3:
            body[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 5)), dtype=np.uint8))
        elif way == 4:
            del body[at:]
        else:
            body[at:at] = HOSTILE_BYTES[int(rng.integers(len(HOSTILE_BYTES)))]
    return _case("mutated", target, framed(target, bytes(body)), bytes(body))


def strange_target(target: Target, rng: np.random.Generator) -> Case:
    """A path or a method that is not there; the body is correct, and must not be answered."""
    body = dump(correct_body(target, rng)).encode()
    lines = [
        f"POST /v2/models/{target.model}/infer/ HTTP/1.1", f"POST /v2/models/{target.model}x/infer HTTP/1.1",
        "POST /v2/models//infer HTTP/1.1", f"POST //v2/models/{target.model}/infer HTTP/1.1",
        "POST /v2/models/%00/infer HTTP/1.1", "POST /v2/models/..%2f..%2fetc%2fpasswd/infer HTTP/1.1",
        "POST /v2/models/../../etc/passwd/infer HTTP/1.1", "POST /v2/models/%ff%fe/infer HTTP/1.1",
        "POST /v2/models/%/infer HTTP/1.1", f"POST /v2/models/{target.model}/versions/999/infer HTTP/1.1",
        f"POST /v2/models/{target.model}/versions/-1/infer HTTP/1.1",
        f"POST /v2/models/{target.model}/versions/{'9' * 400}/infer HTTP/1.1",
        f"POST /v2/models/{'a' * 3000}/infer HTTP/1.1", "POST /" + "a/" * 800 + " HTTP/1.1",
        "POST /v2/models/%0d%0aX:1/infer HTTP/1.1", "POST /v2/models/<script>/infer HTTP/1.1",
        f"PUT /v2/models/{target.model}/infer HTTP/1.1", f"DELETE /v2/models/{target.model} HTTP/1.1",
        f"PATCH /v2/models/{target.model}/infer HTTP/1.1", "PROPFIND / HTTP/1.1", "TRACE / HTTP/1.1",
        "POST /v2/health/ready HTTP/1.1", "POST /metrics HTTP/1.1", "POST / HTTP/1.1", "POST /admin HTTP/1.1",
        "POST /v2/repository/index HTTP/1.1" + "\r\nX-A: 1", f"POST /V2/models/{target.model}/infer HTTP/1.1",
        "POST /openapi.json HTTP/1.1", "POST /.git/config HTTP/1.1", "POST /v2/models/cartpole%2Finfer HTTP/1.1",
    ]  # fmt: skip
    line = lines[int(rng.integers(len(lines)))]
    return Case("strange target", framed(target, body, line=line), WRONG, line[:80])


def broken_http(target: Target, rng: np.random.Generator) -> Case:
    """Something that is not HTTP/1.1, or that two servers could read in two ways."""
    body = dump(correct_body(target, rng)).encode()
    good, size = framed(target, body), len(body)
    length = b"Content-Length: %d" % size
    chunked = in_chunks(target, body, rng)
    ways: list[tuple[str, bytes]] = [
        ("a length and chunks", good.replace(length, length + b"\r\nTransfer-Encoding: chunked")),
        ("two lengths", good.replace(length, length + b"\r\nContent-Length: %d" % (size + 1))),
        ("a list of lengths", good.replace(length, b"Content-Length: %d, %d" % (size, size + 5))),
        ("a negative length", good.replace(length, b"Content-Length: -1")),
        ("a length with a sign", good.replace(length, b"Content-Length: +%d" % size)),
        ("a length in hexadecimal", good.replace(length, b"Content-Length: 0x%x" % size)),
        ("a length in words", good.replace(length, b"Content-Length: many")),
        ("an empty length", good.replace(length, b"Content-Length: ")),
        ("a length beyond 64 bits", good.replace(length, b"Content-Length: " + b"9" * 30)),
        ("a length of 1 TiB", good.replace(length, b"Content-Length: 1099511627776")),
        ("a space before the colon", good.replace(b"Content-Length:", b"Content-Length :")),
        ("chunks in an unknown coding", chunked.replace(b": chunked", b": gzip")),
        ("chunks in two codings", chunked.replace(b": chunked", b": chunked, gzip")),
        ("a misspelt coding", chunked.replace(b": chunked", b": xchunked")),
        ("a chunk of no size", chunked.replace(b"chunked\r\n\r\n", b"chunked\r\n\r\nzz\r\n")),
        ("a chunk beyond 64 bits", chunked.replace(b"chunked\r\n\r\n", b"chunked\r\n\r\n" + b"f" * 20 + b"\r\n")),
        ("a negative chunk", chunked.replace(b"chunked\r\n\r\n", b"chunked\r\n\r\n-1\r\n")),
        ("a header with a NUL", good.replace(b"Host: localhost", b"Host: localhost\r\nX: \x00")),
        ("a name with a space", good.replace(b"Host: localhost", b"Host: localhost\r\nX Y: 1")),
        ("a header without a colon", good.replace(b"Host: localhost", b"Host: localhost\r\nnonsense")),
        ("a header without a name", good.replace(b"Host: localhost", b"Host: localhost\r\n: 1")),
        ("a header line that goes on", good.replace(b"Host: localhost", b"Host: localhost\r\n  and more")),
        ("a bare carriage return", good.replace(b"Host: localhost", b"Host: localhost\rX: 1")),
        ("HTTP/2.0", good.replace(b"HTTP/1.1", b"HTTP/2.0")),
        ("HTTP/9.9", good.replace(b"HTTP/1.1", b"HTTP/9.9")),
        ("no version", good.replace(b" HTTP/1.1", b"")),
        ("another protocol", good.replace(b"HTTP/1.1", b"GOPHER/1.0")),
        ("no method", good.replace(b"POST ", b" ")),
        ("a method in small letters", good.replace(b"POST", b"post")),
        ("a method that is not there", good.replace(b"POST", b"HACK")),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(rng.integers(0, 256, 200, dtype=np.uint8))),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 30),
        ("noise", bytes([0x80 | int(rng.integers(128)), *rng.integers(0, 256, 100, dtype=np.uint8), 13, 10, 13, 10])),
        ("control bytes in the path", good.replace(b"/infer", b"/inf\x01er")),
        ("a space in the path", good.replace(b"/infer", b"/inf er")),
        ("two hosts", good.replace(b"Host: localhost", b"Host: localhost\r\nHost: elsewhere")),
        ("no host", good.replace(b"Host: localhost\r\n", b"")),
        ("a compressed body", good.replace(b"Host: localhost", b"Host: localhost\r\nContent-Encoding: gzip")),
    ]  # fmt: skip
    name, data = ways[int(rng.integers(len(ways)))]
    return Case("broken HTTP", data, WRONG, name)


def cut_short(target: Target, rng: np.random.Generator) -> Case:
    """A correct request of which the end never comes."""
    body = dump(correct_body(target, rng)).encode()
    data = framed(target, body) if rng.random() < 0.5 else in_chunks(target, body, rng)
    return Case("cut short", data[: int(rng.integers(1, len(data)))], WRONG, "cut short", ends=True)


def mutated_head(target: Target, rng: np.random.Generator) -> Case:
    """Bytes of the head of a correct request are changed; the server may still understand it."""
    body = dump(correct_body(target, rng)).encode()
    head, end, _ = framed(target, body, close=True).partition(b"\r\n\r\n")
    changed = bytearray(head)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(changed)))
        if rng.random() < 0.5:
            changed[at] = int(rng.integers(256))
        else:
            del changed[at : at + int(rng.integers(1, 8))]
    found = judged(target, body)
    return Case("mutated head", bytes(changed) + end + body, EITHER, "mutated head", found.arrays, found.id, ends=True)


Family = Callable[[Target, np.random.Generator], Case]
FAMILIES: tuple[tuple[Family, float], ...] = (
    (friendly, 0.15), (rebuilt, 0.35), (mutated, 0.2), (strange_target, 0.08), (broken_http, 0.1), (cut_short, 0.06),
    (mutated_head, 0.06),
)  # fmt: skip


def cases(targets: list[Target], count: int, seed: int = 0) -> Iterator[tuple[Target, Case]]:
    """`count` cases; case i is the same whatever their number."""
    shares = np.array([share for _, share in FAMILIES])
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        target = targets[int(rng.integers(len(targets)))]
        family = FAMILIES[int(rng.choice(len(FAMILIES), p=shares / shares.sum()))][0]
        yield target, family(target, rng)


def _case(family: str, target: Target, data: bytes, body: bytes) -> Case:
    found = judged(target, body)
    return Case(family, data, found.kind, found.why, found.arrays, found.id)
