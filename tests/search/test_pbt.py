"""`rlab tune --method pbt`: a population, its lineage, and its schedule on fresh seeds."""

import json
from pathlib import Path
from typing import Any

import pytest

import rlab
from rlab.cli.main import main
from rlab.errors import UsageError
from rlab.jobs.request import train_request
from rlab.search.pbt import Bred, breedable
from rlab.search.plan import plan
from rlab.search.tune_settings import TuneSettings

TINY: dict[str, Any] = {
    "method": "pbt",
    "env_steps": 400,
    "num_envs": 4,
    "seeds": 3,
    "eval_every": 100,
    "eval_episodes": 2,
    "episodes": 2,
    "report_seeds": 2,
    "hidden": (8,),
    "rollout_steps": 10,
    "compile": "off",
    "max_episode_steps": 30,
}


def test_a_population_is_trained_once_and_its_schedule_again_on_seeds_that_chose_nothing(tmp_path: Path) -> None:
    bred = rlab.tune("ppo", "CartPole-v1", out=tmp_path / "study", **TINY)
    assert isinstance(bred, Bred)
    facts = json.loads((tmp_path / "study" / "population.json").read_text())
    assert facts == json.loads(json.dumps(bred.facts))
    assert facts["seeds"] == {"search": [0, 1, 2], "report": [13, 14]}
    assert [row["seed"] for row in bred.evaluation["per_seed"]] == [13, 14]
    assert facts["exploits"] == 3  # one of three members, behind all evaluations but the last
    population, replay = (rlab.Run.open(tmp_path / "study" / name) for name in ("population", "replay"))
    first, *others = population.config["evolution"]["population"]
    assert first["learning_rate"] == 3e-4  # the defaults
    assert len({each["learning_rate"] for each in others} | {3e-4}) == 3
    assert {"learning_rate", "gamma", "clip", "entropy_weight"} <= first.keys()
    assert "n_step" not in first
    assert replay.config["evolution"]["schedule"] == bred.schedule == facts["winner"]["schedule"]
    assert bred.schedule[0][0] == 0
    again = rlab.tune("ppo", "CartPole-v1", out=tmp_path / "study", **TINY)  # nothing is left to do
    assert again.facts == bred.facts
    assert "IQM of its schedule on 2 training seeds that chose nothing, 13 to 14" in bred.report()
    assert "settings of the best member" in bred.report()
    done = rlab.report(tmp_path / "study", out=tmp_path / "page", png=False)
    assert "lineage.svg" in done.files
    sides = [side.name for task in done.report.tasks for side in task.sides]
    assert sides == ["schedule of study"]  # members of a population are relatives, and no sample of seeds
    assert facts["command"].startswith("rlab.tune('ppo', 'CartPole-v1', method='pbt', env_steps=400")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1"], "--method pbt needs a population"),
        (["--jobs", "2"], "--method pbt trains one stack in this process"),
        (["--novelty", "rnd"], "leave --novelty out"),
    ],
)
def test_what_a_population_cannot_have_is_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "study"), "--env-steps", "1000"]
    assert main(["tune", "ppo", "CartPole-v1", "--method", "pbt", *out, *words]) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_only_settings_that_may_differ_are_bred(tmp_path: Path) -> None:
    request = train_request("ppo", "CartPole-v1", (), (), "none", {"env_steps": 1000})
    planned = plan(
        request, TuneSettings(method="pbt"), {"epochs": {"low": 1, "high": 4}, "only": True}, tmp_path, None, False
    )
    with pytest.raises(UsageError, match="of ppo those are learning_rate, lr_final"):
        breedable(planned.request, planned.space)
