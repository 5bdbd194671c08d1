"""`--teacher`: every online agent takes one, its weight falls to 0 on time, and the run keeps it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.jobs.inputs import open_inputs
from rlab.runs.policies import load_policy, save_policy

pytestmark = pytest.mark.usefixtures("quick_disk")

ROLLOUTS: dict[str, Any] = {"rollout_steps": 8}  # 32 env steps
REPLAY: dict[str, Any] = {"learning_starts": 32, "learn_every": 32, "batch_size": 16}
AGENTS = {"ppo": {**ROLLOUTS, "epochs": 2}, "a2c": ROLLOUTS, "reinforce": ROLLOUTS, "dqn": REPLAY, "double_dqn": REPLAY}
AGENTS |= {"sac": REPLAY}
BUDGET: dict[str, Any] = {"env_steps": 256, "log_every": 32}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint on standard error, which is one line."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rlab: ")
    return str(line)


def learning(road: SimpleNamespace, agent: str, **settings: Any) -> dict[str, Any]:
    return {**road.TINY, **BUDGET, **AGENTS[agent], "max_episode_steps": road.LIMIT, **settings}


@pytest.mark.parametrize("agent", AGENTS)
def test_every_online_agent_is_guided_until_the_fraction_of_its_budget(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, agent: str
) -> None:
    weight: dict[int, float] = {}

    def report(session: Any, time: int) -> None:
        (term,) = session.agent.terms
        weight[time] = term.weight(session.loop.clock)

    settings = learning(road, agent, teacher=str(ppo_run), teacher_weight=2.0, teacher_fraction=0.5)
    session, folder, _ = road.begin(
        road.asked("train", agent, "CartPole-v1", **settings), tmp_path / "run", [road.Hearing(on_report=report)]
    )
    assert f"teacher: {ppo_run}" in session.describe()
    assert weight == pytest.approx({32: 1.5, 64: 1.0, 96: 0.5, 128: 0, 160: 0, 192: 0, 224: 0, 256: 0})
    assert weight[128] == weight[256] == 0.0
    distance = np.array([row["loss/teacher"] for row in road.rows(folder.path)])  # [reports, S]
    assert distance.shape == (8, 2)
    assert (distance > 0).all()
    road.check_same(road.weights(folder.teacher), road.weights(ppo_run))  # which no step has touched
    sources = json.loads((folder.path / "config.json").read_text())["sources"]
    assert (sources["teacher"], sources["teacher_weight"], sources["teacher_fraction"]) == (str(ppo_run), 2.0, 0.5)


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_a_teacher_is_followed_and_one_without_a_say_changes_nothing(
    tmp_path: Path, road: SimpleNamespace, dqn_run: Path, agent: str
) -> None:
    alone = rlab.train(agent, "CartPole-v1", out=tmp_path / "alone", **learning(road, agent))
    found = {}
    for fraction in (0.0, 1.0):
        out = tmp_path / str(fraction)
        guided = learning(road, agent, teacher=str(dqn_run), teacher_fraction=fraction, teacher_weight=100.0)
        rlab.train(agent, "CartPole-v1", out=out, **guided)
        found[fraction] = np.array([row["loss/teacher"] for row in road.rows(out)])
    road.check_same(road.weights(alone.path), road.weights(tmp_path / "0.0"))
    assert (found[1.0][-1] < found[0.0][-1]).all()  # nearer to it at the end
    assert "loss/teacher" not in road.rows(alone.path)[-1]


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_a_run_goes_on_after_its_teacher_is_gone(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(ppo_run, teacher)
    request = road.asked("train", agent, "CartPole-v1", **learning(road, agent, teacher=str(teacher)))
    road.begin(request, out, [road.StopAt(128)])
    shutil.rmtree(teacher)
    assert main(["resume", str(out)]) == 0
    rows = road.rows(out)
    assert [row["env_steps"] for row in rows] == list(range(32, 257, 32))
    assert all(np.isfinite(row["loss/teacher"]).all() for row in rows)
    road.check_same(road.weights(out / "teacher"), road.weights(ppo_run))
    # the copy is watched over as the policies are
    kept = next((out / "teacher").glob("*.safetensors"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    (out / "result.json").unlink()
    capsys.readouterr()
    assert main(["resume", str(out)]) == 1
    assert str(kept) in one_line(capsys)


def test_members_have_their_own_teachers_or_one_for_all(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, obs: torch.Tensor
) -> None:
    of_teacher = road.outputs(ppo_run, obs[:1].expand(2, -1, -1))  # [its members, 50, A]
    for words, members in (({}, (0, 1)), ({"seed": 4, "seeds": 1}, (1,)), ({"seed": 8, "teacher_member": 4}, (1, 1))):
        settings = learning(road, "ppo", teacher=str(ppo_run), **words)
        request = road.asked("train", "ppo", "CartPole-v1", **settings)
        session, _, _ = road.begin(request, tmp_path / str(len(list(tmp_path.iterdir()))))
        (term,) = session.agent.terms
        told = term.teacher.outputs(obs[:1].expand(len(members), -1, -1).to(session.agent.device))
        torch.testing.assert_close(told.cpu(), of_teacher[list(members)])


def test_a_fine_tuned_run_can_have_its_own_start_as_a_teacher(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path
) -> None:
    out = tmp_path / "run"
    settings = {**BUDGET, "num_envs": 4, "rollout_steps": 8, "epochs": 1, "minibatches": 1, "experiment": "none"}
    settings |= {"learning_rate": 0.01, "teacher": str(ppo_run), "teacher_weight": 0.1}
    rlab.finetune(ppo_run, out=out, **settings, **road.JUDGED)
    first, *rest = (np.array(row["loss/teacher"]) for row in road.rows(out))
    assert first == pytest.approx([0.0, 0.0], abs=1e-6)  # nothing was learned before the first rollout
    assert (rest[-1] > 1e-4).all()


def test_a_teacher_of_strangers_needs_trust(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, saved = tmp_path / "teacher", load_policy(ppo_run)
    wrappers = [{"name": "wrapper_of_a_stranger:Plain", "args": {}}]
    save_policy(teacher, saved.policy, {**saved.extra, "env": {**saved.extra["env"], "wrappers": wrappers}})
    settings = learning(road, "a2c", teacher=str(teacher), out=tmp_path / "run")
    words = ["train", "a2c", "CartPole-v1", *road.flags(**settings)]
    assert main(words) == 1
    assert "names wrapper_of_a_stranger, which is code from outside rlab; add --trust" in one_line(capsys)
    assert not (tmp_path / "run").exists()
    assert main([*words, "--trust"]) == 0
    rlab.train("a2c", "CartPole-v1", trust=True, **{**settings, "out": tmp_path / "python"})


def test_teachers_are_opened_from_the_run_where_it_keeps_them(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path
) -> None:
    settings = learning(road, "a2c", teacher=str(ppo_run), env_steps=32)
    request = road.asked("train", "a2c", "CartPole-v1", **settings)
    _, folder, _ = road.begin(request, tmp_path / "run")
    for where, expected in ((None, ppo_run / "policy"), (folder, folder.teacher)):
        teacher = open_inputs(request, where).teacher
        assert teacher is not None
        assert teacher.folder == expected


WRONG = [
    (2, "dqn CartPole-v1 --teacher {missing}", "is not a folder"),
    (1, "dqn CartPole-v1 --teacher {folder}", "is neither a run folder"),
    (2, "dqn Acrobot-v1 --teacher {ppo}", "acts on Box((4,), float32) with Discrete(n=2, start=0), and Acrobot-v1 has"),
    (2, "ppo Pendulum-v1 --teacher {ppo}", "a teacher needs the same spaces"),
    (2, "ppo CartPole-v1 --teacher {ppo} --seed 9", "one teacher for all with --teacher-member SEED"),
    (2, "ppo CartPole-v1 --teacher {ppo} --teacher-member 9", "no member with training seed 9; it has 3, 4"),
    (2, "ppo CartPole-v1 --teacher {ppo} --teacher-member 3 --teacher-weight -1", "teacher_weight -1.0 must be 0 or"),
    (2, "ppo CartPole-v1 --teacher {ppo} --teacher-member 3 --teacher-fraction 2", "must be in [0, 1]"),
    (2, "ppo CartPole-v1 --teacher {ppo} --teacher-member 3 --teacher-temperature 0", "must be above 0"),
    (2, "ppo CartPole-v1 --teacher-member 3", "--teacher-member has no effect here: no teacher is named"),
]


@pytest.mark.parametrize(("code", "words", "said"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path: Path, ppo_run: Path, code: int, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    argv = words.format(ppo=ppo_run, missing=tmp_path / "missing", folder=tmp_path / "folder").split()
    assert main(["train", *argv, "--out", str(tmp_path / "run")]) == code
    assert said in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_teacher_that_remembers_other_goals_is_refused_with_hindsight(
    tmp_path: Path, road: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {**road.TINY, **BUDGET, "max_episode_steps": road.LIMIT}
    teacher = rlab.train("ppo", "rlab/ProbeBitFlip-v0", out=tmp_path / "teacher", **quick, **ROLLOUTS, memory="gru")
    out = tmp_path / "student"
    words = ["train", "dqn", "rlab/ProbeBitFlip-v0", "--hindsight", "future", "--teacher", str(teacher.path)]
    assert main([*words, "--out", str(out), *road.flags(**quick, **REPLAY)]) == 2
    assert "depends on the goals that it saw before: it has memory. Take one without, or" in one_line(capsys)
    assert not out.exists()
