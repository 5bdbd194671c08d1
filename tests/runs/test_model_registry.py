"""Names of the registry: what they stand for, and that versions and aliases are whole whoever writes and dies."""

import json
import os
import threading
from pathlib import Path

import pytest

from rlab.errors import RlabError, UsageError
from rlab.runs import files, registry
from rlab.runs.registry import add_version, aliases_of, move_aliases, names_in, numbers_of, pinned, resolve


def content(number: int) -> dict[str, bytes]:
    return {"policy.json": f"policy {number}".encode(), "version.json": b"{}"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a registry with versions 1 to 3 of pole, the working folder being above it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    for aliases in ([], ["best"], []):
        add_version(Path("models"), "pole", content, aliases)
    return Path("models")


def test_a_name_stands_for_its_newest_version_and_for_those_that_are_named(models: Path) -> None:
    for source, number in {"pole": 3, "pole@latest": 3, "pole@2": 2, "pole@best": 2}.items():
        assert resolve(source) == models / "pole" / str(number)
        assert pinned(source) == f"pole@{number}"
    move_aliases(models, "pole", 1, ["best", "tested"])
    assert aliases_of(models / "pole") == {"best": 1, "tested": 1}
    assert resolve("pole@best") == models / "pole/1"


def test_whatever_is_not_a_name_stays_the_path_that_it_is(models: Path) -> None:
    for source in ("runs/a", "./pole", "pole2", "a.onnx", "models/pole/1", "/tmp/x@best", "pole@../1", "pole@1/..", ""):
        assert resolve(source) == Path(source)
        assert pinned(source) == source


def test_a_path_that_exists_wins_over_a_name(models: Path) -> None:
    for name in ("pole", "pole@best"):
        Path(name).mkdir()
        assert resolve(name) == Path(name)


def test_the_folder_is_the_given_one_or_that_of_the_variable_or_models(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(tmp_path / "a", "pole", content)
    add_version(tmp_path / "b", "pole", content)
    monkeypatch.setenv(registry.VARIABLE, str(tmp_path / "a"))
    assert resolve("pole") == tmp_path / "a/pole/1"
    assert resolve("pole", tmp_path / "b") == tmp_path / "b/pole/1"
    assert names_in(tmp_path / "a") == ["pole"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("poole@best", "unknown model 'poole'. Did you mean 'pole'?"),
        ("cart@1", "unknown model 'cart'. Known: pole."),
        ("pole@4", "pole has no version 4; it has 1, 2, 3."),
        ("pole@beest", "unknown version of pole 'beest'. Did you mean 'best'?"),
        ("pole@0", "unknown version of pole '0'. Known: 1, 2, 3, best, latest."),
    ],
)
def test_an_unknown_name_is_one_line_with_what_exists(models: Path, source: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(source)
    assert str(error.value) == message


def test_an_empty_registry_says_how_a_model_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown model 'pole': there is none in .*rlab publish RUN pole"):
        resolve("pole@best", tmp_path)


def test_an_alias_of_a_version_that_was_removed_says_so_and_its_number_is_not_given_again(models: Path) -> None:
    files.delete_folder(models / "pole/3")
    move_aliases(models, "pole", 2, ["best"])
    add_version(models, "pole", content, ["best"])
    files.delete_folder(models / "pole/3")
    with pytest.raises(RlabError, match="pole@best is version 3, which is no longer in models/pole"):
        resolve("pole@best")
    assert add_version(models, "pole", content) == 4


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "a@b", "x" * 101, "-x", "é", "a\n"])
def test_names_that_no_file_system_or_address_could_hold_are_refused(models: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a model"):
        add_version(models, name, content)
    assert names_in(models) == ["pole"]


@pytest.mark.parametrize("alias", ["latest", "3", "", "Best", "a b", "../x", "x" * 51])
def test_aliases_that_could_be_taken_for_something_else_are_refused_before_anything_is_written(
    models: Path, alias: str
) -> None:
    with pytest.raises(UsageError, match="alias"):
        add_version(models, "pole", content, [alias])
    with pytest.raises(UsageError, match="alias"):
        move_aliases(models, "pole", 1, [alias])
    assert numbers_of(models / "pole") == [1, 2, 3]


@pytest.mark.parametrize("aliases", [[], {"best": "2"}, {"best": 0}, {"best": True}, {"../x": 1}, None])
def test_damaged_aliases_are_one_line(models: Path, aliases: object) -> None:
    (models / "pole/aliases.json").write_text(json.dumps({"format": 1, "aliases": aliases}))
    with pytest.raises(RlabError, match="must map names such as best to numbers"):
        resolve("pole@best")


def test_links_are_not_versions(models: Path, tmp_path: Path) -> None:
    os.symlink(tmp_path, models / "pole/9")
    os.symlink(models / "pole", models / "other")
    assert numbers_of(models / "pole") == [1, 2, 3]
    assert names_in(models) == ["pole"]


@pytest.mark.parametrize("locks", [True, False])
def test_publishers_at_once_get_different_numbers(models: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    if not locks:
        monkeypatch.setattr("rlab.runs.locks.fcntl", None)
    numbers: list[int] = []
    publish = lambda: numbers.append(add_version(models, "pole", content))  # noqa: E731
    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(4, 12))
    for number in numbers:
        assert (models / "pole" / str(number) / "policy.json").read_bytes() == content(number)["policy.json"]
    assert not list((models / "pole").glob(".tmp-*"))


def test_death_at_any_instant_leaves_the_old_versions_or_a_whole_new_one(models: Path, every_death) -> None:  # type: ignore[no-untyped-def]
    for copy, survived in every_death(models, lambda copy: add_version(copy, "pole", content, ["best"])):
        numbers = numbers_of(copy / "pole")
        assert numbers in ([1, 2, 3], [1, 2, 3, 4])
        assert not survived or numbers[-1] == 4
        for number in numbers:
            assert sorted(os.listdir(copy / "pole" / str(number))) == ["manifest.json", "policy.json", "version.json"]
        assert resolve("pole@best", copy).is_dir()
        assert add_version(copy, "pole", content) == numbers[-1] + 1
        assert not list((copy / "pole").glob(".tmp-*"))


def test_the_manifest_vouches_for_every_file(models: Path) -> None:
    manifest = json.loads((models / "pole/2/manifest.json").read_text())
    assert manifest == {"format": 1, "files": {name: files.sha256(data) for name, data in content(2).items()}}
