"""The application with everything that a server offers; each part adds its observers and routes here."""

from collections.abc import Callable, Sequence

from rlab.errors import RlabError
from rlab.serving import feedback
from rlab.serving.app import App
from rlab.serving.counts import Counts
from rlab.serving.drift_watch import DriftWatch
from rlab.serving.gate import LOOPBACK
from rlab.serving.log import RequestLog, begin_log, log
from rlab.serving.observers import Observer
from rlab.serving.options import ServeOptions
from rlab.serving.page import Pages
from rlab.serving.recording import Recorded, Recorder, Room
from rlab.serving.shared import Numbers, SharedNumbers
from rlab.serving.web import Route


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
    if options.token is None and options.host not in (None, *LOOPBACK):
        log("warning", "other machines reach this server, and it asks for no token: --token-file", host=options.host)
    counts, watch = Counts(), DriftWatch()
    recorder = None if options.record is None else Recorder(options.record, Room.of(options.limits.max_recorded_mib))
    recorded = Recorded() if recorder is None else recorder.counts
    numbers = SharedNumbers(lambda: Numbers(counts.by_model, watch.states(), recorded), options.shared)
    log_of_requests = RequestLog() if options.log_requests else None
    observers: list[Observer | None] = [log_of_requests, recorder, counts, watch, numbers]
    routes: list[Callable[[App], Sequence[Route]]] = [
        lambda app: Pages(app.catalog.all, lambda: app.catalog.ready, numbers.all).routes(),
        lambda app: feedback.routes(app, recorder),
    ]
    heard = [each for each in observers if each is not None]
    return App(options, heard, lambda app: [each for part in routes for each in part(app)], ready, failed)
