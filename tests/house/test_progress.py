"""How far a run is: one plain line every few seconds without a terminal, one bar drawn in its place in a notebook."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlab.jobs import progress
from rlab.jobs.progress import Bar, ProgressListener


def row(returns: float, rate: float = 1_000.0) -> dict[str, Any]:
    return {"train/episode_return": np.array([returns, np.nan]), "time/env_steps_per_second": np.array(rate)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until it is moved."""
    moved = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: moved.now)
    return moved


def test_without_a_terminal_one_plain_line_comes_every_few_seconds(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressListener(10_000) as bar:
        for step in range(1, 11):  # a row each second
            clock.now += 1.0
            bar.on_metrics(step * 1_000, row(step))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "5,000/10,000 env steps  1,000/s  return 5.0 (training)  5 s left",
        "10,000/10,000 env steps  1,000/s  return 10.0 (training)  0 s left",
    ]


def test_a_notebook_gets_one_bar_that_is_drawn_in_its_place(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Bar] = []
    display = ModuleType("IPython.display")
    handle = SimpleNamespace(update=shown.append)
    display.display = lambda bar, display_id: shown.append(bar) or handle  # type: ignore[attr-defined]
    shell = ModuleType("IPython")
    shell.get_ipython = object  # type: ignore[attr-defined]
    for name, module in (("IPython", shell), ("IPython.display", display), ("ipykernel", ModuleType("ipykernel"))):
        monkeypatch.setitem(sys.modules, name, module)
    with ProgressListener(10_000) as bar:
        for step in range(1, 11):  # eight rows a second: every fourth is drawn
            clock.now += 0.125
            bar.on_metrics(step * 1_000, row(step))
        bar.on_evaluation(10_000, np.array([[7.0], [9.0]]), np.array([[1], [1]]))
    assert [each.done for each in shown] == [0.0, 0.4, 0.8, 1.0]  # at the beginning, twice, and at the end
    assert shown[-1]._repr_html_().startswith('<progress value="1.0000" max="1"')
    assert repr(shown[1]).startswith(" 40%  4,000/10,000 env steps  1,000/s  return 4.0 (training)")
    out, err = capsys.readouterr()
    assert err == ""  # which a notebook shows in a red box
    assert out == "   10,000 env steps: greedy return 8.0, worst seed 7.0\n"
