"""`rlab serve --engine ray`: the same application in replicas that see nothing but what has travelled."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlab.compression.export.member_file import export
from rlab.errors import UsageError
from rlab.runs import registry
from rlab.runs.policies import load_policy
from rlab.serving import ray_serve
from rlab.serving.app import App
from rlab.serving.options import ServeOptions
from rlab.serving.ray_serve import RayServer, application, packed

START = 240.0  # seconds until Ray's processes are up, on a busy machine
TOKEN = "a-token-of-twenty-four"
BEARER = {"authorization": f"Bearer {TOKEN}"}
OBS = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a cluster of one node with four CPUs, which cost nothing until they are used."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 4, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        found = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            yield found.address
        finally:
            found.shutdown()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def replicas() -> set[int]:
    """The processes of the deployment's replicas."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"ServeReplica:rlab:policies" in path.read_bytes():
                found.add(int(path.parent.name))
    return found


async def answered(app: App, path: str, body: bytes) -> tuple[int, Any]:
    """What an ASGI server gets from the application between its startup and its shutdown."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    life: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    living = asyncio.create_task(app({"type": "lifespan"}, life.get, told.put))
    await life.put({"type": "lifespan.startup"})
    assert (await told.get())["type"] == "lifespan.startup.complete"
    headers = [(b"host", b"127.0.0.1:8080"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await sent.put({"type": "http.request", "body": body})
    await app(scope, sent.get, told.put)
    status, found = (await told.get())["status"], json.loads((await told.get())["body"])
    await life.put({"type": "lifespan.shutdown"})
    await living
    return status, found


def test_a_replica_serves_a_file_that_its_machine_does_not_see(
    save_untrained: Callable[..., Path], input_tensor: Callable[..., Any], tmp_path: Path
) -> None:
    policy, path = load_policy(save_untrained(tmp_path / "policy")).policy.member(), tmp_path / "pole.npz"
    export(policy, np.random.default_rng(1).normal(size=(1000, 4)), "numpy", path)
    options = ServeOptions(sources=(f"own={path}",))
    parcels = [packed(source, options) for source in options.sources]
    path.unlink()
    body = json.dumps({"inputs": [input_tensor("obs", OBS)]}).encode()
    status, found = asyncio.run(answered(application(options, parcels), "/v2/models/own/versions/1/infer", body))
    assert (status, found["outputs"][0]["data"]) == (200, [int(policy(row)) for row in OBS])


def test_of_a_version_its_whole_folder_travels_and_of_a_run_its_policy_alone(
    save_untrained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, models = tmp_path / "run", tmp_path / "models"
    (run / "checkpoint").mkdir(parents=True)
    files = files_of(save_untrained(run / "policy"))
    for _ in range(2):
        registry.add_version(models, "pole", lambda number: files)
    folders = {"run": run / "policy", "pole": models / "pole" / "2"}
    monkeypatch.setattr(ray_serve, "open_models", lambda places, *_: [SimpleNamespace(folder=folders[places[0].name])])
    options = ServeOptions(sources=("pole@2", str(run)), models=models)
    version, policy = (packed(source, options) for source in options.sources)
    assert version.files == {**files, "manifest.json": (models / "pole/2/manifest.json").read_bytes()}
    assert policy.files == files
    app = application(options, [version, policy])
    places = app.options.places or {}
    assert [(each.name, each.version) for each in places.values()] == [("pole", "2"), ("run", "1")]
    assert files_of(places["pole@2"].path) == version.files


def test_what_cannot_be_deployed_is_said_before_a_cluster_is_looked_for(
    policies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(policies / "cartpole")
    with pytest.raises(UsageError, match="--port 0: with --engine ray name the port"):
        RayServer(ServeOptions(sources=(source,), port=0))
    with pytest.raises(UsageError, match="--record needs --engine local"):
        RayServer(ServeOptions(sources=(source,), record=tmp_path))
    with pytest.raises(UsageError, match="there is no run, policy folder, exported file or model gone"):
        RayServer(ServeOptions(sources=("gone",)))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'^--engine ray needs Ray: pip install "rlab-agents\[ray\]"$'):
        RayServer(ServeOptions(sources=(source,)))
    monkeypatch.undo()
    pytest.importorskip("ray.serve")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UsageError, match=r"--engine ray finds no cluster at RAY_ADDRESS=127\.0\.0\.1:9"):
        RayServer(ServeOptions(sources=(source,)))


@pytest.mark.prove
def test_on_a_cluster_replicas_answer_as_the_policy_and_take_up_a_new_version_without_losing_a_request(
    address: str,
    serve: Callable[..., Any],
    save_untrained: Callable[..., Path],
    input_tensor: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models, folders = tmp_path / "models", [save_untrained(tmp_path / f"policy{at}", scale=at) for at in (3.0, -3.0)]
    expected = [[int(load_policy(folder).policy.member()(row)) for row in OBS] for folder in folders]
    assert expected[0] != expected[1]
    registry.add_version(models, "pole", lambda number: files_of(folders[0]), ["best"])
    (tmp_path / "token").write_text(TOKEN)
    words = ("pole@best", "--models", models, "--engine", "ray", "--workers", 2, "--token-file", tmp_path / "token")
    monkeypatch.setenv("RAY_ADDRESS", address)
    server = serve(*words, ready=False)
    server.wait_until_ready(TOKEN, START)
    assert server.get("/v2/models/pole").status == 401
    found: list[tuple[str, list[int]]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = server.post("/v2/models/pole/infer", {"inputs": [input_tensor("obs", OBS)]}, **BEARER)
            assert answer.status == 200, answer
            found.append((answer.json["model_version"], answer.json["outputs"][0]["data"]))

    asking = threading.Thread(target=ask)
    asking.start()
    until = time.monotonic() + START
    while len(found) < 20:
        assert asking.is_alive()
        time.sleep(0.1)
    registry.add_version(models, "pole", lambda number: files_of(folders[1]), ["best"])
    while found[-1][0] != "2":
        assert asking.is_alive()
        assert time.monotonic() < until
        time.sleep(0.1)
    stop.set()
    asking.join()
    assert {(version, tuple(data)) for version, data in found} == {
        (version, tuple(data)) for version, data in zip("12", expected, strict=True)
    }
    count = 'rlab_requests_total{model="pole",status="200",version="2"}'
    of_two = 'rlab_requests_total{model="pole",status="200",version="1"}'
    answers = {name: sum(version == name for version, _ in found) for name in "12"}
    until = time.monotonic() + START
    while True:  # whichever replica answers, it knows of all, also of those that are gone
        lines = dict(line.rsplit(" ", 1) for line in server.get("/metrics", **BEARER).body.decode().splitlines())
        if [float(lines.get(each, 0)) for each in (of_two, count)] == [answers["1"], answers["2"]]:
            break
        assert time.monotonic() < until, (answers, lines)
    before = replicas()
    os.kill(min(before), signal.SIGKILL)
    until = time.monotonic() + START
    while len(now := replicas()) < 2 or min(before) in now:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert server.post("/v2/models/pole/infer", {"inputs": [input_tensor("obs", OBS)]}, **BEARER).status == 200
    assert server.stop(60.0) == 0
    assert not replicas()
