"""Processes that are killed, limits, versions that change: the server goes on, nothing leaks or leaves the loopback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from wire import request_bytes  # type: ignore[import-not-found, unused-ignore]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc: this needs Linux")

OBS = np.array([[0.1, -0.2, 0.3, 0.4]], np.float32)
PATIENCE = 40.0  # seconds for a worker to come back, on a busy machine
LOOPBACK = re.compile(r"AF_UNIX|AF_NETLINK|inet_addr\(\"127\.|inet_pton\(AF_INET6, \"::1\"|AF_UNSPEC")


def workers_of(server: Any) -> list[int]:
    """The processes that the server's first one has started and that listen on its port."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(child) for child in children if _listens(int(child), server.port)]


def _listens(process: int, port: int) -> bool:
    try:
        handles = [os.readlink(entry) for entry in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:
        return False
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")}
    return bool(sockets & set(handles))


def wait_for(what: Callable[[], bool], seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it has not happened in time"
        time.sleep(0.05)


def test_workers_end_with_the_process_that_started_them_even_if_it_is_killed(
    serve: Callable[..., Any], policies: Path
) -> None:
    server = serve(policies / "cartpole.onnx", "--workers", 2)
    wait_for(lambda: len(workers_of(server)) == 2)
    workers = workers_of(server)
    server.process.kill()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 15)
    with pytest.raises(ConnectionError):
        server.get("/v2/health/live")


def test_a_stopping_server_answers_what_it_has_accepted(
    serve: Callable[..., Any], policies: Path, input_tensor: Callable[..., Any]
) -> None:
    server = serve(policies / "cartpole.onnx")
    body = json.dumps({"inputs": [input_tensor("obs", OBS)]}).encode()
    whole = request_bytes("POST", "/v2/models/cartpole/infer", body)
    wires = [server.wire() for _ in range(20)]
    for wire in wires:
        wire.send(whole[:-5])  # accepted, and the last bytes come after the signal
    time.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    for wire in wires:
        wire.send(whole[-5:])
    assert [wire.answer().status for wire in wires] == [200] * 20
    assert all(wire.closed_within(5) is not None for wire in wires)
    for wire in wires:
        wire.close()
    assert server.process.wait(15) == 0


def test_a_client_that_never_ends_its_request_does_not_keep_a_server_from_stopping(
    serve: Callable[..., Any], policies: Path
) -> None:
    server = serve(policies / "cartpole.onnx", "--request-seconds", 1)
    with server.wire() as slow:
        slow.send(b"POST /v2/models/cartpole/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)


class Caller(threading.Thread):
    """A client that asks again and again on one connection, until it is told to stop."""

    def __init__(self, server: Any, model: str, body: bytes) -> None:
        super().__init__(daemon=True)
        self._server, self._request = server, request_bytes("POST", f"/v2/models/{model}/infer", body)
        self.ends, self.wrong, self.versions, self.actions = threading.Event(), [], [], []

    def run(self) -> None:
        with self._server.wire() as wire:
            while not self.ends.is_set():
                try:
                    wire.send(self._request)
                    answer = wire.answer()
                except (ConnectionError, TimeoutError) as error:
                    self.wrong.append(repr(error))
                    return
                if answer.status != 200:
                    self.wrong.append(repr(answer))
                    return
                self.versions.append(answer.json["model_version"])
                self.actions.append(answer.json["outputs"][0]["data"])


@pytest.mark.prove
def test_a_version_that_is_swapped_under_load_loses_no_request(
    serve: Callable[..., Any], save_untrained: Callable[..., Path], input_tensor: Callable[..., Any], tmp_path: Path
) -> None:
    from rlab.runs import registry
    from rlab.runs.policies import load_policy

    obs = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    expected = {}
    for number in (1, 2, 3):
        folder = save_untrained(tmp_path / f"policy-{number}", scale=1.0 + number, seeds=(number,))
        expected[str(number)] = load_policy(folder).policy.member()(obs).tolist()
    assert len({str(actions) for actions in expected.values()}) == 3, "the versions must differ"

    def publish(number: int) -> None:
        files = {path.name: path.read_bytes() for path in (tmp_path / f"policy-{number}").iterdir()}
        assert registry.add_version(tmp_path / "models", "cart", lambda _: files, ["best"]) == number

    publish(1)
    server = serve("cart@best", "--models", tmp_path / "models")
    body = json.dumps({"inputs": [input_tensor("obs", obs)]}).encode()
    callers = [Caller(server, "cart", body) for _ in range(4)]
    for caller in callers:
        caller.start()
    for number in (2, 3):
        publish(number)
        wait_for(lambda number=number: all(str(number) in caller.versions for caller in callers))
    for caller in callers:
        caller.ends.set()
    for caller in callers:
        caller.join(10)
        assert not caller.wrong, caller.wrong
        assert caller.versions == sorted(caller.versions)
        assert set(caller.versions) == {"1", "2", "3"}
        assert all(a == expected[v] for v, a in zip(caller.versions, caller.actions, strict=True))


def test_thousands_of_requests_leave_no_open_file_and_little_memory_behind(
    serve: Callable[..., Any], policies: Path, input_tensor: Callable[..., Any]
) -> None:
    server = serve(policies / "cartpole.onnx")
    good = request_bytes(
        "POST", "/v2/models/cartpole/infer", json.dumps({"inputs": [input_tensor("obs", OBS)]}).encode()
    )
    bad = good.replace(b"FP32", b"FP64")

    def traffic(count: int) -> None:
        for _ in range(count // 50):
            with server.wire() as wire:
                wire.send((good + bad) * 25)
                assert [wire.answer().status for _ in range(50)] == [200, 400] * 25

    traffic(1000)
    handles, memory = server.handles(), server.memory()
    traffic(4000)
    wait_for(lambda: server.handles() <= handles)
    assert server.memory() < memory * 1.05


@pytest.mark.prove
def test_nothing_but_the_loopback_is_spoken_to(policies: Path, served: Any, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    trial = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    if trial.returncode:
        pytest.skip("strace may not trace here")
    traced = ("strace", "-f", "-qq", "-e", "trace=network", "-o", str(tmp_path / "trace"))
    with served(policies / "cartpole.onnx", log=tmp_path / "log", under=traced) as server:
        assert server.actions(OBS).tolist() in ([0], [1])
        server.get("/")
        server.get("/metrics")
    calls = re.findall(r"\b(?:bind|connect|sendto|sendmsg)\(\d+, .*", (tmp_path / "trace").read_text())
    named = [call for call in calls if "sa_family" in call]
    assert any("127.0.0.1" in call for call in named)
    assert not [call for call in named if not LOOPBACK.search(call)]


def test_only_the_loopback_is_listened_on(server: Any) -> None:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    lines += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    handles = {os.readlink(entry) for entry in Path(f"/proc/{server.process.pid}/fd").iterdir()}
    listening = [line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in handles]
    assert listening == [f"0100007F:{server.port:04X}"]


def test_more_connections_than_the_system_lets_it_open_do_not_end_a_server(
    policies: Path, served: Any, tmp_path: Path
) -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("needs prlimit")
    words = (policies / "cartpole.onnx", "--idle-seconds", 60)
    with served(*words, log=tmp_path / "log", under=("prlimit", "--nofile=64:64")) as server:
        wires = [server.wire(patience=2) for _ in range(120)]
        answered = 0
        for wire in wires:
            with suppress(ConnectionError, TimeoutError):
                answered += wire.request("GET", "/v2/health/live").status == 200
                if answered >= 30:
                    break
        for wire in wires:
            wire.close()
        assert answered >= 30
        wait_for(lambda: _answers(server))
        assert server.process.poll() is None


def _answers(server: Any) -> bool:
    with suppress(ConnectionError, TimeoutError):
        return bool(server.actions(OBS).tolist() in ([0], [1]))
    return False


def test_aliases_that_are_damaged_leave_what_is_served_in_its_place_until_they_are_repaired(
    serve: Callable[..., Any], save_untrained: Callable[..., Path], tmp_path: Path
) -> None:
    from rlab.runs import registry

    models = tmp_path / "models"
    save_untrained(tmp_path / "policy")
    files = {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()}
    registry.add_version(models, "cart", lambda _: files, ["best"])
    server = serve("cart@best", "--models", models)
    aliases = models / "cart" / "aliases.json"
    whole = aliases.read_bytes()
    aliases.write_bytes(whole[: len(whole) // 2])
    wait_for(lambda: any('"error"' in line or '"warning"' in line for line in server.log_lines))
    assert server.infer("cart", {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.0] * 4}).status == 200
    aliases.write_bytes(whole)
    registry.add_version(models, "cart", lambda _: files, ["best"])
    wait_for(lambda: server.get("/v2/models/cart").json["versions"] == ["2"])
