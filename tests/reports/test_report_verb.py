"""`rlab report`: what it finds, what it writes, what it leaves alone."""

import html
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.errors import DiskError, UsageError
from rlab.evaluation.stats import stratified_bootstrap
from rlab.runs import files

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_folder_becomes_a_page_with_plots_and_tables_beside_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["report", str(runs), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found["files"]) == sorted(path.name for path in out.iterdir() if path.name != "report.json")
    pictures = {"curves", "returns", "comparison", "profile", "training"}
    assert {Path(name).stem for name in found["files"] if name.endswith(".png")} <= pictures
    assert {"report.html", "results.md", "results.tex", "curves.svg", "curves.png", "returns.svg"} <= set(
        found["files"]
    )
    (task,) = found["tasks"]
    assert task["env"] == "CartPole-v1, at most 30 steps"
    assert [side["name"] for side in task["sides"]] == ["a2c", "ppo"]
    run = rlab.Run.open(runs / "a2c")
    assert run.evaluation is not None
    interval = stratified_bootstrap(run.evaluation.per_seed_mean)
    side = task["sides"][0]
    assert (side["iqm"], *side["ci95"]) == (interval.estimate, interval.low, interval.high)
    pair = rlab.compare(runs / "a2c", runs / "ppo").pairs[0].to_json()
    assert task["pairs"] == json.loads(json.dumps([pair]))
    page = (out / "report.html").read_text()
    assert f"rlab report {runs} --out {out}" in page
    assert f"rlab compare {runs}/a2c {runs}/ppo" in page
    assert page.count(html.escape(rlab.Run.open(runs / "ppo").config["command"])) == 1
    assert "a2c and ppo on CartPole-v1" in page
    assert json.loads((out / "report.json").read_text()) == found


def test_a_report_is_replaced_and_anything_else_is_left_alone(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rlab.report(runs, out=out, png=False)
    assert (out / "comparison.svg").is_file()
    (out / "mine.svg").write_text("mine")
    done = rlab.report(runs / "ppo", out=out, png=False, title="One run")
    assert "<h1>One run</h1>" in done.page.read_text()
    assert not (out / "comparison.svg").exists()  # of the report before
    assert (out / "mine.svg").read_text() == "mine"
    with pytest.raises(rlab.UsageError, match="holds something that is not a report; nothing in it was touched"):
        rlab.report(runs / "ppo", out=runs / "notes")
    with pytest.raises(rlab.UsageError, match="is a file; a report needs a folder"):
        rlab.report(runs / "ppo", out=runs / "notes" / "todo.txt")
    assert [path.name for path in (runs / "notes").iterdir()] == ["todo.txt"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "report.json").write_text('{"format": 1, "files": ["coverage.xml"]}')
    with pytest.raises(rlab.UsageError, match="holds something that is not a report; nothing in it was touched"):
        rlab.report(runs / "ppo", out=tmp_path / "theirs", png=False)


def test_a_report_whose_writing_is_cut_short_is_written_again(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_bytes

    def fills(path: Path, data: bytes) -> None:
        if path.suffix == ".svg":
            raise DiskError("no space left")
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", fills)
    with pytest.raises(DiskError):
        rlab.report(runs / "ppo", out=tmp_path / "out", png=False)
    monkeypatch.setattr(files, "write_bytes", write)
    assert rlab.report(runs / "ppo", out=tmp_path / "out", png=False).page.is_file()


def test_the_record_of_a_report_cannot_name_files_elsewhere(runs: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.svg"
    other.write_text("mine")
    out.mkdir()
    (out / "report.json").write_text(json.dumps({"format": 1, "files": ["report.html", "../other.svg", 3]}))
    rlab.report(runs / "ppo", out=out, png=False)
    assert other.read_text() == "mine"


def test_a_broken_run_in_a_folder_is_noted_and_one_that_is_named_is_an_error(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for name in ("ppo", "a2c"):
        (folder / name).mkdir(parents=True)
        for path in (runs / name).rglob("*"):
            if path.is_file() and "events" not in path.name:
                there = folder / name / path.relative_to(runs / name)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(path.read_bytes())
    (folder / "a2c" / "eval.jsonl").write_text('{"format": 1, "seeds"')
    done = rlab.report(folder, out=tmp_path / "out", png=False)
    assert [side.name for side in done.report.tasks[0].sides] == ["ppo"]
    (note,) = done.report.notes
    assert note.startswith(f"{folder / 'a2c'} is left out: ")
    assert "is left out: " in done.page.read_text()
    with pytest.raises(rlab.RlabError):
        rlab.report(folder / "a2c", out=tmp_path / "other", png=False)


def test_policies_are_judged_and_named_apart(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "a2c" / "policy", tmp_path / "ppo")
    done = rlab.report(runs / "ppo", tmp_path / "ppo", out=tmp_path / "out", png=False, episodes=2)
    (task,) = done.report.tasks
    assert [side.name for side in task.sides] == [f"{runs.name}/ppo", f"{tmp_path.name}/ppo"]
    assert task.sides[1].returns is not None
    assert task.sides[1].returns.shape == (2, 2)
    assert np.array_equal(task.sides[1].returns, rlab.evaluate(runs / "a2c", episodes=2).returns)


def test_different_protocols_are_not_mixed(runs: Path, tmp_path: Path) -> None:
    done = rlab.report(runs / "ppo", "dqn-CartPole-v1", out=tmp_path / "out", png=False)
    assert [len(task.sides) for task in done.report.tasks] == [1, 1]
    assert [task.pairs for task in done.report.tasks] == [(), ()]
    result = done.report.tasks[1].sides[0]
    assert result.curve is None
    assert "rlab bench" in str(result.made_by)
    assert np.shape(result.returns)[1] == 100


def test_more_sides_than_are_compared_are_shown_with_a_word_about_it(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlab.jobs.report_sources.MOST_COMPARED", 1)
    done = rlab.report(runs, out=tmp_path / "out", png=False)
    assert done.report.tasks[0].pairs == ()
    assert "2 sides are not compared: name 1 or fewer for that." in done.page.read_text()


def test_sets_of_settings_of_one_run_are_sides(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "seeds": 2, "rollout_steps": 16}
    tiny |= {"env_steps": 128, "final_eval_episodes": 2, "max_episode_steps": 20}
    run = rlab.train("ppo", "CartPole-v1", vary=[{"clip": 0.1}, {"clip": 0.3}], out=tmp_path / "run", **tiny)
    (task,) = rlab.report(run.path, out=tmp_path / "out", png=False).report.tasks
    assert [side.name for side in task.sides] == ["clip=0.1", "clip=0.3"]
    assert [side.settings["clip"] for side in task.sides] == [0.1, 0.3]
    assert len(task.pairs) == 1


def test_a_film_is_inside_the_page(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    pytest.importorskip("PIL.Image")
    page = rlab.report(runs / "ppo", out=tmp_path / "out", png=False, film=True).page.read_text()
    assert page.count('<img src="data:image/gif;base64,R0lGOD') == 1
    assert "training seed 0, episode seed 100000" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "report needs a run or a folder of runs: rlab report runs/my-run"),
        (["nowhere"], "'nowhere' is not there"),
        (["--live", ".", "--out", "x"], "--out is for a report as files: leave it out."),
        ([".", "--port", "80"], "--port is for a live page: leave it out."),
        (["--live", ".", "--every", "0"], "every 0 must be 0.1 to 3600 seconds."),
        (["empty"], "there is nothing to report in empty: name a run"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["report", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_folder_with_nothing_in_it_is_named_though_another_source_has_something(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"there is nothing to report in .*empty: name a run"):
        rlab.report(runs / "ppo", tmp_path / "empty", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_without_matplotlib_nothing_begins_and_without_png_it_is_not_needed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found: dict[str, Any] = {"out": tmp_path / "out"}
    with pytest.raises(rlab.UsageError, match=r'a picture needs matplotlib: pip install "rlab-agents\[plot\]"'):
        rlab.report(runs, **found)
    assert not (tmp_path / "out").exists()
    assert (rlab.report(runs, png=False, **found).out / "curves.svg").is_file()
