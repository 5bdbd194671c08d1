"""Runs whose members differ in settings: one stack, and a run folder for each set of settings."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.jobs.varied import grid, read_points
from rlab.runs.folder import RunFolder

TINY: dict[str, Any] = {
    "env_steps": 600,
    "num_envs": 4,
    "eval_every": 300,
    "eval_episodes": 2,
    "final_eval_episodes": 3,
    "checkpoint_every": 300,
    "log_every": 100,
    "learning_starts": 100,
    "learn_every": 20,
    "updates_per_learn": 1,
    "hidden": (8,),
    "compile": "off",
    "experiment": "none",
}
POINTS = [{"learning_rate": 1e-3, "epsilon_end": 0.5}, {"learning_rate": 3e-2, "epsilon_end": 0.1}]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> rlab.Run:
    out = tmp_path_factory.mktemp("varied") / "run"
    return rlab.train("dqn", "CartPole-v1", seed=3, seeds=2, vary=POINTS, out=out, **TINY)


def test_each_set_of_settings_is_a_run_equal_to_one_by_itself(varied: rlab.Run, tmp_path: Path) -> None:
    assert varied.evaluation is None  # nothing is pooled
    assert [run.evaluation.seeds for run in varied.runs if run.evaluation] == [(3, 4), (3, 4)]
    point, run = POINTS[1], varied.runs[1]
    alone = rlab.train("dqn", "CartPole-v1", seed=3, seeds=2, out=tmp_path / "alone", **TINY, **point)
    assert run.config["settings"] == alone.config["settings"]
    assert run.policy(4).spec == alone.policy(4).spec  # the head's epsilon is its own
    for name, value in run.policy(4).state_dict().items():
        np.testing.assert_allclose(value, alone.policy(4).state_dict()[name], rtol=1e-3, atol=1e-4)
    for tag in ("eval/return", "explore/epsilon", "optimizer/learning_rate"):
        assert run.curve(tag)[0].tolist() == alone.curve(tag)[0].tolist()
    np.testing.assert_allclose(run.curve("optimizer/learning_rate")[1], 3e-2, rtol=1e-6)
    assert run.status == alone.status == "finished"
    assert run.evaluation is not None
    assert rlab.evaluate(run, episodes=3).returns.tolist() == run.evaluation.returns.tolist()


def test_the_folder_says_which_members_had_what_and_verbs_name_the_sets(varied: rlab.Run) -> None:
    assert varied.config["vary"] == POINTS
    assert varied.runs[1].config["of_stack"] == {"number": 1, "of": 2}
    report = varied.report()
    assert "epsilon_end=0.5_learning_rate=0.001" in report
    assert "IQM of 2 training seeds" in report
    with pytest.raises(RlabError, match=r"has a policy for each set of settings; name one of them, such as .*epsilon_"):
        varied.policy()
    with pytest.raises(UsageError, match=r"trained beside other settings, and goes on with them: rlab resume .*run"):
        rlab.resume(varied.runs[0])


def test_tables_of_a_finished_run_are_written_for_each_set(varied: rlab.Run) -> None:
    rlab.resume(varied, log="csv")
    for run in varied.runs:
        assert len((run.path / "eval.csv").read_text().splitlines()) > 2
    with pytest.raises(UsageError, match="--log wandb is for a run whose members all have the same settings"):
        rlab.resume(varied, log="wandb")


def test_a_run_that_was_cut_goes_on_as_the_one_that_was_not(varied: rlab.Run, tmp_path: Path) -> None:
    class Stop:
        def on_metrics(self, env_steps: int, metrics: Any) -> bool:
            return env_steps < 400

    out = tmp_path / "cut"
    cut = rlab.train("dqn", "CartPole-v1", seed=3, seeds=2, vary=POINTS, out=out, listeners=[Stop()], **TINY)
    assert (cut.status, cut.time, [run.status for run in cut.runs]) == ("stopped", 400, ["stopped", "stopped"])
    whole = rlab.resume(out)
    assert whole.status == "finished"
    for run, expected in zip(whole.runs, varied.runs, strict=True):
        for name in ("metrics.jsonl", "eval.jsonl"):
            assert (run.path / name).read_bytes() == (expected.path / name).read_bytes()
        for name, value in run.policy(4).state_dict().items():
            assert value.equal(expected.policy(4).state_dict()[name]), name


def test_sets_pair_by_seed_and_a_longer_budget_reaches_all(tmp_path: Path) -> None:
    short = {**TINY, "env_steps": 120, "final_eval_episodes": 0, "eval_every": 0}
    run = rlab.train("dqn", "CartPole-v1", vary={"gamma": [0.9, 0.99]}, out=tmp_path / "run", **short)
    # sets have the same seeds, so that they pair: before learning starts both act alike
    first, second = (json.loads((each.path / "metrics.jsonl").read_text().splitlines()[1]) for each in run.runs)
    assert first["env_steps"] == 100
    assert first["train/episode_return"] == second["train/episode_return"]
    longer = rlab.resume(run, env_steps=160)
    assert [each.config["run"]["env_steps"] for each in longer.runs] == [160, 160]
    assert [each.time for each in longer.runs] == [160, 160]


def test_a_set_that_breaks_is_dropped_and_named_and_the_others_go_on(tmp_path: Path) -> None:
    settings = {**TINY, "on_nan": "drop-member", "optimizer": "sgd", "max_grad_norm": None, "loss": "squared"}
    with pytest.warns(RlabWarning, match=r"learning_rate=1e\+30: seed 0 was dropped .*; 1 of 2 members goes on"):
        run = rlab.train("dqn", "CartPole-v1", vary={"learning_rate": [1e-3, 1e30]}, out=tmp_path / "run", **settings)
    well, broken = run.runs
    assert (well.status, broken.status) == ("finished", "failed")
    assert well.dropped == ()
    assert broken.evaluation is None


def test_the_command_line_takes_sets_and_reports_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "ppo", "CartPole-v1", "--env-steps", "128", "--rollout-steps", "16", "--num-envs", "4"]
    words += ["--hidden", "8", "--experiment", "none", "--final-eval-episodes", "2", "--eval-every", "0"]
    words += ["--compile", "off", "--out", str(tmp_path / "run"), "--vary", "clip=0.1,0.2", "learning-rate=1e-3,3e-3"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "for each of 4 sets of settings" in out
    assert "set 3: clip=0.2, learning_rate=0.003" in out
    assert out.count("IQM of 1 training seeds") == 4
    names = sorted(path.name for path in (tmp_path / "run" / "settings").iterdir())
    assert names[0] == "clip=0.1_learning_rate=0.001"
    found = [RunFolder.open(path).config["settings"] for path in sorted((tmp_path / "run" / "settings").iterdir())]
    each = [(settings["clip"], settings["learning_rate"]) for settings in found]
    assert each == [(0.1, 1e-3), (0.1, 3e-3), (0.2, 1e-3), (0.2, 3e-3)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "gamma"], r"--vary gamma: write NAME=VALUE,VALUE"),
        (["--vary", "gama=0.9,0.8"], r"--vary: unknown setting gama. Did you mean gamma\?"),
        (["--vary", "gamma=0.9,2"], r"gamma 2.0 must be in \[0, 1\]"),
        (["--vary", "batch_size=8,16"], r"dqn has one batch_size for all members; what may differ: learning_rate"),
        (["--vary", "gamma=0.9,0.8", "--novelty", "rnd"], r"dqn with novelty has one gamma for all members; what may"),
        (["--vary", "num_envs=2,4"], r"--vary: num_envs belongs to the whole run"),
        (["--vary", "gamma=0.9,0.9"], r"--vary: two sets of settings are equal"),
        (["--vary", "hidden=64,128"], r"dqn has one hidden for all members; what may differ: learning_rate"),
        (["--gamma", "0.95", "--vary", "gamma=0.9,0.8"], r"--vary: gamma has .* and one for all: leave out --gamma\."),
        (["--vary", "munchausen_alpha=0.9,0.8"], r"--munchausen-alpha has no effect here: munchausen is off"),
        (["--vary", "gamma=0.9,0.8", "--log", "csv", "wandb"], r"--log wandb is for a run whose members all have"),
        (["--vary", "gamma=0.9,0.8", "--film-every", "100"], r"--film-every is for a run whose members all have"),
        (
            ["--vary", "gamma=0.9,0.8", "--devices", "cpu,cpu"],
            r"--devices shares members out that have",
        ),
    ],
)
def test_what_cannot_differ_is_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run"), "--experiment", "none"]
    assert main(["train", "dqn", "CartPole-v1", *out, *words]) == 2
    found = capsys.readouterr().err
    assert re.search(message, found), found
    assert not (tmp_path / "run").exists()


def test_values_are_read_as_numbers_and_combined_each_with_each() -> None:
    found = read_points(["learning-rate=1e-4,1e-3", "n_step=1,3"])
    assert found == grid({"learning_rate": [1e-4, 1e-3], "n_step": [1, 3]})
    assert [each["n_step"] for each in found] == [1, 3, 1, 3]
    assert read_points([]) == []
