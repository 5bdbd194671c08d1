"""Spaces at their limits: empty ones, half floats, and bounds that float32 does not hold or tell apart."""

import gymnasium as gym
import numpy as np
import pytest

import rlab
from rlab.envs import EnvSpec, make_env, make_episodes, make_vec
from rlab.envs.gym_spaces import sampled, space_from_gym
from rlab.errors import RlabError, UsageError
from rlab.evaluation.record import record, uniform_action

Box = gym.spaces.Box
UNIT = Box(0.0, 1.0, (1,), np.float32)
LARGEST = float(np.finfo(np.float64).max)


class Plain(gym.Env):
    """Episodes of five steps in the spaces that it is made with; observes the middle of a Box."""

    def __init__(self, obs_space=UNIT, action_space=UNIT, number=0.5):
        self.observation_space, self.action_space, self.number = obs_space, action_space, number

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.actions = 0, []
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        self.actions.append(action)
        return self.obs(), 1.0, self.t == 5, False, {}

    def obs(self):
        return np.full(self.observation_space.shape, self.number, self.observation_space.dtype)


def codes(make):
    return [(each.code, each.severity) for each in rlab.check(make, steps=20).findings if each.severity != "note"]


def test_an_infinity_of_half_floats_is_not_finite_and_its_largest_number_is(register):
    halves = Box(-np.inf, np.inf, (2,), np.float16)
    spec = EnvSpec(register(lambda: Plain(halves, number=np.inf)))
    with pytest.raises(RlabError, match=r"gave a non-finite observation in env 0 of seed 0 at vector step 0: .*inf"):
        make_vec(spec, (0,), 1).reset()
    with pytest.raises(RlabError, match=r"gave a non-finite observation in the episode of seed 3 at step 0: .*inf"):
        make_episodes(spec, 1).reset([3])
    assert codes(lambda: Plain(halves, number=np.inf)) == [("not-finite", "error")]
    fine = EnvSpec(register(lambda: Plain(halves, number=65504.0)))  # pytest would make an error of a warning
    assert make_vec(fine, (0,), 1).reset().tolist() == [[[65504.0, 65504.0]]]


def test_a_float64_space_takes_float32_arrays_without_a_word(register):
    class Narrow(Plain):
        def obs(self):
            return np.full(1, 3e38, np.float32)

    spec = EnvSpec(register(lambda: Narrow(Box(-np.inf, np.inf, (1,), np.float64))))
    assert make_env(spec).reset(seed=0)[0].dtype == np.float64


@pytest.mark.parametrize(
    ("place", "spaces"), [("observation", (Box(0, 1, (0,)), UNIT)), ("action", (UNIT, Box(0, 1, (2, 0))))]
)
def test_a_space_without_a_number_in_it_is_refused_at_the_door_and_by_check(register, place, spaces):
    spec = EnvSpec(register(lambda: Plain(*spaces)))
    shape = r"\(0,\)" if place == "observation" else r"\(2, 0\)"
    message = (
        rf"^the {place} space of {spec.env_id} is Box\({shape}, float32\), which has no number in it; it needs one at "
        r"least, such as a constant 0 in a Box of shape \(1,\)\.$"
    )
    for make in (make_env, lambda spec: make_vec(spec, (0,), 1), lambda spec: make_episodes(spec, 1)):
        with pytest.raises(UsageError, match=message):
            make(spec)
    assert codes(lambda: Plain(*spaces)) == [("space", "error")]


def test_a_part_without_a_number_in_it_does_no_harm_beside_others(register):
    parts = gym.spaces.Dict({"a": Box(0, 1, (0,)), "b": UNIT})

    class Parts(Plain):
        def obs(self):
            return {"a": np.zeros(0, np.float32), "b": np.ones(1, np.float32)}

    assert make_env(EnvSpec(register(lambda: Parts(parts)))).reset(seed=0)[0].tolist() == [1.0]


def test_check_says_that_a_box_of_equal_bounds_leaves_nothing_to_choose():
    found = rlab.check(lambda: Plain(action_space=Box(1.0, 1.0, (2,))), steps=20)
    assert found.agents == ()
    error = found.findings[0]
    assert (error.code, error.severity) == ("no-agent", "error")
    assert "leave nothing to choose in number 0: its lower bound, 1.0, is not below its upper one, 1.0." in error.what


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max])
def test_check_names_for_a_box_without_bounds_those_alone_that_need_none(bound):
    found = rlab.check(lambda: Plain(action_space=Box(-1.0, bound, (2,))), steps=20)
    assert found.agents == ("a2c", "bc", "encoder", "iql", "ppo", "reinforce")


@pytest.mark.parametrize("bound", [LARGEST, 1e308])
def test_actions_with_bounds_farther_apart_than_float64_can_say_are_tried(register, bound):
    wide = Box(-bound, bound, (2,), np.float64)
    assert np.isfinite(sampled(wide)).all()
    assert make_env(EnvSpec(register(lambda: Plain(action_space=wide)))).reset(seed=0)[0].tolist() == [0.5]
    assert codes(lambda: Plain(action_space=wide)) == []


def test_random_actions_that_float32_does_not_tell_apart_are_refused_and_kept_ones_are_in_bounds():
    rng = np.random.default_rng(0)
    draw = lambda box: uniform_action(None, space_from_gym(box))  # noqa: E731
    with pytest.raises(
        UsageError,
        match=r"^actions Box\(\(2,\), float64\) cannot be drawn and stored: float32 cannot distinguish the "
        r"numbers between 1700000000.0 and 1700000100.0; scale the actions in the env or with --wrapper RescaleAction:"
        r"min_action=-1,max_action=1\.$",
    ):
        draw(Box(1.7e9, 1.7e9 + 100, (2,), np.float64))
    fixed = draw(Box(np.array([0.1, 0.0]), np.array([0.1, 1.0]), (2,), np.float64))(rng, None)
    assert fixed[0] == np.float64(np.float32(0.1))
    low, high = 0.1, 0.1 + 5e-9  # of float32 only 0.1 + 1.5e-9 is inside: the next is 7.5e-9 further
    with pytest.raises(UsageError, match="cannot be drawn and stored"):
        draw(Box(low, high, (1,), np.float64))
    low, high = 0.1, 0.1 + 3e-8
    drawn = np.array([draw(Box(low, high, (1,), np.float64))(rng, None) for _ in range(50)])
    assert len(np.unique(drawn)) > 1
    assert (drawn.astype(np.float32) == drawn).all()
    assert ((drawn >= low) & (drawn <= high)).all()


def test_an_action_without_axes_is_drawn_and_recorded(register):
    spec = EnvSpec(register(lambda: Plain(action_space=Box(-1.0, 1.0, (), np.float32))))
    envs = lambda n: make_episodes(spec, n)  # noqa: E731
    probe = envs(1)
    (episode,) = record(None, envs, (probe.obs_space, probe.action_space), 1, 0)
    assert episode.action.shape == (5,)
    assert (np.abs(episode.action) <= 1).all()
    assert len(np.unique(episode.action)) == 5
