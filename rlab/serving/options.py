"""What a server is asked to do, as plain data that its worker processes get, too."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlab import door
from rlab.errors import UsageError
from rlab.runs.folder import path_of
from rlab.serving.limits import Limits
from rlab.trust import Trust

if TYPE_CHECKING:
    from rlab.serving.models import Place

SOURCES = "a run, a policy folder, an exported file or a model"  # for messages
LEAST, MOST = 16, 4096  # characters of a token
TOKEN = re.compile(r"[!-~]+")  # what a header can hold

MOST_PORT = 65_535


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """See `rlab.serving.server.serve`.

    `port` 0 is a free one. `places` say where the sources are, to a replica on a cluster.
    """

    sources: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    token: str | None = field(default=None, repr=False)
    models: Path | None = None
    member: int | None = None
    trust: Trust = False
    log_requests: bool = False
    record: Path | None = None
    shared: Path | None = None  # a folder for the numbers of several workers
    limits: Limits = field(default_factory=Limits)
    places: "Mapping[str, Place] | None" = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}.")
        if not 0 <= self.port <= MOST_PORT:
            raise UsageError(f"--port must be 1 to {MOST_PORT}, or 0 for a free one, not {self.port}.")

    @property
    def listens_first(self) -> bool:
        """Whether a process listens while its models are being loaded, and says that it is not ready. One of several
        does not: what it would refuse, another one can answer."""
        return self.workers == 1 and self.places is None


def options_of(
    *sources: str | PathLike[str],
    host: str,
    port: int,
    token_file: str | PathLike[str] | None,
    models: str | PathLike[str] | None,
    record: str | PathLike[str] | None,
    limits: Limits | None,
    **others: Any,
) -> ServeOptions:
    """The options that callers of `serve` and the words of a command line mean.

    Raises:
        UsageError: a source has no path, or the file holds no token.
        RlabError: the file cannot be read.
    """
    return ServeOptions(
        sources=tuple(path_of(source, SOURCES) for source in sources),
        host=host,
        port=port,
        token=None if token_file is None else read_token(Path(token_file)),
        models=None if models is None else Path(models),
        record=None if record is None else Path(record),
        limits=limits or Limits(),
        **others,
    )


def read_token(path: Path | str) -> str:
    """The token in a file, without the white space around it.

    Raises:
        UsageError: it is too short or too long, or a header cannot hold it.
        RlabError: the file cannot be read.
    """
    token = door.read_file(Path(path), 4 * MOST, follow=True).decode("utf-8", "replace").strip()
    if not LEAST <= len(token) <= MOST or not TOKEN.fullmatch(token):
        raise UsageError(
            f"--token-file {path} must hold one token of {LEAST} to {MOST} letters, digits and signs without spaces, "
            "such as `openssl rand -hex 32` writes."
        )
    return token
