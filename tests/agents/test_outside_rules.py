"""Agents in outsiders' files, `outside/*.py`, stay short and use what rlab offers to everybody, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OUTSIDE = Path(__file__).parent / "outside"
# Lines that are not blank, docstrings and comments included.
MOST_LINES = {
    "sac.py": 150,
    "soft_dqn.py": 30,
}
FORBIDDEN = ("rlab.jobs", "rlab.cli", "unittest.mock")
OF_NAMED_TUPLES = {"_replace", "_asdict"}  # Python's own


def broken_rules(source: str) -> list[str]:
    """What a file does that an outsider may not do."""
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _root(node) == "self"
    }
    imported = {name for _, name in _imports(tree)}
    broken = [f"imports {module}" for module, _ in _imports(tree) if f"{module}.".startswith(_inside(FORBIDDEN))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr) and node.attr not in own | OF_NAMED_TUPLES:
            broken.append(f"uses {node.attr}")
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and _root(node) in imported:
            broken.append(f"patches {_root(node)}.{node.attr}")
        if isinstance(node, ast.Name) and node.id in ("setattr", "delattr", "getattr", "globals", "vars"):
            broken.append(f"calls {node.id}")
    return [*broken, *(f"imports {name}" for name in imported if _private(name))]


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The module, and the name that it or a thing inside it gets here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def _inside(modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{module}." for module in modules)


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", sorted(OUTSIDE.glob("*.py")), ids=lambda path: path.name)
def test_an_agent_from_outside_is_short_and_uses_the_public_contract_alone(path: Path) -> None:
    source = path.read_text()
    assert broken_rules(source) == []
    assert sum(1 for line in source.splitlines() if line.strip()) <= MOST_LINES[path.name]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from rlab.jobs.train import train", ["imports rlab.jobs.train.train"]),
        ("from rlab.cli import main", ["imports rlab.cli.main"]),
        ("import rlab.jobs", ["imports rlab.jobs"]),
        ("from rlab.networks.layers import _check_alike", ["imports _check_alike"]),
        ("class A(DQN):\n    def f(self):\n        return self._policy", ["uses _policy"]),
        ("class A:\n    def f(self):\n        self._x = 1\n        return self._x", []),
        ("from rlab.agents import dqn\ndqn.DQN.act = None", ["patches dqn.act"]),
        ("setattr(x, 'act', None)", ["calls setattr"]),
        ("acted = acted._replace(state={})", []),
    ],
)
def test_what_an_outsider_may_not_do_is_found(source: str, expected: list[str]) -> None:
    assert broken_rules(source) == expected
