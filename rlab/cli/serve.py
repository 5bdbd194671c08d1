"""`rlab serve RUN|FILE|NAME...`: policies that answer requests over HTTP."""

import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from rlab.cli.flags import parse
from rlab.cli.help import Page
from rlab.cli.shared import keywords
from rlab.serving.limits import Limits


@dataclass(frozen=True, kw_only=True)
class ServeWords:
    """What to serve, to whom, and within which limits."""

    sources: tyro.conf.Positional[
        tuple[str, ...]
    ] = ()  # run or policy folders, exported files, models (NAME, NAME@best)
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all of this machine's, and then others reach it
    port: int = 8080  # 0: a free one
    token_file: str | None = None  # holds the token that requests must carry; None: everybody may ask
    workers: int = 1  # processes that answer
    engine: Literal["local", "ray"] = "local"  # where they run: here, or as replicas of Ray Serve on a cluster
    models: str | None = None  # folder of the registry; None: RLAB_MODELS, else models
    record: str | None = None  # folder for what is asked, answered and told of that, as datasets; None: none
    member: int | None = None  # training seed of the member, of folders with several; None: the first
    trust: bool = False  # open files that can run code, and layers from outside rlab that a folder names
    log_requests: bool = False  # a line in the log for every request


SCHEMAS = (ServeWords, Limits)
PAGE = Page(
    "rlab serve RUN|FILE|NAME... [settings]",
    "Serve policies over HTTP (Open Inference Protocol, version 2) until Ctrl+C or SIGTERM.",
    ("rlab serve runs/my-run", "rlab serve cartpole@best --token-file token.txt"),
)


def run(argv: list[str]) -> int:
    """Parse, listen, answer."""
    words, limits = parse(argv, SCHEMAS, prog="rlab serve", page=PAGE)
    from rlab.serving.options import options_of
    from rlab.serving.server import Server

    options = options_of(*words.sources, **keywords(words, "sources", "engine"), limits=limits)
    if words.engine == "ray":
        from rlab.serving.ray_serve import RayServer  # Ray takes its time

        server: Server | RayServer = RayServer(options)
    else:
        server = Server(options)
    print(f"serving on {server.url}   stop it with Ctrl+C", flush=True)
    if options.record is not None:
        print(f"recording what is asked, answered and told in {options.record}", flush=True)
    server.run()
    print("stopped", file=sys.stderr)
    return 0
