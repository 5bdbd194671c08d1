"""`rlab serve --engine ray`: the same application as a deployment of Ray Serve, in replicas on a cluster.

What is served travels as the files of its policy folder, or as the exported file, so that the machines need not see it;
nothing is pickled that was learned. Ray's proxies take the connections, on every machine that has a replica.
"""

import contextlib
import importlib
import logging
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlab.engines import ray_cluster
from rlab.errors import RlabError, UsageError, pip_install
from rlab.runs import files
from rlab.serving.app import App
from rlab.serving.assembly import build_app
from rlab.serving.catalog import check_sources
from rlab.serving.limits import POLL_SECONDS
from rlab.serving.log import log
from rlab.serving.models import Place, open_models, place_of
from rlab.serving.options import ServeOptions
from rlab.serving.ray_numbers import Exchange, exchange_always
from rlab.serving.server import url_of

NAME = "rlab"  # of the application, on a cluster that may serve others


@dataclass(frozen=True)
class Parcel:
    """One source as it travels: its place, and the files there by name; of an exported file the one."""

    place: Place
    is_folder: bool
    files: Mapping[str, bytes]


class RayServer:
    """Serves on the cluster that RAY_ADDRESS names, or that this machine belongs to. Once it is made, it answers.

    Raises:
        UsageError: Ray Serve is not installed, there is no cluster, or it listens to something else already.
        RlabError: a source cannot be opened, or no replica starts.
    """

    def __init__(self, options: ServeOptions) -> None:
        if options.port == 0:
            raise UsageError("--port 0: with --engine ray name the port, which is the same on every machine.")
        if options.record is not None:
            raise UsageError("--record needs --engine local: each replica would write on a machine of its own.")
        check_sources(options.sources, options.models)
        self._serve = _imported()
        self.options = options
        self._failed: dict[str, Path] = {}  # source -> a version that cannot be served, and is not tried again
        self._ray, self._joined = ray_cluster.joined()
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        self._is_first = not self._serve.status().proxies
        self._exchange = self._ray.remote(Exchange).options(num_cpus=0).remote()
        try:
            self._parcels = [packed(source, options) for source in options.sources]
            self._listen()
            self._deploy()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The address of the proxy on this machine."""
        return url_of(self.options.host, self.options.port)

    def run(self) -> None:
        """Wait for SIGINT or SIGTERM, then answer what has been accepted and leave the cluster as it was. Where a
        source comes to mean another version, replicas that serve it take the place of those that are there, one after
        another."""
        with contextlib.closing(self), _signals() as stop:
            while not stop.wait(POLL_SECONDS):
                try:
                    self._follow()
                except RlabError as error:
                    log("error", "a new version is not served", error=error)

    def close(self) -> None:
        """Take the application off the cluster, and Ray Serve where it was not there before."""
        if self._is_first:
            self._serve.shutdown()
        else:
            self._serve.delete(NAME)
        if self._joined:
            with ray_cluster.own_signals():
                self._ray.shutdown()

    def _listen(self) -> None:
        """Have Ray's proxies listen.

        Raises:
            UsageError: they listen to another port already.
            RlabError: they do not start.
        """
        host, port = self.options.host, self.options.port
        with _failures():
            self._serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
        found = self._serve.context._get_global_client().http_config
        if (found.host, found.port) != (host, port):
            raise UsageError(
                f"Ray Serve listens to port {found.port} of {found.host} on this cluster already: say --host "
                f"{found.host} --port {found.port}, or stop it with `serve shutdown`."
            )

    def _deploy(self) -> None:
        """Have replicas serve the parcels.

        Raises:
            RlabError: they do not start.
        """
        options, parcels, exchange = self.options, self._parcels, self._exchange

        def build() -> App:
            return application(options, parcels, exchange)

        deployment = self._serve.deployment(
            name="policies",
            num_replicas=options.workers,
            max_ongoing_requests=options.limits.max_waiting,
            graceful_shutdown_timeout_s=options.limits.stop_seconds,
            ray_actor_options={"num_cpus": 1},
        )(self._serve.ingress(build)())
        with _failures():
            self._serve.run(deployment.bind(), name=NAME, route_prefix="/")

    def _follow(self) -> None:
        """Look for new versions, and serve them."""
        parcels = list(self._parcels)
        for at, source in enumerate(self.options.sources):
            if not parcels[at].place.moves:
                continue
            path = place_of(source, self.options.models).path
            if path not in (parcels[at].place.path, self._failed.get(source)):
                self._failed[source] = path
                parcels[at] = packed(source, self.options)
                del self._failed[source]
        if parcels != self._parcels:
            self._parcels = parcels
            self._deploy()


def packed(source: str, options: ServeOptions) -> Parcel:
    """What travels for a source. It is opened here first, where it is easier to see why it cannot be.

    Raises:
        UsageError, RlabError: as `place_of` and `open_model`.
    """
    place = place_of(source, options.models)
    (model,) = open_models([place], options.member, options.trust)
    folder = model.folder
    if folder is None:
        return Parcel(place, False, {place.path.name: files.read_bytes(place.path)})
    return Parcel(
        place, True, {each.name: files.read_bytes(each) for each in sorted(folder.iterdir()) if each.is_file()}
    )


def application(options: ServeOptions, parcels: Sequence[Parcel], exchange: Any = None) -> App:
    """The application of one replica, from what has travelled; `exchange`: the actor of this name."""
    root = Path(tempfile.mkdtemp(prefix="rlab-"))
    places = {}
    for at, (source, parcel) in enumerate(zip(options.sources, parcels, strict=True)):
        folder = root / str(at)
        folder.mkdir()
        for name, content in parcel.files.items():
            (folder / name).write_bytes(content)
        path = folder if parcel.is_folder else folder / next(iter(parcel.files))
        places[source] = replace(parcel.place, path=path, moves=False)
    numbers = root / "numbers"
    numbers.mkdir()
    if exchange is not None:
        exchange_always(numbers, importlib.import_module("ray"), exchange)
    app = build_app(replace(options, places=places, shared=numbers))
    weakref.finalize(app, shutil.rmtree, root, ignore_errors=True)
    return app


def _imported() -> Any:
    """The module `ray.serve`.

    Raises:
        UsageError: it is not installed.
    """
    ray_cluster.imported()
    try:
        with ray_cluster.own_signals():
            return importlib.import_module("ray.serve")
    except ImportError as error:
        raise UsageError(f"--engine ray needs Ray Serve: {pip_install('ray')}") from error


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Whatever goes wrong in Ray Serve is said in a line."""
    try:
        yield
    except Exception as error:  # Ray has many error classes without a common base
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RlabError(f"Ray Serve cannot serve this: {reason.rstrip('.')}; the logs of Ray say more") from error


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Is set at SIGINT and SIGTERM, in a block in the main thread."""
    stop = threading.Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
