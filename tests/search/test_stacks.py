"""Tasks of a search that are trained as stacks give what they give one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.errors import RlabError
from rlab.jobs.request import train_request
from rlab.runs.folder import RunFolder
from rlab.search import stacks
from rlab.search.executors import OneByOne, Result, Task
from rlab.search.stacks import STACKS, InStacks, stacks_of

TINY: dict[str, Any] = {
    "env_steps": 240,
    "num_envs": 4,
    "eval_every": 120,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "seeds": 2,
    "learning_starts": 80,
    "learn_every": 20,
    "updates_per_learn": 1,
    "hidden": (8,),
    "compile": "off",
}


def task(folder: Path, number: int, **settings: Any) -> Task:
    request = train_request("dqn", "CartPole-v1", (), (), "none", {**TINY, **settings})
    return Task(f"trial {number}", request, folder / f"{number:04d}")


def results(executor: Any, tasks: list[Task], on_point: Any = lambda task, when, returns: True) -> dict[str, Result]:
    found: dict[str, Result] = {}
    executor.run(iter(tasks), on_point, lambda task, result: found.update({task.label: result}))
    return found


def test_what_must_be_equal_splits_tasks_into_stacks(tmp_path: Path) -> None:
    tasks = [
        *(task(tmp_path, 0), task(tmp_path, 1, gamma=0.9), task(tmp_path, 2, hidden=(16,))),
        *(task(tmp_path, 3, gamma=0.9), task(tmp_path, 4, hidden=(16,), learning_rate=1e-4)),
        *(task(tmp_path, 5, n_step=3), task(tmp_path, 6, num_envs=8)),
    ]
    found = sorted([each.label[-1] for each in stack] for stack in stacks_of(tasks))
    assert found == [["0", "1", "5"], ["2", "4"], ["3"], ["6"]]  # 3 has the settings of 1


def test_what_novelty_needs_equal_splits_tasks_too(tmp_path: Path) -> None:
    own: list[dict[str, Any]] = [{}, {"gamma": 0.9}, {"epsilon_end": 0.1}]
    tasks = [task(tmp_path, number, novelty="rnd", **each) for number, each in enumerate(own)]
    found = sorted([each.label[-1] for each in stack] for stack in stacks_of(tasks))
    assert found == [["0", "2"], ["1"]]  # dqn alone may have a gamma for each member


def test_a_stack_gives_what_its_tasks_give_one_by_one(tmp_path: Path) -> None:
    def some(folder: Path) -> list[Task]:
        return [task(folder, 0), task(folder, 1, gamma=0.9, epsilon_end=0.5), task(folder, 2, hidden=(16,))]

    points: list[tuple[str, int, tuple[int, ...]]] = []

    def on_point(task: Task, when: int, returns: np.ndarray) -> bool:
        points.append((task.label, when, returns.shape))
        return True

    together = results(InStacks(8), some(tmp_path / "a"), on_point)
    alone = results(OneByOne(), some(tmp_path / "b"))
    assert points[:4] == [("trial 0", 120, (2, 2)), ("trial 1", 120, (2, 2)), *points[2:4]]
    assert len(points) == 6
    for label, found in together.items():
        expected = alone[label]
        assert found.status == expected.status == "done"
        assert found.evaluation is not None
        assert expected.evaluation is not None
        assert found.evaluation.seeds == expected.evaluation.seeds == (0, 1)
        assert found.curve is not None
        assert found.curve[0].tolist() == [120, 240]
        assert dict(found.record or {}).keys() == dict(expected.record or {}).keys()
    own = RunFolder.open(tmp_path / "a" / "0001").config
    assert own["settings"]["gamma"] == 0.9
    assert "of_stack" not in own
    assert not (tmp_path / "a" / STACKS).exists()


def test_a_task_that_is_to_stop_counts_no_more_and_one_that_breaks_fails_alone(tmp_path: Path) -> None:
    breaks = {"optimizer": "sgd", "max_grad_norm": None, "loss": "squared"}
    tasks = [task(tmp_path, n, **breaks, learning_rate=rate) for n, rate in enumerate((1e-3, 1e30, 2e-3))]
    with pytest.warns(Warning, match="was dropped"):
        found = results(InStacks(3), tasks, lambda task, when, returns: task.label != "trial 2")
    assert {label: result.status for label, result in found.items()} == {
        "trial 0": "done",
        "trial 1": "failed",
        "trial 2": "stopped",
    }
    assert "finite" in str(found["trial 1"].error)


def test_an_interrupted_stack_goes_on_with_those_that_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task(tmp_path, 0), task(tmp_path, 1, gamma=0.9)]

    def stop(task: Task, when: int, returns: np.ndarray) -> bool:
        raise KeyError("the database is away")

    with pytest.raises(KeyError):
        results(InStacks(2), tasks, stop)
    later = task(tmp_path, 2, gamma=0.8)
    assert [len(stack) for stack in stacks_of([later, *tasks])] == [2, 1]
    seen: list[int] = []
    found = results(InStacks(3), [*tasks, later], lambda task, when, returns: seen.append(when) or True)
    assert [found[f"trial {n}"].status for n in range(3)] == ["done"] * 3
    assert seen.count(240) == 3


def test_a_task_that_was_to_stop_stays_stopped_where_its_stack_was_interrupted(tmp_path: Path) -> None:
    tasks = [task(tmp_path, 0), task(tmp_path, 1, gamma=0.9)]

    def once(task: Task, when: int, returns: np.ndarray) -> bool:
        if task.label == "trial 1":
            raise KeyError("the database is away")
        return False

    with pytest.raises(KeyError):
        results(InStacks(2), tasks, once)
    heard: list[str] = []
    found = results(InStacks(2), tasks, lambda task, when, returns: heard.append(task.label) or True)
    assert {label: result.status for label, result in found.items()} == {"trial 0": "stopped", "trial 1": "done"}
    assert set(heard) == {"trial 1"}


def test_a_task_that_was_to_stop_stays_stopped_where_its_stack_falls_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task(tmp_path, 0), task(tmp_path, 1, gamma=0.9)]

    def breaks(request: Any, folder: Path, progress: bool, trust: Any, listeners: Any) -> Any:
        listeners[0].on_evaluation(120, np.zeros((4, 2)), np.ones((4, 2)))
        raise RlabError("an env broke")

    monkeypatch.setattr(stacks, "start", breaks)
    found = results(InStacks(2), tasks, lambda task, when, returns: task.label != "trial 1")
    assert {label: result.status for label, result in found.items()} == {"trial 0": "done", "trial 1": "stopped"}
    assert not (tmp_path / "0001").exists()


@pytest.mark.parametrize("told", [True, False], ids=["one told", "one moved"])
def test_a_stack_that_is_trained_is_not_trained_again_where_its_end_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    tasks = [task(tmp_path, 0), task(tmp_path, 1, gamma=0.9)]

    def killed(task: Task, result: Result) -> None:
        raise KeyError("the database is away")

    with pytest.raises(KeyError):
        InStacks(2).run(iter(tasks), lambda task, when, returns: True, killed)
    assert (tmp_path / "0000").is_dir()
    for name in ("start", "continue_run"):
        monkeypatch.setattr(stacks, name, lambda *args, **settings: pytest.fail("trained again"))
    found = results(InStacks(2), tasks[told:])
    assert [(label, result.status) for label, result in found.items()] == [("trial 0", "done"), ("trial 1", "done")][
        told:
    ]
    assert RunFolder.open(tmp_path / "0001").config["settings"]["gamma"] == 0.9
    assert not (tmp_path / STACKS).exists()
