"""What an env receives is settled before the first one is made: in training, after JSON, in judging the same."""

import enum
import json
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlab
from rlab.envs import EnvSpec, make_episodes, make_vec
from rlab.errors import UsageError
from rlab.runs import files

RECEIVED = []  # what the envs of this module were made with, as text: types and order show in it


class Told(gym.Env):
    """Pays 1 a step where it was made with `size == (3, 9)`, else 0; five steps to an episode. Spoils its keywords."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, **kwargs):
        RECEIVED.append(repr(kwargs))
        self.pay = float(kwargs.get("size") == (3, 9))
        for value in kwargs.values():
            if isinstance(value, list | dict):
                value.clear()

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), self.pay, self.t == 5, False, {}


class ToldWrapper(gym.Wrapper):
    def __init__(self, env, **kwargs):
        super().__init__(env)
        RECEIVED.append(repr(kwargs))


@pytest.fixture(autouse=True, scope="module")
def told():
    gym.register("rlab-test/Told-v0", Told)
    yield "rlab-test/Told-v0"
    del gym.registry["rlab-test/Told-v0"]


def received(make):
    """What the envs that `make` makes were told, each once."""
    RECEIVED.clear()
    make().close()
    return set(RECEIVED)


SIZE = {"size": (3, 9), "deep": {"b": [1, (2.0, None)], "a": "x"}, "n": np.int64(3), "table": np.eye(2)}


def test_training_judging_and_resuming_play_the_env_that_was_asked_for(told, tmp_path):
    RECEIVED.clear()
    small = {"env_steps": 64, "num_envs": 2, "rollout_steps": 16, "eval_every": 32, "eval_episodes": 2}
    run = rlab.train("ppo", told, env_kwargs=SIZE, out=tmp_path / "run", final_eval_episodes=3, **small)
    assert run.evaluation.returns.tolist() == [[5.0, 5.0, 5.0]]
    assert rlab.evaluate(run.path, episodes=3).returns.tolist() == [[5.0, 5.0, 5.0]]
    (tmp_path / "run" / "result.json").unlink()  # as if it had been stopped before it was judged
    rlab.api.resume(run.path)
    rlab.collect(run.path, tmp_path / "data", episodes=2, member=np.int64(0))
    rlab.pretrain("bc", tmp_path / "data", out=tmp_path / "cloned", updates=2, final_eval_episodes=1)
    rlab.finetune(run.path, member=np.int64(0), out=tmp_path / "tuned", final_eval_episodes=1, **small)
    deep = "'deep': {'a': 'x', 'b': [1, (2.0, None)]}"
    assert set(RECEIVED) == {f"{{{deep}, 'n': 3, 'size': (3, 9), 'table': [[1.0, 0.0], [0.0, 1.0]]}}"}
    assert SIZE["deep"] == {"b": [1, (2.0, None)], "a": "x"}, "the caller's own values are not lent to the env"


numbers = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
numpy_numbers = st.sampled_from([np.int8, np.uint64, np.float32, np.float64, np.bool_]).map(lambda kind: kind(1.25))
leaves = st.none() | numbers | numpy_numbers | st.text() | st.lists(numbers, max_size=3).map(np.array)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
names = st.from_regex(r"[a-z]{1,6}", fullmatch=True).filter(lambda key: key not in ("id", "env"))


@given(kwargs=st.dictionaries(names, values, max_size=3), args=st.dictionaries(names, values, max_size=3))
@settings(max_examples=30, deadline=None)
def test_an_env_receives_after_json_what_it_received_in_training(kwargs, args):
    spec = EnvSpec("rlab-test/Told-v0", kwargs, ((f"{__name__}:ToldWrapper", args),))
    written = files.to_json(spec.to_json(), Path("config.json"))
    again = EnvSpec.from_json(json.loads(written))
    training = received(lambda: make_vec(spec, (0,), 1))
    assert received(lambda: make_vec(again, (0,), 1)) == training
    assert received(lambda: make_episodes(again, 1)) == training
    assert received(lambda: make_vec(spec, (0,), 1)) == training, "an env that changes its keywords changed the spec's"


class Colour(enum.IntEnum):
    RED = 1


@dataclass
class Options:
    speed: int = 1


HOLDS_ITSELF: list = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({1, 2}, "env_kwargs['x']: {1, 2} (set) cannot be written to config.json; use numbers, texts"),
        (Options, "(type) cannot be written"),
        (Options(), "env_kwargs['x']: Options(speed=1) (Options) cannot be written"),
        (abs, "(builtin_function_or_method) cannot be written"),
        (Colour.RED, "env_kwargs['x']: <Colour.RED: 1> (Colour) cannot be written"),
        (b"ab", "env_kwargs['x']: b'ab' (bytes) cannot be written"),
        (Path("maps"), "(PosixPath) cannot be written"),
        (1 + 2j, "(complex) cannot be written"),
        (namedtuple("Size", "a b")(1, 2), "env_kwargs['x']: Size(a=1, b=2) (Size) cannot be written"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "env_kwargs['x'][0]: datetime.date(2026, 1, 1) (date)"),
        (np.zeros(10_001), "env_kwargs['x']: an array of 10001 numbers is too large"),
        ({"a": [0, {"b": float("nan")}]}, "env_kwargs['x']['a'][1]['b']: nan cannot be written to config.json"),
        (np.float32("inf"), "env_kwargs['x']: inf cannot be written to config.json"),
        ({3: 1}, "env_kwargs['x']: the key 3 (int) cannot be written to config.json"),
        ({"__tuple__": 1}, "env_kwargs['x']: the key '__tuple__' is how config.json writes tuples"),
        (HOLDS_ITSELF, "too many nested lists for config.json"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(told, value, complaint, tmp_path):
    with pytest.raises(UsageError) as caught:
        rlab.train("ppo", told, env_kwargs={"x": value}, out=tmp_path / "run")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"wrapper W\['x'\]"):
        EnvSpec(told, wrappers=(("W", {"x": value}),))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"env_kwargs": {3: 1}}, "env_kwargs: the key 3 (int) cannot be written"),
        ({"env_kwargs": [("size", 3)]}, "env_kwargs are a dict, or words such as 'key=value', not [('size', 3)]"),
        ({"wrappers": "FlattenObservation"}, "wrappers are a list of names, such as ['FlattenObservation'], not 'Fl"),
        ({"wrappers": [gym.wrappers.FlattenObservation]}, "wrappers are a list of names"),
    ],
)
def test_keywords_and_wrappers_of_a_wrong_kind_are_refused(told, given, complaint):
    with pytest.raises(UsageError) as caught:
        rlab.train("ppo", told, **given)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("x=(3, 9)", (3, 9)),
        ("x=[3,9]", [3, 9]),
        ("x=[(1,2),(3,4)]", [(1, 2), (3, 4)]),
        ("x=['SF','FG']", ["SF", "FG"]),
        ('x={"a":[1]}', {"a": [1]}),
        ("x={'a':None}", {"a": None}),
        ("x=a(b", "a(b"),
    ],
)
def test_words_are_json_or_python_literals(word, value):
    spec = EnvSpec.parse("CartPole-v1", [word])
    assert repr(spec.kwargs["x"]) == repr(value)


@pytest.mark.parametrize("word", ["x=NaN", "x=-Infinity", "x=[1,NaN]", "x=1e999", "x=[SF,FG]", 'x="a', "x={1,2}"])
def test_words_that_nearly_are_literals_are_refused_rather_than_taken_for_texts(word):
    with pytest.raises(UsageError, match=r"config\.json|neither JSON nor a Python literal"):
        EnvSpec.parse("CartPole-v1", [word])


def test_new_wrappers_leave_the_keywords_of_a_run_and_new_keywords_its_wrappers():
    spec = EnvSpec("rlab-test/Told-v0", {"size": (3, 9)}, (("FlattenObservation", {}),), 7)
    assert spec.changed(wrappers=["ClipAction"]) == EnvSpec(spec.env_id, spec.kwargs, (("ClipAction", {}),), 7)
    assert spec.changed(["size=4"]) == EnvSpec(spec.env_id, {"size": 4}, spec.wrappers, 7)


def test_an_experiment_brings_its_env_keywords_and_wrappers_from_python_too(told, tmp_path):
    (tmp_path / "tuned.toml").write_text(
        f'format = 1\nagent = "ppo"\nenv = "{told}"\nenv_kwargs = ["size=(3, 9)", "n=1"]\n'
        'wrapper = ["FlattenObservation"]\n'
        "[run]\nenv_steps = 32\nnum_envs = 2\nfinal_eval_episodes = 1\n[settings]\nrollout_steps = 16\n"
    )
    run = rlab.train("ppo", told, env_kwargs={"n": 2}, experiment=str(tmp_path / "tuned.toml"), out=tmp_path / "run")
    assert run.evaluation.returns.tolist() == [[5.0]]
    spec = EnvSpec.from_json(files.read_json(run.path / "config.json")["env"])
    assert spec == EnvSpec(f"{__name__}:Told", {"n": 2, "size": (3, 9)}, (("FlattenObservation", {}),))
