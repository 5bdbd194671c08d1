"""A client's connection: bytes to requests, responses to bytes, within limits.

The parser is httptools' (llhttp, of Node.js); the signals, the workers and the graceful stop are uvicorn's. uvicorn's
own protocols make a task and a dozen objects of every request, which takes four times as long, and have no limits of
headers, of the time that a request takes to arrive, or of what a client does not read.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
import uvicorn
from uvicorn.server import ServerState

from rlab.serving.app import App
from rlab.serving.limits import BODIES, Limits
from rlab.serving.web import AGAIN, Refused, Request, Response

LINGER = 2.0  # seconds that the bytes of a refused client are thrown away for, so that it reads why
HEALTH = 60  # seconds without a sign of life after which a worker is replaced: a busy machine takes some to start one
STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
VERSIONS = ("1.0", "1.1")
SMALL = 2**16  # bytes of a body that finds room at any time
FRAMING = 8  # bytes that a chunk may take to bring one
USUAL = STATUS[200] + b"content-type: application/json\r\ncontent-length: "


class ServerConfig(uvicorn.Config):
    """uvicorn's settings, with the limits of a server.

    Args:
        app: makes the application in the process that serves it.
    """

    def __init__(self, app: Callable[[], App], limits: Limits, workers: int = 1) -> None:
        self.limits, self._make = limits, app
        super().__init__(
            self._made,
            factory=True,
            interface="asgi3",
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            workers=workers,
            timeout_worker_healthcheck=HEALTH,
            backlog=limits.max_connections,
            timeout_graceful_shutdown=limits.stop_seconds,  # type: ignore[arg-type]  # any number of seconds
        )

    def _made(self) -> App:
        self.application = self._make()  # as it is, whatever uvicorn wraps around it
        return self.application


class Connection(asyncio.Protocol):
    """One connection. Its requests are answered one after the other, in the order in which they came."""

    _dated: ClassVar[tuple[list[tuple[bytes, bytes]], bytes]] = ([], b"")

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.application
        self._limits, self._server = config.limits, server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._fires, self._until = 0.0, math.inf  # when the timer does, and until when the client has time
        # the request that is being read
        self._in_headers = self._in_request = self._begins = False
        self._url, self._started = b"", 0.0
        self._read = 0  # bytes of it, without those that came together with its first one
        self._size = 0  # bytes of its body
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        # those that are whole: the first is being answered where `_busy`
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._busy = self._stopping = self._refused = self._unread = self._paused = False
        self._keeps, self._is_head = True, False  # of the one that is being answered
        self._refusal: Refused | None = None  # the last answer, to what is no whole request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as of a stream
        self._transport = transport
        self._server.connections.add(self)  # type: ignore[arg-type]
        if len(self._server.connections) > self._limits.max_connections:
            self._refuse(Refused(503, "too many connections"))
        else:
            self._expect(self._limits.idle_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._forget()
        self._refused = True
        self._waiting.clear()

    def shutdown(self) -> None:
        """The server stops: what has been accepted is answered, and nothing more is read."""
        self._stopping = True
        if not self._busy and not self._in_request:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._stopping = True  # what follows would be another protocol
        except (httptools.HttpParserError, UnicodeDecodeError) as error:
            refusal = error.__context__ if isinstance(error.__context__, Refused) else None
            self._refuse(refusal or Refused(400, "this is not a valid HTTP request"))
            return
        if not self._in_request:
            return
        if self._begins:
            self._begins = False
            self._expect(self._limits.request_seconds)
        else:
            self._read += len(data)
            if self._read > self._limits.max_header_bytes + FRAMING * self._size:
                self._refuse(_long_headers())

    def eof_received(self) -> bool:
        """The client sends nothing more, and may still read its answer."""
        self._stopping = True
        return self._busy or bool(self._waiting)

    def pause_writing(self) -> None:
        """The client does not read."""
        self._unread = True
        self._expect(self._limits.request_seconds)

    def resume_writing(self) -> None:
        self._unread = False
        self._expect(self._limits.idle_seconds)
        if not self._busy:
            self._next()

    # what the parser calls

    def on_message_begin(self) -> None:
        self._in_headers = self._in_request = self._begins = True
        self._url, self._read, self._size, self._headers, self._body = b"", 0, 0, {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:  # and not behind the body
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Refuse what will not be read. What is raised here comes out of `feed_data` as the parser's error."""
        self._in_headers, self._started = False, time.perf_counter()
        headers = self._headers
        if sum(map(len, headers)) + sum(map(len, headers.values())) + len(self._url) > self._limits.max_header_bytes:
            raise _long_headers()
        if self._parser.get_http_version() not in VERSIONS:
            raise Refused(400, "this server speaks HTTP/1.1 and HTTP/1.0")
        self._app.admit(headers)
        if b"expect" in headers and not self._busy:
            self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._limits.max_body_bytes:
            raise self._app.too_long()
        self._body.append(body)
        self._app.arriving += len(body)
        if self._size > SMALL and self._app.arriving > BODIES * self._limits.max_body_bytes:
            raise Refused(503, "the server is busy: too many long bodies are arriving", AGAIN)

    def on_message_complete(self) -> None:
        self._in_request = False
        self._app.arriving -= self._size
        if not self._unread:
            self._until = math.inf  # it has the server's time now
        url = httptools.parse_url(self._url)
        request = Request(
            self._parser.get_method().decode(),
            (url.path or b"/").decode(),
            {},
            self._headers,
            url.query or b"",
            b"".join(self._body),
            self._started,
        )
        # a client of HTTP/1.0 is not told that its connection is kept
        old = b"connection" in self._headers and self._parser.get_http_version() == "1.0"
        self._waiting.append((request, self._parser.should_keep_alive() and not old))
        if not self._busy:
            self._next()
        elif not self._paused:
            self._paused = True
            self._transport.pause_reading()  # until those before it are answered

    # answers

    def _next(self) -> None:
        """Answer the next request."""
        if self._busy or not self._waiting or self._unread or self._transport.is_closing():
            return
        self._busy = True
        request, self._keeps = self._waiting.popleft()
        if self._paused and not self._waiting:
            self._paused = False
            self._transport.resume_reading()
        self._is_head = request.method == "HEAD"
        self._app.answer(request, self._reply)

    def _reply(self, response: Response) -> None:
        """Write the answer to the request under way."""
        if self._transport.is_closing():
            return
        closes = not self._keeps or (self._stopping and not self._waiting)
        body = b"" if self._is_head else response.body
        if response.status == 200 and not response.headers and response.content_type == b"application/json":
            head = b"".join((USUAL, str(len(response.body)).encode(), b"\r\n", self._date()))
        else:
            head = _head(response) + self._date()
        end = b"connection: close\r\n\r\n" if closes else b"\r\n"
        self._transport.write(b"".join((head, end, body)))
        self._server.total_requests += 1
        self._busy = False
        if closes:
            self._transport.close()
            self._expect(self._limits.request_seconds)  # for the client to read it
        elif self._waiting:
            self._loop.call_soon(self._next)  # not from here, which may be inside the last one's call
        elif self._refusal is not None:
            self._end_with(self._refusal)
        elif not self._in_request:
            self._expect(self._limits.idle_seconds)

    def _date(self) -> bytes:
        """The header with the time, which uvicorn makes anew every second."""
        made, line = Connection._dated
        if made is not self._server.default_headers:
            made = self._server.default_headers
            line = b"".join(name + b": " + value + b"\r\n" for name, value in made)
            Connection._dated = made, line
        return line

    def _refuse(self, refusal: Refused) -> None:
        """Answer what is no whole request, and read nothing more."""
        if self._refused or self._transport.is_closing():
            return
        self._forget()
        self._refused = True
        self._app.tell_refused(None, refusal)
        if self._busy or self._waiting:
            self._refusal = refusal  # behind the answers to what came before
        else:
            self._end_with(refusal)

    def _end_with(self, refusal: Refused) -> None:
        response = refusal.response()
        self._transport.write(_head(response) + self._date() + b"connection: close\r\n\r\n" + response.body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._expect(LINGER)

    def _forget(self) -> None:
        """Nothing more of the request that is arriving is kept."""
        if self._in_request and not self._in_headers:
            self._app.arriving -= sum(map(len, self._body))
        self._body = []

    def _expect(self, seconds: float) -> None:
        """The client has so many seconds from now for what is missing."""
        self._until = self._loop.time() + seconds
        if self._timer is None or self._until < self._fires:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires, self._timer = self._until, self._loop.call_at(self._until, self._fired)

    def _fired(self) -> None:
        # One timer that looks again is cheaper than a new one for every request.
        self._timer = None
        if self._until <= self._loop.time():
            self._late()
        elif self._until < math.inf:
            self._arm()

    def _late(self) -> None:
        if self._unread or self._transport.is_closing():
            self._transport.abort()
        elif self._in_request and not self._refused:
            self._refuse(Refused(408, "the request took too long to arrive"))
        elif not self._busy:
            self._transport.close()


def _head(response: Response) -> bytes:
    """The status line and the headers, without the empty line behind them."""
    more = b"".join(name + b": " + value + b"\r\n" for name, value in response.headers)
    length = str(len(response.body)).encode()
    return b"".join(
        (
            STATUS[response.status],
            b"content-type: ",
            response.content_type,
            b"\r\ncontent-length: ",
            length,
            b"\r\n",
            more,
        )
    )


def _long_headers() -> Refused:
    return Refused(431, "the line and the headers of the request are too long")
