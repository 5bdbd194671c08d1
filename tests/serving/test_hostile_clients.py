"""Clients that are slow, silent, endless or gone: each is refused or let go in time, and others are answered."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.serving.limits import BODIES

sys.path.append(str(Path(__file__).parent))
from wire import request_bytes  # type: ignore[import-not-found, unused-ignore]

# What the server of this module takes at most.
SECONDS, IDLE, BODY, HEAD, ROWS, CONNECTIONS = 1.0, 2.0, 20_000, 4096, 8, 40
SLACK = 4.0  # seconds that a busy machine may be late
INFER = "/v2/models/cartpole/infer"
OBS = np.array([[0.1, -0.2, 0.3, 0.4]], np.float32)


@pytest.fixture(scope="module")
def strict(policies: Path, served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with narrow limits."""
    limits = {"request-seconds": SECONDS, "idle-seconds": IDLE, "max-body-bytes": BODY, "max-header-bytes": HEAD}
    limits |= {"max-rows": ROWS, "max-connections": CONNECTIONS}
    words = [word for name, value in limits.items() for word in (f"--{name}", value)]
    with served(policies / "cartpole.onnx", *words, log=tmp_path_factory.mktemp("strict") / "log") as server:
        yield server


@pytest.fixture
def unharmed(strict: Any) -> Iterator[Any]:
    """The strict server; after the test it answers as before, holds nothing more open, and logged no error."""
    handles = strict.handles()
    yield strict
    assert strict.actions(OBS).tolist() == [0] or strict.actions(OBS).tolist() == [1]
    until = time.monotonic() + SECONDS + IDLE + SLACK
    while strict.handles() > handles:
        assert time.monotonic() < until, "connections are left open"
        time.sleep(0.02)
    assert not [line for line in strict.log_lines if "Traceback" in line]


@pytest.fixture(scope="module")
def body(input_tensor: Callable[..., Any]) -> bytes:
    """A correct body for one observation."""
    return json.dumps({"inputs": [input_tensor("obs", OBS)]}).encode()


def dribble(server: Any, start: bytes, rest: bytes, count: int = 30) -> tuple[list[float], list[bytes]]:
    """`count` connections that send `start` and then a byte of `rest` now and then, until the server hangs up.

    Returns how long answers took for a friendly client meanwhile, in seconds, and what each slow one was told.
    """
    slow, told, times = [server.wire() for _ in range(count)], [], []
    for each in slow:
        each.send(start)
        each.socket.setblocking(False)
    until = time.monotonic() + SECONDS + SLACK
    at = 0
    with server.wire() as friend:
        while slow and time.monotonic() < until:
            begin = time.perf_counter()
            assert friend.request("GET", "/v2/health/ready").status == 200
            times.append(time.perf_counter() - begin)
            for each in list(slow):
                try:
                    each.socket.send(rest[at % len(rest) :][:1])
                    if (data := each.socket.recv(65536)) is not None:
                        told.append(data)
                        slow.remove(each)
                        each.close()
                except BlockingIOError:
                    pass
                except ConnectionError:
                    told.append(b"")
                    slow.remove(each)
                    each.close()
            at += 1
            time.sleep(0.05)
    assert not slow, f"{len(slow)} slow clients were not let go within {SECONDS} s"
    return times, told


def send_for_ever(wire: Any, data: bytes) -> None:
    """Ends with the error that ends it."""
    while True:
        wire.send(data)


@pytest.mark.parametrize("part", ["head", "body"])
def test_slow_clients_are_let_go_in_time_and_others_do_not_wait_for_them(unharmed: Any, body: bytes, part: str) -> None:
    whole = request_bytes("POST", INFER, body)
    cut = 30 if part == "head" else whole.index(b"\r\n\r\n") + 6
    times, told = dribble(unharmed, whole[:cut], b"x" if part == "head" else b" ")
    assert np.median(times) < 0.1
    assert sum(b" 408 " in each[:20] for each in told) > len(told) / 2, told[0]  # a reset may overtake the answer


def test_a_client_that_says_nothing_is_let_go(unharmed: Any) -> None:
    with unharmed.wire() as silent, unharmed.wire() as after_one:
        assert after_one.request("GET", "/v2/health/live").status == 200
        assert silent.closed_within(SECONDS + IDLE + SLACK) is not None
        assert after_one.closed_within(IDLE + SLACK) is not None
        assert not after_one.unread


def test_a_client_that_never_reads_is_let_go(unharmed: Any, body: bytes) -> None:
    many = request_bytes("POST", INFER, body) * 200
    # A TimeoutError would say that it may stay for ever.
    with unharmed.wire(patience=SECONDS + IDLE + SLACK) as greedy, pytest.raises(ConnectionError):
        send_for_ever(greedy, many)
    assert unharmed.memory() < 600


def test_an_answer_reaches_a_client_that_has_closed_its_side(unharmed: Any, body: bytes) -> None:
    with unharmed.wire() as wire:
        wire.send(request_bytes("POST", INFER, body) * 3)
        wire.half_close()
        answers = wire.all_answers()
        assert [answer.status for answer in answers] == [200] * 3
        assert [answer.headers.get("connection") for answer in answers[:2]] == [None, None]


@pytest.mark.parametrize("cut", [5, 60, -1])
def test_a_request_that_is_cut_off_is_not_answered(unharmed: Any, body: bytes, cut: int) -> None:
    with unharmed.wire() as wire:
        wire.send(request_bytes("POST", INFER, body)[:cut])
        wire.half_close()
        answers = wire.all_answers()
        assert len(answers) <= 1
        assert all(400 <= answer.status < 500 for answer in answers)


def test_requests_sent_at_once_are_answered_in_their_order(unharmed: Any, input_tensor: Callable[..., Any]) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    whole = b""
    for number, row in enumerate(rows):
        value = {"id": f"r{number}", "inputs": [input_tensor("obs", row[None])]}
        if number % 5 == 4:
            value["inputs"][0]["datatype"] = "FP64"
        whole += request_bytes("POST", INFER, json.dumps(value).encode())
        whole += request_bytes("GET", "/v2/health/live") if number % 3 == 0 else b""
    expected = np.concatenate([unharmed.actions(row[None]) for row in rows])
    with unharmed.wire() as wire:
        wire.send(whole)
        for number in range(len(rows)):
            answer = wire.answer()
            if number % 5 == 4:
                assert "FP64" in answer.error
            else:
                assert answer.json["id"] == f"r{number}"
                assert answer.json["outputs"][0]["data"] == [expected[number]]
            if number % 3 == 0:
                assert wire.answer().status == 200


def test_many_requests_at_once_are_not_taken_for_one_with_long_headers(unharmed: Any, body: bytes) -> None:
    whole = request_bytes("POST", INFER, body)
    with unharmed.wire() as wire:
        wire.send(whole * 100 + whole[:40])  # much more than the limit of one, and the last one is cut in its headers
        time.sleep(0.05)
        wire.send(whole[40:])
        answers = [wire.answer() for _ in range(101)]
    assert [answer.status for answer in answers] == [200] * 101
    assert not any("connection" in answer.headers for answer in answers)


def test_what_follows_a_correct_request_does_not_take_its_answer_away(unharmed: Any, body: bytes) -> None:
    with unharmed.wire() as wire:
        wire.send(request_bytes("POST", INFER, body) * 2 + b"\x00garbage\r\n\r\n")
        first, second, last = wire.all_answers()
        assert (first.status, second.status) == (200, 200)
        assert last.status == 400
        assert last.error


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(unharmed: Any) -> None:
    with unharmed.wire() as wire:
        wire.send(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY + 1}\r\n\r\n".encode())
        answer = wire.answer()
        assert (answer.status, f"{BODY}" in answer.error.replace(",", "")) == (413, True)


def test_a_client_that_sends_a_body_beyond_the_limit_to_its_end_sees_why_it_is_refused(unharmed: Any) -> None:
    with unharmed.wire() as wire:
        size = 3_000_000
        wire.send(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        wire.send(b" " * size)
        assert wire.answer().status == 413


HEAD_LINE = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode()
CHUNKED = HEAD_LINE + b"Transfer-Encoding: chunked\r\n\r\n"
TRAILERS = b"".join(b"X-%d: 1\r\n" % number for number in range(5000))
# What never ends -> how it begins, how it goes on, and the status of the refusal.
ENDLESS = {
    "chunks": (CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n", 413),
    "small chunks": (CHUNKED, b"1\r\n \r\n" * 5000, 413),
    "a chunk's extension": (CHUNKED + b"1;", b"a" * 65536, 431),
    "trailers": (CHUNKED + b"1\r\n \r\n0\r\n", TRAILERS, 431),
    "a trailer": (CHUNKED + b"1\r\n \r\n0\r\nX: ", b"a" * 65536, 431),
    "a header": (HEAD_LINE + b"X: ", b"a" * 65536, 431),
    "a header's name": (HEAD_LINE, b"a" * 65536, 431),
    "headers": (HEAD_LINE, TRAILERS, 431),
    "a path": (b"GET /", b"a" * 65536, 431),
    "empty lines": (b"", b"\r\n" * 30000, 408),
    "a method": (b"", b"A" * 65536, 400),
}


def goes_on(server: Any, what: str) -> str | None:
    """What is wrong with how an endless request is ended; None where it is refused in time."""
    start, rest, status = ENDLESS[what]
    until = time.monotonic() + SECONDS + IDLE + SLACK
    with server.wire(patience=SECONDS + IDLE + SLACK) as wire:
        with suppress(ConnectionError):
            wire.send(start)
            while time.monotonic() < until:
                wire.send(rest)
        if time.monotonic() >= until:
            return f"{what}: it is read for ever"
        with suppress(ConnectionError):  # a reset overtakes the answer where the client goes on
            answer = wire.answer()
            return None if answer.status in (status, 408) and answer.error else f"{what}: {answer}"
    return None


def stops_in_time(server: Any, what: str) -> str | None:
    """The same where the client stops before the server's patience ends: it must read why it is refused."""
    start, rest, status = ENDLESS[what]
    with server.wire(patience=SECONDS + IDLE + SLACK) as wire:
        wire.send(start + rest * 8)
        if status == 408:  # empty lines before a request are skipped, as RFC 9112 (2.2) has it
            return None if wire.closed_within(SECONDS + IDLE + SLACK) is not None else what
        answer = wire.answer()
        return None if answer.status == status and answer.error else f"{what}: {answer}"


@pytest.mark.parametrize("client", [goes_on, stops_in_time])
def test_what_never_ends_is_refused_within_the_limits(unharmed: Any, client: Callable[..., str | None]) -> None:
    before = unharmed.memory()
    with ThreadPoolExecutor(len(ENDLESS)) as threads:
        found = list(threads.map(lambda what: client(unharmed, what), ENDLESS))
    assert found == [None] * len(ENDLESS)
    assert unharmed.memory() < before + 50


def test_large_bodies_that_never_end_do_not_fill_the_memory(serve: Callable[..., Any], policies: Path) -> None:
    server = serve(policies / "cartpole.onnx", "--max-body-bytes", 100_000)
    start = HEAD_LINE + b"Content-Length: 100000\r\n\r\n" + b" " * 99_999
    wires = [server.wire() for _ in range(BODIES + 6)]
    for wire in wires:
        wire.send(start)
    for wire in wires[BODIES + 1 :]:
        answer = wire.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "too many long bodies" in answer.error
    assert server.actions(OBS).tolist() in ([0], [1])  # a small one finds room
    for wire in wires:
        wire.close()
    with server.wire() as wire:
        until = time.monotonic() + SLACK
        while wire.request("POST", INFER, b" " * 100_000).status != 400:  # there is room again, and it is not JSON
            assert time.monotonic() < until


def test_clients_that_crash_leave_nothing_behind(unharmed: Any, body: bytes) -> None:
    whole = request_bytes("POST", INFER, body)
    for cut in [*range(1, len(whole), 9), len(whole)]:
        wire = unharmed.wire()
        wire.send(whole[:cut])
        wire.reset()


def test_connections_beyond_the_limit_are_refused_and_those_within_it_answered(unharmed: Any) -> None:
    wires = [unharmed.wire() for _ in range(CONNECTIONS + 20)]
    statuses: list[Any] = []
    for wire in wires:
        try:
            statuses.append(wire.request("GET", "/v2/health/live").status)
        except ConnectionError:
            statuses.append("closed")
    assert statuses[:CONNECTIONS] == [200] * CONNECTIONS
    assert set(statuses[CONNECTIONS:]) <= {503, "closed"}
    for wire in wires:
        wire.close()


def test_more_rows_than_the_limit_are_refused(unharmed: Any, input_tensor: Callable[..., Any]) -> None:
    assert unharmed.infer("cartpole", input_tensor("obs", np.repeat(OBS, ROWS, 0))).status == 200
    answer = unharmed.infer("cartpole", input_tensor("obs", np.repeat(OBS, ROWS + 1, 0)))
    assert (answer.status, str(ROWS) in answer.error) == (400, True)
