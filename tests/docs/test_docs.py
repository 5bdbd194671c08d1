"""Every command and every Python block of the README and the pages runs, page by page and in order, at a small size.

A page runs in an empty folder that holds what the first run leaves, `runs/cartpole`. A block with a title is a
file: it is written down instead of run.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import rlab
from rlab import api
from rlab.cli.main import main

ROOT = Path(rlab.__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')
ONLY_READ = (
    "make ",
    "source ",
    "pip install ",
    "tensorboard ",
    "rlab report --live",
    "rlab serve ",
    "curl ",
    "openssl ",
)  # how the lines begin that are not run
MOST_SEEDS = 4
TINY: dict[str, Any] = {"env_steps": 320, "eval_every": 320, "eval_episodes": 1, "final_eval_episodes": 2}
TINY_UPDATES: dict[str, Any] = {"updates": 40, "eval_every": 40, "eval_episodes": 1, "final_eval_episodes": 2}


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages start from."""
    folder = tmp_path_factory.mktemp("docs")
    api.train("dqn", "CartPole-v1", out=folder / "runs/cartpole", seeds=MOST_SEEDS, **TINY)
    return folder


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Modules that a page writes are forgotten behind it: another page may have others of the same name."""
    before = set(sys.modules)
    yield
    for name in {name for name in sys.modules if name.startswith("my_") or name == "own_agent"} - before:
        del sys.modules[name]


def blocks(text: str) -> Iterator[tuple[str, str | None, str]]:
    """The language, title and content of each fenced block."""
    for language, marks, content in FENCE.findall(text):
        title = TITLE.search(marks)
        yield language, title and title[1], content


def small(argv: list[str]) -> list[str]:
    """The same command with a tiny budget; the last of two equal flags counts."""
    candidates = {"candidates": 2} if "--search" in argv else {}
    sizes: dict[str, dict[str, Any]] = {
        "train": TINY_UPDATES if "cql" in argv or "iql" in argv else TINY,
        "pretrain": TINY_UPDATES,
        "finetune": TINY_UPDATES if "cql" in argv else TINY,
        "compress": {"episodes": 2, "updates": 20, "min_return_ratio": 0, **candidates},
        "collect": {} if "--merge" in argv else {"episodes": 3},
        "eval": {"episodes": 2},
        "compare": {"episodes": 2},
        "explain": {"episodes": 2, "states": 4, "background": 2},
        "resume": {"env_steps": 640} if {"--env-steps", "--verify"} & set(argv) else {},
    }
    fewer = {"seeds": MOST_SEEDS} if "--seeds" in argv and int(argv[argv.index("--seeds") + 1]) > MOST_SEEDS else {}
    fewer |= {"jobs": 1} if "--jobs" in argv else {}
    wanted = {**sizes.get(argv[0], {}), **fewer}
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in wanted.items()]
    return [*argv, *(word for flag in flags for word in flag)]


def run_shell(content: str) -> None:
    for line in content.replace("\\\n", " ").splitlines():
        words = line.partition("#")[0].strip()
        if not words or words.startswith(ONLY_READ):
            continue
        argv = shlex.split(words)
        assert argv[0] == "rlab", f"a documented command that no test runs: {line}"
        if argv[1] == "bench":  # an experiment at its full size: `make prove`
            continue
        assert main(small(argv[1:])) == 0, line


def smaller(function: Callable[..., Any], sizes: dict[str, Any]) -> Callable[..., Any]:
    """The same function of `rlab` with tiny budgets, whatever the caller asks for."""

    def called(*args: Any, **settings: Any) -> Any:
        fewer = {"seeds": min(settings["seeds"], MOST_SEEDS)} if "seeds" in settings else {}
        return function(*args, **{**settings, **sizes, **fewer})

    return called


@pytest.fixture
def small_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rlab.train` and its like with tiny budgets."""
    for name, sizes in (
        ("train", TINY),
        ("finetune", TINY),
        ("pretrain", TINY_UPDATES),
        ("collect", {"episodes": 3}),
        ("compress", {"episodes": 2, "updates": 20, "min_return_ratio": 0}),
        ("evaluate", {"episodes": 2}),
    ):
        monkeypatch.setattr(api, name, smaller(getattr(api, name), sizes))


@pytest.fixture(scope="module")
def short_episodes() -> Iterator[None]:
    """No episode takes more than 50 steps: policies that learned nothing would play to the limits."""
    with pytest.MonkeyPatch.context() as patch:
        for spec in gym.registry.values():
            if spec.max_episode_steps is not None and spec.max_episode_steps > 50:
                patch.setattr(spec, "max_episode_steps", 50)
        yield


@pytest.mark.usefixtures("small_api", "few_visits", "own_modules", "short_episodes", "quick_disk")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(first_run, tmp_path, dirs_exist_ok=True)
    if page.stem in ("README", "first-run"):  # here the run is made
        shutil.rmtree(tmp_path / "runs")
    shutil.copy(ROOT / "tests/agents/own_agent.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {"__name__": f"page_{page.stem.replace('-', '_')}"}
    runners: dict[str, Callable[[str], object]] = {
        "sh": run_shell,
        "python": lambda content: exec(compile(content, str(page), "exec"), names),  # noqa: S102
    }
    for language, title, content in blocks(page.read_text()):
        if title is not None:
            (tmp_path / title).write_text(content)
        else:
            runners.get(language, partial(_only_read, language))(content)


def _only_read(language: str, content: str) -> None:
    assert language in ("text", "toml", "json", "c"), f"a documented block of {language} that no test runs"


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
