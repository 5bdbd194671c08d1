"""What is shipped: the wheel, built from what a fresh clone would hold, and what no shipped file may say."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import rlab
from rlab.errors import DISTRIBUTION, pip_install

ROOT = Path(rlab.__file__).parent.parent
FOLDERS = ("rlab", "agents", "envs", "experiments")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what a clone holds is asked of git")


def run(words: Sequence[str | Path], folder: Path) -> str:
    # Nothing of this process's paths: the checkout must not be found by accident.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh clone would hold."""
    folder = tmp_path_factory.mktemp("export")
    run([sys.executable, ROOT / ".ci" / "export", folder], ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    run([*pip, "-w", folder, export], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def shipped_name(path: Path) -> str:
    """`agents/dqn.py` is `rlab/agents/dqn.py` in the wheel."""
    return path.as_posix() if path.parts[0] == "rlab" else f"rlab/{path.as_posix()}"


def files_of(folder: Path, *endings: str) -> list[Path]:
    found = [path for top in FOLDERS for path in (folder / top).rglob("*") if path.suffix in endings]
    return [path.relative_to(folder) for path in found]


def test_the_packages_named_in_pyproject_are_those_on_disk(export: Path) -> None:
    named = tomllib.loads((export / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {Path(shipped_name(path)).parent.as_posix().replace("/", ".") for path in files_of(export, ".py")}
    assert sorted(named) == sorted(on_disk)


def test_git_ignores_no_python_file_of_ours(export: Path) -> None:
    assert set(files_of(ROOT, ".py")) - set(files_of(export, ".py")) == set()


def test_the_wheel_owns_exactly_one_import_name(contents: set[str]) -> None:
    tops = {name.split("/")[0] for name in contents}
    assert tops == {"rlab", f"rlab_agents-{rlab.__version__}.dist-info"}


def test_the_name_that_hints_give_to_pip_is_the_distribution_s(export: Path) -> None:
    project = tomllib.loads((export / "pyproject.toml").read_text())["project"]
    assert (project["name"], DISTRIBUTION) == ("rlab-agents", "rlab-agents")
    assert pip_install("onnx") == 'pip install "rlab-agents[onnx]"'


def test_every_extra_that_the_source_names_is_one_that_pyproject_has(export: Path) -> None:
    named = {
        extra
        for path in files_of(export, ".py")
        for extra in re.findall(r"""\b(?:extra|pip_install)\(['"](\w+)['"]\)""", (export / path).read_text())
    }
    known = tomllib.loads((export / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert named - set(known) == set()
    assert {"box2d", "minari", "onnx", "plot", "video"} <= named  # the search does find them


def test_every_python_file_experiment_and_record_is_in_the_wheel(export: Path, contents: set[str]) -> None:
    ours = {shipped_name(path) for path in files_of(export, ".py", ".toml", ".json", ".typed", ".css", ".js")}
    assert ours - contents == set()
    assert "rlab/py.typed" in ours


def test_the_wheel_holds_nothing_that_a_clone_does_not(export: Path, contents: set[str]) -> None:
    ours = {shipped_name(path) for path in files_of(export, ".py", ".toml", ".json", ".typed", ".css", ".html", ".js")}
    assert {name for name in contents if name.startswith("rlab/")} - ours == set()


def test_the_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "empty"
    venv.create(home)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    run([*pip, "install", "--no-deps", "--no-index", wheel], tmp_path)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    library = Path(run([scripts / "python", "-c", where], tmp_path).strip())
    # torch and the rest come from here. Python does not follow the .pth files of such a folder, so an editable
    # install of the checkout stays out of sight.
    (library / "torch_and_the_rest.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = "import rlab, rlab.agents, rlab.envs; print(rlab.__file__, rlab.agents.__file__, rlab.envs.__file__)"
    for file in run([scripts / "python", "-c", where], tmp_path).split():
        assert Path(file).is_relative_to(library)
    assert run([scripts / "rlab", "--version"], tmp_path) == f"rlab {rlab.__version__}\n"
    assert "double_dqn" in run([scripts / "rlab", "list", "agents"], tmp_path)
    assert run([scripts / "python", "-m", "rlab", "--version"], tmp_path) == f"rlab {rlab.__version__}\n"


@pytest.mark.parametrize(
    "forbidden",
    [
        r"pypi\.|pythonhosted\.|download\.pytorch\.|anaconda\.",  # where packages come from is the user's choice
        r"(?<![\w.])/(?:home|Users|root|work|mnt)/\w",
        r"[A-Z]:\\Users\\",
        r"(?<![\w-])rlab\[",  # an extra of a distribution that is not this one
    ],
)
def test_no_file_names_what_belongs_to_one_machine_or_to_strangers(export: Path, forbidden: str) -> None:
    guilty = []
    for path in export.rglob("*"):
        if path.is_file() and path.suffix not in (".png", ".gif", ".mp4", ".safetensors"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            guilty += [f"{path.relative_to(export)}: {line.strip()}" for line in lines if re.search(forbidden, line)]
    assert guilty == []
