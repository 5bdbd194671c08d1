"""A token: who has it is answered, and nobody else learns anything."""

import base64
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from wire import request_bytes  # type: ignore[import-not-found, unused-ignore]

TOKEN = "correct-horse-battery-staple-0123456789"
SERVED = ("/v2", "/v2/health/ready", "/v2/models/cartpole")
PATHS = (*SERVED, "/", "/metrics", "/openapi.json", "/nowhere", "/v2/models/nobody")
WRONG: dict[str, str] = {
    "another": "Bearer wrong",
    "empty": "Bearer ",
    "no scheme": TOKEN,
    "only the scheme": "Bearer",
    "another scheme": f"Basic {TOKEN}",
    "the beginning": f"Bearer {TOKEN[:-1]}",
    "more": f"Bearer {TOKEN}x",
    "two words": f"Bearer {TOKEN} {TOKEN}",
    "capital letters": f"Bearer {TOKEN.upper()}",
    "outside ASCII": "Bearer \xe9\xff",
    "long": "Bearer " + "a" * 4000,
    "quoted": f'Bearer "{TOKEN}"',
}


@pytest.fixture(scope="module")
def guarded(policies: Path, served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with a token, which its file ends with a newline, as editors do."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "token").chmod(0o600)
    words = [policies / "cartpole.onnx", "--token-file", folder / "token"]
    with served(*words, log=folder / "log", token=TOKEN) as server:
        yield server


@pytest.mark.parametrize("what", [None, *WRONG])
def test_a_wrong_token_lets_nobody_in_and_says_nothing(guarded: Any, what: str | None) -> None:
    headers = {} if what is None else {"authorization": WRONG[what]}
    told = [guarded.get(path, **headers) for path in PATHS]
    told += [guarded.post("/v2/models/cartpole/infer", {"inputs": []}, **headers)]
    told += [guarded.request("POST", "/v2/models/cartpole/infer", b"not JSON", **headers)]
    assert {answer.status for answer in told} == {401}
    assert len({answer.body for answer in told}) == 1, "what is there and what is not must look the same"
    assert told[0].headers["www-authenticate"]
    assert "token" in told[0].error
    assert "cartpole" not in told[0].error


def test_the_token_opens_every_path(guarded: Any) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    for path in SERVED:
        assert guarded.get(path, **headers).status == 200
    assert guarded.get("/v2", authorization=f"bearer {TOKEN}").status == 200  # schemes have no case: RFC 9110, 11.1
    assert guarded.get("/nowhere", **headers).status == 404


def test_a_body_is_not_read_for_somebody_without_the_token(guarded: Any) -> None:
    with guarded.wire() as wire:
        wire.send(b"POST /v2/models/cartpole/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert wire.answer().status == 401


def test_the_token_is_nowhere_in_what_the_server_writes(guarded: Any) -> None:
    answers = [guarded.get(path, authorization=f"Bearer {TOKEN}") for path in PATHS]
    guarded.get("/v2?token=" + TOKEN)
    assert not any(TOKEN.encode() in answer.body for answer in answers)
    assert TOKEN not in "\n".join(line for line in guarded.log_lines if "token=" not in line)
    command = Path(f"/proc/{guarded.process.pid}/cmdline")
    assert not command.exists() or TOKEN.encode() not in command.read_bytes()


def test_a_browser_gives_the_token_as_the_password_that_it_asks_a_person_for(guarded: Any) -> None:
    for user, status in (("", 200), ("anybody", 200), ("any:body", 401)):
        word = base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
        assert guarded.get("/v2", authorization=f"Basic {word}").status == status


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/health/ready", "/metrics"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "localhost@evil.example"},
        {"host": "192.168.0.1"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"host": "localhost", "origin": "http://localhost.evil.example"},
    ],
    ids=str,
)
def test_a_page_of_another_site_cannot_ask_a_server_on_the_same_machine(
    server: Any, path: str, headers: dict[str, str]
) -> None:
    answer = server.get(path, **headers)
    assert answer.status == 403
    assert answer.error


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_the_own_page_can_ask_under_every_name_of_the_machine(server: Any, host: str) -> None:
    assert server.get("/v2", host=f"{host}:{server.port}").status == 200
    assert server.get("/v2", host=f"{host}:{server.port}", origin=f"http://{host}:{server.port}".lower()).status == 200


@pytest.mark.prove
def test_how_long_a_refusal_takes_does_not_tell_how_much_of_a_token_is_right(guarded: Any) -> None:
    tokens = ["x" * len(TOKEN), TOKEN[:-1] + "x"]
    times: list[list[float]] = [[], []]
    for _ in range(4000):
        for index, token in enumerate(tokens):
            request = request_bytes("GET", "/v2", authorization=f"Bearer {token}")
            with guarded.wire() as wire:  # which a refusal ends
                begin = time.perf_counter()
                wire.send(request)
                assert wire.answer("GET").status == 401
                times[index].append(time.perf_counter() - begin)
    apart = abs(statistics.median(times[0]) - statistics.median(times[1]))
    halves = [statistics.median(times[0][half::2]) for half in (0, 1)]
    # The medians of two halves of the same differ by chance; a byte-by-byte comparison of 40 bytes takes 1 us more.
    assert apart < max(3 * abs(halves[0] - halves[1]), 5e-6)
