"""The OpenAPI description says what the server does: schemathesis makes requests of it and finds no difference."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'rlab-agents[dev]'")

# JSON Schema cannot say that an input has as many numbers as its shape says: not every body that it allows is right.
LEFT_OUT = "positive_data_acceptance"


@pytest.fixture(scope="module")
def recording(policies: Path, served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with all that one can offer: a policy with memory, and a recording."""
    folder = tmp_path_factory.mktemp("recording")
    words = (policies / "cartpole.onnx", policies / "memory.onnx", "--record", folder / "recordings")
    with served(*words, log=folder / "log") as server:
        yield server


def run(server: Any, folder: Path, examples: int, phases: str) -> str:
    """What `schemathesis run` prints; fails where it finds something."""
    words = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", "all"]
    words += ["--max-examples", str(examples), "--phases", phases, "--seed", "1", "--no-color", "--warnings", "off"]
    words += ["--generation-database", "none", "--exclude-checks", LEFT_OUT]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, "CI": "1"}, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_the_server_does_what_its_description_says(recording: Any, tmp_path: Path) -> None:
    assert re.search(r"[1-9]\d* (generated|passed)", run(recording, tmp_path, 5, "examples,coverage,fuzzing"))
    assert recording.get("/v2/health/ready").status == 200


@pytest.mark.prove
def test_the_server_does_what_its_description_says_in_thousands_of_requests(recording: Any, tmp_path: Path) -> None:
    run(recording, tmp_path, 1000, "examples,coverage,fuzzing,stateful")
    assert recording.get("/v2/health/ready").status == 200


def test_the_description_names_every_path_and_every_refusal_has_a_schema(recording: Any) -> None:
    description = recording.get("/openapi.json").json
    assert description["openapi"].startswith("3.")
    assert {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{model}", "/v2/models/{model}/infer"} <= set(
        description["paths"]
    )
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if method == "parameters":
                continue
            refusals = [code for code in operation["responses"] if code[0] in "45"]
            assert all("application/json" in operation["responses"][code]["content"] for code in refusals), path
