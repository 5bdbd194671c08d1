"""`rlab doctor`: what it says of the machine, of extras, and of runs that are damaged; it changes nothing."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import rlab
from rlab.cli.main import main
from rlab.jobs.doctor import EXTRAS, doctor

ROOT = Path(rlab.__file__).parent.parent


@pytest.fixture
def runs(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `runs` of the current folder, with two runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("run", "dqn"):
        shutil.copytree(good / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_extra_that_is_of_use_beside_development_is_known() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys() - {"bench", "dev", "docs"}


def test_whole_runs_and_the_machine_are_described_and_nothing_is_changed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(runs)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "torch ",
        "gymnasium ",
        "threads ",
        "compiled code: ",
        "runs and published versions that are whole: 2 of 2",
    ):
        assert part in shown
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["ok"], found["damaged"], found["runs"]) == (1, True, {}, 2)
    assert found["devices"].keys() >= {"cpu"}
    assert everything(runs) == before


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "box2d", ("no_such_module_here", "LunarLander"))
    found = doctor()
    assert found.missing["box2d"] == 'pip install "rlab-agents[box2d]"'
    assert 'not installed: LunarLander: pip install "rlab-agents[box2d]"' in found.report()


def add(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_bytes(path.read_bytes() + text.encode())

    return change


def link(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to("/tmp")


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    "config": ("config.json", add(" "), "different SHA-256", "restore config.json"),
    "policy": ("policy/policy.json", add(" "), "different SHA-256", "rlab resume runs/dqn writes it again"),
    "best": ("best/policy.json", lambda path: path.unlink(), "is missing", "rlab resume runs/dqn writes it again"),
    "older": ("checkpoint/checkpoint-000002.json", add("x"), "not complete JSON", "another checkpoint is whole"),
    "chunk": ("checkpoint/chunk-*", lambda path: path.unlink(), "is missing", "rlab finetune runs/dqn begins from it"),
    "log": ("eval.jsonl", add("7\n"), "is not a JSON object", "move it out of the run"),
    "no checkpoint": ("checkpoint", shutil.rmtree, "has lost its checkpoint", "rlab eval runs/dqn judges what it has"),
    "link": ("hparams", link, "is a link", "the rest is looked at then"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_one_line_with_what_can_be_done(
    runs: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pattern, damage, what, advice = DAMAGE[name]
    found = list((runs / "dqn").glob(pattern))
    assert found
    for path in found:
        damage(path)
    assert main(["doctor"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged: ")]
    assert lines
    assert all(line.startswith("damaged: runs/dqn: ") for line in lines)
    assert any(what in line and advice in line for line in lines), lines
    assert main(["doctor", "runs/run"]) == 0


@pytest.mark.parametrize("name", ["policy.json", "weights-*", "version.json", "evaluation.json", "README.md"])
def test_a_published_version_that_is_damaged_is_named(
    runs: Path, good: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(good / "models", "models")
    assert main(["doctor"]) == 0
    assert "whole: 3 of 3" in capsys.readouterr().out
    (path,) = Path("models/pole/1").glob(name)
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["doctor", "models/pole/1"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged: ")]
    assert f"{path} has a different SHA-256" in line
    assert line.endswith("restore it from a copy, or publish its run again")


def test_what_killed_writers_left_is_listed(runs: Path) -> None:
    for path in (runs / ".tmp-1-ab", runs / "dqn/.tmp-1-cd", runs / "dqn/checkpoint/.tmp-1-ef"):
        path.write_bytes(b"half")
    assert doctor().left == ["runs/.tmp-1-ab", "runs/dqn/.tmp-1-cd", "runs/dqn/checkpoint/.tmp-1-ef"]
    assert "may be deleted: runs/.tmp-1-ab" in doctor().report()
    assert doctor(["runs/run"]).left == []
