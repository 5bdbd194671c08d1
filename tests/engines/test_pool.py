"""Jobs in processes: which are begun when, what is told of them, and what becomes of those whose process dies."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlab.engines import pool
from rlab.engines.job import Event, Job
from rlab.engines.pool import run_jobs
from rlab.engines.process import Look

KILLED = Look(code=-9, error="its process was killed (SIGKILL; is there enough memory?)")


class Played:
    """A process that shows these looks, one after another, the last one again and again; asked to stop it ends."""

    def __init__(self, *looks: Look) -> None:
        self.looks, self.asked, self.ended = list(looks), False, 0

    def look(self) -> Look:
        if self.asked:
            return Look(code=130)
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def ask_to_stop(self) -> None:
        self.asked = True

    def end(self) -> None:
        self.ended += 1


class Stage:
    """Jobs by name with the processes that they get, in order; and what is told of them."""

    def __init__(self, **processes: list[Played]) -> None:
        self.processes = processes
        self.held = False
        folder = SimpleNamespace(config={"run": {}}, name="runs/x", is_held=lambda: self.held)
        self.jobs = {name: Job(folder, name) for name in processes}  # type: ignore[arg-type]
        self.events: list[Event] = []
        self.started: list[str] = []
        self.stop = threading.Event()

    def start(self, job: Job) -> Played:
        self.started.append(job.label)
        return self.processes[job.label].pop(0)

    def hear(self, event: Event) -> bool | None:
        self.events.append(event)
        return None

    def told(self, kind: str) -> list[tuple[str, Any]]:
        return [(e.job.label, dict(e.row) or e.text) for e in self.events if e.kind == kind]

    def run(self, at_once: int = 2, jobs: Any = None, hear: Any = None) -> list[tuple[str, str, str | None]]:
        ended = run_jobs(self.start, at_once, jobs or self.jobs.values(), hear or self.hear, self.stop)
        return [(each.job.label, each.status, each.error) for each in ended]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PAUSE", 0.0)
    monkeypatch.setattr(pool, "saved_time", lambda folder: 0)


def test_so_many_run_at_once_and_each_ends_in_its_place() -> None:
    long, short = Played(*[Look()] * 8, Look(code=0)), Played(Look(code=0))
    stage = Stage(a=[long], b=[short], c=[Played(Look(code=0))], d=[Played(Look(code=1, error="no such env"))])
    ended = stage.run()
    assert ended == [("a", "done", None), ("b", "done", None), ("c", "done", None), ("d", "failed", "no such env")]
    assert stage.started == ["a", "b", "c", "d"]
    assert [name for name, _ in stage.told("ended")] == ["b", "c", "d", "a"]
    assert long.ended == short.ended == 1


def test_the_next_job_is_chosen_after_what_became_of_those_before() -> None:
    stage = Stage(a=[Played(Look(code=0))], b=[Played(Look(code=0))])

    def choose() -> Iterator[Job]:
        yield stage.jobs["a"]
        assert stage.told("ended") == [("a", None)]
        yield stage.jobs["b"]

    assert [name for name, *_ in stage.run(1, choose())] == ["a", "b"]


def test_a_job_that_died_is_run_again_and_no_row_is_told_twice() -> None:
    rows: list[Any] = [("metrics", {"env_steps": 64}), ("evaluation", {"env_steps": 64, "iqm": 1.0})]
    last: list[Any] = [("metrics", {"env_steps": 128}), ("evaluation", {"env_steps": 64, "iqm": 1.0, "final": True})]
    stage = Stage(a=[Played(Look(rows), KILLED), Played(Look([*rows, *last], code=0))])
    assert stage.run() == [("a", "done", None)]
    assert stage.told("again") == [("a", KILLED.error)]
    assert [row["env_steps"] for _, row in stage.told("metrics")] == [64, 128]
    assert ["final" in row for _, row in stage.told("evaluation")] == [False, True]


def test_a_job_that_dies_again_and_again_without_a_save_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(a=[Played(KILLED) for _ in range(5)])
    assert stage.run() == [("a", "failed", KILLED.error)]
    assert len(stage.started) == pool.MOST_DEATHS == 3
    saved = iter((10, 20, 20, 20))  # it comes further once
    monkeypatch.setattr(pool, "saved_time", lambda folder: next(saved))
    stage = Stage(a=[Played(KILLED) for _ in range(5)])
    assert stage.run() == [("a", "failed", KILLED.error)]
    assert len(stage.started) == 4


def test_a_stop_reaches_those_that_run_and_no_other_begins() -> None:
    stage = Stage(a=[Played(Look())], b=[Played(Look())], c=[])

    def hear(event: Event) -> None:
        stage.events.append(event)
        if len(stage.told("begun")) == 2:
            stage.stop.set()

    assert stage.run(hear=hear) == [("a", "stopped", None), ("b", "stopped", None)]
    assert stage.started == ["a", "b"]


def test_one_job_is_stopped_by_who_hears_of_it() -> None:
    row: list[Any] = [("evaluation", {"env_steps": 64, "iqm": 9.0})]
    stage = Stage(a=[Played(Look(row), Look())], b=[Played(Look(), Look(), Look(), Look(code=0))])
    ended = stage.run(hear=lambda event: event.kind != "evaluation")
    assert ended == [("a", "stopped", None), ("b", "done", None)]


def test_a_folder_that_another_process_writes_is_waited_for() -> None:
    stage = Stage(a=[Played(Look(code=0))])
    stage.held = True

    def hear(event: Event) -> None:
        stage.events.append(event)
        stage.held = False

    assert stage.run(hear=hear) == [("a", "done", None)]
    assert stage.told("said") == [("a", "waits for another process that writes runs/x")]
    assert [event.kind for event in stage.events] == ["said", "begun", "ended"]


def test_whatever_happens_no_process_is_left() -> None:
    process = Played(Look())
    stage = Stage(a=[process])

    def hear(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.run(hear=hear)
    assert process.ended == 1


def test_rows_are_read_as_they_are_written_and_again_where_the_file_is_replaced(tmp_path: Path) -> None:
    from rlab.engines.log_tail import LogTail

    path = tmp_path / "metrics.jsonl"
    tail = LogTail(path)
    assert tail.rows() == []
    path.write_text('{"format": 1}\n{"t": 1}\n{"t": ')
    assert tail.rows() == [{"t": 1}]
    with path.open("a") as file:
        file.write("2}\n")
    assert tail.rows() == [{"t": 2}]
    (tmp_path / "new").write_text('{"format": 1}\n{"t": 1}\n')
    (tmp_path / "new").replace(path)
    assert tail.rows() == [{"t": 1}]
