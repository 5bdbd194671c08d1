"""What an env may give, value by value: what rlab makes of it, or what it says about it."""

import math
import pickle

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs.checks import EnvError, flag, mask_bits, reset_values, reward_number, shown, step_values
from rlab.envs.gym_spaces import space_from_gym
from rlab.envs.obs_checks import obs_reader, rows_look
from rlab.envs.sub_env import SubEnvError
from rlab.networks.limits import float32_holds, space_words

FLOATS = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
BYTES = gym.spaces.Box(0, 255, (2,), np.uint8)
FEW = gym.spaces.Box(np.array([0, -2]), np.array([1, 5]), dtype=np.int64)
PARTS = gym.spaces.Dict(count=gym.spaces.Discrete(4), place=gym.spaces.Box(-1.0, 1.0, (2,), np.float32))
PAIR = gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.MultiBinary(2)))


def reader(space):
    return obs_reader(space_from_gym(space))


@pytest.mark.parametrize(
    ("space", "given", "expected"),
    [
        (gym.spaces.Discrete(4), 3, 3),
        (gym.spaces.Discrete(4), np.int8(3), 3),
        (gym.spaces.Discrete(4), np.array(3), 3),
        (gym.spaces.Discrete(2), True, 1),
        (gym.spaces.Discrete(2), np.bool_(True), 1),
        (gym.spaces.Discrete(4, start=-2), -2, -2),
        (FLOATS, np.zeros(3), [0, 0, 0]),  # float64
        (FLOATS, [1, 0, -1], [1, 0, -1]),
        (FLOATS, np.array([True, False, True]), [1, 0, 1]),
        (FLOATS, np.full(3, 1.5, np.float32), [1.5, 1.5, 1.5]),  # beyond its bounds, as physics may be
        (gym.spaces.Box(-1.0, 1.0, (), np.float32), 0.5, 0.5),
        (BYTES, np.array([0, 255]), [0, 255]),  # int64
        (BYTES, [True, False], [1, 0]),
        (gym.spaces.Box(0, 1, (2,), bool), np.array([0, 1]), [False, True]),
        (FEW, np.array([1, -2], np.int32), [1, -2]),
        (gym.spaces.Box(0, 2**64 - 1, (1,), np.uint64), np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (gym.spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (gym.spaces.MultiBinary(3), np.array([True, False, True]), [1, 0, 1]),
        (gym.spaces.MultiDiscrete([2, 3], start=[1, -1]), np.array([2, 1], np.uint8), [2, 1]),
        (PARTS, {"place": [0.5, 1], "count": np.int64(3)}, [3, 0.5, 1]),
        (PAIR, [1, np.array([0, 1], np.int8)], [1, 0, 1]),
    ],
    ids=str,
)
def test_an_observation_comes_as_a_copy_in_the_dtype_of_its_space(space, given, expected):
    plain = space_from_gym(space)
    made = reader(space)(given)
    assert made.tolist() == expected
    assert (made.shape, made.dtype) == (plain.shape, plain.dtype)
    if isinstance(given, np.ndarray):
        assert not np.shares_memory(made, given)


@pytest.mark.parametrize(
    ("space", "given", "message"),
    [
        (gym.spaces.Discrete(4), 7, "gave 7 as its observation, but the space is Discrete(4), the integers 0 to 3"),
        (gym.spaces.Discrete(4), -1, "gave -1 as its observation, but the space is Discrete(4), the integers 0 to 3"),
        (gym.spaces.Discrete(4), 3.0, "gave 3.0 as its observation, but"),
        (gym.spaces.Discrete(4), np.float32(3), "gave 3.0 as its observation, but"),
        (gym.spaces.Discrete(4), np.array([3]), "gave [3] of shape (1,) as its observation, but"),
        (gym.spaces.Discrete(4), None, "gave None as its observation, but"),
        (gym.spaces.Discrete(4), "2", "gave '2' as its observation, but"),
        (FLOATS, np.zeros(1, np.float32), "gave an array of shape (1,) as its observation, but the space is Box((3,),"),
        (FLOATS, np.zeros((1, 3), np.float32), "gave an array of shape (1, 3) as its observation, but"),
        (FLOATS, np.zeros((3, 1), np.float32), "gave an array of shape (3, 1) as its observation, but"),
        (FLOATS, 0.5, "gave an array of shape () as its observation, but"),
        (FLOATS, [[1], [2, 3], []], "gave [[1], [2, 3], []] as its observation, but the space is Box((3,), float32)"),
        (FLOATS, {"x": 1}, "gave a dict as its observation, but"),
        (FLOATS, np.array(["a", "b", "c"]), "gave an array of <U1 of shape (3,) as its observation, but"),
        (FLOATS, np.zeros(3, complex), "gave an array of complex128 of shape (3,) as its observation, but"),
        (FLOATS, np.array([0, 1e39, 0]), "gave 1e+39 in its observation, which float32 does not hold"),
        (
            gym.spaces.Box(0, 9, (1,), np.float16),
            np.array([1e5], np.float32),
            "gave 100000.0 in its observation, which float16 does not hold",
        ),
        (
            BYTES,
            np.zeros(2),
            "gave float64 numbers as its observation, but the space is Box((2,), uint8), the integers 0",
        ),
        (BYTES, np.array([0, 300]), "gave an array with the value 300 as its observation, but"),
        (BYTES, np.array([-1, 0]), "gave an array with the value -1 as its observation, but"),
        (gym.spaces.Box(0, 1, (2,), bool), np.array([0, 2]), "gave an array with the value 2 as its observation, but"),
        (gym.spaces.Box(0, 3, (1,), np.uint8), np.array([4], np.uint8), "gave an array with the value 4 as its"),
        (FEW, np.array([0, 6]), "gave an array with the value 6 as its observation, but the space is Box((2,), int64)"),
        (FEW, np.array([2**64 - 1, 0], np.uint64), "gave an array with the value 18446744073709551615 as its"),
        (
            gym.spaces.MultiBinary(2),
            np.array([0, 2], np.int8),
            "gave an array with the value 2 as its observation, but",
        ),
        (gym.spaces.MultiBinary(2), np.array([0.0, 1.0]), "gave float64 numbers as its observation, but"),
        (gym.spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "gave an array with the value 3 as its observation, but"),
        (gym.spaces.MultiDiscrete([2, 3], start=[1, 0]), np.array([0, 0]), "gave an array with the value 0 as its"),
        (
            PARTS,
            {"count": 4, "place": np.zeros(2)},
            "gave 4 as the part 'count' of its observation, but the space is Discrete(4), the integers 0 to 3",
        ),
        (PARTS, {"count": 260, "place": np.zeros(2)}, "gave 260 as the part 'count' of its observation, but"),
        (PARTS, {"count": 1}, "gave a dict without the part 'place' as its observation, but the space is Dict("),
        (PARTS, {"count": 1, "place": np.zeros(2), "z": 1}, "gave a dict with a part 'z' as its observation, but"),
        (PARTS, {"count": 1, "place": np.zeros(1)}, "gave an array of shape (1,) as the part 'place' of its obs"),
        (PARTS, (1, np.zeros(2)), "gave (1, array([0., 0.])) as its observation, but the space is Dict("),
        (PAIR, (1, [0, 1], 0), "gave a tuple of 3 as its observation, but"),
        (PAIR, np.array([1, 0]), "gave [1, 0] of shape (2,) as its observation, but"),
        (PAIR, (2, [0, 1]), "gave 2 as part 0 of its observation, but"),
        (gym.spaces.Tuple((PARTS,)), ({"count": 9, "place": [0, 0]},), "gave 9 as the part 'count' of part 0 of its"),
    ],
    ids=str,
)
def test_an_observation_that_is_not_of_its_space_is_refused(space, given, message):
    with pytest.raises(EnvError) as caught:
        reader(space)(given)
    assert caught.value.kind == "observation"
    assert str(caught.value).startswith(message)


def test_nan_and_infinity_pass_the_reader_and_not_the_look_at_the_batch():
    for number in (math.nan, math.inf, -math.inf):
        for dtype in (np.float32, np.float64):
            assert not float32_holds(reader(FLOATS)(np.array([0, number, 0], dtype)))


@pytest.mark.filterwarnings("error")
def test_float32_holds_what_lies_in_its_range():
    largest = float(np.finfo(np.float32).max)
    assert float32_holds(np.array([largest, -largest]))
    assert float32_holds(np.array([largest], np.float32))  # whose square is infinite
    assert float32_holds(np.zeros(0))
    assert not float32_holds(np.array([1e300]))
    assert not float32_holds(np.array([0.0, 2 * largest]))
    assert not float32_holds(np.array([[0.0], [np.nan]]))


@pytest.mark.parametrize(
    ("space", "obs", "row"),
    [
        (gym.spaces.Discrete(4), [0, 3, 4], 2),
        (gym.spaces.Discrete(4), [-1, 3, 2], 0),
        (gym.spaces.Discrete(4), [0, 3, 2], None),
        (gym.spaces.MultiDiscrete([2, 3]), [[1, 2], [0, 3]], 1),
        (gym.spaces.MultiBinary(2), [[1, 1], [0, 1]], None),
    ],
)
def test_a_batch_is_looked_at_in_one_go_and_the_row_is_named(space, obs, row):
    found = rows_look(space_from_gym(space))(np.array(obs))
    assert (None if found is None else found[0]) == row


@pytest.mark.parametrize(
    "given",
    [2, 2.0, np.float32(2), np.float64(2), np.int8(2), np.array(2), np.array([2.0]), [2.0], (2,), np.array([[2]])],
    ids=repr,
)
def test_a_reward_of_one_element_is_a_number(given):
    number = reward_number(given)
    assert number == 2.0
    assert type(number) is float


def test_true_is_a_reward_of_one():
    assert reward_number(True) == reward_number(np.bool_(True)) == reward_number([np.bool_(True)]) == 1.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.array([1.0, 2.0]), "[1.0, 2.0] of shape (2,)"),
        ([1.0, 2.0], "[1.0, 2.0] of shape (2,)"),
        (np.zeros(0), "[] of shape (0,)"),
        (np.zeros((3, 5)), "an array of float64 of shape (3, 5)"),
        (None, "None"),
        ("1", "'1'"),
        (1j, "1j"),
        ({"a": 1}, "a dict"),
        ([None], "[None] of shape (1,)"),
    ],
    ids=repr,
)
def test_a_reward_that_is_not_one_number_is_named_with_its_shape(given, words):
    with pytest.raises(EnvError) as caught:
        reward_number(given)
    assert str(caught.value) == f"gave the reward {words}, but a reward is one number"


def test_an_integer_too_large_for_any_float_is_named():
    with pytest.raises(EnvError, match=r"^gave a reward of an int, which float32 does not hold$"):
        reward_number(10**400)


@pytest.mark.parametrize("given", [True, np.bool_(True), 1, 1.0, np.array([True]), np.array(True), [True], np.int64(1)])
def test_a_flag_may_be_zero_or_one_or_one_element(given):
    assert flag("terminated", given) is True
    assert flag("truncated", np.logical_not(given)) is False


@pytest.mark.parametrize("given", [None, "yes", np.array([True, False]), 2, 0.5, math.nan, {}, []], ids=repr)
def test_a_flag_that_is_neither_true_nor_false_is_refused(given):
    with pytest.raises(EnvError) as caught:
        flag("truncated", given)
    assert caught.value.kind == "truncated"
    assert str(caught.value) == f"gave {shown(given)} as truncated, but truncated is True or False"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.zeros(4), "[0.0, 0.0, 0.0, 0.0] of shape (4,)"),
        (np.zeros(2), "[0.0, 0.0] of shape (2,)"),  # two values, if it is unpacked
        ([0.5, 0.5], "2 values, the last of which is 0.5"),
        ((1, [0, 1]), "2 values, the last of which is [0, 1] of shape (2,)"),  # the observation of a Tuple
        ((0, None), "2 values, the last of which is None"),
        (None, "None"),
        ((0,), "1 value"),
        (0.5, "0.5"),
    ],
)
def test_a_reset_that_returns_other_than_obs_and_info_says_what_it_must_return(result, words):
    with pytest.raises(EnvError) as caught:
        reset_values(result)
    number, comma, last = words.partition(", the last")
    rule = "but reset must return two values, obs and info (a dict)"
    assert str(caught.value) == f"returned {number} from reset{comma}{last}, {rule}"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((0, 1.0, False, {}), "4 values"),
        ((0, 1.0, False, {}, False), "5 values, the last of which is False"),
        ((0, 1.0, False, False, None), "5 values, the last of which is None"),
        (None, "None"),
    ],
)
def test_a_step_that_returns_other_than_five_values_says_what_it_must_return(result, words):
    with pytest.raises(EnvError) as caught:
        step_values(result)
    rule = "step must return five values: obs, reward, terminated, truncated and info (a dict)"
    number, comma, last = words.partition(", the last")
    assert str(caught.value) == f"returned {number} from step{comma}{last}, but {rule}"


@pytest.mark.parametrize("mask", [[0, 2], [0.5, 1], [1, 1, 1], 1, "ab", None, np.array([[0], [1]])], ids=repr)
def test_a_mask_is_made_of_zeros_and_ones(mask):
    with pytest.raises(EnvError, match=r"does not fit; expected 2 zeros and ones\.$"):
        mask_bits(mask, 2)
    assert mask_bits((np.array([1]), (np.array([0]),)), 2).tolist() == [True, False]


def test_an_error_is_told_with_its_place_and_comes_whole_out_of_another_process():
    sent = pickle.dumps(SubEnvError(3, EnvError("reward", "gave a reward of 1e+39", "which is much")))
    error = pickle.loads(sent)  # noqa: S301  # as multiprocessing does with what its own workers send
    assert error.index == 3
    told = error.fault.line("My-v0", "in env 0 of seed 0", "at vector step 7")
    assert told == "My-v0 gave a reward of 1e+39 in env 0 of seed 0, which is much (vector step 7)"
    assert str(error) == "sub-env 3 gave a reward of 1e+39, which is much"


def test_spaces_are_told_with_the_integers_that_they_hold():
    assert space_words(space_from_gym(BYTES)) == "Box((2,), uint8), the integers 0 to 255"
    assert space_words(space_from_gym(FEW)) == "Box((2,), int64), integers"
    assert (
        space_words(space_from_gym(gym.spaces.MultiDiscrete([2, 3], start=[1, 0])))
        == "MultiDiscrete([2, 3]) from [1, 0]"
    )
