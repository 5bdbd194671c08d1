"""A clone beside an installed rlab: all that is imported comes from one place."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlab

ROOT = Path(rlab.__file__).parent.parent
PLACES = "print(*(Path(m.__file__).resolve() for m in (rlab, rlab.agents, rlab.envs, rlab.experiments)), sep='\\n')"
IMPORTS = "from pathlib import Path; import rlab, rlab.agents, rlab.envs, rlab.experiments"
# What `pip install -e` of this clone puts into every process: the last finder, which knows the rooms of this clone.
EDITABLE = f"""
import sys, importlib.util
class Editable:
    def find_spec(name, path=None, target=None):
        rooms = {{"rlab.agents": "agents", "rlab.envs": "envs", "rlab.experiments": "experiments"}}
        file = {str(ROOT)!r} + "/" + rooms.get(name, "") + "/__init__.py"
        return importlib.util.spec_from_file_location(name, file) if name in rooms else None
sys.meta_path.append(Editable)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second clone, in a folder named `rlab`."""
    folder = tmp_path_factory.mktemp("holds_a_clone") / "rlab"
    for room in ("rlab", "agents", "envs", "experiments"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "*.json", "*.png"))
    shutil.copy(ROOT / "__init__.py", folder)
    return folder


def answer(code: str, folder: Path, **variables: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_agents_and_envs_come_from_the_clone_that_rlab_comes_from(clone: Path, tmp_path: Path) -> None:
    expected = [str(clone / room / "__init__.py") for room in ("rlab", "agents", "envs", "experiments")]
    code = f"{EDITABLE}\n{IMPORTS}; {PLACES}"
    assert answer(code, tmp_path, PYTHONPATH=str(clone)) == expected
    assert answer(code, clone) == expected  # the current folder


def test_the_folder_that_holds_a_clone_named_rlab_gives_the_real_package(clone: Path) -> None:
    expected = [str(clone / room / "__init__.py") for room in ("rlab", "agents", "envs", "experiments")]
    assert answer(f"{IMPORTS}; {PLACES}", clone.parent) == expected
    words = [sys.executable, "-m", "rlab", "--version"]
    done = subprocess.run(words, cwd=clone.parent, env={}, capture_output=True, text=True, check=True)
    assert done.stdout == f"rlab {rlab.__version__}\n"


def test_a_clone_of_another_name_is_no_package_of_rlab(clone: Path) -> None:
    other = clone.parent / "elsewhere" / "my_clone"
    shutil.copytree(clone, other, dirs_exist_ok=True)
    assert answer("import sys, my_clone; print('rlab' in sys.modules)", other.parent) == ["False"]
