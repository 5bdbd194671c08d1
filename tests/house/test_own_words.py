"""What rlab says to the owner of an agent: its tuned settings, and how to go on with its run."""

from pathlib import Path

import pytest

from rlab.agents import load_agent
from rlab.errors import UsageError
from rlab.jobs.defaults import defaults_for
from rlab.jobs.experiment_files import find_experiment
from rlab.jobs.foreign_code import resume_command
from rlab.jobs.request import train_request

OWN = """
from dataclasses import dataclass

from rlab.agents.dqn import DQN


class Mine(DQN):
    "DQN with another name."


@dataclass(frozen=True, kw_only=True)
class FewSettings:
    gamma: float = 0.9
    hidden: tuple[int, ...] = (8,)
    batch_size: int = 32
    replay_capacity: int = 1000
    learning_starts: int = 100
    learn_every: int = 8
    updates_per_learn: int = 4


class Fewer(DQN):
    "DQN with settings of its own."

    Config = FewSettings
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
    with pytest.raises(UsageError, match=r"ppo-CartPole-v1 tunes ppo, and agent_of_mine:Mine is not a subclass"):
        find_experiment(mine, "CartPole-v1", "ppo-CartPole-v1")


def test_settings_of_the_tuned_file_that_a_subclass_lacks_are_refused_by_name(mine: str) -> None:
    with pytest.raises(UsageError) as caught:
        defaults_for("agent_of_mine:Fewer", "CartPole-v1", "dqn-CartPole-v1")
    said = str(caught.value)
    assert said.startswith("agent_of_mine:Fewer has no setting layer_norm, ")
    assert ", which experiment dqn-CartPole-v1 sets for dqn; copy the file without them, and name the copy: " in said
    assert not {"hidden", "batch_size"} & set(said.partition("no setting ")[2].partition(", which")[0].split(", "))


@pytest.mark.parametrize(
    ("agent", "env", "experiment", "noted"),
    [
        ("agent_of_mine:Mine", "CartPole-v1", None, True),
        ("agent_of_mine:Mine", "CartPole-v1", "dqn-CartPole-v1", False),
        ("agent_of_mine:Mine", "FrozenLake-v1", None, False),
        ("dqn", "CartPole-v1", "none", False),
    ],
)
def test_a_subclass_is_told_of_the_tuned_file_that_it_may_use(
    mine: str, agent: str, env: str, experiment: str | None, noted: bool
) -> None:
    note = f"note: {agent} extends an agent with tuned settings for this env: --experiment dqn-CartPole-v1"
    assert (note in train_request(agent, env, (), (), experiment, {}).tuned().splitlines()) is noted


def test_the_command_that_goes_on_has_trust_where_it_is_needed(mine: str, tmp_path: Path) -> None:
    assert resume_command("runs/a", {"agent": "dqn", "env": ENV, "settings": {}}) == "rlab resume runs/a"
    own = {"agent": mine, "env": ENV, "settings": {}}
    assert resume_command("runs/a", own) == "rlab resume runs/a --trust"
    (tmp_path / ".rlab-trust").write_text("agent_of_mine\n")
    assert resume_command("runs/a", own) == "rlab resume runs/a"
