"""Env specs: plain data in, plain data out, and one clear line for everything that does not exist."""

import json
import sys

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.envs import EnvSpec, list_envs, make_env
from rlab.envs.ids import ENTRY_POINTS, ON_DEMAND, Package, registered
from rlab.errors import RlabError, UsageError

ROBOTICS = ON_DEMAND["Fetch"].installed
GONE = pytest.mark.skipif(ROBOTICS, reason="Gymnasium-Robotics has the envs that Gymnasium has no more")
NEWER = pytest.mark.skipif("Taxi-v4" not in gym.registry, reason="Gymnasium before 1.3 still has these ids")


def message_of(call, *args, **kwargs):
    with pytest.raises(UsageError) as caught:
        call(*args, **kwargs)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_are_json_literals_or_else_strings():
    words = ["a=1", "b=1.5", "c=true", "d=False", "e=None", "f=word", "g=[1,2]", "h=x=y", "i=nano", 'j="1"', "k="]
    spec = EnvSpec.parse("CartPole-v1", words)
    assert spec.kwargs == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": False,
        "e": None,
        "f": "word",
        "g": [1, 2],
        "h": "x=y",
        "i": "nano",
        "j": "1",
        "k": "",
    }


def test_wrappers_are_a_name_and_its_arguments():
    words = [
        "FlattenObservation",
        "StickyAction:repeat_action_probability=0.25",
        "AtariPreprocessing:screen_size=[84,84],grayscale_obs=true",
        "their.module:Thing",
        'their.module:Thing:names="a,b",n=2',
    ]
    assert [EnvSpec("x", wrappers=(parse(word),)).wrappers[0] for word in words] == [
        ("FlattenObservation", {}),
        ("StickyAction", {"repeat_action_probability": 0.25}),
        ("AtariPreprocessing", {"screen_size": (84, 84), "grayscale_obs": True}),
        ("their.module:Thing", {}),
        ("their.module:Thing", {"names": "a,b", "n": 2}),
    ]


def parse(word):
    from rlab.envs.specs import _parse_wrapper

    return _parse_wrapper(word)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
arguments = st.dictionaries(st.from_regex(r"[a-z]\w{0,8}", fullmatch=True).filter(lambda key: key != "id"), json_values)


@given(
    kwargs=arguments,
    wrappers=st.lists(st.tuples(st.text(), arguments)),
    limit=st.none() | st.integers(1, 10**6),
)
@settings(max_examples=30)
def test_a_spec_survives_the_way_through_json(kwargs, wrappers, limit):
    spec = EnvSpec("Name-v0", kwargs, tuple(wrappers), limit)
    assert EnvSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"env_id": 3},
        {"kwargs": None},
        {"kwargs": [["size", 3]]},
        {"wrappers": ["Flat"]},
        {"wrappers": [{"name": "x"}]},
        {"max_episode_steps": "9"},
    ],
)
def test_a_broken_spec_gives_one_line(change):
    with pytest.raises(RlabError, match="this env spec cannot be read") as caught:
        EnvSpec.from_json({**EnvSpec("x").to_json(), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("CartPole-v2", "env 'CartPole-v2' does not exist (any more). Did you mean 'CartPole-v1'?"),
        ("CartPole", "env 'CartPole' has no version. Did you mean 'CartPole-v1'?"),
        ("cartpole-v1", "unknown env 'cartpole-v1'. Did you mean 'CartPole-v1'?"),
        ("Cartpoel-v1", "unknown env 'Cartpoel-v1'. Did you mean 'CartPole-v1'?"),
        ("LunarLander-v2", "env 'LunarLander-v2' does not exist (any more). Did you mean 'LunarLander-v3'?"),
        ("CarRacing-v2", "env 'CarRacing-v2' does not exist (any more). Did you mean 'CarRacing-v3'?"),
        pytest.param("Taxi-v3", "env 'Taxi-v3' does not exist (any more). Did you mean 'Taxi-v4'?", marks=NEWER),
        pytest.param("Ant-v2", "env 'Ant-v2' does not exist (any more). Did you mean 'Ant-v5'?", marks=[NEWER, GONE]),
        pytest.param(
            "HalfCheetah-v3",
            "env 'HalfCheetah-v3' does not exist (any more). Did you mean 'HalfCheetah-v5'?",
            marks=[NEWER, GONE],
        ),
        ("ProbeDelayed-v0", "unknown env 'ProbeDelayed-v0'. Did you mean 'rlab/ProbeDelayed-v0'?"),
        ("ZorgNoFrameskip-v4", "env 'ZorgNoFrameskip-v4' is an older name of an Atari game. Did you mean 'ALE/Zorg-v"),
        ("zzz-v9", "unknown env 'zzz-v9'. `rlab list envs` shows all envs; name your own as module:Class."),
        ("what is this", "'what is this' is not an env id: expected Name-v0, space/Name-v0, module:Class or module:Id"),
        ("nowhere_at_all:Env-v0", "env 'nowhere_at_all:Env-v0': cannot import the module 'nowhere_at_all'"),
    ],
)
def test_an_id_that_does_not_exist_gets_the_likeliest_one(asked, hint):
    assert message_of(EnvSpec.parse, asked).startswith(hint)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["length"], "--env-kwargs expects key=value, not 'length'"),
        (["2x=3"], "--env-kwargs expects key=value, not '2x=3'"),
        (["max_episode_steps=9"], "max_episode_steps cannot be an env keyword: use --max-episode-steps"),
        (["render_mode=human"], "render_mode cannot be an env keyword: rlab chooses it"),
    ],
)
def test_bad_keywords_are_refused(words, message):
    assert message_of(EnvSpec.parse, "CartPole-v1", words) == message


def test_a_time_limit_is_at_least_one_step():
    assert message_of(EnvSpec, "CartPole-v1", max_episode_steps=0) == "max_episode_steps must be 1 or more, not 0"


def test_an_unknown_keyword_gets_the_near_miss():
    spec = EnvSpec.parse("CartPole-v1", ["suton_barto_reward=true"])
    assert message_of(make_env, spec) == (
        "unknown keyword for CartPole-v1 'suton_barto_reward'. Did you mean 'sutton_barto_reward'?"
    )


def test_a_module_before_the_colon_is_imported_and_registers(tmp_path, monkeypatch):
    source = "import gymnasium\ngymnasium.register('Theirs-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    (tmp_path / "their_envs_of_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    spec = EnvSpec.parse("their_envs_of_test:Theirs-v0")
    assert make_env(spec).observation_space.shape == (3,)
    assert spec.foreign_modules == ("their_envs_of_test",)
    del gym.registry["Theirs-v0"], sys.modules["their_envs_of_test"]


def test_reading_a_spec_imports_nothing():
    spec = EnvSpec.from_json(EnvSpec("evil_module:E-v0", wrappers=(("evil.two:W", {}), ("ClipAction", {}))).to_json())
    assert spec.foreign_modules == ("evil_module", "evil.two")
    assert not {"evil_module", "evil.two"} & sys.modules.keys()


MISSING = Package("Nothing", "no_such_module_here", "rlab-agents[nothing]")


@pytest.mark.parametrize("prefix", sorted(ON_DEMAND))
def test_a_missing_package_gives_the_pip_line(prefix, monkeypatch):
    monkeypatch.setitem(ON_DEMAND, prefix, MISSING)
    line = f'{prefix}Any-v0 needs Nothing: pip install "rlab-agents[nothing]"'
    assert message_of(EnvSpec.parse, f"{prefix}Any-v0") == line


def test_a_registered_env_whose_engine_is_missing_gives_the_pip_line(monkeypatch):
    assert ENTRY_POINTS["gymnasium.envs.box2d"] == Package("Box2D", "Box2D", "rlab-agents[box2d]")
    missing = Package("Box2D", "no_such_module_here", "rlab-agents[box2d]")
    monkeypatch.setitem(ENTRY_POINTS, "gymnasium.envs.box2d", missing)
    line = 'LunarLander-v3 needs Box2D: pip install "rlab-agents[box2d]"'
    assert message_of(EnvSpec.parse, "LunarLander-v3") == line
    rows = {row.env_id: row for row in list_envs()}
    assert (rows["LunarLander-v3"].install, rows["LunarLander-v3"].installed) == ("rlab-agents[box2d]", False)


@pytest.mark.parametrize(
    ("prefix", "env_id"),
    [("ALE/", "ALE/Pong-v5"), ("MinAtar/", "MinAtar/Breakout-v1"), ("MiniGrid-", "MiniGrid-Empty-5x5-v0")],
)
def test_a_namespace_registers_on_demand(prefix, env_id):
    package = ON_DEMAND[prefix]
    if not package.installed:
        pytest.skip(f"{package.name} is not installed: pip install '{package.install}'")
    assert registered(env_id).id == env_id
    assert env_id in [row.env_id for row in list_envs()]


def test_the_list_names_what_is_here_and_what_is_missing():
    rows = list_envs()
    ids = [row.env_id for row in rows]
    assert ids == sorted(set(ids))
    assert {"CartPole-v1", "rlab/ProbeEndless-v0"} <= set(ids)
    if "Taxi-v4" in ids and not ROBOTICS:  # a Gymnasium that keeps the old ones only to say that they are gone
        assert "Ant-v2" not in ids
    for row in rows:
        assert row.installed or row.install
        if row.env_id.endswith("*"):
            assert not row.installed


@pytest.mark.filterwarnings("error")
def test_an_older_version_that_still_works_brings_no_warning():
    assert make_env(EnvSpec.parse("CartPole-v0")).spec.max_episode_steps == 200
