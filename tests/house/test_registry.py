"""Agents by name, and the bridge that makes agents/, envs/ and experiments/ part of rlab in a checkout."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rlab
from rlab.agents import AGENTS, ELSEWHERE, load_agent
from rlab.errors import RlabError, UsageError
from rlab.jobs.list import rows_of
from rlab.jobs.settings import merge

ROOT = Path(rlab.__file__).parent.parent


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_registered_agent_resolves(name: str) -> None:
    found = load_agent(name)
    assert isinstance(found, type)
    assert f"{found.__module__}:{found.__qualname__}" == AGENTS[name]


@pytest.mark.parametrize("words", sorted({each for each in ELSEWHERE.values() if "--" in each or "train" in each}))
def test_settings_that_stand_for_another_library_s_agent_exist(words: str) -> None:
    named = re.search(r"(?:rlab train|It is|such as) (?!a )(\w+)", words)
    assert named is not None
    config: Any = load_agent(named[1]).Config()  # type: ignore[attr-defined]
    for flag, value in re.findall(r"--([a-z-]+[a-z])(?: (\w+(?:\.\d+)?))?", words):
        name, off = flag.removeprefix("no-").replace("-", "_"), flag.startswith("no-")
        given: Any = (int(value) if value.isdigit() else value) if value else not off
        assert getattr(merge(config, {name: given}, "the table"), name) == given != getattr(config, name)


def test_the_list_of_agents_says_what_each_takes() -> None:
    rows = {row["agent"]: row for row in rows_of("agents")}
    assert rows.keys() == AGENTS.keys()
    assert all(row["actions"] and row["data"] and row["what"].endswith(".") for row in rows.values())
    dqn, td3, bc = rows["dqn"], rows["td3"], rows["bc"]
    assert (dqn["actions"], dqn["data"]) == (["one choice"], "replay")
    assert {"masks", "distributional values", "hindsight", "a teacher", "fine-tuning"} <= set(dqn["takes"])
    assert (td3["actions"], "masks" in td3["takes"]) == (["numbers"], False)
    assert (bc["data"], "hindsight" in bc["takes"]) == ("a dataset", False)
    assert "memory" in rows["ppo"]["takes"]


@pytest.fixture
def outsider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with an agent of somebody else's."""
    source = "from rlab.agents import dqn\nclass Mine(dqn.DQN): pass\nclass Half: Config = data = 1\nVALUE = 3\n"
    (tmp_path / "outsiders_agent.py").write_text(source)
    (tmp_path / "outsiders_broken.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "outsiders_agent"


def test_anyone_s_agent_loads_by_module_and_class(outsider: str) -> None:
    assert load_agent(f"{outsider}:Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dqm", "unknown agent 'dqm'. Did you mean 'dqn'?"),
        ("MPO", "rlab does not have the agent 'MPO'. For actions that are numbers it has sac, td3, ddpg, "),
        (
            "QR-DQN",
            "rlab does not have the agent 'QR-DQN'. It is a setting: rlab train dqn ENV --value-head qr. An age",
        ),
        ("xyz", "unknown agent 'xyz'. Known: "),
        ("outsiders_agent:Mien", "unknown class in outsiders_agent 'Mien'. Did you mean 'Mine'?"),
        ("outsiders_agent:VALUE", "unknown class in outsiders_agent 'VALUE'. Known: Half, Mine."),
        ("outsiders_agent:", "unknown class in outsiders_agent ''. Known: Half, Mine."),
        (
            "outsiders_agent:Half",
            "outsiders_agent:Half is not an agent: it lacks action_spaces, networks, optimiz",
        ),
        ("nowhere_at_all.deep:X", "agent 'nowhere_at_all.deep:X': there is no module 'nowhere_at_all.deep'."),
        ("outsiders_agent.deep:X", "agent 'outsiders_agent.deep:X': there is no module 'outsiders_agent.deep'."),
        (":X", "agent ':X': there is no module ''."),
        ("..up:X", "agent '..up:X': there is no module '..up'."),
    ],
)
def test_a_wrong_name_gets_one_line(outsider: str, name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_agent(name)
    assert str(caught.value).startswith(said)


def test_a_module_that_fails_when_imported_is_not_called_absent(outsider: str) -> None:
    with pytest.raises(RlabError, match=r"importing outsiders_broken failed: .*'a_package_that_nobody_has'"):
        load_agent("outsiders_broken:X")


@pytest.mark.parametrize("room", ["agents", "envs", "experiments"])
def test_a_top_level_folder_is_part_of_rlab(room: str) -> None:
    assert importlib.import_module(f"rlab.{room}").__name__ == f"rlab.{room}"


@pytest.mark.parametrize("room", ["agents", "envs", "experiments"])
def test_a_top_level_folder_refuses_to_be_imported_under_its_own_name(room: str) -> None:
    script = f"import {room}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ImportError: ")
    assert f"rlab.{room}, not" in said


def test_the_bridge_exposes_nothing_else_of_the_checkout() -> None:
    assert (ROOT / "tests").is_dir()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("rlab.tests")


def test_import_rlab_stays_light() -> None:
    script = "import sys, rlab; sys.exit(bool({'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_python_way_is_there_on_demand() -> None:
    assert callable(rlab.train)
    assert callable(rlab.load)
    with pytest.raises(AttributeError, match="module 'rlab' has no attribute 'trian'"):
        rlab.trian  # type: ignore[attr-defined]  # noqa: B018
