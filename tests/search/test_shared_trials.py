"""Trials in a database: several workers, a budget of all of them, and workers that are gone."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlab.errors import RlabError, UsageError
from rlab.search.plan import Plan

pytest.importorskip("optuna")

from rlab.search import study
from rlab.search.samplers import sampler_of
from rlab.search.stages import carry_out
from rlab.search.study import Asked, Trials, opened_storage, worker_in

Planned = Callable[..., Plan]


@contextmanager
def two_workers(plan: Plan, folders: tuple[Path, Path]) -> Iterator[list[Trials]]:
    """Two processes that share a study, each with a folder of its own, or the same."""
    with ExitStack() as stack:
        found = []
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            worker = stack.enter_context(worker_in(folder))
            sampler = sampler_of("random", plan.space, 0)
            storage = stack.enter_context(opened_storage(plan.url))
            found.append(stack.enter_context(Trials(storage, "s", folder, worker, {"a": 1}, sampler)))
        yield found


def took(trials: Trials, plan: Plan, most: int) -> list[Asked]:
    found = []
    while (asked := trials.ask(plan.space, most)) is not None:
        found.append(asked)
    return found


def test_two_workers_share_a_budget_and_propose_different_settings(planned: Planned, tmp_path: Path) -> None:
    plan = planned()
    plan.folder.mkdir()
    with two_workers(plan, (tmp_path / "a", tmp_path / "b")) as (first, second):
        one, other = first.ask(plan.space, 3), second.ask(plan.space, 3)
        rest = [*took(first, plan, 3), *took(second, plan, 3)]
        assert one is not None
        assert other is not None
        everything = [one, other, *rest]
        assert sorted(asked.number for asked in everything) == [0, 1, 2]
        assert len({asked.stored["learning_rate"] for asked in everything}) == 3
        assert not first.all_ended()
        first.tell(one, "done", {"value": 1.0})
        second.tell(other, "failed", {"failed": "no reason"})
        assert [trial.value for trial in second.counted()] == [1.0, None, None]


def test_a_trial_too_many_does_not_count(planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned()
    plan.folder.mkdir()
    with two_workers(plan, (tmp_path / "a", tmp_path / "b")) as (first, second):
        before = first.counted()
        assert second.ask(plan.space, 1) is not None
        counted = iter([before])  # as if both had looked before either asked
        real = Trials.counted
        monkeypatch.setattr(first, "counted", lambda: next(counted, None) or real(first))
        assert first.ask(plan.space, 1) is None
        assert [trial.number for trial in second.counted()] == [0]


def test_what_a_dead_worker_of_this_folder_ran_is_queued_again_at_once(planned: Planned, tmp_path: Path) -> None:
    plan = planned()
    plan.folder.mkdir()
    shared = tmp_path / "a"
    with two_workers(plan, (shared, shared)) as (first, second):
        asked = first.ask(plan.space, 2)
        assert asked is not None
        second.take_up_lost()
        assert second.ask(plan.space, 1) is None  # it is under way: its worker holds its lock
        folder = shared / "workers" / str(second.counted()[0].user_attrs["owner"]["worker"])
        folder.rename(shared / "gone")
        folder.mkdir()  # as a process that was killed leaves it: nobody holds it
        second.take_up_lost()
        again = second.ask(plan.space, 1)
        assert again is not None
        assert again.stored == asked.stored
        assert again.folder == asked.folder  # its run goes on
        assert again.number == 1
        (shared / "gone").rename(folder.with_name("gone"))


def test_what_a_machine_that_is_silent_for_minutes_ran_is_queued_again(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned()
    plan.folder.mkdir()
    with two_workers(plan, (tmp_path / "a", tmp_path / "b")) as (first, second):
        asked = first.ask(plan.space, 1)
        assert asked is not None
        now = time.monotonic()
        for seconds, beat, lost in ((0, 1, False), (170, 2, False), (340, 2, False), (351, 2, True)):
            asked.trial.set_user_attr("beat", beat)
            monkeypatch.setattr(study.time, "monotonic", lambda at=now + seconds: at)
            second.take_up_lost()
            assert second.waiting() is lost, seconds  # 180 seconds after 170, when the last beat was seen


def test_one_that_is_interrupted_leaves_its_trials_to_others(planned: Planned, tmp_path: Path) -> None:
    plan = planned()
    plan.folder.mkdir()
    with opened_storage(plan.url) as storage, worker_in(plan.folder) as worker:
        arguments: Any = (storage, "s", plan.folder, worker, {})
        with Trials(*arguments, sampler_of("random", plan.space, 0)) as first:
            asked = first.ask(plan.space, 5)
        with Trials(*arguments) as second:
            again = second.ask(plan.space, 1)
            assert asked is not None
            assert again is not None
            assert again.stored == asked.stored
    assert not (plan.folder / "workers").exists()


@pytest.mark.parametrize(
    ("url", "error", "why"),
    [
        ("nonsense", UsageError, "--storage takes the address of a database, such as"),
        ("nothing://somewhere/here", UsageError, "--storage takes the address of a database, such as"),
        ("sqlite:////no/such/folder/study.db", RlabError, "cannot be used: .*unable to open database file"),
    ],
)
def test_a_database_that_is_not_there_is_one_clear_line(
    url: str, error: type[RlabError], why: str, planned: Planned, pretended: Any
) -> None:
    with pytest.raises(error, match=why) as caught:
        carry_out(planned(storage=url), pretended(lambda settings: 1.0), False)
    assert "\n" not in str(caught.value)
