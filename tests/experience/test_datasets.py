"""A dataset is whole, fits its spaces, and says what there is in it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.experience.dataset import Dataset, Episode, action_field, action_from_env, action_to_env
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Tuple

VECTOR = Box((2,), "float32", -9.0, 9.0)


def episode(rewards, actions=None, terminated=True, truncated=False, **others):
    steps = len(rewards)
    return Episode(
        obs=np.arange(2 * (steps + 1), dtype=np.float32).reshape(steps + 1, 2),
        action=np.array([0] * steps if actions is None else actions, np.int64),
        reward=np.array(rewards, np.float32),
        terminated=terminated,
        truncated=truncated,
        **others,
    )


TWO = Discrete(2, start=5)


def dataset(*episodes, obs_space=VECTOR, action_space=TWO, **others):
    return Dataset("lessons", obs_space, action_space, episodes, **others)


def test_the_summary_is_the_one_worked_on_paper():
    three = dataset(
        episode([1, 2]),
        episode([-4], terminated=False, truncated=True),
        episode([0, 0, 3], terminated=False),
        env={"env_id": "World-v0"},
    )
    assert three.returns.tolist() == [3.0, -4.0, 3.0]
    assert three.lengths.tolist() == [2, 1, 3]
    assert json.loads(json.dumps(three.summary())) == {
        "name": "lessons",
        "env_id": "World-v0",
        "episodes": 3,
        "transitions": 6,
        "return_mean": pytest.approx(2 / 3),
        "return_min": -4.0,
        "return_max": 3.0,
        "terminated": 1,
        "truncated": 1,
        "obs_space": "Box((2,), float32)",
        "action_space": "Discrete(n=2, start=5)",
    }


GOOD = episode([1.0, 2.0])
BROKEN = {
    "no step": (episode([]), "has no step"),
    "a last observation is missing": (
        replace(GOOD, obs=GOOD.obs[:-1]),
        r"has observations float32 \(2, 2\); expected float32 \(3, 2\)",
    ),
    "an action is missing": (replace(GOOD, action=GOOD.action[:1]), r"has actions int64 \(1,\); expected int64 \(2,\)"),
    "no actions": (replace(GOOD, action=GOOD.action[:0]), r"has actions int64 \(0,\)"),
    "another shape": (replace(GOOD, obs=GOOD.obs[:, :1]), r"has observations float32 \(3, 1\)"),
    "another dtype": (replace(GOOD, obs=GOOD.obs.astype(np.float64)), "has observations float64"),
    "NaN seen": (replace(GOOD, obs=GOOD.obs * np.float32(np.nan)), "has observations that are not finite"),
    "infinite reward": (replace(GOOD, reward=GOOD.reward + np.float32(np.inf)), "has rewards that are not finite"),
    "beyond the last action": (replace(GOOD, action=np.array([1, 2])), r"outside of Discrete\(n=2.*\) at step 1: 2"),
    "before the first action": (replace(GOOD, action=np.array([-1, 0])), "at step 0: -1"),
    "two endings": (replace(GOOD, truncated=True), "ends twice"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_episode_that_cannot_be_learned_from_is_named_in_one_line(name):
    broken, message = BROKEN[name]
    with pytest.raises(RlabError, match=rf"the dataset lessons: episode 1 .*{message}") as caught:
        dataset(GOOD, broken)
    assert "\n" not in str(caught.value)


def test_no_episode_at_all_is_no_dataset():
    with pytest.raises(RlabError, match="lessons has no episodes"):
        dataset()


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (Box((2,), "float32", (-1.0, 0.0), (1.0, 5.0)), [1.0, 5.0], [1.0, 5.1]),
        (Box((2,), "float64", -0.1, 0.1), [0.1, -0.1], [0.2, 0.0]),  # 0.1 as float32 is a little more than 0.1
        (Box((1,), "float32", -np.inf, np.inf), [1e30], [np.inf]),
        (MultiDiscrete((2, 3), (5, -1), (2,)), [1, 2], [2, 0]),
        (MultiDiscrete((2, 3), (0, 0), (1, 2)), [[1, 2]], [[1, 3]]),
        (MultiBinary((2,)), [1, 0], [2, 0]),
    ],
    ids=str,
)
def test_actions_of_every_space_must_lie_in_it(space, inside, outside):
    dtype = action_field(space).dtype
    fine, wrong = (replace(GOOD, action=np.array([inside, last], dtype)) for last in (inside, outside))
    assert dataset(fine, action_space=space).transitions == 2
    with pytest.raises(RlabError, match=r"at step 1|not finite"):
        dataset(wrong, action_space=space)


def test_an_action_that_its_mask_forbids_is_refused():
    # A choice of two and one of three; their bits stand one after another behind the observation.
    space, seen = MultiDiscrete((2, 3), (0, 0), (2,)), Masked(Box((1,), "float32", 0.0, 1.0), 5)
    obs = np.array([[0.5, 1, 0, 0, 1, 1], [0.5, 0, 1, 0, 0, 0], [0.5, 0, 0, 0, 0, 0]], np.float32)
    fine = replace(GOOD, obs=obs, action=np.array([[0, 2], [1, 0]]))  # of the last choice nothing is allowed
    assert dataset(fine, obs_space=seen, action_space=space).transitions == 2
    with pytest.raises(RlabError, match=r"mask forbids at step 0: \[0 0\]"):
        dataset(replace(fine, action=np.array([[0, 0], [1, 0]])), obs_space=seen, action_space=space)


@given(
    st.sampled_from(
        [
            Discrete(4, start=-2),
            MultiDiscrete((2, 3), (5, -1), (2,)),
            MultiDiscrete((2, 3), (1, 0), (1, 2)),
            MultiBinary((3,)),
            Box((2,), "float64", -1.0, 1.0),
            Box((2,), "uint8", 0.0, 9.0),
            Box((1,), "bool", 0.0, 1.0),
        ]
    ),
    st.integers(0, 2**32 - 1),
)
def test_actions_go_to_the_env_s_form_and_back(space, seed):
    rng = np.random.default_rng(seed)
    first, kept = 0.0, rng.integers(0, 2, (7, *space.shape))
    if isinstance(space, Discrete | MultiDiscrete):
        first = np.array(space.start).reshape(space.shape)
    kept = kept.astype(action_field(space).dtype)
    taken = action_to_env(space, kept)
    assert taken.dtype == space.dtype
    assert np.array_equal(action_from_env(space, taken), kept)
    assert np.array_equal(taken, kept.astype(np.float64) + first)


def test_actions_in_parts_are_refused():
    with pytest.raises(UsageError, match="are not supported; use Box, Discrete"):
        action_field(Tuple((Discrete(2),)))


def test_spaces_that_differ_are_both_named():
    data = dataset(GOOD)
    data.check_fits(VECTOR, Discrete(2, start=5), "World-v0")
    data.check_fits(replace(VECTOR, high=np.inf), Discrete(2, start=5), "World-v0")  # bounds change no row
    with pytest.raises(UsageError, match=r"Box\(\(2,\), float32\); those of World-v0 are Box\(\(3,\), float32\)"):
        data.check_fits(replace(VECTOR, shape=(3,)), Discrete(2, start=5), "World-v0")
    with pytest.raises(UsageError, match=r"actions Discrete\(n=2, start=5\); those of World-v0 are Discrete\(n=2, st"):
        data.check_fits(VECTOR, Discrete(2), "World-v0")


def test_bounds_of_actions_matter_and_are_shown():
    narrow = Box((2,), "float32", -1.0, 1.0)
    data = dataset(replace(GOOD, action=np.zeros((2, 2), np.float32)), action_space=narrow)
    with pytest.raises(UsageError, match=r"from -1 to 1.*from -2 to 1 3"):
        data.check_fits(VECTOR, replace(narrow, low=-2.0, high=(1.0, 3.0)), "World-v0")


def test_the_bounds_of_observations_do_not_matter_inside_parts_either():
    def space(high):
        box = Box((1,), "float32", 0.0, high)
        return Masked(Dict((("a", Tuple((box,))), ("b", box))), 2)

    obs = np.array([[1, 1, 1, 1]] * 3, np.float32)
    data = dataset(replace(GOOD, obs=obs), obs_space=space(1.0), action_space=Discrete(2))
    data.check_fits(space(2.0), Discrete(2), "World-v0")


def test_a_subset_has_the_episodes_asked_for_in_that_order():
    data = dataset(episode([1]), episode([2]), episode([3]), facts={"agent": "dqn"})
    some = data.subset([2, 0])
    assert (some.returns.tolist(), some.facts, some.name) == ([3.0, 1.0], {"agent": "dqn"}, "lessons")


def test_joined_datasets_keep_their_order_and_say_what_they_were():
    first = dataset(episode([1], seed=7), env={"env_id": "A"}, facts={"agent": "dqn"})
    second = dataset(episode([2]), episode([3]), env={"env_id": "A"}, facts={"agent": "random"})
    both = Dataset.joined([first, second], "mixed")
    assert (both.returns.tolist(), both.episodes[0].seed, both.env) == ([1.0, 2.0, 3.0], 7, {"env_id": "A"})
    assert [(part["agent"], part["episodes"]) for part in both.facts["joined"]] == [("dqn", 1), ("random", 2)]
    assert Dataset.joined([first, dataset(GOOD)], "mixed").env is None
    with pytest.raises(UsageError, match="those of the dataset lessons"):
        Dataset.joined([first, dataset(GOOD, action_space=Discrete(2))], "mixed")
    with pytest.raises(UsageError, match="no dataset to join"):
        Dataset.joined([], "mixed")
