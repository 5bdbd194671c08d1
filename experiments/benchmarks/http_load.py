"""A load of HTTP requests from clients that keep their connections, each with one request under way.

One thread, sockets without a library: what a client does takes some ten microseconds a request, so that the server is
what is measured.
"""

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Load:
    """What became of the requests."""

    seconds: float  # of all
    latencies: np.ndarray = field(repr=False)  # [requests], seconds
    errors: int  # answers with another status or without what was expected, and connections that broke

    def percentile(self, share: float) -> float:
        """The latency that `share` percent of the requests do not exceed, in seconds."""
        return float(np.percentile(self.latencies, share))


@dataclass(slots=True, eq=False)
class _Client:
    socket: socket.socket
    number: int = 0  # of its request
    began: float = 0.0
    received: bytes = b""


def send_all(
    address: tuple[str, int], requests: Sequence[bytes], expected: Sequence[bytes], count: int, clients: int = 32
) -> Load:
    """Send `count` requests over `clients` connections, request i being `requests[i % len(requests)]`, whose answer has
    status 200 and holds `expected[i % len(requests)]`."""
    latencies = np.zeros(count)
    sent = done = errors = 0
    selector = selectors.DefaultSelector()

    def ask(client: _Client) -> None:
        nonlocal sent
        client.number, client.received, sent = sent, b"", sent + 1
        client.began = time.perf_counter()
        client.socket.send(requests[client.number % len(requests)])

    def connect() -> None:
        client = _Client(socket.create_connection(address))
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client.socket, selectors.EVENT_READ, client)
        ask(client)

    began = time.perf_counter()
    for _ in range(min(clients, count)):
        connect()
    while done < count:
        for key, _ in selector.select(30.0):
            client: _Client = key.data
            try:
                data = client.socket.recv(65536)
            except OSError:
                data = b""
            client.received += data
            if data and not _whole(client.received):
                continue
            latencies[client.number] = time.perf_counter() - client.began
            done += 1
            good = client.received.startswith(b"HTTP/1.1 200") and _whole(client.received)
            errors += not (good and expected[client.number % len(expected)] in client.received)
            if data and sent < count:
                ask(client)
            elif not data:
                selector.unregister(client.socket)
                client.socket.close()
                if sent < count:
                    connect()
    seconds = time.perf_counter() - began
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    selector.close()
    return Load(seconds, latencies, errors)


def _whole(received: bytes) -> bool:
    """Whether this is an answer with all of its body."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length or 0)
