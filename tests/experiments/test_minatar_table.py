"""The table of MinAtar: a small one is trained, and one is written by hand."""

import json
from pathlib import Path

import pytest

from rlab.envs.ids import ON_DEMAND
from rlab.experiments import minatar

MINATAR = ON_DEMAND["MinAtar/"]
pytestmark = pytest.mark.skipif(not MINATAR.installed, reason=f"needs {MINATAR.name}: pip install {MINATAR.install}")


def finished(folder: Path, agent: str, game: str, returns: list[float]) -> None:
    """A run folder that says what was reached."""
    path = folder / f"runs/studies/minatar-{agent}-{game}"
    path.mkdir(parents=True)
    path.joinpath("result.json").write_text(json.dumps({"per_seed": [{"return_mean": each} for each in returns]}))
    path.joinpath("config.json").write_text(json.dumps({"run": {"env_steps": 1_000_000}}))


def test_the_table_has_every_finished_run_beside_the_figure_of_the_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished(tmp_path, "ppo", "Freeway", [10.0, 50.0, 52.0, 54.0])  # the IQM drops one at each end
    finished(tmp_path, "dqn", "Breakout", [8.0, 8.0, 8.0, 8.0])
    found = minatar.table("minatar")
    assert [(row["game"], row["agent"], row["iqm"], row["at_or_above"]) for row in found["results"]] == [
        ("Breakout", "dqn", 8.0, False),
        ("Freeway", "ppo", 51.0, True),
    ]
    assert minatar.lines(found)[1] == (
        "Breakout      dqn          8.00 [8.00, 8.00]  4 seeds, 1,000,000 env steps; BELOW Young and Tian's DQN, 9"
    )


def test_a_stopped_table_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--quick", "--games", "Breakout", "--agents"]
    minatar.main([*words, "ppo"])
    assert capsys.readouterr().out.count("Breakout") == 1
    minatar.main([*words, "ppo", "dqn"])
    said = capsys.readouterr()
    assert [line.split()[1] for line in said.out.splitlines()[1:]] == ["dqn", "ppo"]
    assert "training ppo" not in said.err
    assert not list(tmp_path.glob("*.result.json"))
