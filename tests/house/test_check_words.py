"""What `rlab check` and errors say of an env is true, names the place in the user's code, and gives a fix that fits."""

import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.cli.main import main
from rlab.envs import env_spec, make_env, obs_packing
from rlab.envs.specs import named_here
from rlab.errors import RlabError, RlabWarning, UsageError

pytestmark = pytest.mark.usefixtures("quick_disk")
UNIT = gym.spaces.Box(0.0, 10.0, (1,), np.float32)
TINY = {"env_steps": 64, "num_envs": 2, "rollout_steps": 4, "minibatches": 1, "hidden": (4,), "experiment": "none"}


class Five(gym.Env):
    """Episodes of five steps that observe 1 and pay 1."""

    observation_space = UNIT
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        return self.obs(), self.reward(), self.t == 5, False, {}

    def obs(self):
        return np.ones(1, np.float32)

    def reward(self):
        return 1.0


def five(**changed):
    """An env with something changed, and a time limit."""
    kind = type("Changed", (Five,), changed)
    return lambda: gym.wrappers.TimeLimit(kind(), 30)


def lines(env, **how):
    """What is found, but that no module names the env."""
    found = rlab.check(env, steps=40, **how).findings
    return [each.line().split("  ", 1)[1].strip() for each in found if each.code != "no-name"]


BY_NAME = "a module goes by its name, not by its file: write"
FIX_OUTSIDE = "scale or clip it, or state bounds that hold; --obs-scaling fixed divides by them"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"obs": lambda self: np.full(1, 40, np.float32)}, "its observation has 40 where its space has 0 to 10"),
        ({"obs": lambda self: np.full(1, -3, np.float32)}, "its observation has -3 where its space has 0 to 10"),
        (
            {
                "observation_space": gym.spaces.Dict({"a": UNIT, "b": UNIT}),
                "obs": lambda self: {"a": np.ones(1, np.float32), "b": np.full(1, 12, np.float32)},
            },
            "the part 'b' of its observation has 12 where its space has 0 to 10",
        ),
        (
            {
                "observation_space": gym.spaces.Box(0.0, 1.0, (4, 4, 3), np.float32),
                "obs": lambda self: np.full((4, 4, 3), 250, np.float32),
            },
            "its observation has 250 where its space has 0 to 1",
        ),
    ],
)
def test_an_observation_beyond_its_bounds_is_named_with_value_and_bounds(changed, said):
    found = [line for line in lines(five(**changed)) if not line.startswith("image")]
    assert found == [f"obs-outside: {said}; {FIX_OUTSIDE}"]


def test_a_number_that_oversteps_its_bounds_by_rounding_is_no_finding():
    assert lines(five(obs=lambda self: np.full(1, 10.0001, np.float32))) == []  # 1e-5 of the range
    free = gym.spaces.Box(np.array([-np.inf, 0], np.float32), np.array([np.inf, np.inf], np.float32))
    assert lines(five(observation_space=free, obs=lambda self: np.array([900, 5], np.float32))) == []


def test_a_reward_that_is_not_a_number_is_the_only_finding():
    (line,) = lines(five(reward=lambda self: float("nan") if self.t == 3 else 0.0))
    assert line.startswith("not-finite: it gave a non-finite reward at step 3: nan; look for a division by zero")
    assert " with returns" not in rlab.check(five(reward=lambda self: float("nan")), steps=20).report()


def test_rewards_too_large_to_square_are_an_error_and_one_beyond_float32_is_to_be_divided():
    found = rlab.check(five(reward=lambda self: 2**60), steps=40)
    assert not found.ok
    (line,) = [f.line() for f in found.findings if f.code == "reward-large"]
    assert line == (
        "error    reward-large: rewards reach 1.15e+18 in size, whose squares float32 does not hold: updates would not "
        "be finite; divide them in the env, or use --reward-scaling running"
    )
    (line,) = lines(five(reward=lambda self: 1e39))
    assert line.endswith("; divide rewards in the env")


def test_training_with_such_rewards_names_them_as_the_cause(tmp_path):
    with pytest.raises(RlabError, match=r"is not finite at update 1; .* Rewards are the cause: .* --reward-scaling ru"):
        rlab.train("ppo", five(reward=lambda self: 2.0**66), out=tmp_path / "run", **TINY, final_eval_episodes=0)


def test_a_space_that_changes_is_named_and_nothing_else():
    def reset(self, *, seed=None, options=None):
        self.action_space = gym.spaces.Discrete(3)
        return Five.reset(self, seed=seed)

    (line,) = lines(five(reset=reset))
    assert line == (
        "space-changes: its action space is Discrete(2) when it is made and Discrete(3) later; rlab reads it once, at "
        "the beginning; set it in __init__, large enough for every step; an action mask forbids what is not allowed"
    )


def test_an_ending_that_only_the_info_calls_cut_is_named():
    def step(self, action):
        self.t += 1
        return self.obs(), 1.0, self.t == 5, False, {"TimeLimit.truncated": self.t == 5}

    (line,) = lines(five(step=step))
    assert line.endswith("return terminated=False, truncated=True there")


def test_a_flat_picture_and_a_missing_time_limit_are_noted():
    picture = gym.spaces.Box(0, 255, (36, 36), np.uint8)
    (line,) = lines(five(observation_space=picture, obs=lambda self: np.zeros((36, 36), np.uint8)))
    assert line.startswith("image: an array (36, 36) of uint8 is taken as 1296 plain numbers, not as an image; ")
    assert [line.partition(":")[0] for line in lines(Five)] == ["no-time-limit"]
    assert "8 episodes of 5 steps with returns 5" in rlab.check(Five, steps=40).report()


@pytest.mark.parametrize("space", [gym.spaces.Sequence(UNIT), gym.spaces.Text(4)])
def test_the_advice_for_a_space_is_one_that_can_help(space):
    (line,) = lines(five(observation_space=space))
    assert line.endswith("; your own wrapper can make arrays: --wrapper my_module:MyWrapper")
    assert "MiniGrid" not in line


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reset": lambda self, seed=None: (self.obs(), {})}, "def reset(self, *, seed=None, options=None)"),
        (
            {"reset": lambda self, **how: (np.ones(1, np.float32), None)},
            "it returned 2 values from reset, the last of which is None, but reset must return two values, obs",
        ),
    ],
)
def test_an_env_of_ones_own_is_not_sent_to_another_package(changed, said):
    (line,) = lines(type("Changed", (Five,), changed))
    assert said in line
    assert "shimmy" not in line
    with pytest.raises(UsageError, match="cannot be made: its function returned None; end it with: return "):
        make_env(env_spec(lambda: None))


def test_a_failure_names_the_line_of_the_users_code_in_one_line(tmp_path):
    def step(self, action):
        raise ValueError("first\nsecond")

    where = f"test_check_words.py:{step.__code__.co_firstlineno + 1}"
    (line,) = lines(five(step=step))
    assert line.startswith(f"raised: it failed at step 1: ValueError: first second ({where}); fix it there;")
    with pytest.raises(RlabError) as caught:
        rlab.train("ppo", five(step=step), out=tmp_path / "run", **TINY)
    assert f"ValueError: first second ({where})" in str(caught.value)


def test_a_failing_close_is_told_once_and_from_the_users_line(monkeypatch, tmp_path):
    def close(self):
        raise OSError("gone")

    monkeypatch.setattr(obs_packing, "_warned", set())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rlab.train("ppo", five(close=close), out=tmp_path / "run", **TINY, final_eval_episodes=2)
    mine = [each for each in said if issubclass(each.category, RlabWarning)]
    assert [str(each.message) for each in mine] == [
        f"lambda failed in close: OSError: gone (test_check_words.py:{close.__code__.co_firstlineno + 1})"
    ]
    assert Path(mine[0].filename).name == "test_check_words.py"


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("zoo", "unknown env 'zoo'. It is a module; name the env in it too: zoo:ITS_CLASS"),
        ("zoo.py", "unknown env 'zoo.py'. It is a module; name the env in it too: zoo:ITS_CLASS"),
        ("zoo.py:Good", f"env 'zoo.py:Good': {BY_NAME} zoo:Good"),
        ("./zoo.py:Good", f"env './zoo.py:Good': {BY_NAME} zoo:Good"),
        ("sub/zoo.py:Good", f"env 'sub/zoo.py:Good': {BY_NAME} sub.zoo:Good"),
        ("/a/zoo.py:Good", f"env '/a/zoo.py:Good': {BY_NAME} zoo:Good in the folder /a"),
    ],
)
def test_a_file_in_place_of_a_module_gets_the_right_words(env_id, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "zoo.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["check", env_id]) == 2
    assert capsys.readouterr().err.strip() == f"rlab: {said}"
    named_here.clear()


def test_spaces_that_differ_between_instances_are_an_error():
    made = []

    def grows():
        made.append(0)
        return five(action_space=gym.spaces.Discrete(2 if len(made) < 3 else 4))()

    found = rlab.check(grows, steps=20)
    assert not found.ok
    assert "another one has the action space Discrete(" in found.report()
