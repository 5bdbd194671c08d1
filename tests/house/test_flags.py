"""Settings as flags and as a file's values: what is read, and the one line that says what is wrong."""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import tyro
from hypothesis import given as for_all
from hypothesis import strategies as st

from rlab.cli.flags import command_words, given, parse
from rlab.errors import RlabError, UsageError
from rlab.jobs.settings import merge
from rlab.runs.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class RunPart:
    env_steps: int = 100_000  # budget per member
    max_episode_steps: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class AgentPart:
    gamma: float = 0.99  # discount of one step, Mnih et al. 2015
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (64, 64)
    betas: tuple[float, float] = (0.9, 0.999)
    dueling: bool = False
    optimizer: str = "adam"
    clip: Literal["off"] | float = "off"
    obs_scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.gamma > 1:
            raise UsageError(f"gamma must be at most 1, not {self.gamma}")
        if self.learning_rate < 0:
            raise ValueError(f"learning_rate must not be negative, but is {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Words:
    agent: tyro.conf.Positional[str]
    member: int


BOTH = (RunPart(), AgentPart())


def read(*argv: str, schemas: Any = BOTH) -> tuple[Any, ...]:
    return parse(argv, schemas, prog="rlab train dqn", subject="dqn")


def complaint(*argv: str, schemas: Any = BOTH) -> str:
    with pytest.raises(UsageError) as caught:
        read(*argv, schemas=schemas)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_command_line_gives_the_defaults_of_the_instances_passed_in() -> None:
    tuned = AgentPart(gamma=0.9, hidden=(8,), obs_scale=(1.0, 2.0))
    assert read(schemas=(RunPart(env_steps=7), tuned)) == (RunPart(env_steps=7), tuned)


def test_a_class_gives_its_own_defaults() -> None:
    assert read("--gamma", "0.5", schemas=(RunPart, AgentPart)) == (RunPart(), AgentPart(gamma=0.5))


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        ("--gamma 0.9", "gamma", 0.9),
        ("--gamma 1", "gamma", 1.0),
        ("--gamma=0.9", "gamma", 0.9),
        ("--learning-rate 1e-4", "learning_rate", 1e-4),
        ("--learning_rate 1e-4", "learning_rate", 1e-4),
        ("--learning-rate 1 --learning-rate 2", "learning_rate", 2.0),
        ("--hidden 32", "hidden", (32,)),
        ("--hidden 32 16 8 --gamma 0.5", "hidden", (32, 16, 8)),
        ("--hidden", "hidden", ()),
        ("--betas 0.5 0.6", "betas", (0.5, 0.6)),
        ("--dueling", "dueling", True),
        ("--dueling --no-dueling", "dueling", False),
        ("--optimizer sgd", "optimizer", "sgd"),
        ("--clip off", "clip", "off"),
        ("--clip 10", "clip", 10.0),
        ("--obs-scale 2 0.5", "obs_scale", (2.0, 0.5)),
        ("--obs-scale None", "obs_scale", None),
    ],
)
def test_a_flag_sets_its_field(argv: str, field: str, value: object) -> None:
    run, agent = read(*argv.split())
    assert getattr(agent, field) == value
    assert type(getattr(agent, field)) is type(value)
    assert run == RunPart()


def test_a_field_that_may_be_none_takes_a_number_or_the_word_none() -> None:
    assert read("--max-episode-steps", "50")[0].max_episode_steps == 50
    limited = RunPart(max_episode_steps=50)
    assert read("--max-episode-steps", "None", schemas=(limited, AgentPart()))[0].max_episode_steps is None


def test_a_negative_number_is_a_value_and_not_a_flag() -> None:
    assert read("--env-steps", "-3")[0].env_steps == -3


def test_a_positional_word_may_stand_anywhere() -> None:
    assert read("--member", "3", "dqn", schemas=(Words,)) == (Words(agent="dqn", member=3),)
    assert read("dqn", "--member", "3", schemas=(Words,)) == (Words(agent="dqn", member=3),)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--gama 0.9", "unknown setting --gama for dqn. Did you mean --gamma?"),
        ("--learning_rat=3", "unknown setting --learning_rat for dqn. Did you mean --learning-rate?"),
        ("--zzz 3", "unknown setting --zzz for dqn. rlab train dqn --help lists the settings."),
        ("-gamma 3", "unknown setting -gamma for dqn. Did you mean --gamma?"),
        ("--no-gamma", "unknown setting --no-gamma for dqn. Did you mean --gamma?"),
        ("--gamma abc", "--gamma abc: not a number (float)"),
        ("--gamma=", "--gamma : not a number (float)"),
        ("--env-steps 1.5", "--env-steps 1.5: not a whole number (int)"),
        ("--env-steps 1e4", "--env-steps 1e4: not a whole number (int). Write 10000"),
        (
            "--hidden 64,32",
            "--hidden 64,32: not a list of values, each a whole number (int). Values stand apart: --hidden 64 32",
        ),
        (
            "--hidden [64, 32]",
            "--hidden [64, 32]: not a list of values, each a whole number (int). Values stand apart: --hidden 64 32",
        ),
        ("--gamma", "--gamma: a value is missing; give a number (float)"),
        ("--gamma --dueling", "--gamma: a value is missing; give a number (float)"),
        ("--betas 0.9", "--betas: a value is missing; give 2 values: a number (float), a number (float)"),
        ("--device tpu", "--device tpu: not one of auto, cpu, cuda. Did you mean cpu?"),
        ("--clip some", "--clip some: not one of off or a number (float)"),
        ("--max-episode-steps x", "--max-episode-steps x: not a whole number (int) or None"),
        ("--hidden 64 x", "--hidden 64 x: not a list of values, each a whole number (int)"),
        ("--dueling true", "--dueling takes no value: write --dueling or --no-dueling"),
        ("--dueling=1", "--dueling takes no value: write --dueling or --no-dueling"),
        ("--gamma 0.9 0.8", "one word too many: '0.8'. Settings are written --name value"),
    ],
)
def test_a_wrong_command_line_gets_one_line(argv: str, said: str) -> None:
    assert complaint(*argv.split()) == said


def test_a_missing_required_word_or_flag_is_named() -> None:
    assert complaint("--member", "1", schemas=(Words,)) == "AGENT is missing; give a text"
    assert complaint("dqn", schemas=(Words,)) == "--member is missing; give a whole number (int)"


def test_what_a_schema_itself_refuses_is_passed_on_in_one_line() -> None:
    assert complaint("--gamma", "1.5") == "gamma must be at most 1, not 1.5"
    assert complaint("--learning-rate", "-1") == "learning_rate must not be negative, but is -1.0"


def test_help_shows_every_flag_with_its_comment_and_the_default_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        read("--help-all", schemas=(RunPart(env_steps=7), AgentPart(dueling=True)))
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: rlab train dqn")
    for part in ("--env-steps INT", "budget per member (default: 7)", "--gamma FLOAT", "Mnih et al.", "--no-dueling"):
        assert part in shown


def test_two_schemas_with_one_field_name_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        seeds: int = 3

    with pytest.raises(RlabError, match=r"Config and RunConfig both have a setting seeds; .* needs another name"):
        read(schemas=(RunConfig(), Config()))


def test_a_type_that_settings_cannot_have_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        table: dict[str, int] = dataclasses.field(default_factory=dict)

    with pytest.raises(RlabError, match=r"a setting cannot have the type dict\[str, int\]"):
        read(schemas=(Config(),))


def test_given_names_the_fields_on_the_command_line_also_where_they_repeat_the_default() -> None:
    argv = ["--gamma", "0.99", "--no-dueling", "--hidden", "1", "2", "--learning_rate=3", "--env-steps", "5"]
    assert given(argv, BOTH) == {"gamma", "dueling", "hidden", "learning_rate", "env_steps"}
    assert given([], BOTH) == frozenset()


@for_all(
    st.integers(),
    st.floats(allow_nan=False, max_value=1.0),
    st.lists(st.integers(), max_size=4),
    st.booleans(),
    st.sampled_from(["auto", "cpu", "cuda"]),
    st.none() | st.integers(),
)
def test_whatever_is_written_as_flags_is_read_back(
    env_steps: int, gamma: float, hidden: list[int], dueling: bool, device: Any, limit: int | None
) -> None:
    run = RunPart(env_steps=env_steps, device=device, max_episode_steps=limit)
    agent = AgentPart(gamma=gamma, hidden=tuple(hidden), dueling=dueling)
    argv = ["--env-steps", env_steps, "--gamma", gamma, "--hidden", *hidden, "--device", device]
    argv += ["--max-episode-steps", limit, "--dueling" if dueling else "--no-dueling"]
    assert read(*map(str, argv)) == (run, agent)
    as_file = {"gamma": gamma, "hidden": hidden, "dueling": dueling}
    assert merge(AgentPart(), as_file, "a.toml") == agent


def test_merge_takes_what_toml_and_python_have_for_a_type() -> None:
    merged = merge(AgentPart(), {"gamma": 1, "hidden": [8, 4], "clip": 3, "obs_scale": (1, 2)}, "a.toml")
    assert merged == AgentPart(gamma=1.0, hidden=(8, 4), clip=3.0, obs_scale=(1.0, 2.0))
    assert type(merged.gamma) is float
    assert merge(RunPart(max_episode_steps=3), {"max_episode_steps": "None"}, "a.toml").max_episode_steps is None
    assert merge(RunPart(max_episode_steps=3), {"max_episode_steps": None}, "the call").max_episode_steps is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gama", 0.9, "a.toml: unknown setting gama. Did you mean gamma?"),
        ("gamma", "0.9", "a.toml: gamma = '0.9' is not a number (float)"),
        ("gamma", True, "a.toml: gamma = True is not a number (float)"),
        ("hidden", 64, "a.toml: hidden = 64 is not a list of values, each a whole number (int)"),
        ("hidden", [64, 0.5], "a.toml: hidden = [64, 0.5] is not a list of values, each a whole number (int)"),
        ("betas", [0.5], "a.toml: betas = [0.5] is not 2 values: a number (float), a number (float)"),
        ("dueling", 1, "a.toml: dueling = 1 is not true or false"),
        ("clip", "on", "a.toml: clip = 'on' is not one of off or a number (float)"),
        ("optimizer", 3, "a.toml: optimizer = 3 is not a text"),
        ("learning_rate", -1, "a.toml: learning_rate must not be negative, but is -1.0"),
    ],
)
def test_merge_says_what_is_wrong_with_a_setting(name: str, value: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        merge(AgentPart(), {name: value}, "a.toml")
    assert str(caught.value) == said


def test_merge_lists_the_settings_where_no_name_is_near() -> None:
    with pytest.raises(UsageError, match=r"unknown setting zzz. Known: device, env_steps, max_episode_steps.$"):
        merge(RunPart(), {"zzz": 1}, "a.toml")


def test_the_command_that_runs_keep_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["rlab", "tune", "dqn", "CartPole-v1", "--storage", "postgresql://me:secret@host/lab"]
    monkeypatch.setattr(sys, "argv", words)
    assert command_words() == "rlab tune dqn CartPole-v1 --storage postgresql://me:...@host/lab"
