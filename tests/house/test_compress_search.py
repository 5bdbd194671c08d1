"""`rlab compress --search`: a table, a plot and a policy folder, or one line and nothing on the disk."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlab import api
from rlab.cli.main import main
from rlab.compression.search import Bounds, Candidate, Size
from rlab.evaluation.charts.marks import Chart, Group, Mark, Text
from rlab.jobs import search
from rlab.runs import files
from rlab.runs.policies import load_policy

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("quick_disk", "few_visits")

QUICK = ("--candidates", "4", "--episodes", "4", "--updates", "8", "--min-return-ratio", "0")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, ppo_run: Path, few_visits: None) -> Path:
    """The best of four candidates that make `ppo_run`'s policy fit into 1100 bytes."""
    out = tmp_path_factory.mktemp("searched") / "small"
    assert main(["compress", str(ppo_run), "--search", "--max-bytes", "1100", "--out", str(out), *QUICK]) == 0
    return out


def table(folder: Path) -> dict[str, Any]:
    return files.read_json(folder / "search.json")


def test_the_chosen_policy_is_the_one_that_its_steps_make(
    small: Path, ppo_run: Path, tmp_path: Path, road: SimpleNamespace
) -> None:
    extra = load_policy(small).extra
    steps, how = extra["steps"], ("--updates", "8", "--episodes", "4", "--min-return-ratio", "0")
    assert main(["compress", str(ppo_run), "--steps", ",".join(steps), "--out", str(tmp_path / "again"), *how]) == 0
    again = load_policy(tmp_path / "again")
    road.check_same(road.weights(small), road.weights(tmp_path / "again"))
    timeless = ("agent", "env", "parent", "steps", "success", "min_return_ratio")
    assert {name: extra[name] for name in timeless} == {name: again.extra[name] for name in timeless}
    assert extra["report"]["ratio"] == again.extra["report"]["ratio"]


def test_the_folder_is_judged_like_any_other_and_holds_table_and_plot(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(small), "--episodes", "4", "--json"]) == 0
    means = [each["return_mean"] for each in json.loads(capsys.readouterr().out)["per_seed"]]
    assert means == load_policy(small).extra["report"]["child"]["returns"]
    assert (small / "search.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name.partition("-")[0] for path in small.iterdir()} == {
        "policy.json",
        "search.json",
        "search.png",
        "weights",
    }


def test_the_table_has_every_trial_and_one_choice_within_the_bound(small: Path) -> None:
    found = table(small)
    assert found["bounds"] == {"max_bytes": 1100, "max_latency_us": None}
    assert found["candidates"]["all"] == 5 * 4 * 2 - 1  # 4x4, 6x6, 8x8, 12x8 and as it is
    assert found["candidates"]["most_trained"] == 4
    assert 2 <= len(found["trials"]) <= 4
    finalists = found["finalists"]
    assert sum(each["finalist"] for each in found["trials"]) == len(finalists)
    assert all(each["weight_bytes"] <= 1100 and each["fits"] for each in finalists)
    (chosen,) = [each for each in finalists if each["chosen"]]
    assert chosen["steps"] == load_policy(small).extra["steps"]
    assert chosen["ratio"]["low"] >= max(each["ratio"]["low"] for each in finalists) - 0.001
    assert any(each["front"] for each in finalists)
    assert found["screening"]["first_seed"] != 100_000


def test_json_is_one_object_and_progress_goes_to_the_other_stream(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--search", "--max-bytes", "1100", "--max-latency-us", "100000", "--member", "4", "--json"]
    assert main(["compress", str(ppo_run), *words, "--out", str(tmp_path / "out"), *QUICK]) == 0
    heard = capsys.readouterr()
    found = json.loads(heard.out)
    assert (found["format"], found["seeds"], found["policy"]) == (1, [4], str(tmp_path / "out"))
    assert found["search"]["bounds"] == {"max_bytes": 1100, "max_latency_us": 100000.0}
    assert all(each["latency_us"] > 0 for each in found["search"]["trials"])
    first, *lines = heard.err.splitlines()
    assert first.startswith("39 candidates, ")
    assert "; at most 4 are trained, and to these count the networks that others begin with: up to 1 student" in first
    assert sum(line.startswith("screened ") for line in lines) <= 4
    assert sum(line.startswith("judged ") for line in lines) == len(found["search"]["finalists"])


def test_the_table_for_people_marks_what_was_chosen(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--search", "--max-latency-us", "100000", *QUICK[:-1], "50"]
    assert main(["compress", str(ppo_run), *words, "--out", str(tmp_path / "out")]) == 1  # too much was asked for
    shown = capsys.readouterr().out
    rows = shown.splitlines()
    assert rows[0].split()[:4] == ["steps", "bytes", "parameters", "multiply-adds"]
    assert rows[1].startswith("parent ")
    assert sum(row.endswith("*") for row in rows[2:]) == 1
    assert "NOT a success: the lower end of the return ratio is" in shown
    assert "\nNO SUCCESS: no finalist that fits 100000 us keeps 50 of the return for certain.\n" in shown
    assert "\nF: on the front of return against latency; " in shown
    assert f"table and plot: {tmp_path / 'out' / 'search.png'}" in shown


def test_python_searches_too(ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"candidates": 2, "episodes": 20, "updates": 1, "min_return_ratio": 0.0}
    done = api.search_compression(ppo_run, max_bytes=900, **how)
    assert str(done.compressed.path).startswith("runs/ppo-")
    assert done.success
    assert "NO SUCCESS" not in done.summary()
    assert "\nF: on the front of return against size; " in done.summary()
    assert table(done.compressed.path) == {"format": 1, **json.loads(json.dumps(done.table()))}


def test_of_what_keeps_the_bytes_the_fastest_is_named() -> None:
    sizes = [(Candidate((4, 4)), Size(728, 6.2)), (Candidate((6, 6)), Size(872, 6.0))]
    sizes.append((Candidate((8, 8)), Size(9, 5.8)))
    assert "the fastest of 3 finalists, distil:8x8, takes 9 bytes and 5.8 us." in str(
        search._nothing_fits(sizes, Bounds(None, 5.0), "finalists")
    )
    sizes[2] = (Candidate((8, 8)), Size(1048, 5.8))
    assert "the fastest of 2 finalists within 900 bytes, distil:6x6, takes 872 bytes and 6.0 us." in str(
        search._nothing_fits(sizes, Bounds(900, 5.0), "finalists")
    )
    assert "the smallest of 3 finalists, distil:4x4, takes 728 bytes and 6.2 us." in str(
        search._nothing_fits(sizes, Bounds(700, 5.0), "finalists")
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, ppo_run: Path, few_visits: None) -> SimpleNamespace:
    """What was found that is quick enough, and the chart that was drawn of it."""
    how: dict[str, Any] = {"candidates": 4, "episodes": 2, "updates": 1, "min_return_ratio": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        charts = noted(patch)
        done = api.search_compression(ppo_run, max_latency_us=1e5, out=tmp_path_factory.mktemp("quick") / "out", **how)
    return SimpleNamespace(done=done, chart=charts[-1])


def test_what_fits_but_for_the_noise_is_told(quick: SimpleNamespace) -> None:
    done = quick.done
    assert "No finalist was measured within" not in done.summary()
    (chosen,) = [each for each in done.finalists if each.chosen]
    bounds = Bounds(None, chosen.latency_us / 1.04)
    noisy = replace(done, bounds=bounds)
    took = f"the chosen one took {chosen.latency_us:.1f} us"
    assert f"No finalist was measured within {bounds}: {took}" in noisy.summary()
    found = {each["chosen"]: each for each in noisy.table()["finalists"]}[True]
    assert (found["fits"], found["fits_within_noise"]) == (False, True)
    slow = replace(done, bounds=Bounds(None, chosen.latency_us / 1.06)).summary()
    assert any("too slow" in row and row.endswith("*") for row in slow.splitlines())


def noted(patch: pytest.MonkeyPatch) -> list[Chart]:
    """The charts that will be drawn."""
    charts: list[Chart] = []
    save = search.save_chart
    patch.setattr(search, "save_chart", lambda path, chart: (charts.append(chart), save(path, chart))[1])
    return charts


def words_of(marks: Sequence[Mark]) -> list[str]:
    """All that is written in a chart, in whole words."""
    found = [
        words_of(mark.marks) if isinstance(mark, Group) else [mark.full or mark.text]
        for mark in marks
        if isinstance(mark, Group | Text)
    ]
    return [word for each in found for word in each]


def test_the_plot_names_all_that_is_drawn(quick: SimpleNamespace) -> None:
    done, words = quick.done, words_of(quick.chart.marks)
    assert {"front of return against latency", "bounds", "chosen"} <= set(words)
    assert ("screened on 20 other episodes" in words) == (len(done.trials) > len(done.finalists))
    assert {str(each.candidate) for each in done.finalists if each.on_front} <= set(words)


def test_where_nothing_fits_the_smallest_or_fastest_is_named(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compress", str(ppo_run), "--search", "--max-bytes", "300", "--out", str(out), *QUICK]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing fits 300 bytes: the smallest of 39 candidates, distil:4x4" in line
    words = ["--search", "--max-bytes", "9000", "--max-latency-us", "0.01"]
    assert main(["compress", str(ppo_run), *words, "--out", str(out), *QUICK]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing fits 9000 bytes and 0.01 us: the fastest of 39 candidates" in line
    assert line.endswith(" us.")
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search", "--steps", "int8", "--max-bytes", "900"], "--steps and --search exclude each other"),
        (["--search"], "--search needs a bound: --max-bytes 4096, --max-latency-us 10 or both."),
        (["--steps", "int8", "--max-bytes", "900"], "--max-bytes is for a search; add --search in place of --steps."),
        (["--max-latency-us", "9"], "--max-latency-us is for a search; add --search"),
        (["--steps", "int8", "--candidates", "9"], "--candidates is for a search"),
        ([], "--steps is missing; give a text such as distil:64x64,int8, or --search --max-bytes 4096."),
        (["--search", "--max-bytes", "0"], "max_bytes 0 must be 1 or more."),
        (["--search", "--max-latency-us", "nan"], "max_latency_us nan must be a number above 0."),
        (["--search", "--max-bytes", "900", "--candidates", "1"], "a search needs 2 candidates or more, not 1."),
        (["--search", "--max-bytes", "4k"], "--max-bytes 4k: not a whole number (int) or None"),
        (
            ["--search", "--max-bytes", "900", "--member", "7"],
            "no member with training seed 7; this policy has training seeds 3, 4.",
        ),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing_behind(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert main(["compress", str(ppo_run), *words, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def test_without_matplotlib_nothing_begins(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["compress", str(ppo_run), "--search", "--max-bytes", "900", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'a picture needs matplotlib: pip install "rlab-agents[plot]".' in line


def test_rounded_weights_can_only_be_taught_to_students(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", str(ppo_run), "--steps", "int8", "--out", str(tmp_path / "int8"), *QUICK[2:]]) == 0
    words = ["--search", "--max-bytes", "900", "--json", *QUICK]
    assert main(["compress", str(tmp_path / "int8"), *words, "--out", str(tmp_path / "small")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["search"]["candidates"]["all"] == 4 * 4 * 2
    assert found["steps"][0].startswith("distil:")


@pytest.mark.parametrize(("when", "was_there"), [("judged", False), ("drawn", True)])
def test_an_interrupted_search_leaves_nothing_behind(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, was_there: bool
) -> None:
    out = tmp_path / "out"
    if was_there:
        out.mkdir()
    draw = search.save_chart

    def interrupted(path: Path, *rest: Any, **words: Any) -> None:
        draw(path, *rest, **words)
        assert path.is_file()
        raise KeyboardInterrupt

    def write(line: str) -> None:
        if line.startswith(when):
            raise KeyboardInterrupt

    monkeypatch.setattr(search, "save_chart", interrupted)
    monkeypatch.setattr(search, "line_writer", lambda progress: write)
    with pytest.raises(KeyboardInterrupt):
        api.search_compression(ppo_run, max_bytes=900, candidates=2, episodes=2, updates=1, out=out)
    assert sorted(tmp_path.rglob("*")) == ([out] if was_there else [])


def test_one_choice_of_steps_serves_all_members(small: Path, obs: torch.Tensor, road: SimpleNamespace) -> None:
    assert load_policy(small).policy.seeds == road.SEEDS
    assert road.outputs(small, obs).shape == (2, 50, 2)
