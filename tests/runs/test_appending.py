"""Logs and curves on disks that are full, broken, or whose files somebody deletes."""

import errno
import os

import numpy as np
import pytest

from rlab.errors import DiskError, RlabWarning
from rlab.runs import appending
from rlab.runs.appending import Appender
from rlab.runs.logs import MetricsLog, read_json_lines


class Refusing:
    """Stands in for `os`: `write` takes `room` bytes and then answers with an error."""

    def __init__(self, room, number=errno.ENOSPC):
        self.room, self.number = room, number

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, descriptor, data):
        if not self.room:
            raise OSError(self.number, os.strerror(self.number))
        taken = os.write(descriptor, data[: self.room])
        self.room -= taken
        return taken


def test_what_a_full_disk_refuses_is_written_in_full_once_it_has_room(tmp_path, monkeypatch):
    file = Appender(tmp_path / "log")
    file.append(b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr(appending, "os", Refusing(2))
        with pytest.warns(RlabWarning, match=r"cannot write .*log: No space left on device\. What it refused is kept"):
            file.append(b"two\n")
        file.append(b"three\n")  # said once
        with pytest.raises(DiskError, match=r"cannot write .*log: No space left on device"):
            file.sync()
    assert (tmp_path / "log").read_bytes() == b"one\ntw"
    file.append(b"four\n")
    file.sync()
    file.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_a_log_that_could_not_be_completed_is_no_silent_success(tmp_path, monkeypatch):
    file = Appender(tmp_path / "log")
    monkeypatch.setattr(appending, "os", Refusing(0, errno.EIO))
    with pytest.warns(RlabWarning, match="Input/output error"):
        file.append(b"one\n")
    with pytest.raises(DiskError, match=r"cannot write .*log: Input/output error"):
        file.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_deleted_or_replaced_is_put_back_whole_and_that_is_said(tmp_path, replaced):
    file = Appender(tmp_path / "log")
    file.append(b"one\n")
    (tmp_path / "log").unlink()
    if replaced:
        (tmp_path / "log").write_bytes(b"something else")
    with pytest.warns(RlabWarning, match=r"log was deleted or replaced while the run was writing it; it is whole"):
        file.append(b"two\n")
    file.append(b"three\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("make", [lambda path: path.symlink_to(path.with_name("other")), os.mkfifo, os.mkdir])
def test_a_link_a_pipe_or_a_folder_in_the_place_of_a_log_is_refused_at_once(tmp_path, make):
    (tmp_path / "other").write_bytes(b"of somebody")
    make(tmp_path / "log")
    with pytest.raises(DiskError, match=r"cannot write .*log: "):
        Appender(tmp_path / "log")
    assert (tmp_path / "other").read_bytes() == b"of somebody"


def logs(folder, **options):
    summarise = lambda values: (float(np.median(values)), float("nan"), float("nan"))  # noqa: E731
    return MetricsLog(folder, [0, 1], iqm=np.median, summarise=summarise, **options)


def test_one_warning_for_a_full_disk_and_the_logs_and_tables_are_whole_in_the_end(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    whole, log = logs(other, tables=True), logs(tmp_path, tables=True)
    rows = [{"loss/a": np.array([0.5, n])} | ({"loss/b": np.array([n, 1.0])} if n > 2 else {}) for n in range(5)]
    for time, row in enumerate(rows):
        whole.on_metrics(time, row)
        with monkeypatch.context() as patch:
            if time in (1, 2, 3):
                patch.setattr(appending, "os", Refusing(10))
            if time == 1:
                with pytest.warns(RlabWarning) as said:
                    log.on_metrics(time, row)
                assert len(said) == 1
            else:
                log.on_metrics(time, row)
    whole.close()
    log.close()
    for name in ("metrics.jsonl", "metrics.csv", "eval.csv"):
        assert (tmp_path / name).read_bytes() == (other / name).read_bytes(), name
    assert len(read_json_lines(tmp_path / "metrics.jsonl")[1]) == 5


def test_curves_that_cannot_be_written_end_nothing_and_are_not_lost_unsaid(tmp_path, monkeypatch):
    log = logs(tmp_path)
    full = list(tmp_path.rglob("events.out*"))
    real = os.write
    inodes = {path.stat().st_ino for path in full}

    def write(descriptor, data):
        if os.fstat(descriptor).st_ino in inodes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.warns(RlabWarning, match=r"cannot write .*events.*No space left on device"):
        log.on_metrics(1, {"loss/a": np.zeros(2)})
    log.sync()
    with pytest.warns(RlabWarning, match="The last of TensorBoard's curves is lost"):
        log.close()
    assert len(read_json_lines(tmp_path / "metrics.jsonl")[1]) == 1


def test_logs_that_a_run_has_lost_are_named_when_it_goes_on(tmp_path):
    logs(tmp_path).close()
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.warns(RlabWarning, match=r"has lost metrics\.jsonl: what follows begins at 500 env steps"):
        logs(tmp_path, resume_at=500).close()
