"""The application with everything that a server offers; each part adds its observers and routes here."""

from collections.abc import Callable

from rlab.errors import RlabError
from rlab.serving.app import App
from rlab.serving.log import RequestLog, begin_log
from rlab.serving.observers import Observer
from rlab.serving.options import ServeOptions


def build_app(
    options: ServeOptions,
    ready: Callable[[], None] = lambda: None,
    failed: Callable[[RlabError], None] = lambda error: None,
) -> App:
    """The server of one process, an ASGI application.

    Args:
        ready, failed: one of them is called once the models are loaded, or cannot be, with the reason.
    """
    begin_log()
    observers: list[Observer] = [RequestLog()] if options.log_requests else []
    return App(options, observers, ready=ready, failed=failed)
