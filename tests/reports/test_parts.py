"""What a report says in words and numbers, and what it reads of a study."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.evaluation.charts.marks import Line
from rlab.evaluation.report.efficiency import efficiency
from rlab.evaluation.report.escaping import slug
from rlab.evaluation.report.model import Report, Side, Task
from rlab.evaluation.report.numbers import joined, setting_text
from rlab.evaluation.report.page import page
from rlab.evaluation.report.studies import study_figures
from rlab.evaluation.report.words import lede, title_of
from rlab.evaluation.stats import Interval
from rlab.jobs.report_studies import read_study

MINUS = "\N{MINUS SIGN}"
WINNER = {"trial": 1, "start": False, "experiment": "dqn-CartPole-v1.toml", "run": "winner"}
STUDY: dict[str, Any] = {
    "format": 1,
    "status": "finished",
    "agent": "dqn",
    "env": {"env_id": "CartPole-v1", "kwargs": {}, "max_episode_steps": None, "wrappers": []},
    "method": "tpe",
    "trials": 3,
    "seeds": {"search": [0, 1], "finalists": [2, 3], "report": [4, 5, 6]},
    "storage": None,
    "command": "rlab tune dqn CartPole-v1 --trials 3",
    "hardware": {"cpu": "a processor"},
    "versions": {"rlab": "0.1.0"},
    "importance": {"learning_rate": 0.8, "gamma": 0.2},
    "finalists": [
        {
            "trial": 1,
            "start": False,
            "settings": {"gamma": 0.98},
            "search_iqm": 480.0,
            "iqm": 450.0,
            "ci95": [400.0, 500.0],
        }
    ],
    "winner": {
        **WINNER,
        "settings": {"gamma": 0.98},
        "evaluation": {"iqm": 455.5, "ci95": [410.0, 499.0], "per_seed": [{}, {}, {}]},
    },
}
TRIALS = [
    {"trial": 0, "state": "done", "start": True, "value": 200.0, "settings": {"gamma": 0.99}},
    {"trial": 1, "state": "done", "start": False, "value": 480.0, "settings": {"gamma": 0.98}},
    {"trial": 2, "state": "pruned", "start": False, "value": 9.5, "settings": {"gamma": 0.9}},
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(STUDY))
    lines = [{"format": 1}, *TRIALS]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_study_is_reported_with_its_trials_its_finalists_and_its_winner(
    study: Path, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "ppo", study / "winner")
    done = rlab.report(study, out=tmp_path / "out", png=False)
    (found,) = done.report.studies
    assert [trial.whole for trial in found.trials] == [True, True, False]
    assert found.trials[0].state == "done, the defaults"
    assert found.finalists[0].fresh == Interval(450.0, 400.0, 500.0)
    assert found.finalists[0].chosen
    assert {"curves.svg", "history.svg", "importance.svg"} <= set(done.files)
    text = done.page.read_text()
    assert "<h1>dqn on CartPole-v1: study</h1>" in text
    assert "Trial 1 won, with 455.5 [410, 499]: the IQM of 3 training seeds that chose nothing" in text
    assert '480.0</td><td data-label="fresh seeds [95 %]">450.0 [400.0, 500.0]</td>' in text
    assert f"rlab train dqn CartPole-v1 --experiment {study / 'dqn-CartPole-v1.toml'}" in text
    assert "rlab tune dqn CartPole-v1 --trials 3" in text
    assert [side.name for side in done.report.tasks[0].sides] == ["winner of study"]


def test_the_facts_of_a_study_are_in_order_and_leave_out_what_is_not_there(study: Path) -> None:
    asked = {**STUDY, "trials": 2, "hardware": {"cpu": "a processor", "gpu": None}}  # three have ended by now
    asked["seeds"] = dict(sorted(STUDY["seeds"].items()))
    (study / "study.json").write_text(json.dumps(asked))
    facts = read_study(study).facts
    assert facts["trials"] == "3 of 3"
    assert facts["training seeds"] == "0 to 1 (search), 2 to 3 (finalists), 4 to 6 (report)"
    assert facts["hardware"] == "cpu a processor"


def test_a_study_under_way_has_what_there_is(study: Path) -> None:
    facts = {**STUDY, "status": "searching", "importance": None, "finalists": [], "winner": None}
    (study / "study.json").write_text(json.dumps(facts))
    (study / "history.jsonl").unlink()
    found = read_study(study)
    assert (found.trials, found.finalists, found.winner, found.used_by) == ([], [], "", "")
    assert found.facts["trials"] == "0 of 3"
    assert "0 trials of a search for settings" in page(Report("", [], [found]))


BRED: dict[str, Any] = {
    **{name: STUDY[name] for name in ("format", "status", "agent", "env", "hardware", "versions")},
    "method": "pbt",
    "how": "truncation",
    "unit": "env_steps",
    "budget": 400,
    "exploits": 2,
    "command": None,
    "seeds": {"search": [0, 1, 2], "report": [13, 14]},
    "population_returns": [321.5, 12.25, 300.0],
    "evolution": {
        "population": [{"gamma": 0.9, "clip": 0.2}, {"gamma": 0.99, "clip": 0.1}, {"gamma": 0.999, "clip": 0.4}],
        "ranges": {"gamma": {"scale": "one_minus"}, "clip": {"scale": "linear"}},
    },
    "winner": {
        "seed": 0,
        "population_return": 321.5,
        "schedule": [[0, {"gamma": 0.99, "clip": 0.1}], [100, {"gamma": 0.992, "clip": 0.12}]],
        "evaluation": {"iqm": 300.0, "ci95": None, "per_seed": [{}]},
    },
}
LINEAGE = [
    {"member": 0, "parent": 1, "time": 100, "settings": {"gamma": 0.992, "clip": 0.12}},
    {"member": 2, "parent": 0, "time": 200, "settings": {"gamma": 0.99, "clip": 0.1}},
]


def test_the_lineage_of_a_population_is_drawn_with_what_its_best_member_came_from(tmp_path: Path) -> None:
    (tmp_path / "population").mkdir()
    (tmp_path / "population" / "lineage.json").write_text(json.dumps({"format": 1, "rows": LINEAGE}))
    (tmp_path / "population.json").write_text(json.dumps(BRED))
    found = read_study(tmp_path)
    lineage = found.lineage
    assert lineage is not None
    assert lineage.members[0] == [(0, {"gamma": 0.9, "clip": 0.2}), (100, {"gamma": 0.992, "clip": 0.12})]
    assert [when for when, _ in lineage.members[2]] == [0, 200]
    assert (
        found.winner == "The best member's schedule of settings has 300: the IQM of 1 training seed that chose nothing."
    )
    assert found.facts["members returned"] == "12.25 to 321.5"
    (figure,) = study_figures(found)
    assert figure.columns == ["from env steps", "gamma", "clip"]
    assert figure.rows == [["0", "0.99", "0.1"], ["100", "0.992", "0.12"]]
    chart = figure.draw(880.0)
    (best, _) = (mark for mark in chart.marks if isinstance(mark, Line) and mark.color == "side0")
    thin = [mark for mark in chart.marks if isinstance(mark, Line) and mark.color == "muted"]
    assert (len(best.points), len(thin)) == (4, 6)  # two corners for each time; three members, two settings
    low, high = (y for _, y in best.points[1:3])
    assert low < high  # gamma grew, and what is drawn is what it lacks to 1, upwards
    assert best.points[1][0] == best.points[2][0]  # at once
    assert [reading.heading for reading in chart.readings] == ["from 0 env steps", "from 100 env steps"]
    assert chart.readings[1].rows[0] == (None, f"1 {MINUS} gamma", "0.008")
    shown = page(Report("", [], [found]))
    assert "3 members, the worst of which took over the best while they trained." in shown
    assert "2 times a member took over the weights" in shown


@pytest.mark.parametrize("value", [None, "large"])
def test_a_population_whose_settings_are_no_numbers_is_one_line(value: Any, tmp_path: Path) -> None:
    edited = json.loads(json.dumps(BRED))
    edited["evolution"]["population"][1]["clip"] = value
    (tmp_path / "population.json").write_text(json.dumps(edited))
    with pytest.raises(rlab.RlabError, match=r"population\.json is not a whole study .* Was it edited"):
        read_study(tmp_path)


@pytest.mark.parametrize("missing", ["env", "seeds", "winner", "method"])
def test_a_study_that_was_edited_is_one_line(study: Path, missing: str) -> None:
    facts = {name: value for name, value in STUDY.items() if name != missing}
    (study / "study.json").write_text(json.dumps(facts))
    with pytest.raises(rlab.RlabError, match=r"study\.json is not a whole study .* Was it edited\?"):
        read_study(study)


def a_side(name: str, returns: list[list[float]] | None, **changes: Any) -> Side:
    data = None if returns is None else np.array(returns, float)
    return Side(name, name, "ppo", tuple(range(2 if data is None else len(data))), data, **changes)


def test_the_first_sentence_says_what_was_found(make_report: Callable[..., Report]) -> None:
    assert lede(Report("", [])).startswith("No run has logged anything yet.")
    assert lede(Report("", [Task("E", "", [a_side("a", None)])])) == "Nothing was evaluated yet."
    alone = Task("E", "", [a_side("a", [[1.0, 2.0]])])
    assert lede(Report("", [alone])) == (
        "One training seed has a mean return of 1.500; it shows nothing about other seeds."
    )
    same = Task("E", "", [a_side("a", [[-2.0], [-2.0], [-2.0], [-2.0]])])
    assert lede(Report("", [same])).startswith(
        f"The middle half of 4 training seeds reached {MINUS}2.000 [{MINUS}2.000, {MINUS}2.000] on average;"
    )
    sides = [a_side(name, [[height]]) for name, height in (("a", 9.0), ("b", 9.0), ("c", 1.0))]
    assert lede(Report("", [Task("E", "", sides)])) == "a and b share the highest mean return: 9.000."
    two = replace(make_report(), studies=[])
    assert lede(two).endswith("of 5 training seeds. Its mean return is better than that of alpha.")
    assert lede(two).startswith("beta has the highest interquartile mean: ")


def test_titles_name_a_few_sides_and_count_many() -> None:
    sides = [a_side(name, [[1.0]]) for name in "abcd"]
    assert title_of(Report("", [Task("E", "", sides[:1])])) == "a on E"
    assert title_of(Report("", [Task("E", "", sides[:3])])) == "a, b and c on E"
    assert title_of(Report("", [Task("E", "", sides)])) == "4 populations on E"
    assert title_of(Report("", [Task("E", "", sides[:1]), Task("F", "", sides[1:2])])) == "a and b on 2 environments"


def test_heights_and_times_of_curves_on_numbers_worked_by_hand() -> None:
    when = np.array([0, 10, 20])
    first = a_side("a", None, curve=(when, np.array([[0.0, 10.0, 10.0], [0.0, 0.0, 10.0]])))
    longer = np.array([0, 10, 20, 30])
    second = a_side("b", None, curve=(longer, np.array([[0.0, 0.0, 4.0, 99.0]])))
    text = efficiency(Task("E", "", [first, second], threshold=10.0), "env steps")
    # Over 20 steps, which both have: (5 x 10 + 10 x 10) / 20 = 7.5 and (5 x 10) / 20 = 2.5, whose mean is 5; and
    # (2 x 10) / 20 = 1. The first reaches 10 after 10 and 20 steps, the second not within 20.
    assert "up to 20 env steps" in text
    assert ">5.000 [" in text
    assert ">1.000<" in text
    assert "2 of 2" in text
    assert "0 of 1" in text
    assert ">later than 20 [" in text
    assert efficiency(Task("E", "", [a_side("a", [[1.0]])]), "env steps") == ""


def test_numbers_have_their_intervals_and_settings_are_written_as_they_are_typed() -> None:
    assert joined(Interval(487.06, 460.0, 500.0)) == "487.1 [460.0, 500.0]"
    assert joined(-0.5) == f"{MINUS}0.500"
    assert joined(None) == ""
    written = [setting_text(value) for value in (None, True, 0.00025, (64, 64), [], "relu")]
    assert written == ["none", "on", "0.00025", "64 64", "none", "relu"]


def test_names_of_files_are_plain_whatever_names_hold() -> None:
    assert slug("CartPole-v1, at most 30 steps") == "CartPole-v1-at-most-30-steps"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("<>") == "x"
    assert len(slug("a" * 300)) == 60


def test_two_envs_whose_names_differ_in_strange_letters_alone_have_files_and_places_of_their_own(
    make_report: Callable[..., Report],
) -> None:
    from rlab.jobs.report import contents

    task = make_report().tasks[0]
    both = Report("", [replace(task, label="A<1>"), replace(task, label="A(1)")])
    names = list(contents(both, with_png=False))
    assert {"curves-A-1.svg", "curves-A-1-2.svg"} <= set(names)
    ids = [part.partition('"')[0] for part in page(both).split(' id="')[1:]]
    assert len(ids) == len(set(ids))
