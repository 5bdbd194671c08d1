"""The experiment of `rlab tune`, at small size."""

from pathlib import Path

import pytest

from rlab.experiments import tuning
from rlab.experiments.tuning import searched, summary


@pytest.mark.usefixtures("quick_disk")
def test_the_search_of_the_experiment_runs_and_is_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    small = {"trials": 2, "seeds": 1, "finalists": 1, "finalist_seeds": 1, "report_seeds": 2, "episodes": 1}
    monkeypatch.setattr(tuning, "SOLVED", 1.0)  # as every policy does
    tuned, minutes = searched(tmp_path / "study", env_steps=40, eval_every=40, eval_episodes=1, jobs=None, **small)
    found = summary(tuned)
    assert found["seeds"] == {"search": [0], "finalists": [1], "report": [2, 3]}
    assert found["solved"] == 2
    assert found["trials"] == {"done": 2}
    assert list(found["per_seed"]) == [2, 3]
    assert minutes > 0.0
    assert found["ranges"]["hidden"]["choices"] == [None, [64], [128, 128]]
