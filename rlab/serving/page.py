"""`GET /`: a page that shows the models, asks them, and draws the drift; and the numbers behind it at `GET /status`.

The page's own content security policy keeps it to its server: nothing is loaded from elsewhere, and no script runs but
its own. It puts every name in as text.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rlab.networks.spaces import Box
from rlab.runs.observed import EDGES
from rlab.serving.counts import ModelCounts
from rlab.serving.drift_watch import DriftState
from rlab.serving.metrics import CONTENT_TYPE, render
from rlab.serving.models import ServedModel
from rlab.serving.openapi import operation
from rlab.serving.ports import Port
from rlab.serving.probes import probes
from rlab.serving.shared import Numbers
from rlab.serving.web import Request, Response, Route, to_json

HERE = Path(__file__).parent
NO_REFERENCE = (
    "Nothing is on record of what this policy observes. rlab eval RUN --record-observed records it, of a run or policy "
    "folder whose observations have 2,048 features or fewer."
)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
FILES = {
    "/": ("page.html", b"text/html"),
    "/page.css": ("page.css", b"text/css"),
    "/page.js": ("page.js", b"text/javascript"),
}


class Pages:
    """What a server shows of itself.

    Args:
        models: those that are served now.
        ready: whether all are loaded.
        numbers: of all processes.
    """

    def __init__(
        self, models: Callable[[], list[ServedModel]], ready: Callable[[], bool], numbers: Callable[[], Numbers]
    ) -> None:
        self._models, self._ready, self._numbers = models, ready, numbers

    def routes(self) -> list[Route]:
        """The page, what it is made of, and the numbers for it and for Prometheus."""
        page = [Route("GET", path, self._file, _text("The page for people", kind)) for path, (_, kind) in FILES.items()]
        status = operation("What the server has answered, and how observations drift", {"type": "object"})
        metrics = _text("The numbers for Prometheus", CONTENT_TYPE)
        return [*page, Route("GET", "/status", self._status, status), Route("GET", "/metrics", self._metrics, metrics)]

    async def _file(self, request: Request) -> Response:
        name, kind = FILES[request.path]
        return Response(_read(name), content_type=kind + b"; charset=utf-8", headers=HEADERS)

    async def _metrics(self, request: Request) -> Response:
        return Response(render(self._numbers()), content_type=CONTENT_TYPE, headers=HEADERS[1:])

    async def _status(self, request: Request) -> Response:
        numbers = self._numbers()
        models = [_described(model, numbers) for model in self._models()]
        return Response(to_json({"ready": self._ready(), "models": models}), headers=HEADERS[1:])


def _text(summary: str, kind: bytes) -> dict[str, Any]:
    """The entry of an operation that answers with a text."""
    content = {kind.decode().partition(";")[0]: {"schema": {"type": "string"}}}
    return {"summary": summary, "responses": {"200": {"description": "done", "content": content}}}


@cache
def _read(name: str) -> bytes:
    return (HERE / name).read_bytes()


def _described(model: ServedModel, numbers: Numbers) -> dict[str, Any]:
    """One model with what is known of it."""
    key = f"{model.name}@{model.version}"
    counts = numbers.counts.get(key, ModelCounts())
    refused = sum(numbers.counts.get(f"{model.name}@", ModelCounts()).requests.values())
    answered, batches = sum(counts.seconds), sum(counts.rows)
    named = [(action.split(), count) for action, count in counts.actions.items()]
    several = len({choice for (choice, _), _ in named}) > 1
    actions = [
        {"name": f"{choice}: {action}" if several else action, "count": count}
        for (choice, action), count in sorted(named, key=lambda each: [int(part) for part in each[0]])
    ]
    return {
        "name": model.name,
        "version": model.version,
        "inputs": [{**port.to_json(), "example": _example(model, port)} for port in model.inputs.values()],
        "answered": answered,
        "refused": refused,
        "mean_seconds": counts.seconds_sum / max(1, answered),
        "mean_rows": counts.rows_sum / max(1, batches),
        "actions": actions,
        "why_not": NO_REFERENCE if model.observed is None else None,
        "drift": numbers.drift.get(key, DriftState()),
    }


def _example(model: ServedModel, port: Port) -> Any:
    """What a person may send first: the middle of what is on record, or numbers that the space holds."""
    space, observed = model.runner.obs_space, model.observed
    if port.shape != space.shape:  # a state, which begins with zeros
        return [0] * port.size
    if observed is not None and isinstance(space, Box) and len(observed.features) == port.size:
        middle = [float(f"{value:.4g}") for value in observed.quantiles[:, EDGES // 2]]
        return middle if port.dtype.kind == "f" else [round(value) for value in middle]
    return probes(space, 1)[0].ravel().tolist()
