"""The server's log: one JSON object a line, on standard error."""

import json
import logging
import time
import traceback
from typing import Any, Literal

from rlab.door import clean
from rlab.errors import RlabError
from rlab.serving.observers import AnsweredBatch

NAME = "rlab.serving"
_logger = logging.getLogger(NAME)


def log(
    level: Literal["info", "warning", "error"], event: str, error: BaseException | None = None, **facts: Any
) -> None:
    """Write a line: what happened, and facts about it; of an error what it is and, where rlab has no words for it, the
    place that raised it."""
    if isinstance(error, RlabError):
        facts = {**facts, "error": str(error)}
    elif error is not None:
        facts = {**facts, "error": f"{type(error).__name__}: {error}", "where": _where(error)}
    _logger.log(logging.getLevelNamesMapping()[level.upper()], event, extra={"facts": facts})


def begin_log() -> None:
    """Let the log of this process begin; asked for again, it goes on."""
    if not _logger.handlers:
        handler = logging.StreamHandler()  # to standard error
        handler.setFormatter(_Lines())
        _logger.addHandler(handler)
        _logger.setLevel(logging.INFO)
        _logger.propagate = False
        logging.getLogger("uvicorn.error").addHandler(handler)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it would warn of every odd byte of a client


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        facts: dict[str, Any] = {"time": now, "level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            facts |= {"error": repr(record.exc_info[1]), "where": _where(record.exc_info[1])}
        facts |= {"process": record.process, **getattr(record, "facts", {})}
        return clean(json.dumps(facts, default=str))


def _where(error: BaseException) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


class RequestLog:
    """The observer that writes a line for every request."""

    def answered(self, model: Any, batch: AnsweredBatch) -> None:
        for id, rows, seconds in zip(batch.ids, batch.rows, batch.seconds, strict=True):
            log(
                "info", "answered", model=model.name, version=model.version, id=id, rows=rows, seconds=round(seconds, 6)
            )

    def refused(self, model: str | None, status: int, message: str) -> None:
        log("info", "refused", model=model, status=status, message=message)

    def stopped(self) -> None:
        """It keeps nothing."""
