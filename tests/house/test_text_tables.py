"""`rlab list`: what reads well at 80 columns, and one line a row where another program reads."""

import pytest

from rlab.cli.main import main
from rlab.cli.text_tables import table
from rlab.jobs.list import LISTS

ROWS = [["dqn", "Deep Q-learning with a replay of what was seen"], ["ppo", "Clipped steps"]]


def test_a_table_that_fits_is_one_line_a_row() -> None:
    assert table(ROWS, ["agent", "what"], None) == [
        "agent  what",
        "dqn    Deep Q-learning with a replay of what was seen",
        "ppo    Clipped steps",
    ]
    assert table(ROWS, ["agent", "what"], 53) == table(ROWS, ["agent", "what"], None)  # 5 + 2 + 46


def test_the_longest_text_is_wrapped_between_words() -> None:
    assert table(ROWS, ["agent", "what"], 40) == [
        "agent  what",
        "dqn    Deep Q-learning with a replay of",
        "       what was seen",
        "ppo    Clipped steps",
    ]


def test_where_even_that_is_too_wide_each_row_has_lines_of_its_own() -> None:
    rows = [["runs/a-long-name-of-a-run", "dqn", "", "finished"]]
    assert table(rows, ["path", "agent", "reason", "state"], 40) == [
        "runs/a-long-name-of-a-run",
        "    agent: dqn, state: finished",
    ]


@pytest.mark.parametrize("what", ["agents", "envs", "experiments", "metrics"])
def test_lists_fit_into_eighty_columns_and_a_pipe_gets_one_line_a_row(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(LISTS[what]("."))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", what]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["agents", "--root", "here"], "--root is where runs, models or datasets are: rlab list runs --root DIR."),
        (["runs", "--root", "gone"], "--root gone is not a folder."),
        (["models", "--status", "failed"], "--status chooses among runs: rlab list runs --status failed."),
        (["envs", "--agent", "ppo"], "--agent and --env choose among runs and models: rlab list runs --agent ppo."),
    ],
)
def test_what_narrows_nothing_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", *words]) == 2
    assert said in capsys.readouterr().err
