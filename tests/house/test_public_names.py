"""`rlab.NAME`: what Tab completes, what `import *` brings, and that none of it waits for torch before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlab
from rlab import api


def test_tab_completes_every_public_name_without_importing_torch() -> None:
    script = (
        "import rlab, sys; print(sorted(set(rlab.__all__) - set(dir(rlab))), 'sys' in dir(rlab),'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False False"


def test_import_star_brings_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from rlab import *", names)  # noqa: S102
    assert set(rlab.__all__) <= names.keys()
    assert names["train"] is api.train


def test_the_table_the_type_checker_and_the_api_name_the_same_things() -> None:
    assert set(rlab.API) <= vars(api).keys()
    tree = ast.parse(Path(rlab.__file__).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    named = {alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named == {"*", "supervised"}


@pytest.mark.parametrize("name", [name for name in rlab.API if name.islower()])
def test_help_of_every_function_says_what_it_does_and_what_it_takes(name: str) -> None:
    doc = getattr(rlab, name).__doc__
    assert doc
    assert doc.split("\n")[0].endswith(".")


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"module 'rlab' has no attribute 'trian'; it has .*, train"):
        _ = rlab.trian
