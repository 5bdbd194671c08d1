"""`rlab report --live`: the page of runs under way, served to browsers on this machine alone."""

import hashlib
import shlex
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlab.errors import RlabError, UsageError
from rlab.evaluation.report.document import content_policy
from rlab.evaluation.report.model import Report
from rlab.evaluation.report.page import page
from rlab.jobs.report_sources import Source, find, tasks_of
from rlab.jobs.report_studies import BRED, HISTORY, RUNS, STUDY
from rlab.runs import files
from rlab.runs.folder import PARTS, SETTINGS, RunFolder, is_run, path_of
from rlab.trust import Trust
from rlab.version import VERSION

HOST = "127.0.0.1"
EVERY = 2.0  # seconds between two looks of a browser
PATIENCE = 10.0  # seconds that a client may take for its request
WATCHED = (
    "config.json",
    "status.json",
    "result.json",
    "metrics.jsonl",
    "eval.jsonl",
    "policy/policy.json",
    STUDY,
    BRED,
    HISTORY,
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Type": "text/html; charset=utf-8",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class LiveReport:
    """A server of the page, in threads of its own, until it is closed; `with` closes it.

    with rlab.live_report("runs") as page:
        print(page.url)
        rlab.train("dqn", "CartPole-v1", seeds=10)

    It listens to this machine alone, and answers requests alone that name it as their host: a page of another site
    cannot read it through a name of its own.
    """

    def __init__(self, sources: Sequence[Source], port: int, every: float, trust: Trust) -> None:
        """Read the sources once, and listen.

        Raises:
            UsageError: a source is not what a report takes, or the port is taken.
        """
        self._pages = Pages(sources, every, trust)
        self._pages.current()
        try:
            self._server = _Server((HOST, port), _Handler, self._pages)
        except (OSError, OverflowError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
            raise UsageError(
                f"cannot listen on port {port} of {HOST}: {reason}. Leave --port out for a free one"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="rlab report", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What a browser opens."""
        return f"http://{HOST}:{self.port}/"

    def close(self) -> None:
        """Stop, and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "LiveReport":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def live_report(*sources: Source, port: int = 0, every: float = EVERY, trust: Trust = False) -> LiveReport:
    """Serve the report of runs under way on 127.0.0.1, where browsers keep it up to date: see `LiveReport`.

    Args:
        sources: as for `report`; of a folder, runs that begin later as well.
        port: to listen on; 0: a free one.
        every: seconds between two looks of a browser.
        trust: as for `report`.

    Raises:
        UsageError: a source is not what a report takes, the port is taken, or `every` is not a second or so.
    """
    if not 0.1 <= every <= 3600.0:
        raise UsageError(f"every {every:g} must be 0.1 to 3600 seconds.")
    if not sources:
        raise UsageError("a live report needs a folder: rlab report --live runs")
    return LiveReport(sources, port, every, trust)


class Pages:
    """The page as it should be now. It is made anew where a file that it depends on has changed."""

    def __init__(self, sources: Sequence[Source], every: float, trust: Trust) -> None:
        self._sources, self._every, self._trust = sources, every, trust
        self._lock, self._seen = threading.Lock(), None
        self._page, self._tag = b"", ""
        self.policy = content_policy(live=True) + "; frame-ancestors 'none'"

    def current(self) -> tuple[bytes, str]:
        """The page and its tag, which changes with it.

        Raises:
            RlabError: what a source names cannot be read (yet), and nothing could be read before.
        """
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                try:
                    self._page = self._make()
                except (RlabError, OSError):  # a run that is just being written may be read half; later it is whole
                    if not self._page:
                        raise
                else:
                    self._seen = seen
                    self._tag = f'"{hashlib.sha256(self._page).hexdigest()[:32]}"'
            return self._page, self._tag

    def _make(self) -> bytes:
        found = find(self._sources, self._trust)
        words = shlex.join(["rlab", "report", "--live", *map(path_of, self._sources)])
        made = Report("", tasks_of(found.evidence), found.studies, found.unreadable, words, VERSION, self._every)
        return page(made).encode()

    def _look(self) -> Any:
        """What tells whether anything has changed: the files that runs write, and whether their processes live."""
        places = [place for source in self._sources for place in _places(Path(path_of(source)))]
        held = [RunFolder(place, {}, "").is_held() if is_run(place) else None for place in places]
        stamps = [files.identity(place / name) for place in places for name in ("", *WATCHED)]
        return list(map(str, places)), held, stamps


def _places(place: Path) -> list[Path]:
    """The folder, what is in it where it is not a run itself, and the runs inside runs and studies."""
    inside = [] if is_run(place) or not place.is_dir() else sorted(place.iterdir())
    found = [place, *(each for each in inside if each.is_dir())]
    deeper = (sorted((each / name).glob("*")) for each in found for name in (PARTS, SETTINGS))
    return [*found, *(each / name for each in found for name in RUNS), *(run for runs in deeper for run in runs)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], pages: Pages) -> None:
        self.pages = pages
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without a look-up of this machine's name, which may ask another machine."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        port = self.server.server_port
        own = {f"{name}{end}" for name in (HOST, "localhost") for end in (f":{port}", *([""] if port == 80 else []))}
        if self.headers.get_all("Host", []) not in [[name] for name in own]:
            self.send_error(403, "this page is for browsers on its own machine")
            return
        if self.path.partition("?")[0] != "/":
            self.send_error(404)
            return
        try:
            content, tag = self.server.pages.current()
        except (RlabError, OSError):
            self.send_error(503, "the runs cannot be read")
            return
        same = self.headers.get("If-None-Match") == tag
        self.send_response(304 if same else 200)
        for name, value in {**HEADERS, "Content-Security-Policy": self.server.pages.policy, "ETag": tag}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0" if same else str(len(content)))
        self.end_headers()
        if with_body and not same:
            self.wfile.write(content)

    def version_string(self) -> str:
        return "rlab"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""
