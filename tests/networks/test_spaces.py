"""Spaces as plain data, and the array form in which every observation travels."""

import json
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.networks.spaces import (
    MAX_FEATURES,
    Box,
    Dict,
    Discrete,
    Masked,
    MultiBinary,
    MultiDiscrete,
    Tuple,
    choices,
    feature_shape,
    leaves,
    pack,
    space_from_json,
)

IMAGE = Box((2, 3, 1), "uint8", 0.0, 255.0)
PAIR = Tuple((Discrete(3, start=-1), Box((2,), "float32", -1.0, 1.0)))
TABLE = Dict((("dice", MultiDiscrete((6, 6), (1, 1), (2,))), ("lamps", MultiBinary((3,))), ("pair", PAIR)))

DTYPES = ("bool", "uint8", "int8", "int32", "float32", "float64")
lengths = st.sampled_from([(), (1,), (3,), (2, 2), (3, 1)])
axes = st.sampled_from([(1,), (3,), (2, 2), (3, 1)])


@st.composite
def boxes(draw):
    dtype = draw(st.sampled_from(DTYPES))
    low, high = (0.0, 1.0) if dtype == "bool" else (0.0, 100.0)
    return Box(draw(lengths), dtype, low, high)


@st.composite
def multi_discretes(draw):
    shape = draw(axes)
    numbers = st.lists(st.integers(-5, 5), min_size=prod(shape), max_size=prod(shape))
    return MultiDiscrete(tuple(abs(n) + 1 for n in draw(numbers)), tuple(draw(numbers)), shape)


flat_spaces = st.one_of(
    boxes(),
    st.builds(Discrete, st.integers(1, 300), st.integers(-3, 3)),
    multi_discretes(),
    st.builds(MultiBinary, axes),
)


def groups(inside):
    parts = st.lists(inside, min_size=1, max_size=3)
    named = parts.map(lambda found: Dict(tuple((f"part{i}", part) for i, part in enumerate(found))))
    return named | parts.map(lambda found: Tuple(tuple(found)))


spaces = st.recursive(flat_spaces, groups, max_leaves=5)
masked = st.builds(Masked, spaces, st.integers(1, 4))


def sample(space, lead, rng, seen):
    """A random batch `[*lead, ...]` of observations; the arrays of its leaves are noted in `seen`, in order."""
    if isinstance(space, Dict):
        return {name: sample(part, lead, rng, seen) for name, part in space.items}
    if isinstance(space, Tuple):
        return tuple(sample(part, lead, rng, seen) for part in space.items)
    if isinstance(space, Box):
        value = rng.uniform(space.low, space.high + (space.dtype == "bool"), (*lead, *space.shape)).astype(space.dtype)
    elif isinstance(space, Discrete):
        value = rng.integers(space.start, space.start + space.n, lead)
    elif isinstance(space, MultiDiscrete):
        low, n = (np.array(numbers).reshape(space.shape) for numbers in (space.start, space.nvec))
        value = low + rng.integers(0, n, (*lead, *space.shape))
    else:
        value = rng.integers(0, 2, (*lead, *space.shape), dtype=np.int8)
    seen.append(np.asarray(value))
    return value


@given(spaces | masked, st.lists(st.integers(0, 3), max_size=2).map(tuple), st.integers(0, 1000))
def test_a_packed_batch_holds_every_leaf_exactly_and_in_order(space, lead, seed):
    rng, seen = np.random.default_rng(seed), []
    inner = space.obs if isinstance(space, Masked) else space
    obs, mask = sample(inner, lead, rng, seen), None
    if isinstance(space, Masked):
        mask = rng.integers(0, 2, (*lead, space.size), dtype=np.int8)
        seen.append(mask)
    packed = pack(space, obs, mask)
    assert packed.shape == (*lead, *space.shape)
    assert packed.dtype == space.dtype
    flat, first = packed.reshape(*lead, prod(space.shape)), 0
    for leaf, value in zip(leaves(space), seen, strict=True):
        part = flat[..., first : first + prod(leaf.shape)].reshape(value.shape)
        assert (part.astype(value.dtype) == value).all()
        first += prod(leaf.shape)
    assert first == prod(space.shape)


@given(spaces | masked)
def test_a_space_goes_through_json(space):
    assert space_from_json(json.loads(json.dumps(space.to_json(), allow_nan=False))) == space


def test_an_observation_in_parts_is_packed_as_on_paper():
    obs = {"dice": [6, 1], "lamps": [1, 0, 1], "pair": (-1, [0.5, -0.25])}
    packed = pack(TABLE, obs)
    assert packed.tolist() == [6, 1, 1, 0, 1, -1, 0.5, -0.25]
    assert packed.dtype == "float32"


def test_a_mask_stands_behind_the_observation():
    space = Masked(Discrete(500), 4)
    assert (space.shape, space.dtype) == ((5,), "int32")
    assert pack(space, 7, np.array([0, 1, 1, 0], np.int8)).tolist() == [7, 0, 1, 1, 0]
    assert pack(space, 7).tolist() == [7, 1, 1, 1, 1]  # all are allowed
    assert pack(space, [7, 8]).tolist() == [[7, 1, 1, 1, 1], [8, 1, 1, 1, 1]]
    assert pack(space, 7, [False, True, True, False]).tolist() == [7, 0, 1, 1, 0]
    whole = Masked(Dict((("room", Discrete(9)),)), 2)
    assert pack(whole, {"room": 3, "action_mask": np.array([0, 1])}).tolist() == [3, 0, 1]
    assert pack(whole, {"room": 3}, np.array([1, 0])).tolist() == [3, 1, 0]


def test_a_mask_of_several_choices_may_be_a_tuple_and_nested_for_a_table_of_them():
    space = Masked(Box((1,), "float32", 0.0, 1.0), 5)
    assert pack(space, [0.5], (np.array([1, 0]), np.array([0, 1, 1]))).tolist() == [0.5, 1, 0, 0, 1, 1]
    nested = ((np.array([1]), np.array([0])), (np.array([0, 1]), np.array([1])))
    assert pack(space, [0.5], nested).tolist() == [0.5, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("parts", "dtype"),
    [
        ((IMAGE, Discrete(256), MultiBinary((2,))), "uint8"),
        ((IMAGE, Discrete(257)), "int32"),
        ((Discrete(2, start=-1),), "int32"),
        ((Box((2,), "int16", -9.0, 9.0), Discrete(3)), "int32"),
        ((Box((2,), "float32", 0.0, 1.0), Discrete(2**24 + 1)), "float32"),
        ((Box((2,), "float32", 0.0, 1.0), Discrete(2**24 + 2)), "float64"),  # 2^24 + 1 is no float32
        ((Box((2,), "float32", 0.0, 1.0), Box((1,), "int32", 0.0, 9.0)), "float64"),
        ((Box((2,), "float64", 0.0, 1.0),), "float64"),
    ],
    ids=str,
)
def test_the_array_form_has_the_smallest_dtype_that_is_exact(parts, dtype):
    assert Tuple(parts).dtype == dtype


@pytest.mark.parametrize(
    ("space", "obs", "mask", "message"),
    [
        (TABLE, {"dice": [1, 1], "lamps": [0, 0, 0]}, None, r"an observation Dict\(dice: .* needs a part 'pair'\."),
        (TABLE, [1, 2], None, "needs a part 'dice'"),
        (PAIR, (1,), None, r"an observation Tuple\(.*\) needs 2 parts\."),
        (PAIR, (1, [0.0]), None, r"an observation of shape \(1,\) does not fit Box\(\(2,\), float32\)\."),
        (PAIR, (1, np.zeros((3, 2))), None, "differ in their batch"),
        (Masked(PAIR, 3), (1, [0, 0]), [1, 0], r"a mask of shape \(2,\) does not fit; expected 3 zeros and ones\."),
        (Masked(PAIR, 3), ([1, 2], [[0, 0]] * 2), [1, 0, 1], "differ in their batch"),
    ],
    ids=str,
)
def test_an_observation_that_does_not_fit_is_refused_in_one_line(space, obs, mask, message):
    with pytest.raises(UsageError, match=message) as caught:
        pack(space, obs, mask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (Box((4,), "float32", -1.0, 1.0), (4,)),
        (Box((), "float32", -1.0, 1.0), (1,)),
        (Box((3, 2), "float32", -1.0, 1.0), (6,)),
        (Box((3, 2, 2), "float32", -1.0, 1.0), (12,)),
        (IMAGE, (1, 2, 3)),
        (Discrete(16), (16,)),
        (MultiDiscrete((2, 3), (0, 5), (2,)), (5,)),
        (MultiBinary((2, 2)), (4,)),
        (TABLE, (12 + 3 + 3 + 2,)),
        (Tuple((IMAGE, Discrete(2))), (8,)),  # an image among others is no image any more
        (Masked(IMAGE, 9), (1, 2, 3)),  # a mask is no feature
        (Masked(TABLE, 9), (20,)),
    ],
    ids=str,
)
def test_features_are_counted_as_on_paper(space, expected):
    assert feature_shape(space) == expected


def test_more_features_than_a_network_can_take_are_refused():
    assert feature_shape(Discrete(MAX_FEATURES)) == (MAX_FEATURES,)
    with pytest.raises(UsageError, match=r"Discrete\(n=10000001, start=0\) would be 10000001 features; more than"):
        feature_shape(Discrete(MAX_FEATURES + 1))


def test_choices_are_what_a_mask_has_bits_for():
    assert choices(Discrete(4, start=2)) == (4,)
    assert choices(MultiDiscrete((2, 3), (0, 0), (2,))) == (2, 3)
    assert choices(MultiBinary((2,))) == choices(IMAGE) == ()
