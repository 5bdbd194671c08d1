"""`rlab compare`: any two things that can be judged, on the same episodes, and one line for what cannot be compared."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import rlab
from rlab.cli.main import main
from rlab.errors import UsageError
from rlab.jobs.compare import Comparison
from rlab.jobs.evidence import read_evidence, shipped_folder
from rlab.jobs.report_sources import tasks_of
from rlab.runs import files
from rlab.runs.policies import load_policy, save_policy

pytestmark = pytest.mark.usefixtures("quick_disk")

DQN, PPO = "dqn-CartPole-v1", "ppo-CartPole-v1"


def child_of(run: Path, out: Path, seeds: tuple[int, ...] = (3, 4)) -> Path:
    """A policy folder that says what `rlab compress` says of a compressed `run`, with the run's own weights."""
    loaded = load_policy(run)
    weights = files.read_json(loaded.folder / "policy.json")["weights"]["sha256"]
    facts = {**loaded.extra, "parent": {"folder": run.name, "weights_sha256": weights}, "steps": ["int8"], "updates": 5}
    policy = loaded.policy.only(*seeds)
    for parameter in policy.parameters():
        parameter.data.mul_(1.001)
    save_policy(out, policy, facts)
    return out


def trained(out: Path, seed: int, seeds: int = 2, **settings: Any) -> Path:
    """A run of PPO that has learned for 32 env steps and was judged by five episodes."""
    fixed = {"env_steps": 32, "rollout_steps": 8, "num_envs": 2, "hidden": (4,), "max_episode_steps": 20}
    judged = {"final_eval_episodes": 5, "experiment": "none", "eval_every": 0}
    rlab.train("ppo", "CartPole-v1", out=out, seed=seed, seeds=seeds, **{**fixed, **judged, **settings})
    return out


def result_file(path: Path, **changes: Any) -> Path:
    """A copy of a recorded result; `changes` are keys such as `config__env__wrappers`."""
    result = json.loads((shipped_folder() / f"{DQN}.result.json").read_text())
    for name, value in changes.items():
        *way, last = name.split("__")
        place = result
        for part in way:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(result))
    return path


def test_recorded_results_are_compared_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", DQN, PPO]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "CartPole-v1: 100 episodes from seed 100000, the same for all"
    assert re.match(r"dqn-CartPole-v1 +dqn +50,000 env steps +20 +428\.4  500\.0 \[500\.0, 500\.0\]$", lines[2])
    said = f"no difference in mean return is shown between {DQN} and {PPO}: -3.6 "
    assert lines[5].startswith(said)
    assert "note: trained for different times: dqn-CartPole-v1 50,000, ppo-CartPole-v1 100,000 env steps" in lines
    assert "judging" not in err


def test_members_that_were_dropped_are_named_beside_what_the_others_returned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = [{"seed": seed, "time": 10, "updates": 5, "reason": "its loss is NaN"} for seed in (98, 99)]
    path = result_file(tmp_path / "mine.result.json", dropped=dropped)
    assert main(["compare", str(path), PPO]) == 0
    assert f"note: {path} went on without training seeds 98, 99, whose numbers" in capsys.readouterr().out
    (task,) = tasks_of([read_evidence(path)])
    assert task.sides[0].notes[0].startswith("It went on without training seeds 98, 99, whose numbers")


def test_the_json_has_sides_pairs_and_what_they_are_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", DQN, PPO, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == {"episodes": 100, "first_seed": 100_000, "greedy": True}
    assert [side["name"] for side in found["sides"]] == [DQN, PPO]
    assert found["sides"][0]["judged_now"] == []
    assert found["sides"][0]["made_of"][0]["kind"] == "result"
    (pair,) = found["pairs"]
    assert (pair["a"], pair["b"], pair["verdict"], pair["about"]) == (DQN, PPO, "no difference", "training seeds")
    assert pair["difference"]["low"] < pair["difference"]["estimate"] < pair["difference"]["high"]


def test_a_run_compared_with_itself_is_no_different(ppo_run: Path) -> None:
    found = rlab.compare(ppo_run, ppo_run)
    assert found.pairs[0].identical
    assert "no difference: ppo and ppo (2) return the same in every episode" not in found.summary()
    assert f"no difference: {ppo_run} and {ppo_run} (2) return the same in every episode" in found.summary()
    assert found.notes == (f"{ppo_run} and {ppo_run} (2) have the same weights",)


def test_what_was_not_judged_on_these_episodes_is_judged_now(
    ppo_run: Path, dqn_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rlab.compare(ppo_run, dqn_run, episodes=3, progress=True)
    assert capsys.readouterr().err.splitlines() == [
        f"judging {run}: 3 episodes from seed 100000" for run in (ppo_run, dqn_run)
    ]
    assert [side.judged for side in found.sides] == [(str(ppo_run),), (str(dqn_run),)]
    judged = rlab.evaluate(ppo_run, episodes=3).returns
    assert found.sides[0].evaluation.returns.tolist() == judged.tolist()
    assert (found.pairs[0].about, found.pairs[0].members) == ("training seeds", (2, 2))


def test_fewer_episodes_than_are_on_record_are_taken_from_the_record() -> None:
    found = rlab.compare(DQN, PPO, episodes=7, seed=100_010)
    recorded = json.loads((shipped_folder() / f"{DQN}.result.json").read_text())["evaluation"]["per_seed"]
    expected = [row["returns"][10:17] for row in recorded]
    assert found.sides[0].evaluation.returns.tolist() == expected
    assert found.sides[0].judged == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config__env__env_id": "Acrobot-v1"},
            "environments CartPole-v1 and Acrobot-v1. dqn-CartPole-v1 is a recorded result, which cannot be judged in "
            "another env",
        ),
        ({"config__env__wrappers": [{"name": "NoVelocity", "args": {}}]}, "wrappers none and NoVelocity"),
        ({"config__env__kwargs": {"sutton_barto_reward": True}}, "keywords none and {'sutton_barto_reward': True}"),
        ({"config__env__max_episode_steps": 200}, "time limits 500 and 200"),
    ],
)
def test_other_envs_wrappers_keywords_and_time_limits_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = result_file(tmp_path / "other.result.json", **changes)
    with pytest.raises(UsageError) as caught:
        rlab.compare(DQN, other)
    assert f"{DQN} and {other} cannot be compared: " in str(caught.value)
    assert message in str(caught.value)


def test_a_time_limit_that_is_the_registered_one_is_no_other(tmp_path: Path) -> None:
    assert rlab.compare(DQN, result_file(tmp_path / "a.result.json", config__env__max_episode_steps=500)).pairs


def test_other_protocols_are_refused_with_what_makes_them_equal(ppo_run: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "other", 0)
    with pytest.raises(UsageError) as caught:
        rlab.compare(ppo_run, other, max_episode_steps=20)
    assert str(caught.value) == (
        f"{ppo_run} was judged by 1 episodes from seed 100000, {other} by 5 episodes from seed 100000. --episodes 1 "
        "compares them on as many."
    )
    with pytest.raises(UsageError, match=r"time limits 30 and 20\. --env, --wrapper and --max-episode-steps judge all"):
        rlab.compare(ppo_run, other, episodes=2)
    found = rlab.compare(ppo_run, other, episodes=2, max_episode_steps=20)
    assert [side.judged for side in found.sides] == [(str(ppo_run),), ()]
    assert found.env.max_episode_steps == 20


def test_a_recorded_result_cannot_be_judged_again() -> None:
    with pytest.raises(UsageError) as caught:
        rlab.compare(DQN, PPO, episodes=101)
    assert str(caught.value) == (
        "dqn-CartPole-v1 is a recorded result of 100 episodes from seed 100000 in CartPole-v1, which cannot be judged "
        "again by 101 episodes from seed 100000 in CartPole-v1: compare a run in its place."
    )


def test_a_policy_is_compared_with_its_recorded_parent_member_by_member(ppo_run: Path, tmp_path: Path) -> None:
    found = rlab.compare(child_of(ppo_run, tmp_path / "small"), ppo_run, episodes=3)
    assert found.notes == ("small was compressed from ppo, its recorded parent",)
    assert found.pairs[0].same_members
    one = rlab.compare(child_of(ppo_run, tmp_path / "one", (4,)), ppo_run, episodes=3)
    assert one.notes[1] == "of ppo the members with training seeds 4 are compared"
    assert one.pairs[0].members == (1, 1)
    assert one.pairs[0].means[1] == pytest.approx(rlab.evaluate(ppo_run, episodes=3, member=4).returns.mean())


def test_a_parent_that_is_none_is_named(ppo_run: Path, dqn_run: Path, tmp_path: Path) -> None:
    small = child_of(ppo_run, tmp_path / "small")
    weights = {
        run: files.read_json(run / "policy" / "policy.json")["weights"]["sha256"][:8] for run in (ppo_run, dqn_run)
    }
    (note,) = rlab.compare(small, dqn_run, episodes=2).notes
    assert note == (
        f"small was compressed from ppo (weights {weights[ppo_run]}); dqn is not its parent: its weights are "
        f"{weights[dqn_run]}"
    )
    impostor = tmp_path / "elsewhere" / "ppo"
    shutil.copytree(dqn_run, impostor)
    (note,) = rlab.compare(small, impostor, episodes=2).notes
    assert note == (
        f"small was compressed from ppo (weights {weights[ppo_run]}); ppo has that name and is not that policy: its "
        f"weights are {weights[dqn_run]}. It was trained on, or replaced"
    )
    assert not rlab.compare(small, impostor, episodes=2).pairs[0].same_members


def test_a_child_of_the_best_weights_is_no_child_of_the_final_ones(ppo_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ppo_run, run)
    loaded = load_policy(child_of(ppo_run, tmp_path / "better"))
    save_policy(run / "best", loaded.policy, loaded.extra)
    (note,) = rlab.compare(child_of(run / "best", tmp_path / "small"), run, episodes=2).notes
    assert note == "small was compressed from the best/ of run, not from its final policy, which is judged here"


def test_a_fine_tuned_run_and_an_exported_file_know_their_parent(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rlab.finetune(ppo_run, out=tmp_path / "next", env_steps=64, rollout_steps=8, num_envs=4, seed=3, seeds=2)
    found = rlab.compare(tmp_path / "next", ppo_run, episodes=2)
    assert found.notes[0] == "next was fine-tuned from ppo, its recorded parent"
    assert found.pairs[0].same_members
    monkeypatch.setattr("rlab.jobs.export.REPEATS", 2)
    rlab.export(ppo_run, "numpy", out=tmp_path / "four.npz", member=4)
    found = rlab.compare(tmp_path / "four.npz", ppo_run, episodes=2)
    assert found.notes[0] == "four.npz was exported from ppo, its recorded parent"
    assert (found.pairs[0].members, found.pairs[0].identical) == ((1, 1), True)


def test_runs_of_one_setting_count_as_one_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 2):
        trained(tmp_path / f"mine-{seed}", seed)
    other = trained(tmp_path / "other", 4, gamma=0.5)
    assert main(["compare", f"mine={tmp_path}/mine-*", f"other={other}", "--json"]) == 0
    sides = json.loads(capsys.readouterr().out)["sides"]
    assert [(side["name"], side["training_seeds"]) for side in sides] == [("mine", [0, 1, 2, 3]), ("other", [4, 5])]
    found = rlab.compare({"mine": [tmp_path / "mine-0", tmp_path / "mine-2"], "other": other})
    assert np.shape(found.sides[0].evaluation.returns) == (4, 5)
    assert "settings that differ: gamma 0.99 / 0.5" in found.notes


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 2, "gamma": 0.5}, r"settings differ \(gamma 0.99 / 0.5\)\."),
        ({"seed": 1}, r"training seed 1 is in .*first already, and counts once\."),
        ({"seed": 2, "env_steps": 64}, r"ppo for 32 env_steps and ppo for 64 env_steps\."),
    ],
)
def test_runs_of_other_settings_or_the_same_seeds_are_not_one_side(
    tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    both = [trained(tmp_path / "first", 0), trained(tmp_path / "second", **second)]
    with pytest.raises(UsageError, match=f"cannot count as one side, mine: {message}"):
        rlab.compare({"mine": both, "again": both[0]})


def test_a_run_that_is_not_finished_is_judged_as_it_is_and_said(tmp_path: Path) -> None:
    class Stops(rlab.Listener):
        def on_save(self, env_steps: int) -> bool:
            return False

    stopped = trained(tmp_path / "stopped", 0, env_steps=64, checkpoint_every=32, listeners=[Stops()])
    found = rlab.compare(stopped, trained(tmp_path / "other", 0, gamma=0.5))
    assert found.notes[0] == f"{stopped} is stopped, at 32 of 64 env steps"
    assert found.sides[0].judged == (str(stopped),)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--episodes", "0"), "a comparison needs one episode or more, not 0"),
        (("--episodes", "-3"), "a comparison needs one episode or more, not -3"),
        (("a=",), "'a=' does not name a side and its runs: NAME=RUN,RUN."),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    ppo_run: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main(["compare", str(ppo_run), str(ppo_run), *words]) == 2
    assert capsys.readouterr().err.strip() == f"rlab: {said}"


def test_one_side_alone_is_refused(ppo_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(ppo_run)]) == 2
    assert "a comparison needs two sides or more, not 1: rlab compare RUN RUN" in capsys.readouterr().err


def test_three_sides_are_compared_in_pairs_that_hold_at_once() -> None:
    found = rlab.compare(DQN, PPO, "rainbow-CartPole-v1")
    assert isinstance(found, Comparison)
    assert [each.difference.level for each in found.pairs if each.difference] == [pytest.approx(1 - 0.05 / 3)] * 3
    text = found.summary()
    assert "3 pairs: each at 98.3 %, so that all hold at once with 95 %" in text
    assert "best: ppo-CartPole-v1, not told apart from dqn-CartPole-v1, rainbow-CartPole-v1" in text


def test_runs_in_an_env_of_this_process_are_compared_and_judged_with_it(tmp_path: Path) -> None:
    class Easy(CartPoleEnv):
        """An env that no other process finds."""

    runs = []
    for seed in (0, 2):
        settings = {"env_steps": 32, "rollout_steps": 8, "num_envs": 2, "hidden": (4,), "max_episode_steps": 20}
        runs.append(tmp_path / str(seed))
        rlab.train("ppo", Easy, out=runs[-1], seed=seed, seeds=2, final_eval_episodes=2, eval_every=0, **settings)
    assert rlab.compare(*runs).sides[0].judged == ()
    found = rlab.compare(*runs, env=Easy, episodes=3, max_episode_steps=20)
    assert [side.judged for side in found.sides] == [(str(run),) for run in runs]


def test_a_name_that_an_author_of_results_chose_cannot_control_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = result_file(tmp_path / "sent.result.json", experiment="\x1b[2Jgone\u202e")
    assert main(["compare", str(hostile), PPO]) == 0
    out = capsys.readouterr().out
    assert "[2Jgone" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_an_exported_onnx_file_is_judged_in_its_runtime(ppo_run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("rlab.jobs.export.REPEATS", 2)
    rlab.export(ppo_run, "onnx", out=tmp_path / "three.onnx", member=3)
    found = rlab.compare(tmp_path / "three.onnx", ppo_run, episodes=2)
    assert found.pairs[0].identical
    assert found.notes == (
        "three.onnx was exported from ppo, its recorded parent",
        "of ppo the members with training seeds 3 are compared",
    )
