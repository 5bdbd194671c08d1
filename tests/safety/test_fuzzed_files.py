"""Whatever a file holds, its reader gives something or refuses it with one line: good files with random changes."""

import contextlib
import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))
from hostile import alone, seal, with_part  # type: ignore[import-not-found, unused-ignore]

from rlab import door
from rlab.compression.export import numpy_runner
from rlab.compression.export.metadata import from_text
from rlab.compression.export.onnx_check import check_onnx
from rlab.errors import RlabError
from rlab.experience.minari_check import read_metadata, read_space
from rlab.experience.minari_spaces import space_from_minari
from rlab.jobs.evidence import read_evidence
from rlab.jobs.experiment_files import read_experiment
from rlab.jobs.request import Request
from rlab.runs import files
from rlab.runs.checkpoint import newest_checkpoint
from rlab.runs.folder import MANIFEST, RunFolder, read_manifest
from rlab.runs.health import damages
from rlab.runs.listing import list_runs
from rlab.runs.logs import last_row, read_json_lines
from rlab.runs.policies import load_policy
from rlab.runs.reading import series
from rlab.runs.registry import list_models, resolve
from rlab.runs.tables import read_episodes
from rlab.trust import read_list

IN_CI, IN_PROVE = 1_000, 100_000  # cases in all
Reader = Callable[[Path], Any]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["planted:Code", "../../outside", "$torch", "inf", "\x1b[2J", 10**9, -1, [[]], {"kind": "tanh"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def changed_bytes(draw: Any, content: bytes) -> bytes:
    """The content with pieces cut out, put in or written over, at random places."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        length = draw(st.sampled_from([0, 1, 1, 2, 8, 100]))
        changed[at : at + length] = draw(st.binary(max_size=8))
    return bytes(changed)


def places(value: Any) -> list[list[Any]]:
    """The ways to all values inside a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [[key, *rest] for key, inner in items for rest in ([], *places(inner))]


@st.composite
def changed_json(draw: Any, content: bytes) -> bytes:
    """The value with other values, or none, at one to three random places."""
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(value)
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        inner = value
        for key in way:
            inner = inner[key]
        if draw(st.integers(0, 3)) == 0:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(draw(JSON))  # a later change must not reach into the strategy
    try:
        return json.dumps(value).encode()
    except ValueError:
        return content


def config(path: Path) -> None:
    seal(path.parent)
    Request.from_json(RunFolder.open(path.parent).config, "config.json", False)


def listed(path: Path) -> None:
    seal(path.parent)
    assert all(row["status"] for row in list_runs(path.parent.parent))


def policy(path: Path) -> None:
    seal(path.parent.parent)
    load_policy(path.parent.parent)


def commit(path: Path) -> None:
    alone(path.parent.parent)
    newest_checkpoint(RunFolder.open(path.parent.parent))


def part_of_checkpoint(part: str) -> Reader:
    """Reads the only checkpoint, whose part has the content of a file."""

    def check(path: Path) -> None:
        run, content = path.parent.parent, path.read_bytes()
        before = alone(run).read_bytes()
        try:
            with_part(part, lambda old: content)(run)
            newest_checkpoint(RunFolder.open(run))
        finally:
            alone(run).write_bytes(before)

    return check


def version(path: Path) -> None:
    folder = path.parent
    names = [each for each in folder.iterdir() if each.name != MANIFEST]
    files.write_json(folder / MANIFEST, {"files": {each.name: files.sha256(each.read_bytes()) for each in names}})
    assert [row["model"] for row in list_models(folder.parent.parent)] == ["pole@1"]
    assert read_evidence(folder).weights_sha256


def aliases(path: Path) -> None:
    assert list_models(path.parent.parent)
    resolve("pole@best", path.parent.parent)


def rows(path: Path) -> None:
    for reader in (last_row, read_json_lines, lambda path: series(path.parent, "env_steps")):
        with contextlib.suppress(RlabError):
            reader(path)
    listed(path)


def npz(path: Path) -> None:
    try:
        numpy_runner.load(path, door.read_npz)
    except ValueError as error:  # as NumpySession has it
        raise RlabError(str(error)) from error


def dataset(path: Path) -> None:
    metadata = read_metadata(path)
    for name in ("observation_space", "action_space"):
        space_from_minari(read_space(metadata, name), name)


def trust_list(path: Path) -> None:
    shutil.copy(path, path.with_name(".rlab-trust"))
    read_list(path.parent)


# What is read -> (the good file, how it is changed, what reads it)
TARGETS: dict[str, tuple[str, Callable[[bytes], Any], Reader]] = {
    "config": ("run/config.json", changed_json, config),
    "config as bytes": ("run/config.json", changed_bytes, config),
    "config in a list": ("run/config.json", changed_json, listed),
    "manifest": ("run/manifest.json", changed_json, lambda path: read_manifest(path.parent)),
    "status": ("run/status.json", changed_json, listed),
    "policy": ("run/policy/policy.json", changed_json, policy),
    "weights": ("run/policy/weights-*", changed_bytes, policy),
    "commit": ("dqn/checkpoint/checkpoint-000002.json", changed_json, commit),
    "structure": ("dqn/checkpoint/state-*.json", changed_json, part_of_checkpoint("structure")),
    "tensors": ("dqn/checkpoint/state-*.safetensors", changed_bytes, part_of_checkpoint("tensors")),
    "chunk": ("dqn/checkpoint/chunk-*", changed_bytes, part_of_checkpoint("chunk")),
    "version": ("models/pole/1/version.json", changed_json, version),
    "evaluation": ("models/pole/1/evaluation.json", changed_json, version),
    "aliases": ("models/pole/aliases.json", changed_json, aliases),
    "metrics": ("run/metrics.jsonl", changed_bytes, rows),
    "evaluations": ("run/eval.jsonl", changed_bytes, rows),
    "episodes": ("run/episodes.csv", changed_bytes, lambda path: read_episodes(path.parent)),
    "health": ("run/checkpoint/checkpoint-000002.json", changed_json, lambda path: damages(path.parent.parent)),
    "experiment": ("ours.toml", changed_bytes, lambda path: read_experiment(path).foreign_modules()),
    "npz": ("policy.npz", changed_bytes, npz),
    "onnx": ("policy.onnx", changed_bytes, lambda path: check_onnx(path.read_bytes(), path)),
    "metadata of an export": ("run/result.json", changed_bytes, lambda path: from_text(path.read_bytes(), path)),
    "dataset": ("data/data/metadata.json", changed_json, dataset),
    "trust": ("ours.toml", changed_bytes, trust_list),
}


def fuzz(good: Path, folder: Path, name: str, cases: int) -> None:
    """Have a reader read so many changes of its file; it may raise RlabError with one line, and nothing else."""
    place, change, reader = TARGETS[name]
    shutil.copytree(good, folder / "in")
    path = min((folder / "in").glob(place))
    content = path.read_bytes()

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(change(content))
    def check(changed: bytes) -> None:
        path.write_bytes(changed)
        try:
            reader(path)
        except RlabError as error:
            line = door.clean(error)
        else:
            line = ""
        finally:
            path.write_bytes(content)
        assert not set(line) & set("\x1b\x07\u202e")
        assert not (folder / "in/ran").exists()

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_refuses_or_gives_something(good: Path, tmp_path: Path, name: str) -> None:
    fuzz(good, tmp_path, name, -(-IN_CI // len(TARGETS)))


@pytest.mark.prove
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_refuses_or_gives_something_each_of_many_times(good: Path, tmp_path: Path, name: str) -> None:
    fuzz(good, tmp_path, name, -(-IN_PROVE // len(TARGETS)))
