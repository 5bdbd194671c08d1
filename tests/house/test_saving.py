"""Saves that are written while training goes on, on disks that are well, slow, full and gone."""

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlab
from rlab.cli.main import main
from rlab.errors import DiskError, RlabError, RlabWarning
from rlab.experience import storage_chunks
from rlab.jobs import saving
from rlab.jobs.saving import Worker
from rlab.runs import files
from rlab.runs.checkpoint import CheckpointWriter, commits, load_checkpoint
from rlab.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_disk")
SMALL: dict[str, Any] = {
    "experiment": "none",
    "env_steps": 400,
    "num_envs": 2,
    "hidden": (4,),
    "batch_size": 4,
    "learning_starts": 40,
    "learn_every": 20,
    "replay_capacity": 300,
    "log_every": 40,
    "checkpoint_every": 100,
    "eval_every": 0,
    "final_eval_episodes": 0,
}
COMMAND = ["train", "dqn", "CartPole-v1", "--experiment", "none", "--env-steps", "400", "--num-envs", "2"]
COMMAND += ["--hidden", "4", "--log-every", "40", "--checkpoint-every", "100", "--final-eval-episodes", "0"]
COMMAND += ["--eval-every", "0", "--learning-starts", "40"]


class At(rlab.Listener):
    """Calls a function at the first report from a time on."""

    def __init__(self, when: int, do: Callable[[], Any]) -> None:
        self._when, self._do = when, do

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        if env_steps >= self._when:
            self._when, do = 10**9, self._do
            do()


class Disk:
    """Refuses with an error what `files` writes, where the path fits."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.refuses: int | None = None
        self.where = ""
        self.refused = 0
        real = files._write_through

        def write(path: Path, data: bytes) -> None:
            if self.refuses is not None and self.where in str(path):
                self.refused += 1
                raise OSError(self.refuses, os.strerror(self.refuses))
            real(path, data)

        patch.setattr(files, "_write_through", write)
        patch.setattr(saving, "PAUSES", (0.001, 0.001))

    def refuse(self, number: int | None, where: str = "") -> Callable[[], None]:
        def begin() -> None:
            while threading.current_thread().name != "saving" and any(
                thread.name == "saving" for thread in threading.enumerate()
            ):
                time.sleep(0.001)  # until the save before is written
            self.refuses, self.where = number, where

        return begin


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_saves_for_a_while_is_warned_of_and_the_run_goes_on(
    tmp_path: Path, disk: Disk, number: int
) -> None:
    listeners = [At(120, disk.refuse(number)), At(280, disk.refuse(None))]
    with pytest.warns(RlabWarning, match="could not be saved") as said:
        run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", listeners=listeners, **SMALL)
    (line,) = [str(each.message) for each in said]
    assert f": {os.strerror(number)}. It goes on, and the next save tries again; the last good save is 0 s old" in line
    assert str(tmp_path / "run" / "checkpoint") in line
    assert line.endswith("of 100 env steps")
    assert disk.refused == 3  # tries of the save at 200
    assert run.finished
    state, chunks = load_checkpoint(RunFolder.open(run.path))
    assert state["loop"]["env_steps"] == 400
    assert sum(chunk.arrays()["valid"].shape[2] for chunk in chunks) == 150


@pytest.mark.parametrize("where", ["checkpoint", "policy"])
def test_a_run_whose_last_save_fails_ends_with_exit_code_1_and_keeps_the_one_before(
    tmp_path: Path, disk: Disk, where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CheckpointWriter.commit

    def commit(self: CheckpointWriter, state: Any, chunks: Any) -> None:
        if state.structure["loop"]["env_steps"] == 400 and not disk.refused:
            disk.refuse(errno.ENOSPC, where)()
        real(self, state, chunks)

    monkeypatch.setattr(CheckpointWriter, "commit", commit)
    out = tmp_path / "run"
    with pytest.warns(RlabWarning, match="could not be saved: cannot write .*the last good save is"):
        assert main([*COMMAND, "--out", str(out)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "internal error" not in said
    assert f"cannot write {out / where}" in said
    assert "No space left on device" in said
    assert f"once that is fixed: rlab resume {out}" in said
    disk.refuse(None)()
    saved = load_checkpoint(RunFolder.open(out))[0]["loop"]["env_steps"]
    assert saved == (300 if where == "checkpoint" else 400)
    assert main(["resume", str(out)]) == 0
    assert rlab.Run.open(out).time == 400


def test_a_run_whose_folder_is_deleted_says_so_and_ends(tmp_path: Path, disk: Disk) -> None:
    out = tmp_path / "run"
    with (
        pytest.raises(RlabError, match=rf"{out} is gone, so that nothing of the run can be saved"),
        pytest.warns(RlabWarning),
    ):
        rlab.train("dqn", "CartPole-v1", out=out, listeners=[At(120, lambda: shutil.rmtree(out))], **SMALL)


def test_a_checkpoint_folder_that_is_deleted_is_made_again_with_all_that_belongs_into_it(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_chunks, "CHUNK_BYTES", 2000)  # several chunks
    out = tmp_path / "run"

    def delete() -> None:
        while load_checkpoint(RunFolder.open(out))[0]["loop"]["env_steps"] < 300:  # that save is under way
            time.sleep(0.01)
        shutil.rmtree(out / "checkpoint")

    listeners = [At(320, delete)]
    run = rlab.train("dqn", "CartPole-v1", out=out, listeners=listeners, **SMALL)
    assert run.finished
    _, chunks = load_checkpoint(RunFolder.open(out))
    assert len(chunks) > 3
    assert chunks[-1].index * 2 < 400


def saved(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()}


def test_the_bytes_of_checkpoints_do_not_depend_on_how_quick_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_chunks, "CHUNK_BYTES", 2000)
    rlab.train("dqn", "CartPole-v1", out=tmp_path / "quick", **SMALL)
    real = files.write_bytes
    threads = set()

    def slow(path: Path, data: bytes) -> None:
        threads.add(threading.current_thread().name)
        if "checkpoint" in str(path):
            time.sleep(0.01)
        real(path, data)

    monkeypatch.setattr(files, "write_bytes", slow)
    rlab.train("dqn", "CartPole-v1", out=tmp_path / "slow", **SMALL)
    assert threads == {"MainThread", "saving"}
    assert saved(tmp_path / "quick") == saved(tmp_path / "slow")


def test_chunks_are_written_when_they_are_complete_and_a_save_copies_the_open_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row has 16 bytes of observation, 8 of action, 4 of reward and 3 flags: with 2 envs a chunk of 2 000 bytes holds
    32 rows. The storage holds 150, so that at 400 env steps, 200 rows, chunk 0 has been dropped."""
    monkeypatch.setattr(storage_chunks, "CHUNK_BYTES", 2000)
    taken: list[tuple[int, bool, int]] = []
    read = storage_chunks.read_chunk

    def noted(storage: Any, index: int) -> Any:
        rows = storage.rows_written
        taken.append((index, (index + 1) * storage.chunk_rows < rows, rows))
        return read(storage, index)

    monkeypatch.setattr(storage_chunks, "read_chunk", noted)
    rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **{**SMALL, "checkpoint_every": 200})
    complete = [(index, at) for index, whole, at in taken if whole]
    assert [index for index, _ in complete] == list(range(len(complete)))  # each once
    assert all(at == (index + 1) * 32 + 1 for index, at in complete)  # as soon as a row stands behind it
    assert [at for _, whole, at in taken if not whole] == [100, 200, 200]  # at 200, 400, and at the end of the run


def test_a_signal_while_a_save_is_being_written_saves_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CheckpointWriter.commit
    sent = []

    def commit(self: CheckpointWriter, state: Any, chunks: Any) -> None:
        if not sent:
            sent.append(state.structure["loop"]["env_steps"])
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        real(self, state, chunks)

    monkeypatch.setattr(CheckpointWriter, "commit", commit)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        rlab.train("dqn", "CartPole-v1", out=out, **SMALL)
    assert sent == [100]
    folder = RunFolder.open(out)
    assert load_checkpoint(folder)[0]["loop"]["env_steps"] == rlab.Run.open(out).time
    assert len(commits(folder.checkpoint)) == 2
    assert rlab.resume(out).finished


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_terminal_that_is_closed_stops_a_run_with_a_save_unless_it_is_ignored(tmp_path: Path) -> None:
    hang_up = At(120, lambda: signal.raise_signal(signal.SIGHUP))
    with pytest.raises(KeyboardInterrupt):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", listeners=[hang_up], **SMALL)
    assert rlab.Run.open(tmp_path / "run").time == 120
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ignored = At(120, lambda: signal.raise_signal(signal.SIGHUP))
        assert rlab.train("dqn", "CartPole-v1", out=tmp_path / "nohup", listeners=[ignored], **SMALL).finished
    finally:
        signal.signal(signal.SIGHUP, before)


def test_so_many_checkpoints_are_kept_as_were_asked_for(tmp_path: Path) -> None:
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", keep_checkpoints=3, **SMALL)
    assert commits(run.path / "checkpoint") == [3, 4, 5]  # at 300, at 400 and at the end


def test_a_worker_does_jobs_in_order_and_one_waits() -> None:
    worker, go, done = Worker(), threading.Event(), []
    worker.do(lambda: (go.wait(), done.append(1)))
    worker.do(lambda: done.append(2))
    assert not worker.has_room(0.0)
    assert done == []
    go.set()
    worker.wait()
    assert done == [1, 2]
    assert "saving" not in {thread.name for thread in threading.enumerate()}


def test_what_waits_behind_a_job_that_fails_is_dropped_and_tries_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PAUSES", (0.001, 0.001))
    worker, go, tries, done = Worker(), threading.Event(), [], []

    def fails() -> None:
        go.wait()
        tries.append(1)
        raise DiskError("full")

    worker.do(fails)
    worker.do(lambda: done.append(1))
    go.set()
    worker.wait()
    worker.do(lambda: done.append(2))  # not before somebody has asked
    worker.wait()
    assert (len(tries), done) == (3, [])
    assert str(worker.failure()) == "full"
    assert worker.failure() is None
    worker.do(lambda: done.append(3))
    worker.wait()
    assert done == [3]


def test_what_a_job_fails_with_otherwise_comes_out_and_closing_does_not_wait_for_another_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saving, "PAUSES", (60.0, 60.0))
    worker = Worker()
    worker.do(lambda: 1 // 0)
    worker.wait()
    with pytest.raises(ZeroDivisionError):
        worker.failure()

    def fails() -> None:
        raise DiskError("full")

    worker.do(fails)
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 30.0
