"""An env whose episodes never end: trained without a time limit, it is judged with one, now or later."""

import json
from pathlib import Path

import pytest

import rlab
from rlab.cli.main import main
from rlab.envs.specs import named_here
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.evaluation import episode_driver
from rlab.jobs import session

pytestmark = pytest.mark.usefixtures("quick_disk")
TINY = {"env_steps": 16, "num_envs": 2, "rollout_steps": 4, "minibatches": 1, "hidden": (4,), "experiment": "none"}
TINY |= {"eval_every": 0, "final_eval_episodes": 2}


@pytest.fixture
def endless(monkeypatch):
    """An env of a module beside this one that never ends, and judges with little patience."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import broken_envs

    monkeypatch.setattr(episode_driver, "MOST_STEPS", 30)
    monkeypatch.setattr(session, "LONG", 8)  # 16 env steps in two envs
    yield broken_envs.Endless
    named_here.clear()


def test_a_run_without_a_time_limit_is_judged_once_it_gets_one(endless, tmp_path, capsys):
    out = tmp_path / "run"
    with (
        pytest.warns(RlabWarning, match="no episode of broken_envs:Endless has ended in training and no time limit is"),
        pytest.raises(RlabError, match="has not ended after 30 env steps") as caught,
    ):
        rlab.train("ppo", endless, out=out, **TINY)
    assert "--max-episode-steps N, or max_episode_steps=N from Python. The run is trained" in str(caught.value)
    assert f"rlab resume {out} --trust --max-episode-steps N judges it." in str(caught.value)
    words = ["--trust", "--json"]
    assert main(["eval", str(out), "--episodes", "2", "--max-episode-steps", "7", *words]) == 0
    assert json.loads(capsys.readouterr().out)["per_seed"][0]["length_mean"] == 7
    assert rlab.evaluate(out, episodes=2, max_episode_steps=8).lengths.tolist() == [[8, 8]]

    run = rlab.resume(out, max_episode_steps=9)
    assert (run.status, run.evaluation.lengths.tolist()) == ("finished", [[9, 9]])
    assert run.config["env"]["max_episode_steps"] == run.config["run"]["max_episode_steps"] == 9
    assert run.config["history"][0]["after"] == {"max_episode_steps": 9}
    assert rlab.evaluate(out, episodes=2).lengths.tolist() == [[9, 9]]  # the policy has the limit with it
    assert main(["resume", str(out), "--max-episode-steps", "5", "--trust"]) == 2
    said = capsys.readouterr().err.strip()
    assert said == (
        "rlab: broken_envs:Endless has a time limit of 9 env steps, which cannot change when a run goes on: "
        "rlab eval --max-episode-steps N judges with another one, and rlab finetune learns with it."
    )


def test_a_time_limit_below_one_step_is_refused(endless, tmp_path):
    rlab.train("ppo", endless, out=tmp_path / "run", **TINY | {"final_eval_episodes": 0})
    for call in (rlab.evaluate, rlab.resume):
        with pytest.raises(UsageError, match="max_episode_steps must be 1 or more, not 0"):
            call(tmp_path / "run", max_episode_steps=0)
