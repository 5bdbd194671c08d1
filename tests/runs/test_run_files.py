"""Files that are whole or absent, and JSON and safetensors that fail with one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rlab import disk
from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.tensors import arrays_from_bytes, arrays_to_bytes, tensors_from_bytes, tensors_to_bytes


def test_death_at_any_instant_leaves_the_old_file_or_the_new_one(tmp_path, every_death):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    for copy, survived in every_death(folder, lambda copy: files.write_bytes(copy / "file", b"new!")):
        assert (copy / "file").read_bytes() in ([b"new!"] if survived else [b"old", b"new!"])
        files.clean(copy)
        assert os.listdir(copy) == ["file"]  # leftovers of the dead are recognised


def test_content_is_on_the_disk_before_its_name_is_and_the_name_before_we_go_on(tmp_path, monkeypatch):
    calls = []

    class Recording:
        def __getattr__(self, name):
            def call(*args):
                calls.append(name)
                return getattr(os, name)(*args)

            return call if name in ("write", "fsync", "replace") else getattr(os, name)

    monkeypatch.setattr(files, "os", Recording())
    monkeypatch.setattr(disk, "os", Recording())
    files.write_bytes(tmp_path / "file", b"x")
    assert calls == ["write", "fsync", "replace", "fsync"]


def test_a_disk_that_refuses_gives_one_line_and_leaves_no_rubbish(tmp_path):
    with pytest.raises(RlabError, match=r"cannot write .*missing/file: No such file or directory"):
        files.write_bytes(tmp_path / "missing" / "file", b"x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RlabError, match=r"cannot write .*taken: Is a directory"):
        files.write_bytes(tmp_path / "taken", b"x")
    assert os.listdir(tmp_path) == ["taken"]


def test_json_has_a_format_and_the_same_bytes_whatever_the_order_of_keys(tmp_path):
    files.write_json(tmp_path / "a", {"x": 1, "y": [1.5, None]})
    files.write_json(tmp_path / "b", {"y": [1.5, None], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.read_json(tmp_path / "a") == {"format": 1, "x": 1, "y": [1.5, None]}
    with pytest.raises(ValueError, match="c cannot hold this"):
        files.write_json(tmp_path / "c", {"x": float("nan")})
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1, "x"', "is not complete JSON"),
        (b"", "is not complete JSON"),
        (b"\xff\xfe", "is not complete JSON"),
        (b'{"format": 1, "x": NaN}', "is not complete JSON"),
        (b"[" * 100_000, "is nested more than 100 deep"),
        (b"[1]", "holds a list where a JSON object with format 1 is expected"),
        (b'{"format": 2}', "has format 2; this rlab reads format 1. Was it written by a newer rlab?"),
        (b'{"format": true}', "has format True"),
        (b'{"format": "1"}', "has format '1'"),
        (b"{}", "has format None; this rlab reads format 1. Is it a file of rlab at all?"),
    ],
)
def test_broken_json_gives_one_line_that_names_the_file(tmp_path, content, message):
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(RlabError) as caught:
        files.read_json(tmp_path / "broken.json")
    assert str(tmp_path / "broken.json") in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(RlabError, match=r"nothing\.json is missing"):
        files.read_json(tmp_path / "nothing.json")
    with pytest.raises(RlabError, match="is a folder where a file is expected"):
        files.read_json(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "../weights-0123abcd.safetensors",
        "/etc/passwd",
        "weights-0123abcd.safetensors/../x",
        "weights-1.x",
        7,
        None,
    ],
)
def test_a_file_cannot_point_outside_of_its_folder(tmp_path, name):
    with pytest.raises(RlabError, match=r"where a file like weights-0123abcd\.safetensors is"):
        files.read_checked(tmp_path, {"name": name, "sha256": ""}, "weights", ".safetensors", Path("policy.json"))


def test_tensors_and_arrays_round_trip_with_their_types_and_however_they_lie_in_memory():
    grid = np.arange(12, dtype=np.int64).reshape(3, 4)
    arrays = {
        "turned": grid.T,
        "every second": grid[:, ::2] > 3,
        "number": np.array(2.5),
        "none": np.zeros((0, 3), "u1"),
    }
    again = arrays_from_bytes(arrays_to_bytes(arrays), Path("x"))
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert (again[name] == array).all()
        assert again[name].flags.writeable
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"whole": base, "turned": base.T, "half": base[:1].to(torch.bfloat16)}  # two share their memory
    back = tensors_from_bytes(tensors_to_bytes(tensors), Path("x"))
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


@pytest.mark.parametrize("length", [0, 4, 30, 100, -1])
@pytest.mark.parametrize("read", [tensors_from_bytes, arrays_from_bytes])
def test_a_truncated_safetensors_file_gives_one_line(read, length):
    whole = arrays_to_bytes({"a": np.arange(10.0), "b": np.arange(3)})
    with pytest.raises(RlabError, match=r"w\.safetensors is not a complete safetensors file \(.*\)\. Was it cut off"):
        read(whole[:length], Path("w.safetensors"))


def test_a_safetensors_type_that_numpy_does_not_know_gives_one_line():
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    with pytest.raises(RlabError, match="not a complete safetensors file"):
        arrays_from_bytes(len(header).to_bytes(8, "little") + header + b"\0\0", Path("w.safetensors"))
