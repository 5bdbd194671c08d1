"""A record states what is in force, and nobody sets what nothing reads."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rlab
from rlab.agents import load_agent
from rlab.cli.main import main
from rlab.envs import EnvSpec
from rlab.errors import UsageError
from rlab.jobs.defaults import COMMAND_LINE, agent_config
from rlab.jobs.request import Request, Start
from rlab.jobs.unread import as_started, unread_by_kind, unread_settings
from rlab.learning.common_config import KnowsUnread
from rlab.learning.finetune_config import FinetuneConfig
from rlab.learning.novelty_config import OF_NOVELTY
from rlab.networks.spaces import Box, Discrete
from rlab.runs.config import RunConfig, SourceConfig

MOVES = Box((2,), "float32", -math.inf, math.inf)
FEW = {"env_steps": 64, "learning_starts": 16, "eval_episodes": 1, "final_eval_episodes": 1, "experiment": "none"}


# Of switches of DQN's family that are off.
SWITCHED_OFF = {
    *("munchausen_alpha", "munchausen_temperature", "munchausen_clip", "atoms", "value_min", "value_max"),
    *("quantiles", "quantile_kappa", "noisy_sigma", "iqn_samples", "iqn_points", "iqn_cosines"),
}
NO_PRIORITIES = {"priority_alpha", "priority_beta"}
NO_MEMORY = {"memory_size", "memory_window", "sequence_length"}
NO_WINDOWS = {*NO_MEMORY, "sequence_length", "burn_in", "stored_state"}


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


WITHOUT_GOALS = {"hindsight_goals", *OF_NOVELTY}


def unread(agent: str, action_space: Any = MOVES, **settings: Any) -> set[str]:
    """Without the settings of goals and novelty, which are off in every case."""
    return set(replace(agent_config(agent), **settings).unread(action_space)) - WITHOUT_GOALS


@pytest.mark.parametrize(
    ("agent", "settings", "expected"),
    [
        (
            "dqn",
            {"replay": "prioritised"},
            {"lr_final", "lr_steps", "obs_scale", "margin", "demonstration_weight", *SWITCHED_OFF, *NO_WINDOWS},
        ),
        (
            "double_dqn",
            {"memory": "lstm", "replay": "prioritised"},
            {"lr_final", "lr_steps", "obs_scale", "margin", "demonstration_weight", *SWITCHED_OFF, "memory_window"},
        ),
        (
            "dqn",
            {"lr_schedule": "linear", "obs_scaling": "fixed"},
            {"lr_steps", "margin", "demonstration_weight", *SWITCHED_OFF, *NO_PRIORITIES, *NO_WINDOWS},
        ),
        (
            "dqn",
            {"lr_schedule": "step", "demonstration_loss": "margin"},
            {"obs_scale", *SWITCHED_OFF, *NO_PRIORITIES, *NO_WINDOWS},
        ),
        (
            "cql",
            {"lr_schedule": "step", "value_head": "c51"},
            {"obs_scale", "margin", "loss", "value_rescaling", *SWITCHED_OFF} - {"atoms", "value_min", "value_max"},
        ),
        ("cql", {"lr_schedule": "step"}, {"obs_scale", "margin", *SWITCHED_OFF}),
        (
            "ppo",
            {"lr_schedule": "step", "optimizer": "sgd", "entropy_weight": 0.1},
            {"obs_scale", "optimizer_eps", *NO_MEMORY},
        ),
        ("ppo", {}, {"lr_steps", "obs_scale", "entropy_final", *NO_MEMORY}),
        ("ppo", {"entropy_weight": 0.1}, {"lr_steps", "obs_scale", *NO_MEMORY}),
        ("a2c", {"entropy_weight": 0.1, "memory": "gru"}, {"lr_steps", "obs_scale", "memory_window"}),
        ("a2c", {"entropy_weight": 0.1, "memory": "transformer"}, {"lr_steps", "obs_scale"}),
        (
            "reinforce",
            {"baseline": False, "entropy_weight": 0.1},
            {"lr_steps", "obs_scale", "value_weight", *NO_MEMORY},
        ),
        ("bc", {"lr_schedule": "step", "value_weight": 0.0}, {"obs_scale", "gamma", "n_step"}),
        ("bc", {"lr_schedule": "step", "loss": "squared"}, {"obs_scale", "label_smoothing", "class_weights"}),
        ("encoder", {"lr_schedule": "step"}, {"obs_scale"}),
        ("encoder", {"objective": "inverse", "lr_schedule": "step"}, {"obs_scale", "forward_weight"}),
    ],
)
def test_what_is_not_read_follows_from_the_other_settings(
    agent: str, settings: dict[str, Any], expected: set[str]
) -> None:
    assert unread(agent, **settings) == expected


def test_settings_of_box_actions_are_not_read_for_others() -> None:
    for agent in ("ppo", "a2c", "reinforce", "bc", "iql", "encoder"):
        assert unread(agent, Discrete(2)) - unread(agent) == {"squash", "log_std_init"}


def test_an_agent_of_anyone_s_is_believed_to_read_all() -> None:
    assert not isinstance(SimpleNamespace(lr_schedule="constant", lr_final=0.1), KnowsUnread)


def test_settings_of_teachers_datasets_and_strategies_are_not_read_without_them() -> None:
    request = Request("dqn", EnvSpec("CartPole-v1"), RunConfig(), agent_config("dqn"), {}, "")
    without = unread_settings(request, load_agent("dqn"), Discrete(2))
    names = {"teacher_member", "teacher_weight", "teacher_fraction", "teacher_temperature", "dataset_episodes"}
    assert names | {"updates", "demonstration_loss"} <= without.keys()
    both = replace(request, sources=SourceConfig(dataset="d", demonstration_share=0.5, teacher="t"))
    assert not names & unread_settings(both, load_agent("dqn"), Discrete(2)).keys()
    tuned = replace(request, start=Start("run", None, FinetuneConfig(strategy="lora")))
    strategies = unread_settings(tuned, load_agent("dqn"), Discrete(2))
    assert {"layer_decay", "unfreeze_every"} <= strategies.keys()
    assert not {"lora_rank", "lora_alpha"} & strategies.keys()


@pytest.mark.parametrize("agent", ["bc", "cql", "iql", "dqfd", "encoder"])
def test_settings_of_envs_are_not_read_by_agents_that_step_none(agent: str) -> None:
    found = unread_by_kind(agent, load_agent(agent))
    assert {"env_steps", "num_envs", "vector", "demonstration_share"} <= found.keys()
    assert ("teacher" in found) is (agent not in ("cql", "dqfd"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dqn --lr-steps 5", "--lr-steps has no effect here: lr_schedule is constant. Leave it out."),
        ("dqn --lr-schedule cosine --lr-steps 5", "it is for the step schedule, and lr_schedule is cosine"),
        ("ppo --squash", "--squash has no effect here: it is for Box actions, and these are Discrete(n=2, start=0)"),
        ("dqn --obs-scale 1 1 1 1", "--obs-scale has no effect here: it is for obs_scaling fixed, and that is none"),
        ("dqn --margin 0.5", "--margin has no effect here: there are no demonstrations"),
        ("ppo --teacher-weight 0.5", "--teacher-weight has no effect here: no teacher is named"),
    ],
)
def test_what_nothing_would_read_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    agent, *rest = words.split()
    argv = ["train", agent, "CartPole-v1", "--experiment", "none", *rest, "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_record_has_null_and_the_reason_for_what_is_not_in_force_and_resumes_all_the_same(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rlab.train("dqn", "CartPole-v1", out=out, **FEW)
    config = config_of(out)
    assert config["settings"]["lr_steps"] is None
    assert config["not_in_force"]["lr_steps"] == "lr_schedule is constant"
    assert (config["run"]["updates"], config["sources"]["teacher_weight"]) == (None, None)
    assert config["settings"]["gamma"] == 0.99
    again = Request.from_json(config, "config.json", trust=False)
    assert again.settings == replace(agent_config("dqn"), learning_starts=16)
    assert {**again.to_json(), "format": 1, "computed_with": config["computed_with"]} == config
    assert not again.unread.keys() & again.logged().keys()


def test_python_refuses_the_same(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--log-std-init has no effect here: it is for Box actions"):
        rlab.train("ppo", "CartPole-v1", out=tmp_path / "run", log_std_init=-1.0, env_steps=64)
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_in_another_env_states_the_scaling_that_its_policy_has(tmp_path: Path) -> None:
    source, same, other = (tmp_path / name for name in ("source", "same", "other"))
    scaled = {"obs_scaling": "fixed", "obs_scale": (1.0, 2.0, 3.0, 4.0)}
    rlab.train("dqn", "CartPole-v1", out=source, **scaled, **FEW)
    few = {name: value for name, value in FEW.items() if name != "experiment"}
    rlab.finetune(source, out=same, **few)
    rlab.finetune(source, "Acrobot-v1", out=other, max_episode_steps=20, **few)
    assert config_of(same)["settings"]["obs_scale"] == [1.0, 2.0, 3.0, 4.0]
    settings = config_of(other)["settings"]
    assert (settings["obs_scaling"], settings["obs_scale"]) == ("fixed", None)  # the bounds of its own six numbers


def test_fine_tuning_a_policy_that_stands_alone_does_not_state_what_its_network_was_made_with() -> None:
    origins = {"hidden": "experiment x", "dueling": "start", "gamma": "default"}
    request = Request("dqn", EnvSpec("CartPole-v1"), RunConfig(), agent_config("dqn"), origins, "", start=Start("p"))
    found = unread_settings(request, load_agent("dqn"), Discrete(2))
    assert found["hidden"] == "the network is that of p"
    assert "dueling" not in found
    assert COMMAND_LINE not in origins.values()


def test_the_scaling_of_the_start_is_taken_as_it_is() -> None:
    config = agent_config("dqn")
    fixed = as_started(config, {"scaling": "fixed", "scale": [1.0, 2.0]})
    assert (fixed.obs_scaling, fixed.obs_scale) == ("fixed", (1.0, 2.0))
    assert as_started(config, {"scaling": "none", "scale": None}) == config
