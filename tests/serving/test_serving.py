"""`rlab serve`: the Open Inference Protocol, several models, a token, workers, a graceful stop."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.compression.export.member_file import export
from rlab.errors import RlabError, UsageError
from rlab.serving.conversion import convert

TRUSTED = "--trust"  # spares a process of its own for the file
OBS = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.01, -0.02, 0.03, 0.04]}


@pytest.fixture(scope="module")
def file(member: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cartpole` as an exported file: a server of it is there at once."""
    path = tmp_path_factory.mktemp("file") / "cartpole.onnx"
    export(member("cartpole"), np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32), "onnx", path)
    return path


def test_the_server_says_what_it_is_and_that_it_is_ready(server: Any) -> None:
    told = server.get("/v2").json
    assert (told["name"], told["version"]) == ("rlab", rlab.__version__)
    assert server.get("/v2/health/live").json == {"live": True}
    assert server.get("/v2/health/ready").json == {"ready": True}
    assert server.get("/v2/models/arm/ready").json == {"name": "arm", "ready": True}
    assert server.get("/v2/models/arm/versions/1/ready").status == 200


def test_a_models_metadata_say_what_it_takes_and_gives(server: Any) -> None:
    told = server.get("/v2/models/cartpole").json
    assert told.pop("parameters")["action_space"] == {"kind": "discrete", "n": 2, "start": 0}
    assert told == {
        "name": "cartpole",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "obs", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "action", "datatype": "INT64", "shape": [-1]},
            {"name": "outputs", "datatype": "FP32", "shape": [-1, 2]},
        ],
    }
    memory = server.get("/v2/models/memory/versions/1").json
    assert [port["name"] for port in memory["inputs"]] == ["obs", "state"]
    assert {port["name"] for port in memory["outputs"]} == {"action", "outputs", "next_state"}


def test_an_inference_comes_back_under_its_id_with_the_outputs_asked_for(server: Any) -> None:
    answer = server.infer("cartpole", OBS, id="mine", outputs=[{"name": "outputs"}, {"name": "action"}]).json
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("cartpole", "1", "mine")
    outputs, action = answer["outputs"]
    assert (outputs["shape"], action["shape"]) == ([1, 2], [1])
    assert action["data"] == [int(np.argmax(outputs["data"]))]


def test_without_an_id_each_request_gets_one_of_its_own(server: Any) -> None:
    ids = {server.infer("cartpole", OBS).json["id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(ids)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v3", 404, "there is nothing at this path"),
        ("GET", "/v2/models/nobody", 404, "unknown model 'nobody'; the models are arm, cartpole"),
        ("GET", "/v2/models/arm/versions/7", 404, "arm has no version '7' here; its versions are 1"),
        ("GET", "/v2/models/arm/infer", 405, "this path takes POST, not GET"),
        ("DELETE", "/v2/models/arm", 405, "this path takes GET, not DELETE"),
        ("POST", "/v2/models/arm/infer", 400, "the body is not an inference request"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
    server: Any, method: str, path: str, status: int, message: str
) -> None:
    answer = server.request(method, path, b"" if method == "POST" else None)
    assert answer.status == status
    assert message in answer.error


def test_a_refused_method_names_those_that_are_taken(server: Any) -> None:
    assert server.get("/v2/models/arm/infer").headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({**OBS, "data": [1e39, 0, 0, 0]}, "holds 1e+39, but its space is Box((4,), float32)"),
        ({**OBS, "shape": [4]}, "has shape [4], expected [rows, 4]"),
    ],
)
def test_an_observation_outside_its_space_is_refused(server: Any, obs: dict[str, Any], message: str) -> None:
    assert message in server.infer("cartpole", obs).error


def test_integers_that_a_space_does_not_have_are_refused(server: Any, input_tensor: Callable[..., Any]) -> None:
    wrong = input_tensor("obs", np.array([[0.5, 0.5, 7]], np.float32))  # the third is Discrete(4, start=2)
    assert (
        "the part 'kind' of an observation holds 7.0, but its space is Discrete(4)"
        in server.infer("parts", wrong).error
    )


def test_the_description_names_every_operation(server: Any) -> None:
    told = server.get("/openapi.json").json
    assert told["openapi"] == "3.1.0"
    infer = told["paths"]["/v2/models/{model}/infer"]["post"]
    assert infer["parameters"][0]["schema"]["enum"] == ["arm", "cartpole", "masked", "memory", "parts", "pixels"]
    assert {"200", "400", "404", "413", "503"} <= infer["responses"].keys()
    for path in ("/v2", "/v2/health/ready", "/v2/models/{model}/versions/{version}"):
        assert "200" in told["paths"][path]["get"]["responses"]


def test_a_token_is_asked_for_everywhere_as_a_bearers_or_as_a_password(
    file: Path, served: Callable[..., Any], tmp_path: Path
) -> None:
    token = "a" * 40
    (tmp_path / "token").write_text(token + "\n")
    words = (file, TRUSTED, "--token-file", tmp_path / "token")
    with served(*words, log=tmp_path / "log", token=token) as server:
        for headers in ({}, {"authorization": "Bearer " + "a" * 39}, {"authorization": f"Token {token}"}):
            for path in ("/v2", "/v2/health/ready", "/openapi.json", "/metrics", "/nothing"):
                answer = server.get(path, **headers)
                assert (answer.status, answer.error) == (401, "the token is missing or wrong")
        assert server.get("/v2", authorization=f"bearer {token}").status == 200
        password = base64.b64encode(f"anybody:{token}".encode()).decode()
        assert server.get("/v2", authorization=f"Basic {password}").status == 200
        assert token not in server.log.read_text()


def test_pages_of_other_sites_are_not_served(server: Any) -> None:
    assert server.get("/v2", host="evil.example").status == 403
    assert server.get("/v2", origin="http://evil.example").status == 403
    own = f"127.0.0.1:{server.port}"
    assert server.get("/v2", host=own, origin=f"http://{own}").status == 200


def test_what_was_accepted_is_answered_before_the_server_stops(serve: Callable[..., Any], file: Path) -> None:
    server = serve(file, TRUSTED)
    body = json.dumps({"inputs": [OBS]}).encode()
    head = f"POST /v2/models/cartpole/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with server.wire() as begun, server.wire() as idle:
        assert idle.request("GET", "/v2").status == 200
        begun.send(head + body[:10])
        server.get("/v2")  # so that the server has read the beginning
        os.kill(server.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        begun.send(body[10:])
        answer = begun.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert server.process.wait(20) == 0
    assert "stopped" in server.log.read_text()


def test_requests_before_a_broken_one_are_answered_first(server: Any) -> None:
    good = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with server.wire() as wire:
        wire.send(good * 3 + b"broken\r\n\r\n" + good)
        assert [wire.answer().status for _ in range(4)] == [200, 200, 200, 400]
        with pytest.raises(ConnectionError):
            wire.answer()


def test_ctrl_c_stops_the_server_with_exit_code_0(serve: Callable[..., Any], file: Path) -> None:
    server = serve(file, TRUSTED)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0


def test_a_worker_that_is_killed_comes_back(serve: Callable[..., Any], file: Path) -> None:
    server = serve(file, TRUSTED, "--workers", 2)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        pytest.skip("the processes of a server are read from /proc: this needs Linux")
    lines = [json.loads(line) for line in server.log_lines if line.startswith("{")]
    workers = {line["process"] for line in lines if line["event"] == "ready"}
    until = time.monotonic() + 60
    while len(workers) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
        lines = [json.loads(line) for line in server.log_lines if line.startswith("{")]
        workers = {line["process"] for line in lines if line["event"] == "ready"}
    killed = workers.pop()
    os.kill(killed, signal.SIGKILL)
    for _ in range(20):  # the other one answers
        assert server.infer("cartpole", OBS).status == 200
    while not any(line["process"] not in {killed, *workers} for line in lines if line["event"] == "ready"):
        assert time.monotonic() < until
        time.sleep(0.05)
        lines = [json.loads(line) for line in server.log_lines if line.startswith("{")]
    assert server.infer("cartpole", OBS).status == 200
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no run, policy folder, exported file or model nowhere"),
        ([], "nothing to serve: name a run, a policy folder, an exported file or a model"),
        (["{cartpole}", "{cartpole}"], "would both be version 1 of cartpole. Give one of them another name"),
        (["{cartpole}", "--host", "192.0.2.1"], "--host takes an address of this machine, such as 127.0.0.1."),
        (["{cartpole}", "--host", "no.such.host.invalid"], "--host takes an address of this machine"),
        (["{cartpole}", "--max-rows", "0"], "the limit max_rows must be above 0"),
        (["{cartpole}", "--workers", "0"], "--workers must be at least 1"),
        (["{cartpole}", "--port", "80000"], "--port must be 1 to 65535, or 0 for a free one, not 80000"),
        (["{cartpole}", "--port", "-1"], "--port must be 1 to 65535, or 0 for a free one, not -1"),
        (["{cartpole}", "--token-file", "{short}"], "--token-file {short} must hold one token of 16 to 4096 letters"),
    ],
)
def test_a_server_that_cannot_be_says_why_in_one_line(
    words: list[str], message: str, policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlab.cli.main import main

    (tmp_path / "short").write_text("short")
    places = {"cartpole": policies / "cartpole", "short": tmp_path / "short"}
    assert main(["serve", *(word.format(**places) for word in words)]) == 2
    said = capsys.readouterr().err
    assert message.format(**places) in said
    assert said.count("\n") == 1


def test_from_python_a_server_runs_in_a_thread_until_its_block_ends(file: Path) -> None:
    import urllib.request

    with rlab.serve(file, f"other={file}") as server:
        with urllib.request.urlopen(f"{server.url}/v2/models/other", timeout=30) as answer:
            assert json.load(answer)["name"] == "other"
        address = ("127.0.0.1", server.port)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address, timeout=1).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "rlab serve"]


def test_from_python_a_damaged_file_raises_what_is_wrong(file: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RlabError, match="is not an ONNX file that onnxruntime can run"):
        rlab.serve(tmp_path / "damaged.onnx", trust=True)
    with pytest.raises(UsageError, match="holds one policy; --member is for folders of several"):
        rlab.serve(file, member=3)


def test_a_folder_that_cannot_be_served_says_why(policies: Path, tmp_path: Path) -> None:
    for folder, member, kind, reason in (
        (policies / "arm", 99, "UsageError", "99"),
        (tmp_path, None, "RlabError", "is neither a run folder"),
    ):
        convert([str(folder)], member, False, str(tmp_path))
        told = json.loads((tmp_path / "refusal.json").read_text())
        assert told["kind"] == kind
        assert reason in told["error"]


def test_the_server_does_without_torch() -> None:
    modules = "rlab.cli.serve, rlab.serving.server, rlab.serving.assembly, rlab.serving.connections"
    words = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
