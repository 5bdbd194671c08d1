"""`list_runs` knows how every run stands, and never raises because of one."""

import re

import numpy as np
import pytest

from rlab.runs.folder import RunFolder
from rlab.runs.listing import list_runs
from rlab.runs.logs import MetricsLog
from rlab.runs.policies import save_policy
from rlab.runs.status import VANISHED, write_status


def log_some(run, env_steps, iqm):
    log = MetricsLog(run.path, [3, 4], iqm=np.mean, summarise=lambda values: (iqm, iqm - 1, iqm + 1))
    log.on_metrics(env_steps, {"q/mean": np.zeros(2)})
    log.on_evaluation(env_steps, np.zeros((2, 3)), np.zeros((2, 3), int))
    log.close()


def test_runs_are_listed_with_how_far_and_how_good_they_are(run, make_policy, tmp_path):
    log_some(run, 600, 77.5)
    (done,) = [RunFolder.create(tmp_path / "done", run.config)]
    save_policy(done.policy, make_policy(1.0), {"env_steps": 1000})  # the other one logged 600 and saved none
    (tmp_path / "not a run").mkdir()
    (tmp_path / "file").write_text("")
    common = {"agent": "dqn", "env_id": "CartPole-v1", "seeds": [3, 4], "total_env_steps": 1000, "reason": None}
    common |= {
        "updates": None,
        "total_updates": None,
        "final_iqm": None,
        "final_ci95": None,
        "at": None,
        "began": None,
        "wall_seconds": None,
        "version": None,
        "commit": None,
        "command": None,
        "only_here": None,
        "dropped": None,
    }
    assert list_runs(tmp_path) == [
        {
            "path": str(done.path),
            "env_steps": 1000,
            "eval_iqm": None,
            "eval_ci95": None,
            "status": "finished",
            **common,
        },
        {"path": str(run.path), "env_steps": 0, "eval_iqm": 77.5, "eval_ci95": [76.5, 78.5]}
        | {"status": "stopped", **common},
    ]


def test_an_interrupted_run_that_saved_its_policy_is_stopped(run, make_policy, tmp_path):
    save_policy(run.policy, make_policy(1.0), {"env_steps": 400})
    (listed,) = list_runs(tmp_path)
    assert (listed["status"], listed["env_steps"]) == ("stopped", 400)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", b"{", "config.json has a different SHA-256"),
        ("manifest.json", b"\xff", "manifest.json is not complete JSON"),
        ("manifest.json", None, "manifest.json is missing"),
        ("config.json", None, "has no config.json"),
        ("policy/policy.json", b"{}", "policy/policy.json has a different SHA-256"),
        ("eval.jsonl", b'{"format": 1}\n7\n', "eval.jsonl, line 2 is not a JSON object"),
    ],
)
def test_a_broken_run_is_listed_with_the_reason(run, make_policy, tmp_path, name, content, reason):
    save_policy(run.policy, make_policy(1.0), {"env_steps": 400})
    if content is None:
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(content)
    (listed,) = list_runs(tmp_path)
    assert listed["status"] == "broken"
    assert reason in listed["reason"]
    assert listed["path"] == str(run.path)


def test_a_config_of_some_other_tool_is_broken_and_not_a_crash(tmp_path):
    RunFolder.create(tmp_path / "a", {"agent": "dqn"})
    RunFolder.create(tmp_path / "b", {"run": 7})
    assert [listed["status"] for listed in list_runs(tmp_path)] == ["broken", "broken"]
    assert "config.json lacks '" in list_runs(tmp_path)[0]["reason"]


@pytest.mark.parametrize(
    ("said", "saved", "wanted", "expected"),
    [
        ("running", 400, 0, ("stopped", VANISHED)),  # nobody holds it
        ("stopped", 400, 0, ("stopped", "interrupted")),
        ("failed", 400, 0, ("failed", "interrupted")),
        ("stopped", 1000, 5, ("not-judged", "interrupted")),
        ("not-judged", 1000, 5, ("not-judged", "interrupted")),
        ("finished", 600, 0, ("finished", None)),  # early stopping ends a run before its budget is used
    ],
)
def test_a_run_stands_as_its_record_says_where_the_folder_does_not_say_better(
    run, make_policy, tmp_path, said, saved, wanted, expected
):
    run = run.changed({**run.config, "run": {**run.config["run"], "final_eval_episodes": wanted}})
    save_policy(run.policy, make_policy(1.0), {"env_steps": saved})
    write_status(run, said, "interrupted")
    (listed,) = list_runs(tmp_path)
    assert (listed["status"], listed["reason"]) == expected
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed["at"])
    with run.held():
        assert list_runs(tmp_path)[0]["status"] == "running"


def test_the_seconds_of_all_processes_that_trained_a_run_are_added_up(run, tmp_path):
    for status, seconds in (("running", 0.0), ("stopped", 2.5), ("running", 0.0), ("finished", 4.0)):
        write_status(run, status, None, seconds)
    (listed,) = list_runs(tmp_path)
    assert (listed["status"], listed["wall_seconds"]) == ("finished", 6.5)
    (run.path / "status.json").write_text('{"format": 1, "status": "finished", "wall_seconds": "many"}')
    (listed,) = list_runs(tmp_path)
    assert (listed["status"], listed["wall_seconds"], listed["began"]) == ("finished", None, None)


def test_a_training_score_is_never_shown_as_the_final_one(run, tmp_path):
    log_some(run, 600, 77.5)
    log = MetricsLog(run.path, [3, 4], iqm=np.mean, summarise=lambda values: (50.0, 49.0, 51.0))
    assert [list_runs(tmp_path)[0][key] for key in ("eval_iqm", "final_iqm")] == [77.5, None]
    log.on_final_evaluation(600, np.zeros((2, 3)), np.zeros((2, 3), int))
    log.close()
    assert [list_runs(tmp_path)[0][key] for key in ("eval_iqm", "final_iqm")] == [77.5, 50.0]


def test_no_folder_means_no_runs(tmp_path):
    assert list_runs(tmp_path / "nowhere") == []
