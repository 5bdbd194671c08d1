"""The same server as an ASGI application, which other servers run; and what it says while its models are loaded."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.compression.export.member_file import export
from rlab.errors import RlabError
from rlab.serving.app import App
from rlab.serving.limits import Limits
from rlab.serving.models import place_of
from rlab.serving.observers import AnsweredBatch
from rlab.serving.options import ServeOptions
from rlab.serving.web import Request, Response, Route

BODY = {"inputs": [{"name": "obs", "shape": [2, 4], "datatype": "FP32", "data": [0.1] * 8}]}


@pytest.fixture(scope="module")
def file(member: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asgi") / "cartpole.onnx"
    export(member("cartpole"), np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32), "onnx", path)
    return path


def options(*sources: Path, **more: Any) -> ServeOptions:
    """As a replica on a cluster has them, which is loaded before it is asked."""
    places = {str(source): place_of(str(source)) for source in sources}
    return ServeOptions(sources=tuple(places), places=places, host="0.0.0.0", trust=True, **more)


async def asked(app: App, method: str, path: str, *chunks: bytes, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of one request, whose body comes in these chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": pairs}
    await app(scope, receive, send)
    start, body = sent
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    return start["status"], json.loads(body["body"])


async def living(app: App, inside: Callable[[], Any]) -> list[str]:
    """Run a coroutine while the application lives; what it said of its beginning and its end."""
    said: list[str] = []
    begun, ends = asyncio.Event(), asyncio.Event()
    turns = iter(("startup", "shutdown"))

    async def receive() -> Any:
        turn = next(turns)
        if turn == "shutdown":
            await ends.wait()
        return {"type": f"lifespan.{turn}"}

    async def send(message: Any) -> None:
        said.append(message["type"])
        begun.set()

    life = asyncio.create_task(app({"type": "lifespan"}, receive, send))
    await begun.wait()
    await inside()
    ends.set()
    await life
    return said


def test_it_answers_by_asgi_whatever_the_chunks(file: Path) -> None:
    app = App(options(file))
    body = json.dumps(BODY).encode()

    async def inside() -> None:
        assert await asked(app, "GET", "/v2/health/ready") == (200, {"ready": True})
        status, whole = await asked(app, "POST", "/v2/models/cartpole/infer", body)
        assert status == 200
        status, parts = await asked(app, "POST", "/v2/models/cartpole/infer", body[:7], body[7:])
        assert parts["outputs"] == whole["outputs"]
        assert (await asked(app, "POST", "/v2/models/cartpole/infer"))[0] == 400

    said = asyncio.run(living(app, inside))
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_body_beyond_the_limit_is_refused_by_its_length_or_as_it_comes(file: Path) -> None:
    app = App(options(file, limits=Limits(max_body_bytes=10)))

    async def inside() -> None:
        path = "/v2/models/cartpole/infer"
        expected = (413, {"error": "the body is longer than 10 bytes, the limit here"})
        assert await asked(app, "POST", path, b"x", content_length="11") == expected
        assert await asked(app, "POST", path, b"123456", b"78901", b"never read") == expected
        assert (await asked(app, "POST", path, b"{}", content_encoding="gzip"))[0] == 415

    asyncio.run(living(app, inside))


def test_while_its_models_are_loaded_it_is_live_and_not_ready(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from rlab.serving import catalog

    loading, opened = threading.Event(), catalog.open_models
    monkeypatch.setattr(catalog, "open_models", lambda *given: loading.wait(30) and opened(*given))
    app = App(ServeOptions(sources=(str(file),), trust=True))
    assert app.options.listens_first

    async def inside() -> None:
        assert await asked(app, "GET", "/v2/health/live", host="localhost") == (200, {"live": True})
        for method, path in (("GET", "/v2/health/ready"), ("POST", "/v2/models/cartpole/infer")):
            status, told = await asked(app, method, path, host="localhost")
            assert (status, told) == (503, {"error": "the models are being loaded"})
        loading.set()
        while not app.catalog.ready:
            await asyncio.sleep(0.001)
        assert (await asked(app, "GET", "/v2/health/ready", host="localhost"))[0] == 200

    asyncio.run(living(app, inside))


def test_models_that_cannot_be_loaded_end_it_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    reasons: list[RlabError] = []
    app = App(options(tmp_path / "broken.onnx"), failed=reasons.append)

    async def inside() -> None:
        """Nothing is asked."""

    assert asyncio.run(living(app, inside)) == ["lifespan.startup.failed"]
    assert "is not an ONNX file" in str(reasons[0])


def test_parts_add_routes_and_observe_and_what_they_raise_reaches_no_client(file: Path) -> None:
    class Seen:
        answers: list[AnsweredBatch] = []  # noqa: RUF012
        refusals: list[tuple[str | None, int, str]] = []  # noqa: RUF012
        ended = False

        def answered(self, model: Any, batch: AnsweredBatch) -> None:
            self.answers.append(batch)
            raise ValueError("an observer's own fault")

        def refused(self, model: str | None, status: int, message: str) -> None:
            self.refusals.append((model, status, message))

        def stopped(self) -> None:
            Seen.ended = True

    async def echo(request: Request) -> Response:
        return Response(json.dumps({"said": request.values["word"], "body": request.body.decode()}).encode())

    async def fails(request: Request) -> Response:
        raise RuntimeError("a secret of this machine")

    seen = Seen()
    routes = [Route("POST", "/echo/{word}", echo), Route("GET", "/fails", fails)]
    app = App(options(file), [seen], lambda app: routes)

    async def inside() -> None:
        assert await asked(app, "POST", "/echo/a%20b", b"hello") == (200, {"said": "a b", "body": "hello"})
        assert await asked(app, "GET", "/fails") == (500, {"error": "the server failed; its log says why"})
        status, _ = await asked(app, "POST", "/v2/models/cartpole/infer", json.dumps({**BODY, "id": "x"}).encode())
        assert status == 200
        await asked(app, "GET", "/v2/models/nobody")
        await asked(app, "POST", "/v2/models/cartpole/infer", b"{")

    asyncio.run(living(app, inside))
    (batch,) = seen.answers
    assert (batch.ids, batch.rows, batch.obs.shape, batch.actions.shape) == (["x"], [2], (2, 4), (2,))
    assert [(model, status) for model, status, _ in seen.refusals] == [(None, 500), (None, 404), ("cartpole", 400)]
    assert Seen.ended
