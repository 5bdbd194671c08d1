"""Every function, class and constant at the top of a module is used by rlab itself, not by its tests alone."""

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import rlab
from rlab.cli.main import VERBS

ROOT = Path(rlab.__file__).parent.parent
USERS = ("rlab", "agents", "envs", "experiments", "docs", "tests/agents/outside")
DEFINED_IN = ("rlab", "agents", "envs")


def module_name(path: Path) -> str:
    """`agents/dqn.py` is `rlab.agents.dqn`, `rlab/__init__.py` is `rlab`."""
    parts = path.with_suffix("").parts
    parts = parts if parts[0] in ("rlab", "tests") else ("rlab", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(folders: tuple[str, ...]) -> dict[str, ast.Module]:
    return {name: tree for folder in folders for name, tree in modules_in(folder).items()}


@functools.cache
def modules_in(folder: str) -> dict[str, ast.Module]:
    paths = sorted((ROOT / folder).rglob("*.py"))
    return {module_name(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def dotted(node: ast.Attribute) -> str | None:
    """`a.b.c` as written; None where it does not begin with a name."""
    parts: list[str] = []
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    return ".".join([value.id, *reversed(parts)]) if isinstance(value, ast.Name) else None


def used_by(module: str, tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module uses: imported, read from an imported module, named in a string, or its own."""
    imported, chains = {}, set()  # name in this module -> what it was imported from
    for statement in tree.body:
        names: set[str] = set()
        for node in ast.walk(statement):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
            elif isinstance(node, ast.Import):
                imported |= {each.asname: each.name for each in node.names if each.asname}
            elif isinstance(node, ast.Attribute):
                chains.add(dotted(node))
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                names.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from (".".join(pair) for pair in re.findall(r"([\w.]+):(\w+)", node.value))  # module:Class
                if not re.search(r"\w \w", node.value):  # a name, or a type in quotes
                    names |= set(re.findall(r"\w+", node.value))
        yield from (f"{module}.{name}" for name in names - {getattr(statement, "name", None)})
    yield from imported.values()
    for chain in chains - {None}:
        base, _, rest = chain.partition(".")
        yield f"{imported.get(base, base)}.{rest}"


def unused(modules: Mapping[str, ast.Module], users: Mapping[str, ast.Module]) -> set[str]:
    uses = {name for user, tree in users.items() for name in used_by(user, tree)}
    every = {f"{module}.{name}" for module, tree in modules.items() for name in defined(tree)}
    return {name for name in every if name not in uses and not name.rpartition(".")[2].startswith("__")}


def documented(name: str) -> bool:
    """Whether the page of the Python API shows the name, or all of its module."""
    shown = re.findall(r"^::: (\S+)", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE)
    return any(f"{name}.".startswith(f"{each}.") for each in shown)


def test_what_is_defined_is_used_by_rlab_or_by_agents_from_outside() -> None:
    verbs = {f"rlab.cli.{verb}.run" for verb in VERBS}  # found by the verb's name
    found = {name for name in unused(modules_of(DEFINED_IN), modules_of(USERS)) if not documented(name)}
    assert found == verbs


def test_a_use_is_an_import_an_attribute_of_a_module_a_name_in_a_string_or_another_statement() -> None:
    one = ast.parse("A = 1\nB = 2\nC = A\ndef d(): return d()\nclass E: ...\ndef f(): ...\ndef g(): ...")
    other = ast.parse("from p.one import B\nimport p.one as o\no.f()\nNAME = 'p.one:g'\nprint(NAME)")
    modules = {"p.one": one, "p.other": other}
    assert unused(modules, modules) == {"p.one.C", "p.one.d", "p.one.E"}
