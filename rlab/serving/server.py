"""`rlab.serve`: policies that answer requests over HTTP until they are told to stop.

What the extra `serve` brings is imported where it is needed, so that the Python way does without it.
"""

import contextlib
import errno
import functools
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from rlab.errors import RlabError, UsageError, pip_install
from rlab.serving.limits import Limits
from rlab.serving.options import ServeOptions, options_of
from rlab.trust import Trust

NEEDED = ("msgspec", "httptools", "uvicorn", "onnxruntime", "prometheus_client")


def serve(
    *sources: str | PathLike[str],
    host: str = "127.0.0.1",
    port: int = 0,
    token_file: str | PathLike[str] | None = None,
    models: str | PathLike[str] | None = None,
    record: str | PathLike[str] | None = None,
    member: int | None = None,
    trust: Trust = False,
    limits: Limits | None = None,
) -> "Server":
    """Serve policies in a thread of this process until the server is closed, which a `with` block does at its end.

        with rlab.serve("runs/my-run") as server:
            print(server.url)

    Args:
        sources: run folders (their final policy), policy folders, exported files, models of the registry such as
            `cartpole`, `cartpole@best` or `cartpole@3`, or `hf:USER/NAME`; `OTHER=SOURCE` gives one another name.
        host: an address of this machine; others reach it by another one than 127.0.0.1.
        port: 0: a free one.
        token_file: holds what every request must carry, as `Authorization: Bearer TOKEN`; None lets everybody in.
        models: the folder of the registry; None: `RLAB_MODELS`, else `models`.
        record: a folder for what is asked, answered and told of the outcome, as a dataset for each model; None: nothing
            is recorded.
        member: the training seed of the member that is served, of folders with several; None: the first.
        trust: open files that can run code, and layers from outside rlab that a folder names.

    Raises:
        UsageError: a source is not there or not to be served, the port is taken, or a package is missing.
        RlabError: a source is damaged.
    """
    where: dict[str, Any] = {"host": host, "port": port, "token_file": token_file, "models": models, "record": record}
    return Server(options_of(*sources, **where, limits=limits, member=member, trust=trust)).start()


class Server:
    """A server that listens already, and answers once it runs: here and now (`run`), or in a thread (`start`).

    Raises:
        UsageError: a source is not there, the port is taken, or a package is missing.
        RlabError: as `rlab.runs.registry.resolve`.
    """

    def __init__(self, options: ServeOptions) -> None:
        check_packages()
        from rlab.serving.catalog import check_sources

        check_sources(options.sources, options.models)
        if options.record is not None:
            from rlab.serving.recording import check_folder

            check_folder(options.record)
        self.options = options
        self._socket = _listening(options)
        self._failure: RlabError | None = None
        self._stop: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return url_of(self.options.host, self.port)

    def run(self) -> None:
        """Answer requests until SIGINT or SIGTERM, and then those that have been accepted.

        Raises:
            RlabError: the models cannot be loaded.
        """
        with contextlib.closing(self._socket), contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again
            if self.options.workers == 1:
                self._run_here()
            else:
                self._run_workers()
        if self._failure is not None:
            raise self._failure

    def start(self) -> "Server":
        """Answer requests in a thread; once this returns, the models are there.

        Raises:
            UsageError: several workers are asked for.
            RlabError: the models cannot be loaded.
        """
        if self.options.workers > 1:
            raise UsageError("several workers are for a process of their own: rlab serve --workers N.")
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run_thread, args=(ready,), name="rlab serve", daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure is not None:
            self.close()
            raise self._failure
        return self

    def close(self) -> None:
        """Stop, once what has been accepted is answered, and give the port back."""
        self._stop()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_thread(self, ready: threading.Event) -> None:
        try:
            self._run_here(ready.set)
        except Exception as error:  # which nobody sees in a thread
            self._failure = RlabError(f"the server failed: {type(error).__name__}: {error}")
        finally:
            ready.set()

    def _run_here(self, ready: Callable[[], None] = lambda: None) -> None:
        import uvicorn

        from rlab.serving.assembly import build_app
        from rlab.serving.connections import ServerConfig

        def failed(error: RlabError) -> None:
            self._failure = error
            self._stop()

        app = build_app(self.options, ready, failed)
        server = uvicorn.Server(ServerConfig(lambda: app, self.options.limits))

        def stop() -> None:
            server.should_exit = True

        self._stop = stop
        server.run(sockets=[self._socket])

    def _run_workers(self) -> None:
        from uvicorn.config import STARTUP_FAILURE
        from uvicorn.supervisors import Multiprocess

        from rlab.serving.assembly import build_app
        from rlab.serving.connections import ServerConfig

        with tempfile.TemporaryDirectory(prefix="rlab-serve-") as shared:
            options = replace(self.options, shared=Path(shared))
            config = ServerConfig(functools.partial(build_app, options), options.limits, options.workers)
            workers = Multiprocess(config, sockets=[self._socket])
            workers.run()
        if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
            self._failure = RlabError("the models cannot be loaded; the log above says why.")


def url_of(host: str, port: int) -> str:
    """An address without a slash at the end."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def check_packages() -> None:
    """Raise UsageError where a package is missing."""
    for name in NEEDED:
        if find_spec(name) is None:
            raise UsageError(f"rlab serve needs the package {name}: {pip_install('serve')}")


def _listening(options: ServeOptions) -> socket.socket:
    """A socket that takes connections from now on; they wait until somebody answers.

    Raises:
        UsageError: the address is not this machine's, or the port is taken.
    """
    host, port = options.host, options.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(options.limits.max_connections)
            found.set_inheritable(True)
        except BaseException:
            found.close()
            raise
        return found
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        of_host = isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        advice = (
            "--host takes an address of this machine, such as 127.0.0.1" if of_host else "--port 0 takes a free one"
        )
        raise UsageError(f"cannot listen on port {port} of {host}: {reason}. {advice}.") from error
