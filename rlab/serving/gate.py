"""Who may come in: the token, and what browsers say about the page that a request comes from."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

from rlab.serving.web import Refused

PORT, KNOWN = re.compile(r":\d*$"), 64
LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


class Gate:
    """Lets requests in.

    Args:
        token: what requests have to carry, as `Authorization: Bearer TOKEN`, or as the password of HTTP's basic scheme,
            which browsers ask people for; None lets everybody in.
        host: that the server listens to. One that only this machine reaches refuses requests for other hosts, which a
            web page sends whose name was bound to this address (DNS rebinding).
    """

    def __init__(self, token: str | None, host: str) -> None:
        self._token = None if token is None else _digest(token.encode())
        self._hosts = {*LOOPBACK, host} if host in LOOPBACK else None
        self._known: set[bytes] = set()  # hosts that may be asked for, as they were written

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a request in.

        Raises:
            Refused: 401 without the token; 403 from a page of another site.
        """
        if self._token is not None and not hmac.compare_digest(_digest(_given(headers)), self._token):
            raise Refused(401, "the token is missing or wrong", [(b"www-authenticate", b'Basic realm="rlab"')])
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if host not in self._known:
            if self._hosts is not None and PORT.sub("", _text(host)) not in self._hosts:
                raise Refused(403, "this server is for its own machine: ask for it as localhost or 127.0.0.1")
            if len(self._known) < KNOWN:
                self._known.add(host)
        if origin is not None and _text(origin).partition("://")[2] != _text(host):
            raise Refused(403, "requests from pages of other sites are not taken")


def _given(headers: Mapping[bytes, bytes]) -> bytes:
    """The token that a request carries; b"" without one."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _text(header: bytes) -> str:
    return header.decode("latin-1").lower()


def _digest(token: bytes) -> bytes:
    # of equal length, so that the time of a comparison tells nothing about the token's
    return hashlib.sha256(token).digest()
