"""SAC and TD3 as somebody else's files: they use public names alone, learn, and live the life of registered agents."""

import ast
import re
import sys
from pathlib import Path

import pytest

import rlab

OUTSIDE = Path(__file__).parent / "outside"
LINES = {"sac": 150, "td3": 60}  # that are not blank
AGENTS = {"sac": "sac:SAC", "td3": "td3:TD3"}
EACH = pytest.mark.parametrize("agent", AGENTS.values())
PROBE = "rlab/ProbeContinuous-v0"
SMALL = {"hidden": (16,), "batch_size": 32, "learning_starts": 50, "gamma": 0.9, "learning_rate": 5e-3}


@pytest.fixture(autouse=True)
def _in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OUTSIDE)
    for name in LINES:  # a clone in a folder of that name is a package to pytest
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", LINES)
def test_the_file_is_short_and_uses_public_names_alone(name: str) -> None:
    source = (OUTSIDE / f"{name}.py").read_text()
    assert sum(bool(line.strip()) for line in source.splitlines()) <= LINES[name]
    tree = ast.parse(source)
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in imported if module.startswith(("rlab.jobs", "rlab.cli", "rlab.agents"))]
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import) for a in node.names}
    assert not [name for name in names if name.startswith("_") and name not in ("_", "__init__")]
    assert not re.findall(r"setattr|monkeypatch|__dict__", source)


@EACH
def test_it_learns_its_probe_world_in_every_seed(agent: str, tmp_path: Path) -> None:
    budget = {"seeds": 3, "env_steps": 1_600, "eval_every": 0, "final_eval_episodes": 10}
    run = rlab.train(agent, PROBE, out=tmp_path / "run", **budget, **SMALL)
    assert run.evaluation is not None
    assert (run.evaluation.returns > 0.95).all(), run.evaluation.returns  # 1 - (action - observation)^2


@pytest.mark.prove
@EACH
def test_it_learns_to_balance_a_pendulum_in_20_000_env_steps(agent: str, tmp_path: Path) -> None:
    budget = {"seeds": 5, "env_steps": 20_000, "eval_every": 0, "final_eval_episodes": 50}
    run = rlab.train(agent, "Pendulum-v1", experiment="none", out=tmp_path / "run", **budget)
    assert run.evaluation is not None
    assert run.evaluation.returns.mean() > -200.0, run.evaluation.returns.mean(axis=1)
