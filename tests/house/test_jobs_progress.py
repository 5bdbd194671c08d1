"""How far many jobs are: one plain line for all of them every few seconds, and what is said is said once."""

from types import SimpleNamespace
from typing import Any

import pytest

from rlab.engines.job import Event, Job
from rlab.jobs import jobs_progress
from rlab.jobs.jobs_progress import JobsProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until it is moved."""
    moved = SimpleNamespace(now=100.0)
    monkeypatch.setattr(jobs_progress.time, "monotonic", lambda: moved.now)
    return moved


def job(label: str, budget: int = 1_000) -> Job:
    return Job(SimpleNamespace(config={"run": {"env_steps": budget}}), label)  # type: ignore[arg-type]


def test_without_a_terminal_one_line_shows_all_jobs_every_few_seconds(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(f"seed {number}") for number in range(6)]
    with JobsProgress(6) as bar:
        for each in jobs:
            bar.on_event(Event(each, "begun"))
        row: dict[str, Any] = {"env_steps": 250, "train/episode_return": [3.0, None]}
        bar.on_event(Event(jobs[0], "metrics", row))
        bar.on_event(Event(jobs[1], "evaluation", {"env_steps": 500, "returns": [[1.0, 2.0]]}))
        bar.on_event(Event(jobs[2], "ended", status="done"))
        clock.now += 5.0
        bar.on_event(Event(jobs[3], "metrics", {"env_steps": 100}))
        bar.on_event(Event(jobs[3], "metrics", {"env_steps": 200}))  # too early for another line
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1 of 6 done, 5 under way; seed 0 25%, return 3.0 (training); seed 1 50%, greedy return 1.5; seed 3 10%, "
        "begins; seed 4 0%, begins; 1 more"
    ]


def test_what_several_jobs_warn_of_is_said_once_and_a_death_each_time(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = job("seed 0"), job("seed 1")
    with JobsProgress() as bar:
        for event in (
            Event(first, "said", text="warning: no time limit is known"),
            Event(second, "said", text="warning: no time limit is known"),
            Event(first, "again", text="its machine is gone"),
            Event(first, "again", text="its machine is gone"),
        ):
            bar.on_event(event)
    assert capsys.readouterr().err.splitlines() == [
        "seed 0: warning: no time limit is known",
        "seed 0: runs again: its machine is gone",
        "seed 0: runs again: its machine is gone",
    ]


def test_a_terminal_has_a_bar_for_each_job_and_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setattr(jobs_progress, "MOST_BARS", 2)
    jobs = [job(f"seed {number}") for number in range(3)]
    with JobsProgress(3) as bar:
        for each in jobs:
            bar.on_event(Event(each, "begun"))
        bar.on_event(Event(jobs[0], "metrics", {"env_steps": 500}))
        bar.on_event(Event(jobs[1], "ended", status="stopped"))
        found = [(task.description, task.completed, task.total) for task in bar._bars.tasks]
    assert found == [("all", 1.5, 3), ("seed 0", 0.5, 1.0)]  # one is done, one half done; the third has no room
