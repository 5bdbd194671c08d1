"""Clients of other people's: tritonclient with its binary extension, curl, Prometheus's own parser."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rlab.serving.binary import LENGTH

http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")

DATATYPES = {"float32": "FP32", "float64": "FP64"}


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    """Triton's client of the server of all policies."""
    with http.InferenceServerClient(f"{server.host}:{server.port}") as found:
        yield found


def tensor(name: str, array: np.ndarray, binary: bool) -> Any:
    """An input as tritonclient makes it."""
    datatype = DATATYPES.get(array.dtype.name, array.dtype.name.upper())
    found = http.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def observations(model: str, rows: int) -> np.ndarray:
    """Observations in array form for a model of the server."""
    rng = np.random.default_rng(rows)
    if model == "pixels":
        return rng.integers(0, 256, (rows, 8, 9, 3)).astype(np.uint8)
    if model == "parts":
        return np.stack([np.array([*rng.uniform(-2, 4, 2), rng.integers(2, 6)]) for _ in range(rows)])
    return rng.normal(size=(rows, 4)).astype(np.float32)


def test_tritonclient_sees_a_server_that_is_ready_and_its_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cartpole")
    assert client.is_model_ready("cartpole", "1")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    described = client.get_model_metadata("cartpole")
    assert described["inputs"] == [{"name": "obs", "datatype": "FP32", "shape": [-1, 4]}]
    with pytest.raises(http.InferenceServerException, match="unknown model 'nobody'"):
        client.get_model_metadata("nobody")


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("model", ["cartpole", "arm", "pixels"])
def test_tritonclient_gets_the_members_own_actions(
    client: Any, member: Callable[..., Any], model: str, binary: bool
) -> None:
    obs = observations(model, 17)
    wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("outputs", "action")]
    found = client.infer(model, [tensor("obs", obs, binary)], request_id="a-7", outputs=wanted)
    expected = np.stack([np.asarray(member(model)(row)) for row in obs])
    np.testing.assert_allclose(found.as_numpy("action"), expected, atol=1e-5)
    assert found.as_numpy("action").dtype == expected.dtype
    assert len(found.as_numpy("outputs")) == 17
    assert found.get_response()["id"] == "a-7"
    assert ("data" in found.get_output("action")) is not binary


def test_the_bits_of_an_answer_are_the_same_in_json_and_in_binary(client: Any) -> None:
    obs = observations("arm", 64)
    answers = []
    for sent in (False, True):
        for back in (False, True):
            wanted = [http.InferRequestedOutput("action", binary_data=back)]
            answers.append(client.infer("arm", [tensor("obs", obs, sent)], outputs=wanted).as_numpy("action"))
    for other in answers[1:]:
        assert answers[0].tobytes() == other.tobytes()


def test_tritonclient_carries_the_state_of_a_policy_with_memory(client: Any, member: Callable[..., Any]) -> None:
    policy = member("memory")
    own = policy.initial_state()
    (_, described) = client.get_model_metadata("memory")["inputs"]
    state = np.zeros((1, *described["shape"][1:]), np.float32)
    for number, obs in enumerate(observations("memory", 6)):
        expected, own = policy(obs, state=own)
        found = client.infer("memory", [tensor("obs", obs[None], True), tensor("state", state, True)])
        kept = client.infer(
            "memory",
            [tensor("obs", obs[None], True)],
            sequence_id=77,
            sequence_start=number == 0,
            sequence_end=number == 5,
        )
        assert found.as_numpy("action").tolist() == kept.as_numpy("action").tolist() == [expected]
        state = found.as_numpy("next_state")


def test_many_threads_of_a_pool_of_tritonclient_get_each_its_own_answer(
    server: Any, member: Callable[..., Any]
) -> None:
    policy = member("cartpole")
    obs = observations("cartpole", 60)
    with http.InferenceServerClient(f"{server.host}:{server.port}", concurrency=8) as client:
        asked = [client.async_infer("cartpole", [tensor("obs", row[None], True)]) for row in obs]
        found = [each.get_result().as_numpy("action").item() for each in asked]
    assert found == [policy(row) for row in obs]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_body_is_refused_and_a_compressed_answer_is_not_needed(client: Any, algorithm: str) -> None:
    obs = [tensor("obs", observations("cartpole", 1), True)]
    with pytest.raises(http.InferenceServerException, match="bodies are taken as they are, without a content-encoding"):
        client.infer("cartpole", obs, request_compression_algorithm=algorithm)
    assert client.infer("cartpole", obs, response_compression_algorithm=algorithm).as_numpy("action").shape == (1,)


def body(size: Any, behind: bytes, **more: Any) -> tuple[bytes, int]:
    """A request with a binary observation of one row, and the length of its JSON."""
    tensor = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}, **more}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + behind, len(head)


ROW = np.arange(4, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("size", "behind", "more", "length", "message"),
    [
        (15, ROW, {}, 0, "has binary_data_size 15; its shape and datatype take 16"),
        ("16", ROW, {}, 0, "has binary_data_size '16'; its shape"),
        (True, ROW, {}, 0, "has binary_data_size True; its shape"),
        (-1, ROW, {}, 0, "has binary_data_size -1; its shape"),
        (16, ROW[:-1], {}, 0, "the body ends before the 16 bytes of the input obs"),
        (16, ROW + b"x", {}, 0, "1 bytes behind the JSON belong to no input"),
        (16, ROW, {"data": [1, 2, 3, 4]}, 0, "the input obs has data and binary_data_size; only one can be"),
        (None, ROW, {}, 0, "the input obs has no data"),
        (16, ROW, {}, 10**6, "the body has"),
        (16, ROW, {}, -3, "the body is not an inference request"),
        (16, np.array([0, np.nan, 0, 0], "<f4").tobytes(), {}, 0, "nan"),
    ],
)
def test_bytes_that_do_not_fit_the_tensor_are_refused_in_one_line(
    server: Any, size: Any, behind: bytes, more: dict[str, Any], length: int, message: str
) -> None:
    sent, head = body(size, behind, **more)
    headers = {"inference-header-content-length": str(head + length)}
    answer = server.request("POST", "/v2/models/cartpole/infer", sent, **headers)
    assert answer.status == 400
    assert message in answer.json["error"].lower() if message == "nan" else message in answer.json["error"]


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "9" * 30, "\u00b2"])
def test_a_length_of_the_json_that_is_no_number_is_refused(server: Any, length: str) -> None:
    sent, _ = body(16, ROW)
    answer = server.request("POST", "/v2/models/cartpole/infer", sent, **{LENGTH.decode(): length})
    assert answer.status == 400
    assert "Inference-Header-Content-Length" in answer.json["error"]


def test_prometheus_reads_the_metrics_and_counts_what_was_answered(server: Any, client: Any) -> None:
    parser = pytest.importorskip("prometheus_client.parser")

    def families() -> dict[str, Any]:
        text = server.get("/metrics").body.decode()
        return {family.name: family for family in parser.text_string_to_metric_families(text)}

    def samples(name: str, kind: str) -> list[Any]:
        """Those of the model, in the order of the page."""
        return [each for each in families()[name].samples if each.name == kind and each.labels["model"] == "cartpole"]

    def answered() -> float:
        return sum(
            each.value for each in samples("rlab_requests", "rlab_requests_total") if each.labels["status"] == "200"
        )

    client.infer("cartpole", [tensor("obs", observations("cartpole", 3), True)])
    before = answered()
    for _ in range(4):
        client.infer("cartpole", [tensor("obs", observations("cartpole", 3), True)])
    assert answered() == before + 4
    counts = [each.value for each in samples("rlab_request_seconds", "rlab_request_seconds_bucket")]
    (total,) = samples("rlab_request_seconds", "rlab_request_seconds_count")
    assert counts == sorted(counts)
    assert counts[-1] == total.value == answered()
    promtool = shutil.which("promtool")
    if promtool is not None:  # of Prometheus itself
        text = server.get("/metrics").body
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=20)
        assert (done.returncode, done.stderr) == (0, b"")


def test_curl_asks_as_the_docs_show(server: Any) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    request = {"inputs": [{"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}]}
    words = ["curl", "--silent", "--show-error", "--fail-with-body", "--data", json.dumps(request)]
    done = subprocess.run(
        [*words, f"{server.url}/v2/models/cartpole/infer"], capture_output=True, text=True, check=True, timeout=20
    )
    (output,) = json.loads(done.stdout)["outputs"]
    assert (output["name"], output["shape"]) == ("action", [1])
