"""A client of the server's that sends exactly the bytes that a test gives it, and reads answers strictly."""

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

PATIENCE = 20.0  # seconds for an answer; on a busy machine too


@dataclass(frozen=True)
class Answer:
    """One HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON, which nothing but JSON may be: NaN is refused."""
        return json.loads(self.body, parse_constant=_refuse)

    @property
    def error(self) -> str:
        """What a refusal says; fails where the answer is not one that the protocol describes."""
        assert 400 <= self.status < 600, self
        assert self.headers["content-type"].partition(";")[0] == "application/json", self
        found = self.json
        assert list(found) == ["error"], self
        assert isinstance(found["error"], str), self
        assert found["error"], self
        return found["error"]


class ClosedError(ConnectionError):
    """The server closed the connection; `rest` is what came before and is not a whole answer."""

    def __init__(self, rest: bytes) -> None:
        super().__init__(f"the server closed the connection after {rest[:200]!r}")
        self.rest = rest


class Wire:
    """One connection. Answers come back in the order of the requests."""

    def __init__(self, host: str, port: int, patience: float = PATIENCE) -> None:
        self.socket = socket.create_connection((host, port), timeout=patience)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Bytes as they are. Raises ConnectionError where the server has hung up."""
        self.socket.sendall(data)

    def request(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """A correct request, and its answer."""
        self.send(request_bytes(method, target, body, **headers))
        return self.answer(method)

    def answer(self, method: str = "POST") -> Answer:
        """The next answer, read to its end.

        Raises:
            ClosedError: the server hung up before the end, or before the beginning.
            TimeoutError: nothing came for as long as the connection is patient.
        """
        head = self._until(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        version, _, rest = first.partition(b" ")
        assert version in (b"HTTP/1.1", b"HTTP/1.0"), first
        status = int(rest[:3])
        if status == 100:
            return self.answer(method)
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(":")
            assert colon, line
            assert name.lower() not in headers, f"the header {name} comes twice"
            headers[name.lower()] = value.strip()
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"")
        if "chunked" in headers.get("transfer-encoding", ""):
            return Answer(status, headers, self._chunks())
        return Answer(status, headers, self._exactly(int(headers["content-length"])))

    def all_answers(self, method: str = "POST") -> list[Answer]:
        """The answers until the server hangs up.

        Raises:
            ClosedError: it did so in the middle of one.
        """
        found = []
        while True:
            try:
                found.append(self.answer(method))
            except ClosedError as closed:
                if closed.rest:
                    raise
                return found

    def half_close(self) -> None:
        """Say that nothing more will be sent; answers still come in."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Hang up as a client that crashed: with a reset in place of an ending."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.socket.close()

    def closed_within(self, seconds: float) -> float | None:
        """How long the server took to hang up, reading on until then; None where it did not in that time."""
        begin = time.monotonic()
        while (left := begin + seconds - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                return None
            except ConnectionError:
                return time.monotonic() - begin
            if not data:
                return time.monotonic() - begin
            self._read += data
        return None

    @property
    def unread(self) -> bytes:
        """What came and was not yet asked for."""
        return self._read

    def close(self) -> None:
        self.socket.close()

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise ClosedError(self._read)
        self._read += data

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        head, _, self._read = self._read.partition(end)
        return head + end

    def _exactly(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more()
        data, self._read = self._read[:count], self._read[count:]
        return data

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n").partition(b";")[0], 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._exactly(2) == b"\r\n"
        return body


def request_bytes(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """A correct request. `content_type="text/plain"` names a header; Host and Content-Length are put in."""
    lines = {"host": "127.0.0.1"}
    if body is not None:
        lines |= {"content-type": "application/json", "content-length": str(len(body))}
    lines |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
