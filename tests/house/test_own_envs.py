"""An env of one's own from Python: every way to give one, what the run folder keeps of it, and who finds it again."""

import functools
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab import api
from rlab.cli.main import main
from rlab.envs import EnvSpec, env_spec, make_env, make_episodes, make_vec
from rlab.envs.specs import named_here
from rlab.errors import UsageError

pytestmark = pytest.mark.usefixtures("quick_disk")
TINY = {"env_steps": 16, "num_envs": 2, "rollout_steps": 4, "minibatches": 1, "hidden": (4,), "experiment": "none"}
TINY |= {"eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 2}


@pytest.fixture
def own(monkeypatch):
    """The module of envs as a user has it, and nothing of it left afterwards."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import own_envs

    yield own_envs
    forget()


def forget():
    """Make this process one that has never heard of the module."""
    named_here.clear()
    sys.modules.pop("own_envs", None)
    gym.registry.pop("OwnWalk-v0", None)


def config(run):
    return json.loads((run.path / "config.json").read_text())["env"]


def only_line(capsys):
    _, err = capsys.readouterr()
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    return err


def test_what_a_run_keeps_of_an_env_is_a_name_that_others_can_import(own):
    ways = {
        own.Walk: ("own_envs:Walk", {}, None),
        own.make_walk: ("own_envs:make_walk", {}, None),
        own.Walk.endless: ("own_envs:Walk.endless", {}, None),
        functools.partial(own.Walk, gift=3.0): ("own_envs:Walk", {"gift": 3.0}, None),
        "OwnWalk-v0": ("own_envs:OwnWalk-v0", {}, None),
        "own_envs:Walk": ("own_envs:Walk", {}, None),
        "CartPole-v1": ("CartPole-v1", {}, None),
    }
    for given, kept in ways.items():
        spec = env_spec(given)
        assert (spec.env_id, spec.kwargs, spec.max_episode_steps) == kept
        assert EnvSpec.from_json(spec.to_json()) == spec
        assert not spec.local
    assert env_spec(gym.spec("OwnWalk-v0")).env_id == "own_envs:OwnWalk-v0"
    assert env_spec(gym.spec("CartPole-v1")).env_id == "CartPole-v1"
    assert env_spec(gym.make("OwnWalk-v0", gift=4.0).spec).kwargs == {"gift": 4.0}


def test_what_no_other_process_can_import_is_said_to_be_of_this_one(own):
    class Inner(own.Walk): ...

    for given in (lambda: own.Walk(), Inner, functools.partial(own.Walk, ends=object()), functools.partial(Inner, 2.0)):
        spec = env_spec(given)
        assert spec.local
        assert spec.to_json()["local"] is True
        read = EnvSpec.from_json(json.loads(json.dumps(spec.to_json())))
        with pytest.raises(UsageError, match=r"no other process finds it: pass it again .* rlab.evaluate\(run, env="):
            make_env(read)


def test_an_id_that_no_module_registers_is_known_by_its_class_or_else_here_alone(own):
    late_id = f"Late-v{0}"  # not as one word, or this module would be asked whether it registers the id
    gym.register(late_id, entry_point=own.Walk, max_episode_steps=2, kwargs={"gift": 5.0})
    lambda_id = f"Lambda-v{0}"
    make = lambda **kwargs: own.Walk(**kwargs)  # noqa: E731
    make.__module__ = "__main__"
    gym.register(lambda_id, entry_point=make)
    try:
        late = env_spec(late_id)
        assert (late.env_id, late.kwargs, late.max_episode_steps) == ("own_envs:Walk", {"gift": 5.0}, 2)
        here = env_spec(lambda_id)
        assert (here.env_id, here.local) == (lambda_id, True)
        make_env(EnvSpec.from_json(here.to_json())).close()  # this process has it in its registry
    finally:
        del gym.registry[late_id], gym.registry[lambda_id]
    with pytest.raises(UsageError, match="no other process"):
        make_env(EnvSpec.from_json(here.to_json()))


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_any_callable_is_trained_in_with_its_keywords_and_its_time_limit(own, vector):
    spec = env_spec(lambda gift: own.Walk(gift, ends=False), {"gift": 7.0}, max_episode_steps=3)
    env = make_vec(spec, (0,), 2, vector)
    try:
        assert env.time_limit == 3
        env.reset()
        steps = [env.step(np.ones((1, 2), dtype=np.int64)) for _ in range(3)]
        assert [step.reward.tolist() for step in steps] == [[[7.0, 7.0]]] * 3
        assert [step.truncated.tolist() for step in steps] == [[[False, False]]] * 2 + [[[True, True]]]
    finally:
        env.close()
    assert "lambda" not in gym.registry


def test_a_time_limit_that_the_env_brings_is_seen(own):
    env = make_vec(env_spec(own.make_walk), (0,), 1)
    assert env.time_limit == 6
    env.close()


def test_an_instance_is_refused_with_the_fix(own):
    for given, words in {
        own.Walk(): "this is one Walk, and rlab makes its envs itself, several of them: give lambda: Walk(...) in its",
        gym.make("CartPole-v1"): 'give "CartPole-v1" in its place',
        gym.make_vec("CartPole-v1", num_envs=1): "the single env's class or id",
        3: "not 3 (int)",
    }.items():
        with pytest.raises(UsageError) as caught:
            rlab.train("ppo", given)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_function_that_gives_one_env_again_and_again_is_refused(own):
    one = own.Walk()
    with pytest.raises(UsageError, match=r"gave the same env object again; .* lambda: Walk\(...\)"):
        make_vec(env_spec(lambda: one), (0,), 2)


def test_keywords_that_are_missing_or_unknown_are_named(own):
    def needy(size, *, color="red"):
        return own.Walk()

    for kwargs, words in {
        (): "needy needs size: env_kwargs=dict(size=...), or --env-kwargs size=...",
        (("size", 3), ("colour", 1)): "unknown keyword for needy 'colour'. Did you mean 'color'?",
    }.items():
        with pytest.raises(UsageError) as caught:
            make_vec(env_spec(needy, dict(kwargs)), (0,), 1)
        assert str(caught.value) == words


def test_what_is_no_env_is_refused(own):
    for given, words in {
        (lambda: 3): "must inherit from the gymnasium.Env class",
        "own_envs:Walkk": "unknown env 'own_envs:Walkk'. Did you mean 'own_envs:Walk'?",
        "own_envs:OwnWalk-v1": "Did you mean 'own_envs:OwnWalk-v0'?",
        "json:loads_": "json has no env 'loads_': importing it registers none",
        "no_such_envs:X": "Run this in the folder that holds it, or install it",
    }.items():
        with pytest.raises(UsageError) as caught:
            make_episodes(env_spec(given), 1)
        assert words in str(caught.value)


def test_the_command_line_finds_a_class_and_a_registered_id_again(own, tmp_path, capsys, road):
    for given, kept in {own.Walk: "own_envs:Walk", "OwnWalk-v0": "own_envs:OwnWalk-v0"}.items():
        run = rlab.train("ppo", given, out=tmp_path / kept.partition(":")[2], env_kwargs={"gift": 2.0}, **TINY)
        assert config(run)["env_id"] == kept
        assert rlab.evaluate(run.path, episodes=2).returns.tolist() == run.evaluation.returns.tolist()
        forget()
        assert main(["eval", str(run.path), "--episodes", "2"]) == 1
        assert "own_envs" in only_line(capsys)
        assert main(["eval", str(run.path), "--episodes", "2", "--trust", "--json"]) == 0
        returns = json.loads(capsys.readouterr().out)["per_seed"][0]["returns"]
        assert returns == run.evaluation.returns[0].tolist()
    assert main(["train", "ppo", "own_envs:Walk", "--out", str(tmp_path / "typed"), *road.flags(**TINY)]) == 0


def test_a_run_in_an_env_of_this_process_alone_is_played_where_the_env_is_given_again(own, tmp_path, capsys):
    class Mine(own.Walk): ...

    run = rlab.train("ppo", Mine, out=tmp_path / "run", env_kwargs={"gift": 2.0}, progress=True, **TINY)
    told = capsys.readouterr().out
    assert "note: only this process can play Mine" in told
    assert "observation Box((1,), float32): the network sees 1 number, as it is" in told
    assert "network actor: linear 1->4 (8), tanh, linear 4->2 (10); 18 parameters per member" in told  # 1*4+4, 4*2+2
    assert "only this process can play Mine" in run.report()
    assert config(run) | {"local": True} == config(run)
    judged = rlab.evaluate(run.path, env=Mine, episodes=2)
    assert judged.returns.tolist() == run.evaluation.returns.tolist()  # with the gift that the run was trained with
    assert rlab.load(run.path)(np.zeros(1, np.float32)) in (0, 1)
    assert api.collect(run.path, tmp_path / "data", env=Mine, episodes=2).path.is_dir()
    said = (
        "this policy is for observations Box((1,), float32) and actions Discrete(2), the integers 0 to 1; this env has "
        "observations Box((6,), float32) and actions Discrete(3), the integers 0 to 2. rlab finetune goes on with a"
    )
    for elsewhere in (rlab.evaluate, lambda path, **env: rlab.collect(path, tmp_path / "none", **env), rlab.play):
        with pytest.raises(UsageError) as caught:
            elsewhere(run.path, env="Acrobot-v1")
        assert str(caught.value).startswith(said)
    for words in (
        ["eval", str(run.path)],
        ["resume", str(run.path), "--env-steps", "32"],
        ["play", str(run.path), "--video", "x.gif"],
    ):
        assert main(words) != 0
        only_line(capsys)
    for call in (lambda: rlab.evaluate(run.path), lambda: rlab.finetune(run.path)):
        with pytest.raises(UsageError, match="pass it again from Python"):
            call()
    assert rlab.resume(run.path, env=Mine, env_steps=32).time == 32
    settings = {name: value for name, value in TINY.items() if name != "hidden"}
    tuned = rlab.finetune(run.path, env=Mine, out=tmp_path / "tuned", **settings)
    assert config(tuned)["local"] is True
