"""The door: what is a file, how long a line may be, what JSON and TOML may hold, and what of a text is shown."""

import os
import socket
from pathlib import Path

import pytest

from rlab import door
from rlab.errors import RlabError

READERS = (door.read_file, lambda path: list(door.whole_lines(path)), door.last_whole_line)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_a_regular_file_is_refused_at_once(reader, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "whole").write_text("1\n")
    (tmp_path / "link").symlink_to("whole")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for name in ("fifo", "folder", "link", "device", "socket", "nothing", "nul\0", "x" * 300, "whole/x"):
            with pytest.raises(RlabError, match=r"FIFO|folder|link|cannot read|is missing") as caught:
                reader(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_a_link_that_the_user_names_is_followed_to_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "whole").write_text("1\n")
    (tmp_path / "link").symlink_to("whole")
    (tmp_path / "device").symlink_to("/dev/zero")
    assert door.read_file(tmp_path / "link", follow=True) == b"1\n"
    with pytest.raises(RlabError, match="is a device where a file is expected"):
        door.read_file(tmp_path / "device", follow=True)


def test_a_file_beyond_its_bound_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(2**40)  # no byte of it is on the disk
    with pytest.raises(RlabError, match=r"has 1,099,511,627,776 bytes, and at most 268,435,456 are read"):
        door.read_file(tmp_path / "long", door.MOST_JSON)


def test_lines_come_one_at_a_time_and_the_last_from_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    for text, lines in {"": [], "a": [], "a\n": ["a"], "a\nbc\n\nd": ["a", "bc", ""], "\n": [""]}.items():
        path.write_text(text)
        assert list(door.whole_lines(path)) == [line.encode() for line in lines]
        assert door.last_whole_line(path) == (lines or [""])[-1].encode()
    path.write_bytes(b"first\n" + b"x" * 100_000 + b"\nlast")  # longer than a block
    assert door.last_whole_line(path) == b"x" * 100_000
    monkeypatch.setattr(door, "MOST_LINE", 1000)
    for reader in READERS[1:]:
        with pytest.raises(RlabError, match="Was it damaged"):
            reader(path)


@pytest.mark.parametrize(
    ("text", "depth", "deep"),
    [
        ("[" * 3 + "]" * 3, 3, False),
        ('[{"a": [1]}]', 3, False),
        ('[{"a": [[1]]}]', 3, True),
        ('["[[[[[", "\\"[[[[", "{{{{"]', 3, False),  # brackets in texts
        ("[[1], [2], [3], [4]]", 3, False),
    ],
)
def test_depth_is_that_of_brackets_outside_texts(text: str, depth: int, deep: bool) -> None:
    assert door.too_deep(text.encode(), depth) is deep


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "[Infinity]", "9" * 5000, '{"a": 1', b"\xff"])
def test_json_holds_finite_numbers(text: str | bytes) -> None:
    with pytest.raises(RlabError, match="here is not complete JSON"):
        door.parse_json(text, "here")


@pytest.mark.parametrize(
    "text",
    ["a = 1e999", "a = nan", "a = inf", "[" * 5000, "a." * 50_000 + "a = 1", "[a" + ".a" * 5000 + "]", "a = \x00"],
)
def test_toml_is_shallow_and_holds_finite_numbers(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(RlabError, match=r"a\.toml is (not a readable TOML file|nested more than 100 deep)"):
        door.read_toml(tmp_path / "a.toml")


def test_controls_and_turns_of_direction_are_not_shown() -> None:
    assert door.clean("\x1b[31mred\x07\r\u202eabc\ud800\x9b1m é 猫\n\t") == "[31mredabc1m é 猫\n\t"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--storage postgresql://me:secr@t@host/lab --jobs 2", "--storage postgresql://me:...@host/lab --jobs 2"),
        ("postgresql://me@host/lab", "postgresql://me@host/lab"),
        ("https://token@host:5000/x and http://me:secret@host", "https://...@host:5000/x and http://...@host"),
        ("postgresql://host/lab?user=me&password=secret&x=1", "postgresql://host/lab?user=me&password=...&x=1"),
        ("rlab train dqn CartPole-v1", "rlab train dqn CartPole-v1"),
    ],
)
def test_passwords_in_addresses_are_not_shown(text: str, shown: str) -> None:
    assert door.without_password(text) == shown


def test_a_folder_of_results_holds_files_and_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("")
    door.check_folder(tmp_path)
    (tmp_path / "c").symlink_to("a")
    with pytest.raises(RlabError, match="c is a link; a folder of results holds files and folders alone"):
        door.check_folder(tmp_path)
    with pytest.raises(RlabError, match="c is a link, which is not followed"):
        door.check_part(tmp_path / "c")
    door.check_part(tmp_path / "missing")


def test_a_file_of_holes_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "hollow").open("wb") as file:
        file.write(b"begins like a file")
        file.truncate(2**33)
    with pytest.raises(RlabError, match=r"has 8,589,934,592 bytes, of which [0-9,]+ are on the disk: it is hollow"):
        door.read_file(tmp_path / "hollow")
