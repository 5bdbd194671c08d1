"""What a server takes at most, in bytes, rows, seconds and number."""

from dataclasses import dataclass, fields

from rlab.errors import UsageError

BATCH_ROWS = 256  # rows of several requests that are computed together
BODIES = 32  # of the largest size, which may be arriving at once
POLL_SECONDS = 1.0  # between two looks at the aliases that are served


@dataclass(frozen=True, kw_only=True)
class Limits:
    """One request beyond a limit is refused with one clear line; the others do not notice."""

    max_body_bytes: int = 4 * 2**20  # of a request's body; 4 MiB hold 37 Atari observations written as JSON
    max_header_bytes: int = 16 * 2**10  # of a request's line and headers
    max_rows: int = 1024  # observations in one request
    max_waiting: int = 1024  # requests that wait for their answer
    max_connections: int = 1024  # open at once
    request_seconds: float = 10.0  # from the first byte of a request to its last, and from then to its answer
    idle_seconds: float = 60.0  # that a connection may be silent between two requests
    stop_seconds: float = 30.0  # that a stopping server gives to what it has accepted
    max_sequences: int = 1000  # episodes whose states the server keeps
    sequence_seconds: float = 600.0  # that one of these may be silent
    max_recorded_mib: int = 1024  # of all recordings on the disk; the oldest segments give way

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UsageError(f"the limit {field.name} must be above 0, not {getattr(self, field.name)}.")
