"""The road of one transition stays short enough to read, and a variant of an agent stays small."""

import ast
import sys
import tomllib
from pathlib import Path

import rlab
from rlab.agents import AGENTS, load_agent

ROOT = Path(rlab.__file__).parent.parent
ROAD = [step["file"] for step in tomllib.loads((ROOT / "tests/house/house.toml").read_text())["road"]]


def code_lines(source: str) -> int:
    """Lines that are neither blank, nor a comment, nor part of a docstring."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(1 for number, line in lines if line.strip() and line.strip()[0] != "#" and number not in documented)


def import_lines(source: str) -> int:
    """Lines of import statements, which nobody reads to follow what happens."""
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return sum((node.end_lineno or 0) - node.lineno + 1 for node in imports)


def test_one_transition_is_followed_to_its_gradient_in_six_files_and_600_lines() -> None:
    assert len(ROAD) <= 6
    sources = [(ROOT / file).read_text() for file in ROAD]
    assert sum(code_lines(source) - import_lines(source) for source in sources) <= 600


def test_double_dqn_costs_at_most_25_lines() -> None:
    assert code_lines((ROOT / "agents/double_dqn.py").read_text()) <= 25


def test_each_agent_is_one_file_of_at_most_250_lines() -> None:
    for name in AGENTS:
        file = Path(sys.modules[load_agent(name).__module__].__file__ or "")
        assert file.parent == ROOT / "agents"
        assert len(file.read_text().splitlines()) <= 250, file


def test_lines_are_counted_without_comments_and_docstrings() -> None:
    source = '"""Module."""\n\n# why\ndef f():\n    """One\n    two."""\n    return 1  # trailing\n'
    assert code_lines(source) == 2
