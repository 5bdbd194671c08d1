"""A version that is published while the server runs takes the place of the one before it; no request is lost."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlab.errors import UsageError
from rlab.runs import registry
from rlab.serving.models import place_of

OBS = {"name": "obs", "shape": [1, 4], "datatype": "FP32", "data": [0.3, -0.2, 0.1, 0.4]}
PATIENCE = 120.0


def add(models: Path, name: str, folder: Path, *aliases: str) -> None:
    """Put a policy folder into a registry, as `publish` does."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    registry.add_version(models, name, lambda number: contents, aliases)


@pytest.fixture(scope="module")
def models(policies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two versions of `poles`, of which `best` is the first."""
    folder = tmp_path_factory.mktemp("models")
    add(folder, "poles", policies / "cartpole", "best")
    add(folder, "poles", policies / "cartpole")
    return folder


def test_a_source_is_called_as_its_folder_its_file_its_model_or_as_the_user_says(
    models: Path, policies: Path, tmp_path: Path
) -> None:
    assert place_of(str(policies / "arm")).name == "arm"
    assert place_of(f"left={policies / 'arm'}").name == "left"
    (tmp_path / "my policy.onnx").touch()
    assert place_of(str(tmp_path / "my policy.onnx")).name == "my-policy"
    found = {words: place_of(words, models) for words in ("poles", "poles@best", "poles@2", "mine=poles@best")}
    assert {words: (place.name, place.version, place.moves) for words, place in found.items()} == {
        "poles": ("poles", "2", True),
        "poles@best": ("poles", "1", True),
        "poles@2": ("poles", "2", False),
        "mine=poles@best": ("mine", "1", True),
    }
    with pytest.raises(UsageError, match="there is no run, policy folder, exported file or model nowhere"):
        place_of("nowhere", models)
    with pytest.raises(UsageError, match="poles has no version 9"):
        place_of("poles@9", models)


def test_a_moved_alias_is_followed_under_load_without_losing_a_request(models: Path, serve: Callable[..., Any]) -> None:
    server = serve("poles@best", "fixed=poles@1", "--models", models)
    body = json.dumps({"inputs": [OBS]}).encode()
    head = f"POST /v2/models/poles/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    until, moved = time.monotonic() + PATIENCE, False
    with server.wire() as one, server.wire() as other:
        versions: dict[Any, list[str]] = {one: [], other: []}
        while versions[other][-1:] != ["2"] and time.monotonic() < until:
            for wire in versions:
                wire.send((head + body) * 5)
            for wire, found in versions.items():
                answers = [wire.answer() for _ in range(5)]
                assert [answer.status for answer in answers] == [200] * 5
                found += [answer.json["model_version"] for answer in answers]
            if not moved:
                registry.move_aliases(models, "poles", 2, ["best"])
                moved = True
            time.sleep(0.01)  # the server needs the machine, too
    for found in versions.values():
        assert found == sorted(found)
        assert set(found) == {"1", "2"}
    assert server.get("/v2/models/poles").json["versions"] == ["2"]
    assert server.get("/v2/models/fixed").json["versions"] == ["1"]


def test_a_version_that_cannot_be_opened_leaves_the_one_before_it_in_place(
    models: Path, policies: Path, serve: Callable[..., Any], tmp_path: Path
) -> None:
    add(tmp_path, "poles", policies / "cartpole")
    server = serve("poles", "--models", tmp_path)
    broken = {path.name: path.read_bytes() for path in (policies / "cartpole").iterdir()}
    weights = next(name for name in broken if name.endswith(".safetensors"))
    broken[weights] = broken[weights][:-1] + b"?"
    registry.add_version(tmp_path, "poles", lambda number: broken)
    until = time.monotonic() + PATIENCE
    while not any("a new version is not served" in line for line in server.log_lines):
        assert server.infer("poles", OBS).json["model_version"] == "1"
        assert time.monotonic() < until
        time.sleep(0.02)
    assert server.infer("poles", OBS).json["model_version"] == "1"
