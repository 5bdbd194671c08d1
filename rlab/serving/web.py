"""Requests and responses as the rest of the server sees them, and the table of routes."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec

T = TypeVar("T")
Headers = Sequence[tuple[bytes, bytes]]
AGAIN: Headers = ((b"retry-after", b"1"),)  # seconds until a server that is loading or busy may have an answer
to_json: Callable[[Any], bytes] = msgspec.json.Encoder().encode


class Request(NamedTuple):
    """One request, whole. `values` are the parts of its path that the route names, and `path` is as it was sent, with
    %20 and the like; header names are in small letters, of equal ones the last counts. `started` is the time of
    `time.perf_counter` at which its headers were there."""

    method: str
    path: str
    values: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    query: bytes
    body: bytes
    started: float


class Response(NamedTuple):
    """An answer, whole."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: Headers = ()


class Refused(Exception):  # noqa: N818  # not an error of ours
    """A request that gets `{"error": message}` with this status; the message names nothing of this machine."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers

    def response(self) -> Response:
        return Response(to_json({"error": str(self)}), self.status, headers=self.headers)


@dataclass(frozen=True)
class Route:
    """What answers one method on one path.

    Args:
        path: such as `/v2/models/{model}`; a part in braces stands for any text without a slash, which `Request.values`
            then has.
        handler: gets the request with its body read, and raises `Refused` where it cannot be answered.
        about: the operation's entry in the OpenAPI description; empty: it has none.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    about: Mapping[str, Any] = field(default_factory=dict)


class Table(Generic[T]):
    """Finds what answers a request.

    Args:
        routes: of each its method, its path as of a `Route`, and what answers it.
    """

    def __init__(self, routes: Iterable[tuple[str, str, T]]) -> None:
        self._by_length: dict[int, list[tuple[list[str], str, T]]] = {}
        for method, path, answers in routes:
            parts = path.split("/")
            self._by_length.setdefault(len(parts), []).append((parts, method, answers))

    def find(self, method: str, path: str) -> tuple[T, dict[str, str]]:
        """What answers, and the parts of the path that its route names.

        Raises:
            Refused: no route has this path, or none of those that do has this method.
        """
        parts, allowed = path.split("/"), []
        for pattern, taken, answers in self._by_length.get(len(parts), ()):
            values = {}
            for expected, found in zip(pattern, parts, strict=True):
                if expected[:1] == "{":
                    values[expected[1:-1]] = unquote(found) if "%" in found else found
                elif expected != found:
                    break
            else:
                if taken == method or (taken == "GET" and method == "HEAD"):
                    return answers, values
                allowed.append(taken)
        if allowed:
            methods = ", ".join(sorted(set(allowed)))
            raise Refused(405, f"this path takes {methods}, not {method:.20}", [(b"allow", methods.encode())])
        raise Refused(404, "there is nothing at this path; GET /openapi.json lists what there is")
