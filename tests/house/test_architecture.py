"""The house rules as tests: who may import whom, how long things may be, that every setting is read."""

import ast
import dataclasses
import functools
import itertools
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

import rlab
from rlab.agents import AGENTS, load_agent
from rlab.networks.registry import PROVIDERS, layer_kind
from rlab.runs.config import RunConfig

T = TypeVar("T")
ROOT = Path(rlab.__file__).parent.parent
FOLDERS = ("rlab", "agents", "envs", "experiments")
FILES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

TABLE = tomllib.loads((ROOT / "tests/house/house.toml").read_text())
PORCH = set(TABLE["everywhere"])  # importable by all, and importing no room
MAY_IMPORT: dict[str, set[str]] = {
    **{name: {*room["imports"], *room.get("data", ())} for name, room in TABLE["rooms"].items()},
    **{name: set() for name in PORCH},
}
ROOMS = MAY_IMPORT.keys() - PORCH - {"__init__", "__main__"}
# What may write to a terminal, and what may read the words of a command line.
WRITERS = {"rlab/jobs/progress.py", "rlab/disk.py", "rlab/import_path.py"}
MODULE_NAME = re.compile(r"rlab(\.\w+){2,}(:\w+)?")  # in a string: what something imports by name
# The one file that names modules of rooms it may not import: the kinds of layers that those rooms register. They are
# imported only where a spec holds such a kind; that the rooms may import networks is tested below.
PROVIDED = Path("rlab/networks/registry.py")
# An agent never sees an env, nor a writer; so it is for the rest.
OUTSIDE = {
    "gymnasium": {"envs", "jobs", "cli", "experiments"},
    "tensorboard": {"runs", "experiments"},
    "torch.utils.tensorboard": {"runs", "experiments"},
    "tyro": {"cli"},
}


def room_of_file(path: Path) -> str:
    """`rlab/networks/spaces.py` is in networks, `rlab/errors.py` in errors, `agents/dqn.py` in agents,
    `experiments/reliability/kills.py` in reliability."""
    parts = path.with_suffix("").parts
    return parts[1] if parts[0] == "rlab" or parts[1] in ROOMS else parts[0]


def room_of_import(name: str) -> str | None:
    """The room of a dotted name; None for what is of no room. `rlab.train` is the public API."""
    head, _, rest = name.partition(".")
    if head != "rlab" or rest.startswith("__"):
        return None
    room = rest.partition(".")[0]
    return room if room in ROOMS | PORCH else "api"


@functools.cache
def nodes_of(source: str) -> list[ast.AST]:
    """All of a file; files are parsed once for all that is asked of them."""
    return list(ast.walk(ast.parse(source)))


def imports_of(source: str, path: Path) -> Iterator[str]:
    """The dotted name of everything that a file imports, at its top or inside a function."""
    package = ("rlab", *path.parts[:-1]) if path.parts[0] != "rlab" else path.parts[:-1]
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "rlab")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rlab":
            yield f"rlab.{node.attr}"  # `import rlab` is judged by what is taken from it
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def named_modules(source: str) -> Iterator[str]:
    """The modules that strings name, such as those of a table of what is imported by name when it is needed."""
    for node in nodes_of(source):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            yield node.value.partition(":")[0]


def forbidden_imports(source: str, path: Path) -> list[str]:
    room, found = room_of_file(path), []
    provided = PROVIDERS.values() if path == PROVIDED else ()
    for name in itertools.chain(imports_of(source, path), named_modules(source)):
        if name in provided:
            continue
        target = room_of_import(name)
        if target is None:
            away = [package for package, rooms in OUTSIDE.items() if room not in rooms]
            found += [name for package in away if f"{name}.".startswith(f"{package}.")]
        elif target != room and target not in MAY_IMPORT[room] | PORCH:
            found.append(name)
    return found


def in_files(wrong: Callable[[str, Path], T]) -> dict[str, T]:
    """What is wrong in a source, by its file; files in which nothing is are left out."""
    found = {path.as_posix(): wrong((ROOT / path).read_text(), path) for path in FILES}
    return {name: what for name, what in found.items() if what}


def test_rooms_import_only_what_the_table_allows() -> None:
    assert in_files(forbidden_imports) == {}


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("rlab/networks/a.py", "import rlab.experience.replay", ["rlab.experience.replay"]),
        ("rlab/networks/a.py", "from rlab import learning", ["rlab.learning"]),
        ("rlab/networks/a.py", "from rlab.errors import RlabError\nfrom rlab.networks.b import C", []),
        ("rlab/networks/a.py", "def f():\n    from rlab.runs import config", ["rlab.runs.config"]),
        ("rlab/networks/a.py", "from ..runs import config", ["rlab.runs.config"]),
        ("rlab/networks/a.py", "from . import config", []),
        ("rlab/networks/a.py", "TABLE = {'x': 'rlab.compression.x:Y'}", ["rlab.compression.x"]),
        (
            "rlab/networks/registry.py",
            "P = {'x': 'rlab.learning.adapters', 'y': 'rlab.runs.y'}",
            ["rlab.runs.y"],
        ),
        ("rlab/learning/a.py", "if TYPE_CHECKING:\n    import gymnasium", ["gymnasium"]),
        ("rlab/learning/a.py", "import gymnasium_robotics, rlabyrinth", []),
        ("rlab/learning/a.py", "from torch.utils.tensorboard import X", ["torch.utils.tensorboard.X"]),
        ("rlab/errors.py", "from rlab.networks import spaces", ["rlab.networks.spaces"]),
        ("rlab/errors.py", "import rlab.types", []),
        ("rlab/cli/train.py", "import rlab.envs, rlab.agents, rlab.runs, tyro, gymnasium", []),
        ("rlab/jobs/a.py", "from rlab.cli.flags import parse\nimport tyro", ["rlab.cli.flags.parse", "tyro"]),
        ("rlab/jobs/a.py", "from rlab import api", ["rlab.api"]),
        ("rlab/cli/a.py", "from rlab import train", ["rlab.train"]),
        ("rlab/api.py", "from rlab.learning import loop\nfrom rlab.jobs import train", ["rlab.learning.loop"]),
        ("agents/dqn.py", "from rlab.envs import make_vec\nimport gymnasium", ["rlab.envs.make_vec", "gymnasium"]),
        ("agents/dqn.py", "from . import other\nfrom .. import runs", ["rlab.runs"]),
        ("experiments/benchmarks/a.py", "import rlab\nfrom rlab import train", []),
        ("experiments/benchmarks/a.py", "import rlab.learning.loop", ["rlab.learning.loop"]),
        ("experiments/a.py", "from rlab import supervised\nfrom rlab.supervised import fit", []),
        ("agents/a.py", "from rlab.learning.supervised import Supervised\nimport rlab.supervised", ["rlab.supervised"]),
        ("envs/a.py", "import rlab\nrlab.__version__", []),
        ("envs/a.py", "import rlab\nrlab.load('run')", ["rlab.load"]),
        ("envs/a.py", "from rlab import __version__, load", ["rlab.load"]),
    ],
)
def test_the_import_rule_sees_what_it_should(path: str, source: str, wrong: list[str]) -> None:
    assert forbidden_imports(source, Path(path)) == wrong


@pytest.mark.parametrize("kind", PROVIDERS)
def test_every_kind_of_layer_from_another_room_is_registered_by_its_module(kind: str) -> None:
    assert layer_kind(kind).build.__module__ == PROVIDERS[kind]
    assert "networks" in MAY_IMPORT[room_of_import(PROVIDERS[kind]) or ""]


def test_a_room_comes_after_those_that_it_imports_and_reads_only_files_of_its_data() -> None:
    rooms = TABLE["rooms"]
    order = list(rooms)
    for name, room in rooms.items():
        assert all(order.index(other) < order.index(name) for other in room["imports"]), name
        for path in (path for path in FILES if room_of_file(path) == name):
            taken = [module for module in imports_of((ROOT / path).read_text(), path) if module.count(".") > 1]
            assert not [module for module in taken if room_of_import(module) in room.get("data", ())], path


def test_every_room_has_its_row() -> None:
    assert {room_of_file(path) for path in FILES} <= set(MAY_IMPORT)


def module_name(path: Path) -> str:
    """`rlab.agents.dqn` of `agents/dqn.py`, `rlab.envs` of `envs/__init__.py`."""
    parts = path.with_suffix("").parts
    return ".".join(part for part in (("rlab",) * (parts[0] != "rlab") + parts) if part != "__init__")


def imported_modules(source: str, path: Path, modules: Collection[str]) -> set[str]:
    """Those of `modules` that a file imports anywhere: at its top, inside a function, for type checkers alone. What a
    registry imports by name, such as an agent or a kind of layer, does not count: it is imported on demand, as the
    module of a user's own would be."""
    found = set()
    for name in imports_of(source, path):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module_name(path)}


def circles(imports: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of modules that reach each other: strongly connected components of two or more (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports[module]):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            circle = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            found.extend([circle] if len(circle) > 1 else [])

    for module in imports:
        if module not in index:
            visit(module)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_name(path): path for path in FILES}
    assert circles({m: imported_modules((ROOT / p).read_text(), p, modules) for m, p in modules.items()}) == []


def test_a_circle_is_seen_through_functions_and_through_imports_for_types() -> None:
    files = {
        "rlab/a.py": "from rlab.b import c",
        "rlab/b.py": "def f():\n    import rlab.c",
        "rlab/c.py": "if TYPE_CHECKING:\n    from .a import d\nfrom rlab.leaf import x",
        "rlab/leaf.py": "import torch",
    }
    modules = {module_name(Path(path)) for path in files}
    graph = {module_name(Path(path)): imported_modules(files[path], Path(path), modules) for path in files}
    assert circles(graph) == [{"rlab.a", "rlab.b", "rlab.c"}]
    assert circles({**graph, "rlab.c": set()}) == []


def talk(source: str, path: Path) -> set[str]:
    """What in a file reads the words of a command line, or reads and writes the terminal, where it may not."""
    if path.parts[:2] == ("rlab", "cli") or path.parts[0] == "experiments" or path.as_posix() in WRITERS:
        return set()
    nodes = nodes_of(source)
    calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    reads = {dotted(node) for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    return (calls & {"print", "input"}) | (reads & {"sys.argv", "sys.stdout", "sys.stderr"})


def dotted(node: ast.Attribute) -> str:
    """`sys.argv` of an attribute of a name."""
    return f"{node.value.id}.{node.attr}" if isinstance(node.value, ast.Name) else ""


def test_the_command_line_alone_reads_argv_and_writes_to_the_terminal() -> None:
    assert in_files(talk) == {}
    assert talk("print(sys.argv[1])", Path("rlab/jobs/a.py")) == {"print", "sys.argv"}
    assert talk("print(sys.argv[1])", Path("rlab/cli/a.py")) == set()


def long_functions(source: str, most: int) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in nodes_of(source) if isinstance(node, kinds)]
    return [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > most]


def test_no_function_is_over_60_lines_and_no_module_over_400() -> None:
    assert in_files(lambda source, path: long_functions(source, most=60)) == {}
    assert in_files(lambda source, path: len(source.splitlines()) > 400) == {}


def test_the_length_of_a_function_counts_from_def_to_its_last_line() -> None:
    source = "def three():\n    '''Doc.'''\n    return 1\n"
    assert long_functions(source, most=3) == []
    assert long_functions(source, most=2) == ["three"]


@functools.cache
def attributes_read() -> set[str]:
    """Every name that is read as an attribute, `config.gamma`, anywhere in the source."""
    nodes = [node for path in FILES for node in nodes_of((ROOT / path).read_text()) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}


def test_every_setting_of_a_run_is_read_somewhere() -> None:
    assert {field.name for field in dataclasses.fields(RunConfig)} - attributes_read() == set()


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_setting_of_an_agent_is_read_somewhere(agent: str) -> None:
    config = load_agent(agent).Config  # type: ignore[attr-defined]
    assert {field.name for field in dataclasses.fields(config)} - attributes_read() == set()


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_no_setting_of_an_agent_has_the_name_of_a_run_s(agent: str) -> None:
    config = load_agent(agent).Config  # type: ignore[attr-defined]
    assert {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(RunConfig)} == set()
