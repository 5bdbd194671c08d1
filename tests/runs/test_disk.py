"""File systems that cannot lock or flush are gone on with, and said so once; broken disks are not."""

import errno
import os
import stat

import pytest

from rlab import disk
from rlab.errors import RlabError
from rlab.runs import files, locks
from rlab.runs.listing import list_runs
from rlab.runs.status import write_status


@pytest.fixture(autouse=True)
def nothing_warned_yet(monkeypatch):
    monkeypatch.setattr(disk, "_warned", set())


def refusing(number, only_folders=False):
    """Something like `os.fsync` or `fcntl.flock` on a file system that answers with this error."""
    real = os.fsync

    def call(descriptor, *rest):
        if only_folders and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return real(descriptor)
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("only_folders", [True, False])
def test_where_flushing_is_not_supported_files_are_written_all_the_same(run, monkeypatch, capsys, number, only_folders):
    monkeypatch.setattr(os, "fsync", refusing(number, only_folders))
    for k in range(3):
        files.write_json(run.path / "result.json", {"k": k})
    files.make_folder(run.path / "best")
    assert files.read_json(run.path / "result.json") == {"format": 1, "k": 2}
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: this file system lacks something ({os.strerror(number)}); a power cut may cost the last save, "
        "nothing else does."
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_is_broken_or_full_is_an_error(run, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(RlabError, match=r"cannot write .*result.json"):
        files.write_json(run.path / "result.json", {})


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_run_is_written_without_one(run, monkeypatch, tmp_path, capsys, number):
    monkeypatch.setattr(locks.fcntl, "flock", refusing(number))
    for _ in range(2):
        with run.held():
            write_status(run, "running")
    assert "nothing keeps a second process from writing the same run" in capsys.readouterr().err
    assert run.is_held() is None
    assert list_runs(tmp_path)[0]["status"] == "running"  # as it says itself: nobody can tell otherwise


def test_without_the_module_for_locks_as_on_windows_a_run_is_written(run, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with run.held():
        assert run.is_held() is None


def test_a_held_run_is_known_to_be_held_and_asking_does_not_disturb(run):
    assert run.is_held() is False
    with run.held():
        assert run.is_held() is True
        with pytest.raises(RlabError, match="another process is writing"), run.held():
            pass
    assert run.is_held() is False
