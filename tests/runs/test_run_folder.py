"""Starting and opening runs."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

import rlab
from rlab.errors import RlabError, UsageError
from rlab.machine import versions
from rlab.runs import files, locks
from rlab.runs.checkpoint import CheckpointWriter, snapshot
from rlab.runs.folder import RunFolder, check_free, fresh_run_path, is_run
from rlab.runs.policies import load_policy, save_policy

CONFIG = {
    "agent": "dqn",
    "env": {"env_id": "CartPole-v1"},
    "run": {"env_steps": 1000, "seed": 0, "seeds": 1},
    "settings": {"gamma": 0.9, "hidden": (64, 64)},
}


def test_a_run_is_created_with_its_config_first_and_opens_again(tmp_path):
    run = RunFolder.create(tmp_path / "deep" / "run", CONFIG)
    assert sorted(os.listdir(run.path)) == ["config.json", "manifest.json"]
    assert RunFolder.open(run.path) == run
    assert run.config == {"format": 1, **CONFIG, "settings": {"gamma": 0.9, "hidden": [64, 64]}}


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


def begin(path, fill=lambda path: None):
    return RunFolder.create(path, CONFIG, None, fill)


def test_death_at_any_instant_of_the_beginning_leaves_a_run_or_what_the_same_command_takes_over(
    tmp_path, every_death, make_policy
):
    fill = lambda path: save_policy(path / "start", make_policy(1.0), {"n": 1})  # noqa: E731
    (tmp_path / "place").mkdir()
    seen = set()
    for copy, survived in every_death(tmp_path / "place", lambda copy: begin(copy / "run", fill)):
        path = copy / "run"
        if is_run(path):
            run = RunFolder.open(path)
            seen.add("run")
        else:
            assert not survived
            if path.exists() and any(path.iterdir()):
                with pytest.raises(RlabError, match=r"killed while it began.*begin it again with the same command"):
                    RunFolder.open(path)
                seen.add("left")
            check_free(path, unfinished=True)
            run = begin(path, fill)
        assert load_policy(run.start).extra == {"n": 1}
        with run.held():
            pass
        assert sorted(os.listdir(path)) == ["config.json", "manifest.json", "start"]
        assert [name.partition("-")[0] for name in sorted(os.listdir(run.start))] == ["policy.json", "weights"]
    assert seen == {"run", "left"}


def test_what_was_left_and_something_of_somebody_s_is_not_taken_over(tmp_path):
    (tmp_path / ".tmp-begun").touch()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty; nothing in it was touched"):
        begin(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_of_somebody_s_that_is_left_unfinished_is_not_deleted_through(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "policy.json").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-begun").touch()
    (tmp_path / "run" / "start").symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="start is a link"):
        begin(tmp_path / "run")
    assert (tmp_path / "other" / "policy.json").read_text() == "mine"


@pytest.mark.parametrize("locks_work", [True, False])
def test_of_processes_that_begin_a_run_in_one_folder_at_once_exactly_one_goes_on(tmp_path, locks_work, monkeypatch):
    """Each waits inside the beginning, where the others come in, as a forced race."""
    if not locks_work:
        monkeypatch.setattr(locks, "fcntl", None)
    outcomes = []

    def inside(path):
        for _ in range(3):
            with pytest.raises(UsageError) as caught:
                begin(path)
            outcomes.append(str(caught.value))

    begin(tmp_path / "run", inside)
    assert len(outcomes) == 3
    assert all("another process is" in said and "\n" not in said for said in outcomes), outcomes
    assert RunFolder.open(tmp_path / "run").config["agent"] == "dqn"


def test_temporary_files_of_killed_writers_are_deleted_when_the_run_is_taken_up_again(run, make_policy):
    save_policy(run.policy, make_policy(1.0), {})
    run.checkpoint.mkdir()
    for folder in (run.path, run.policy, run.checkpoint):
        (folder / ".tmp-123-0a1b2c3d").write_bytes(b"half")
    with run.held():
        pass
    assert not list(run.path.rglob(".tmp-*"))


@pytest.mark.parametrize("name", ["checkpoint", "policy", "best", "start", "teacher"])
def test_nothing_is_deleted_or_written_through_a_link(run, make_policy, tmp_path, name):
    other = tmp_path / "other"
    other.mkdir()
    names = (".tmp-1-2", "weights-0123abcd.safetensors", "chunk-000000-0123abcd.safetensors", "state-0123abcd.json")
    for each in names:
        (other / each).write_bytes(b"of somebody")
    (run.path / name).symlink_to(other)
    message = rf"{name} is a link, and nothing is written through links: put what it points to in its place"
    with pytest.raises(RlabError, match=message), run.held():
        pass
    save = {"checkpoint": lambda: CheckpointWriter(run).commit(snapshot({"n": 1}), ())}
    with pytest.raises(RlabError, match=message):
        save.get(name, lambda: save_policy(run.path / name, make_policy(1.0), {"n": 1}))()
    with pytest.raises(RlabError, match=rf"{name} is a link"):
        RunFolder.open(run.path)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == dict.fromkeys(names, b"of somebody")


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "eval.jsonl", "events.out.tfevents.1.x", "seed-3", "hparams", "parts"]
)
def test_a_run_with_a_link_among_its_logs_and_curves_is_refused_by_name_and_what_is_behind_it_stays(
    run, tmp_path, name
):
    other = tmp_path / "other"
    other.write_text("of somebody")
    (run.path / name).symlink_to(other)
    with pytest.raises(RlabError, match=rf"{re.escape(name)} is a link") as caught:
        RunFolder.open(run.path)
    assert "\n" not in str(caught.value)
    assert other.read_text() == "of somebody"


READER = """
import sys
from rlab.runs.listing import saved_time
from rlab.runs.folder import RunFolder
from rlab.runs.policies import load_policy

for _ in range(40):
    run = RunFolder.open(sys.argv[1])
    saved_time(run)
    found = load_policy(run.path)
    values = {float(value) for tensor in found.policy.parameters() for value in tensor.detach().flatten()}
    assert len(values) == 1, values
print("read")
"""


def test_readers_see_one_policy_whole_while_it_is_replaced(run, make_policy):
    policies = [make_policy(value) for value in (1.0, 2.0)]
    save_policy(run.policy, policies[0], {"env_steps": 0})
    reader = subprocess.Popen([sys.executable, "-c", READER, str(run.path)], stdout=-1, stderr=-1)
    count = 0
    while reader.poll() is None:
        count += 1
        save_policy(run.policy, policies[count % 2], {"env_steps": count})
    out, err = reader.communicate()
    assert out == b"read\n", err.decode()
    assert count > 10
