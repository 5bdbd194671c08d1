"""The server as an ASGI application: the Open Inference Protocol, and whatever other parts add to it."""

import asyncio
import functools
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from rlab.compression.export.graph import ACTION, NEXT_STATE, OBS, OUTPUTS, STATE
from rlab.errors import RlabError, UsageError
from rlab.serving import binary, inference, openapi, sequences
from rlab.serving.batching import Batcher, Waiting
from rlab.serving.catalog import LOADING, Catalog
from rlab.serving.gate import Gate
from rlab.serving.log import log
from rlab.serving.models import Place, ServedModel, place_of
from rlab.serving.observers import AnsweredBatch, Observer
from rlab.serving.options import ServeOptions
from rlab.serving.web import AGAIN, Refused, Request, Response, Route, Table, to_json
from rlab.serving.worker import end_with_parent
from rlab.version import VERSION

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Reply = Callable[[Response], None]
MODEL, MODEL_VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
EXTENSIONS = ("sequence", "binary_tensor_data")


class App:
    """One process's server: `admit` and `answer` for who reads requests from connections, and the same as an ASGI
    application.

    Args:
        observers: are told of the traffic.
        routes: of other parts.
        ready, failed: one of them is called once the models are loaded, or cannot be, with the reason.
    """

    def __init__(
        self,
        options: ServeOptions,
        observers: Sequence[Observer] = (),
        routes: Callable[["App"], Sequence[Route]] = lambda app: (),
        ready: Callable[[], None] = lambda: None,
        failed: Callable[[RlabError], None] = lambda error: None,
    ) -> None:
        self.options, self.observers = options, tuple(observers)
        self.catalog = Catalog(
            options.sources, self._batcher, find=_finder(options), member=options.member, trust=options.trust
        )
        self.sequences = sequences.Sequences(options.limits)
        self._routes = [*self._own_routes(), *routes(self)]
        others = [(route.method, route.path, functools.partial(self._begin, route)) for route in self._routes]
        infer = [("POST", f"{each}/infer", self._infer) for each in (MODEL, MODEL_VERSION)]
        self._table: Table[Callable[[Request, Reply], object]] = Table([*infer, *others])
        self._gate = Gate(options.token, options.host)
        self.arriving = 0  # bytes of bodies that are not whole yet
        self._loaded, self._failed = ready, failed
        self._ids = (f"{prefix}-{count}" for prefix in [secrets.token_hex(4)] for count in itertools.count(1))
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, headers: Mapping[bytes, bytes]) -> None:
        """Whether the body of a request with these headers should be read.

        Raises:
            Refused: the token is wrong, the body is too long or encoded.
        """
        self._gate.check(headers)
        if int(headers.get(b"content-length", b"0")) > self.options.limits.max_body_bytes:
            raise self.too_long()
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "bodies are taken as they are, without a content-encoding")

    def too_long(self) -> Refused:
        """The answer to a body beyond the limit."""
        return Refused(413, f"the body is longer than {self.options.limits.max_body_bytes} bytes, the limit here")

    def answer(self, request: Request, reply: Reply) -> None:
        """Answer a request that was admitted: `reply` is called once, now or later, in the event loop's thread."""
        values: dict[str, str] = {}
        try:
            answers, values = self._table.find(request.method, request.path)
            answers(request._replace(values=values), reply)
        except Exception as error:
            reply(self._error(values.get("model"), error))

    def tell_refused(self, model: str | None, refusal: Refused) -> None:
        """Tell the observers of a request without an answer; a name of the client's own is no model's."""
        name = model if model in self.catalog.names() else None
        for observer in self.observers:
            self._tell(observer.refused, name, refusal.status, str(refusal))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application, for other servers than rlab's own."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            response = await self._asgi(scope, receive)
            length = str(len(response.body)).encode()
            headers = [(b"content-type", response.content_type), (b"content-length", length), *response.headers]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.body})

    async def _asgi(self, scope: Scope, receive: Receive) -> Response:
        started, headers = time.perf_counter(), dict(scope["headers"])
        try:
            self.admit(headers)
            body, more = bytearray(), True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > self.options.limits.max_body_bytes:
                    raise self.too_long()
        except Exception as error:
            return self._error(None, error)
        path = scope.get("raw_path") or scope["path"].encode()
        request = Request(
            scope["method"], path.decode("latin-1"), {}, headers, scope["query_string"], bytes(body), started
        )
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.answer(request, response.set_result)
        return await response

    def _begin(self, route: Route, request: Request, reply: Reply) -> None:
        """Answer with a handler, in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._handled(route, request, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handled(self, route: Route, request: Request, reply: Reply) -> None:
        try:
            response = await route.handler(request)
        except Exception as error:
            response = self._error(request.values.get("model"), error)
        reply(response)

    def _error(self, model: str | None, error: Exception) -> Response:
        """What a request gets that cannot be answered."""
        if not isinstance(error, Refused):
            log("error", "a request failed", error=error)
            error = Refused(500, "the server failed; its log says why")
        self.tell_refused(model, error)
        return error.response()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Load the models, and follow them until the server stops."""
        await receive()
        if self.options.workers > 1:
            end_with_parent()
        loading = asyncio.get_running_loop().create_task(self._load())
        if not self.options.listens_first and not await loading:
            await send({"type": "lifespan.startup.failed", "message": "the models cannot be loaded"})
            return
        await send({"type": "lifespan.startup.complete"})
        following = asyncio.get_running_loop().create_task(self._follow(loading))
        await receive()
        for task in (loading, following):
            task.cancel()
        await asyncio.gather(loading, following, return_exceptions=True)
        for observer in self.observers:
            self._tell(observer.stopped)
        await send({"type": "lifespan.shutdown.complete"})

    async def _load(self) -> bool:
        """Load the models; false where that fails."""
        try:
            await self.catalog.load()
        except Exception as error:
            log("error", "the models cannot be loaded", error=error)
            if not isinstance(error, RlabError):
                error = RlabError(f"cannot load the models: {type(error).__name__}: {error}")
            self._failed(error)
            return False
        log("info", "ready", models=self.catalog.names())
        self._loaded()
        return True

    async def _follow(self, loading: "asyncio.Task[bool]") -> None:
        if await loading:
            await self.catalog.follow()

    def _batcher(self, model: ServedModel) -> Batcher:
        return Batcher(model, self.options.limits, self._tell_answered)

    def _tell_answered(self, model: ServedModel, batch: AnsweredBatch) -> None:
        for observer in self.observers:
            self._tell(observer.answered, model, batch)

    def _tell(self, told: Callable[..., None], *facts: Any) -> None:
        try:
            told(*facts)
        except Exception as error:
            log("error", "an observer failed", error=error)

    def _own_routes(self) -> list[Route]:
        model = openapi.operation("What a model takes and gives", openapi.METADATA, 404)
        ready = openapi.operation("Whether a model is loaded", openapi.READY, 404)
        return [
            Route("GET", "/openapi.json", self._description, openapi.operation("This description", {"type": "object"})),
            Route("GET", "/v2", self._server, openapi.operation("What the server is", openapi.SERVER)),
            Route("GET", "/v2/health/live", self._live_now, openapi.operation("Whether the server runs", openapi.LIVE)),
            Route("GET", "/v2/health/ready", self._ready, openapi.READINESS),
            Route("GET", MODEL, self._model, model),
            Route("GET", MODEL_VERSION, self._model, model),
            Route("GET", f"{MODEL}/ready", self._model_ready, ready),
            Route("GET", f"{MODEL_VERSION}/ready", self._model_ready, ready),
        ]

    async def _description(self, request: Request) -> Response:
        infer = openapi.inference(self.options.limits)
        entries: list[openapi.Operation] = [("POST", f"{each}/infer", infer) for each in (MODEL, MODEL_VERSION)]
        entries += [(route.method, route.path, route.about) for route in self._routes if route.about]
        return Response(to_json(openapi.described(entries, self.catalog.names(), self.options.token is not None)))

    async def _server(self, request: Request) -> Response:
        return Response(to_json({"name": "rlab", "version": VERSION, "extensions": EXTENSIONS}))

    async def _live_now(self, request: Request) -> Response:
        return Response(to_json({"live": True}))

    async def _ready(self, request: Request) -> Response:
        if not self.catalog.ready:
            raise Refused(503, LOADING, AGAIN)
        return Response(to_json({"ready": True}))

    async def _model_ready(self, request: Request) -> Response:
        found = self.catalog.find(request.values["model"], request.values.get("version")).model
        return Response(to_json({"name": found.name, "ready": True}))

    async def _model(self, request: Request) -> Response:
        name = request.values["model"]
        found = self.catalog.find(name, request.values.get("version")).model
        facts = {
            "name": name,
            "versions": self.catalog.versions(name),
            "platform": found.platform,
            "inputs": [port.to_json() for port in found.inputs.values()],
            "outputs": [port.to_json() for port in found.outputs.values()],
            "parameters": {name: found.metadata[name] for name in ("obs_space", "action_space")},
        }
        return Response(to_json(facts))

    def _infer(self, request: Request, reply: Reply) -> None:
        """Ask the model; what this raises is the answer."""
        batcher = self.catalog.find(request.values["model"], request.values.get("version"))
        model = batcher.model
        json, behind = binary.split(request.body, request.headers)
        asked = inference.parse(json, model.inputs, model.outputs, self.options.limits.max_rows, behind)
        if OBS not in asked.inputs:
            raise Refused(400, f"the input {OBS} is missing")
        id = asked.id or next(self._ids)
        sequence, start, end = sequences.named(asked.parameters)
        obs, state = observed(model, asked.inputs[OBS]), asked.inputs.get(STATE)
        kept = None
        if model.state_size and state is None:
            kept = self._kept(batcher, sequence, len(obs), start)
            batcher, model, state = kept.batcher, kept.batcher.model, kept.state
        elif state is not None:
            state = _finite(state)

        def done(found: tuple[np.ndarray, ...] | Refused) -> None:
            try:
                if kept is not None and sequence is not None:
                    after = None if isinstance(found, Refused) else found[2]
                    self.sequences.put_back(model.name, sequence, kept, after, end)
                if isinstance(found, Refused):
                    raise found
                reply(_answer(model, asked, id, found, kept is not None))
            except Exception as error:
                reply(self._error(model.name, error))

        batcher.ask(Waiting(id, sequence, start, request.started, obs, state, done))

    def _kept(self, batcher: Batcher, sequence: str | None, rows: int, start: bool) -> sequences.Sequence:
        """The episode whose state the server keeps, for one step of a policy with memory."""
        if self.options.workers > 1:
            raise Refused(400, f"with several workers the server keeps no states: send the input {STATE}")
        if sequence is None:
            raise Refused(
                400,
                f"this policy has memory and needs its state: the input {STATE} [rows, {batcher.model.state_size}], "
                f"zeros where an episode begins, then the output {NEXT_STATE} of the step before; or the parameters "
                f"{sequences.ID} and {sequences.START}, with which the server keeps it",
            )
        return self.sequences.taken(batcher, sequence, rows, start)


def _finder(options: ServeOptions) -> Callable[[str], Place]:
    """Finds the place of a source."""
    if options.places is not None:
        return options.places.__getitem__
    return functools.partial(place_of, models=options.models)


def observed(model: ServedModel, obs: np.ndarray) -> np.ndarray:
    """Observations as the model takes them.

    Raises:
        Refused: they hold a number that the space does not.
    """
    try:
        model.look(obs)
    except UsageError as error:
        raise Refused(400, str(error)) from None
    return np.ascontiguousarray(obs, model.runner.obs_space.dtype)


def _finite(state: np.ndarray) -> np.ndarray:
    """A state as the model takes it.

    Raises:
        Refused: a number of it is not one that float32 holds.
    """
    if not (np.abs(state) <= np.finfo(np.float32).max).all():
        raise Refused(400, f"the input {STATE} holds a number that float32 does not")
    return state.astype(np.float32)


def _answer(
    model: ServedModel, asked: inference.Asked, id: str, found: tuple[np.ndarray, ...], keeps_state: bool
) -> Response:
    """The outputs that were asked for; else the action, and the next state where the client keeps it."""
    by_name = dict(zip((ACTION, OUTPUTS, NEXT_STATE), found, strict=False))
    usual = (ACTION, NEXT_STATE) if model.state_size and not keeps_state else (ACTION,)
    outputs = [(model.outputs[name], by_name[name]) for name in asked.outputs or usual]
    return inference.answer(model.name, model.version, id, outputs, asked.in_binary)
