"""The study of a population that finds its own settings, at small size."""

from pathlib import Path

import pytest

from rlab.experiments.population import study


def test_a_population_and_its_schedule_stand_beside_the_tuned_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlab.experiments.population.RUNS", tmp_path)
    small = {"episodes": 1, "report_seeds": 2, "eval_every": 100, "eval_episodes": 1, "rollout_steps": 10}
    found = study("CartPole-v1", env_steps=200, members=2, num_envs=4, hidden=(8,), max_episode_steps=20, **small)
    assert len(found["population_returns"]) == 2
    assert found["exploits"] == 1
    assert [at for at, _ in found["schedule"]] in ([0], [0, 100])
    assert found["tuned"]["iqm"] > 245
