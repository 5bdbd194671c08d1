"""What rlab says to the owner of an agent: its tuned settings, and how to go on with its run."""

from pathlib import Path

import pytest

from rlab.agents import load_agent
from rlab.errors import UsageError
from rlab.jobs.experiment_files import find_experiment
from rlab.jobs.foreign_code import to_resume

OWN = """
from rlab.agents.dqn import DQN


class Mine(DQN):
    "DQN with another name."
"""
ENV = {"format": 1, "env_id": "CartPole-v1", "kwargs": {}, "wrappers": [], "max_episode_steps": None}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "agent_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "agent_of_mine:Mine"


def test_a_subclass_may_use_the_tuned_file_of_the_agent_it_extends(mine: str) -> None:
    found = find_experiment(mine, "CartPole-v1", "dqn-CartPole-v1")
    assert found is not None
    assert found.settings
    assert issubclass(load_agent(mine), load_agent(found.agent))
    assert find_experiment(mine, "CartPole-v1", None) is None  # not without being asked for
    with pytest.raises(UsageError, match=r"experiment ppo-CartPole-v1 tunes ppo; agent_of_mine:Mine is not one of its"):
        find_experiment(mine, "CartPole-v1", "ppo-CartPole-v1")


def test_the_command_that_goes_on_has_trust_where_it_is_needed(mine: str, tmp_path: Path) -> None:
    assert to_resume("runs/a", {"agent": "dqn", "env": ENV, "settings": {}}) == "rlab resume runs/a"
    own = {"agent": mine, "env": ENV, "settings": {}}
    assert to_resume("runs/a", own) == "rlab resume runs/a --trust"
    (tmp_path / ".rlab-trust").write_text("agent_of_mine\n")
    assert to_resume("runs/a", own) == "rlab resume runs/a"
