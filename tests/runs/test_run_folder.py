"""Starting and opening runs."""

import os
import shutil
import time

import pytest

import rlab
from rlab.errors import RlabError, UsageError
from rlab.machine import versions
from rlab.runs import files
from rlab.runs.folder import RunFolder, fresh_run_path

CONFIG = {"agent": "dqn", "settings": {"gamma": 0.9, "hidden": (64, 64)}}


def test_a_run_is_created_with_its_config_first_and_opens_again(tmp_path):
    run = RunFolder.create(tmp_path / "deep" / "run", CONFIG)
    assert sorted(os.listdir(run.path)) == ["config.json", "manifest.json"]
    assert RunFolder.open(run.path) == run
    assert run.config == {"format": 1, "agent": "dqn", "settings": {"gamma": 0.9, "hidden": [64, 64]}}


def test_an_empty_folder_is_taken_and_a_full_one_is_refused_untouched(tmp_path):
    RunFolder.create(tmp_path, CONFIG)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="exists and is not empty; nothing in it was touched"):
        RunFolder.create(tmp_path, CONFIG)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_place_that_cannot_hold_a_run_is_a_usage_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"file is a file; a run needs a folder"):
        RunFolder.create(tmp_path / "file", CONFIG)
    with pytest.raises(UsageError, match=r"cannot make the folder .*file/run: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", CONFIG)
    assert (tmp_path / "file").read_text() == "mine"

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "_write_through", refuse)  # root may write anywhere, so permissions cannot be tried
    with pytest.raises(UsageError, match=r"cannot write .*run/config.json: Permission denied"):
        RunFolder.create(tmp_path / "run", CONFIG)


def test_a_setting_that_json_cannot_hold_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"config\.json cannot hold this: .*inf"):
        RunFolder.create(tmp_path / "run", {"max_grad_norm": float("inf")})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run), "is not a folder"),
        (lambda run: (run / "config.json").unlink(), "is not a run folder: it has no config.json"),
        (lambda run: (run / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda run: (run / "manifest.json").write_text("{"), "manifest.json is not complete JSON"),
        (lambda run: (run / "manifest.json").write_text('{"format": 9}'), "manifest.json has format 9"),
        (lambda run: (run / "manifest.json").write_text('{"format": 1}'), "does not know config.json"),
        (lambda run: (run / "manifest.json").write_text('{"format": 1, "files": []}'), "manifest.json is broken"),
        (lambda run: (run / "config.json").write_text('{"format": 1}'), "config.json has a different SHA-256 than"),
    ],
)
def test_a_broken_run_folder_gives_one_line(run, damage, message):
    damage(run.path)
    with pytest.raises(RlabError) as caught:
        RunFolder.open(run.path)
    assert message in str(caught.value)
    assert str(run.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fresh_folders_are_readable_and_never_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20261122-101500")
    names = [fresh_run_path("dqn", "CartPole-v1", tmp_path / "runs").name for _ in range(3)]
    assert names[0] == "dqn-CartPole-v1-20261122-101500"
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]
    odd = fresh_run_path("their.module:Agent", "ALE/Pong-v5", tmp_path / "runs")
    assert odd.name == "their.module-Agent-ALE-Pong-v5-20261122-101500"
    assert odd.parent == tmp_path / "runs"


def test_a_root_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match=r"cannot make .*runs/dqn-X-v0-\d+-\d+: Not a directory"):
        fresh_run_path("dqn", "X-v0", tmp_path / "runs")


def test_versions_name_what_results_depend_on():
    known = versions()
    assert set(known) == {"python", "torch", "numpy", "gymnasium", "rlab"}
    assert known["rlab"] == getattr(rlab, "__version__", None)
    assert all(known[name] for name in ("python", "torch", "numpy", "gymnasium"))
