"""Help pages: complete, grouped, with every choice, and whole words at any width."""

import re
import typing
from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from rlab.agents import AGENTS, load_agent
from rlab.cli.finetune import FinetuneOptions
from rlab.cli.groups import COMMON, GROUP_OF, GROUPS
from rlab.cli.help import Page, grouped, page_text
from rlab.cli.main import VERBS, main
from rlab.cli.pretrain import PretrainOptions
from rlab.cli.reference import page_of, reference
from rlab.cli.serve import ServeWords
from rlab.cli.train import TrainOptions
from rlab.cli.tune import TuneOptions
from rlab.compression.export import member_file
from rlab.experience.hindsight_sampler import STRATEGIES
from rlab.jobs.defaults import agent_config
from rlab.jobs.export import FORMATS
from rlab.jobs.settings import descriptions, settings_of
from rlab.learning import choices
from rlab.learning.actor_critic import REWARD_SCALINGS
from rlab.learning.demonstration_losses import DEMONSTRATION_LOSSES
from rlab.learning.exploration_noise import NOISES
from rlab.learning.finetune_config import FinetuneConfig
from rlab.learning.novelty_config import NOVELTIES
from rlab.learning.optimizer_settings import OPTIMIZERS
from rlab.learning.returns import LOSSES
from rlab.learning.schedules import SCHEDULES
from rlab.networks.initialization import INITIALISERS
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.preprocess import SCALINGS
from rlab.runs.config import RunConfig, SourceConfig
from rlab.search.tune_settings import TuneSettings
from rlab.serving.limits import Limits

# Settings that take any text: names of files, envs, agents, wrappers; a list of steps in a language of its own.
ANY_TEXT = {
    *(
        "run",
        "runs",
        "out",
        "experiment",
        "env",
        "log_project",
        "env_kwargs",
        "vary",
        "wrapper",
        "agent",
        "dataset",
        "teacher",
        "root",
        "ranges",
        "storage",
        "video",
        "title",
    ),
    *("name", "alias", "to", "models"),
    *("features", "actions", "axes"),
    *("sources", "host", "token_file", "record"),
    *("merge", "files", "modules", "steps", "network", "device", "devices"),
}


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_no_word_is_cut_at_any_width(verb: str, columns: int) -> None:
    schemas, page = page_of(verb)
    text = page_text(schemas, page, everything=True, width=columns)
    assert text.split() == page_text(schemas, page, everything=True, width=10_000).split()  # the same words, whole
    too_long = [line for line in text.splitlines() if len(line) > columns]
    assert [line for line in too_long if len(line.split()) > 1 and not line.startswith("  --")] == []
    assert max(map(len, text.splitlines())) <= max(120, columns)


def test_the_width_is_that_of_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    narrow = shown(capsys, "eval", "--help")
    assert max(map(len, narrow.splitlines())) <= 60
    assert "\x1b" not in narrow  # nothing but text, with NO_COLOR or without


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_setting_of_every_verb_has_a_line_of_help_and_shows_its_choices(verb: str) -> None:
    schemas, page = page_of(verb)
    for heading, settings in grouped(schemas, page):
        assert heading
        for setting in settings:
            assert setting.help, setting.name
            if setting.choices == () and setting.hint in (str, str | None, tuple[str, ...]):
                assert setting.name in ANY_TEXT, f"{setting.name} takes any text, or shows its choices"


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_setting_of_every_agent_has_a_group_a_line_of_help_and_shows_its_choices(agent: str) -> None:
    for name, setting in settings_of((agent_config(agent),)).items():
        assert name in GROUP_OF, name
        assert setting.help, name
        assert setting.choices or setting.hint not in (str, str | None) or name in ANY_TEXT, name


def test_the_table_of_groups_names_each_setting_once_and_nothing_else() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    of_verbs = TrainOptions, FinetuneOptions, PretrainOptions, TuneOptions, TuneSettings, ServeWords, Limits
    kinds: list[Any] = [*of_verbs, RunConfig, SourceConfig, FinetuneConfig]
    known = {f.name for kind in (*kinds, *(load_agent(a).Config for a in AGENTS)) for f in fields(kind)}  # type: ignore[attr-defined]
    assert known - set(names) == set()
    assert set(names) - known <= {"run", "network", "allow_version_change", "quiet"}
    assert set(names) >= COMMON


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (choices.Activation, ACTIVATIONS),
        (choices.Init, INITIALISERS),
        (choices.ObsScaling, SCALINGS),
        (choices.RewardScaling, REWARD_SCALINGS),
        (choices.Optimizer, OPTIMIZERS),
        (choices.LrSchedule, SCHEDULES),
        (choices.ValueLoss, LOSSES),
        (choices.DemonstrationLoss, DEMONSTRATION_LOSSES),
        (choices.Hindsight, ("none", *STRATEGIES)),
        (choices.Novelty, NOVELTIES),
        (choices.Noise, NOISES),
    ],
)
def test_the_choices_that_are_shown_are_those_that_there_are(kind: Any, table: Any) -> None:
    assert set(typing.get_args(kind)) == set(table)


def test_the_choices_of_export_cloning_and_encoders_are_those_that_there_are() -> None:
    from rlab.agents import bc, encoder

    shown_ = {setting.name: set(setting.choices) for setting in settings_of(page_of("export")[0]).values()}
    assert shown_["format"] == set(FORMATS)
    assert shown_["exporter"] == set(member_file.EXPORTERS)
    assert set(typing.get_args(choices.CloningLoss)) == set(bc.LOSSES)
    assert set(typing.get_args(choices.EncoderObjective)) == set(encoder.OBJECTIVES)


def test_the_short_page_has_what_most_people_use_and_names_the_long_one(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = shown(capsys, "train", "dqn", "--help"), shown(capsys, "train", "dqn", "--help-all")
    flags = [re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE) for text in (short, long)]
    assert 12 <= len(flags[0]) <= 20
    config = agent_config("dqn")
    every = {f.name for part in (TrainOptions(), RunConfig(), SourceConfig(), config) for f in fields(part)}
    assert {flag[2:].replace("-", "_") for flag in flags[1]} == every - {"updates"}  # the budget of other agents
    assert f"{len(flags[1]) - len(flags[0])} more settings: rlab train dqn --help-all" in short


def test_the_page_of_an_agent_in_an_env_names_the_experiment_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    for env, experiment in (("CartPole-v1", "dqn-CartPole-v1"), ("Nowhere-v0", "none")):
        words = " ".join(shown(capsys, "train", "dqn", env, "--help").split())
        assert f"none: the agent's plain defaults (default: {experiment})" in words


def test_the_page_of_an_agent_in_an_env_shows_the_tuned_defaults_and_the_usual_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(capsys, "train", "ppo", "CartPole-v1", "--help-all")
    assert text.startswith("usage: rlab train ppo CartPole-v1 [settings]\n\nProximal policy optimisation")
    assert "(default: 20, from experiment ppo-CartPole-v1; else 10)" in " ".join(text.split())


@pytest.mark.parametrize("words", [["winged_agent:WingedAgent"], ["winged_agent:WingedAgent", "NoSuchEnv-v0"]])
@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_the_page_of_an_agent_of_ones_own_shows_its_own_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any, words: list[str], flag: str
) -> None:
    (tmp_path / "winged_agent.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from rlab.agents.dqn import DQN, DQNConfig\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class OwnConfig(DQNConfig):\n"
        "    learning_rate: float = 0.1  # its step\n"
        "    wings: int = 2  # how many it has\n"
        "    feathers: str = field(default='down', metadata={'choices': ('down', 'flight'), 'group': 'network'})\n"
        "class WingedAgent(DQN):\n"
        "    'Flies.'\n"
        "    Config = OwnConfig\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = shown(capsys, "train", *words, flag)
    assert "Flies." in text
    assert re.search(r"settings of winged_agent:WingedAgent:\n  --wings INT +how many it has \(default: 2\)", text)
    assert "--learning-rate FLOAT" in text
    assert re.search(r"network:(\n  .*)*\n  --feathers \{down, flight\}", text)


@pytest.mark.parametrize("agent", ["bc", "cql", "iql", "dqfd", "encoder"])
def test_the_page_of_an_agent_without_an_env_lists_no_setting_of_envs(
    capsys: pytest.CaptureFixture[str], agent: str
) -> None:
    text = shown(capsys, "train", agent, "--help-all")
    flags = set(re.findall(r"--[a-z-]+", text))
    assert not flags & {"--env-steps", "--num-envs", "--vector", "--demonstration-share"}
    assert {"--updates", "--dataset", "--max-episode-steps"} <= flags  # the last is for judging
    assert ("--teacher" in flags) is (agent in ("cql", "dqfd"))


def test_every_verb_has_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert shown(capsys, verb, "--help").startswith(f"usage: rlab {verb}")


def test_the_reference_holds_every_verb_and_agent_as_plain_data() -> None:
    import json

    data = json.loads(json.dumps(reference(), allow_nan=False))
    assert [each["verb"] for each in data["verbs"]] == list(VERBS)
    assert [each["agent"] for each in data["agents"]] == sorted(AGENTS)
    (dqn,) = [each for each in data["agents"] if each["agent"] == "dqn"]
    named = {setting["name"]: setting for group in dqn["groups"] for setting in group["settings"]}
    assert named.keys() == {f.name for f in fields(agent_config("dqn"))}
    assert named["optimizer"]["choices"] == sorted(named["optimizer"]["choices"], key=list(OPTIMIZERS).index)
    assert (named["gamma"]["default"], named["gamma"]["type"], named["gamma"]["common"]) == (0.99, "FLOAT", True)


def test_the_help_of_a_field_is_the_comment_behind_it_above_it_or_its_text_below_and_is_inherited() -> None:
    @dataclass(frozen=True)
    class Parent:
        a: int = 1  # behind
        # above,
        # on two lines
        b: int = 2
        c: int = 3
        """Below."""
        d: int = 4

    @dataclass(frozen=True)
    class Child(Parent):
        a: int = 5
        b: int = field(default=6)  # anew

    assert descriptions(Parent) == {"a": "behind", "b": "above, on two lines", "c": "Below."}
    assert descriptions(Child) == {"a": "behind", "b": "anew", "c": "Below."}


def test_a_page_shows_what_is_hidden_nowhere() -> None:
    text = page_text((RunConfig(),), Page("rlab x", hidden=frozenset({"vector"})), everything=True)
    assert "--vector" not in text
    assert "--num-envs" in text
