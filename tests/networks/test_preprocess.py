"""Preprocessing: features of every kind of space, fixed scales, and running statistics that equal NumPy's over all
valid rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.networks.preprocess import CLIP, Preprocess, fixed_scale
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Tuple, pack

INF = math.inf
VECTOR = Box((3,), "float32", -INF, INF)
PIXELS = Box((1, 2, 2), "uint8", 0.0, 255.0)
# every kind of leaf, one of them inside another space
ROOM = Dict(
    (
        ("dice", MultiDiscrete((2, 3), (1, -1), (2,))),
        ("lamps", MultiBinary((2,))),
        ("place", Tuple((Box((2,), "float32", (-4.0, -INF), (2.0, INF)), Discrete(3, start=5)))),
        ("view", PIXELS),
        ("weight", Box((), "float32", 0.0, 10.0)),
    )
)
SEEN = {"dice": (2, 0), "lamps": (1, 0), "place": ((3.0, 4.0), 6), "view": [[[0, 51], [102, 255]]], "weight": 5.0}
#        dice 2 of 1, 2; 0 of -1, 0, 1   lamps   place       6 of 5, 6, 7  view                 weight
FEATURES = [0, 1, 0, 1, 0, 1, 0, 3.0, 4.0, 0, 1, 0, 0.0, 0.2, 0.4, 1.0, 5.0]


def preprocessed(space, obs, scaling="none", scale=None):
    """The features of one observation as a list."""
    return Preprocess(space, scaling, scale, None)(torch.from_numpy(pack(space, obs))).tolist()


def test_uint8_images_become_shares_of_255_with_channels_first():
    space = Box((4, 3, 2), "uint8", 0.0, 255.0)
    obs = torch.arange(2 * 5 * 24, dtype=torch.uint8).reshape(2, 5, 4, 3, 2)
    x = Preprocess(space, "none", None, 2)(obs)
    assert x.shape == (2, 5, 2, 4, 3)
    assert x.dtype == torch.float32
    for where in np.ndindex(2, 5, 4, 3, 2):
        s, b, row, column, channel = where
        assert x[s, b, channel, row, column].item() == pytest.approx(obs[where].item() / 255)


def test_bool_images_become_zeros_and_ones_with_channels_first():
    obs = torch.rand(1, 2, 4, 5, 3) < 0.5
    x = Preprocess(Box((4, 5, 3), "bool", 0.0, 1.0), "none", None, 1)(obs)
    assert torch.equal(x, obs.permute(0, 1, 4, 2, 3).float())


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_without_scaling_a_vector_is_cast_and_left_alone(dtype):
    obs = torch.tensor([[[1, 2, 200]]]).to(getattr(torch, dtype))
    x = Preprocess(Box((3,), dtype, 0.0, 255.0), "none", None, 1)(obs)
    assert x.dtype == torch.float32
    assert x.tolist() == [[[1.0, 2.0, 200.0]]]


def test_a_fixed_scale_divides_component_by_component():
    x = Preprocess(VECTOR, "fixed", (2.0, 4.0, 0.5), 2)(torch.ones(2, 1, 3))
    assert x.tolist() == [[[0.5, 0.25, 2.0]]] * 2


def test_without_a_scale_the_larger_finite_bound_divides():
    low, high = (-4.0, -INF, 0.0, -3.4e38), (2.0, INF, 0.0, 3.4e38)
    # 4 is larger than 2; no bound, a bound of zero and the largest float divide by one
    assert fixed_scale(Box((4,), "float32", low, high), None).tolist() == [4.0, 1.0, 1.0, 1.0]
    assert fixed_scale(Box((2, 1), "float32", -1.0, 5.0), None).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("scale", [(1.0, 2.0), (1.0,) * 4, (1.0, 0.0, 1.0), (1.0, -2.0, 1.0), (1.0, INF, 2.0)])
def test_a_scale_that_is_no_divisor_for_each_component_is_refused(scale):
    with pytest.raises(UsageError, match=r"obs_scale \(1\.0, .*\) must be 3 positive numbers, one per component\."):
        Preprocess(VECTOR, "fixed", scale, 1)


@pytest.mark.parametrize(
    ("space", "scaling", "scale", "message"),
    [
        (VECTOR, "runing", None, r"unknown observation scaling 'runing'\. Did you mean 'running'\?"),
        (Box((9, 9, 1), "uint8", 0.0, 255.0), "running", None, "obs_scaling 'running' is for vectors; images"),
        (Discrete(4), "fixed", None, r"and observations Discrete\(n=4, start=0\) hold no other numbers\."),
        (Masked(Tuple((PIXELS, MultiBinary((2,)))), 3), "running", None, r"Tuple\(.*\) hold no other numbers\."),
        (ROOM, "fixed", (1.0,) * 17, r"must be 3 positive numbers, one per component\."),  # what is scaled counts
    ],
)
def test_a_scaling_that_does_not_suit_is_refused(space, scaling, scale, message):
    with pytest.raises(UsageError, match=message):
        Preprocess(space, scaling, scale, 1)


@st.composite
def chunks_and_masks(draw):
    """S members, N envs, chunks of time, an offset far from zero, and which rows count."""
    members, num_envs = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    offset = draw(st.sampled_from([0.0, -3.0, 1e4]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    chunks = []
    for _ in range(draw(st.integers(1, 6))):
        obs = rng.normal(offset, rng.uniform(0.1, 5.0), (members, num_envs, 3)).astype(np.float32)
        valid = np.array(draw(st.lists(st.booleans(), min_size=members * num_envs, max_size=members * num_envs)))
        chunks.append((obs, valid.reshape(members, num_envs)))
    return members, chunks


@given(chunks_and_masks())
def test_running_statistics_equal_numpys_over_all_valid_rows_of_each_member(case):
    members, chunks = case
    preprocess = Preprocess(VECTOR, "running", None, members)
    for obs, valid in chunks:
        preprocess.observe(obs, valid)  # NumPy; torch below
    probe = torch.full((members, 1, 3), 2.5)
    for s in range(members):
        rows = np.concatenate([obs[s][valid[s]] for obs, valid in chunks]).astype(np.float64)
        assert preprocess.count[s].item() == len(rows)
        if not len(rows):
            assert torch.equal(preprocess(probe)[s], probe[s])  # nothing seen: mean 0, deviation 1
            continue
        np.testing.assert_allclose(preprocess.mean[s, 0].numpy(), rows.mean(axis=0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(preprocess.variance[s, 0].numpy(), rows.var(axis=0), rtol=1e-6, atol=1e-8)
        expected = ((2.5 - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-8)).clip(-CLIP, CLIP)
        np.testing.assert_allclose(preprocess(probe)[s, 0].numpy(), expected, rtol=1e-4, atol=1e-4)


def observed(members, chunks, pick=slice(None)):
    preprocess = Preprocess(VECTOR, "running", None, members)
    for obs, valid in chunks:
        preprocess.observe(torch.from_numpy(obs[pick]), torch.from_numpy(valid[pick]))
    return preprocess


@given(chunks_and_masks())
def test_a_members_statistics_do_not_depend_on_the_others(case):
    members, chunks = case
    together, last = observed(members, chunks), observed(1, chunks, slice(-1, None))
    for name, buffer in last.named_buffers():
        torch.testing.assert_close(together.get_buffer(name)[-1:], buffer, rtol=1e-12, atol=1e-12)


@given(chunks_and_masks(), st.integers(0, 2))
def test_an_unstacked_member_preprocesses_alike(case, member):
    members, chunks = case
    member %= members
    stacked = observed(members, chunks)
    plain = stacked.unstack(member)
    obs = torch.randn(members, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(obs[member]), stacked(obs)[member])
    assert torch.equal(plain(obs[member, 0]), stacked(obs)[member, 0])
    before = plain(obs[member])
    stacked.observe(obs, torch.ones(members, 5, dtype=torch.bool))
    assert torch.equal(plain(obs[member]), before)  # a copy


@pytest.mark.parametrize(("scaling", "scale"), [("fixed", (1.0, 2.0, 3.0)), ("none", None)])
def test_other_scalings_observe_nothing_and_unstack_too(scaling, scale):
    preprocess = Preprocess(VECTOR, scaling, scale, 2)
    obs = torch.randn(2, 4, 3)
    before = preprocess(obs)
    preprocess.observe(obs, torch.ones(2, 4, dtype=torch.bool))
    assert torch.equal(preprocess(obs), before)
    assert torch.equal(preprocess.unstack(1)(obs[1]), before[1])


def test_a_scale_beside_another_scaling_is_kept_and_not_read():
    # A tuned experiment may bring a scale along, and the command line another scaling.
    preprocess = Preprocess(VECTOR, "running", (2.0, 2.0, 2.0), 1)
    obs = torch.randn(1, 4, 3)
    assert torch.equal(preprocess(obs), Preprocess(VECTOR, "running", None, 1)(obs))
    assert preprocess.to_json() == {"scaling": "running", "scale": [2.0, 2.0, 2.0]}


def test_looking_at_observations_does_not_move_the_statistics():
    preprocess = observed(1, [(np.random.default_rng(0).normal(size=(1, 4, 3)), np.ones((1, 4), bool))])
    before = {name: buffer.clone() for name, buffer in preprocess.named_buffers()}
    preprocess.eval()(torch.randn(1, 100, 3))
    preprocess.train()(torch.randn(1, 100, 3))
    assert all(torch.equal(preprocess.get_buffer(name), buffer) for name, buffer in before.items())


def test_statistics_of_doubles_are_doubles():
    preprocess = Preprocess(Box((1,), "float64", -INF, INF), "running", None, 1)
    preprocess.observe(np.array([[[1e9 + 1.0], [1e9 + 3.0]]]), np.ones((1, 2), bool))
    assert (preprocess.mean.item(), preprocess.variance.item()) == (1e9 + 2.0, 1.0)  # of float32 both rows are 1e9


def test_far_observations_are_clipped():
    preprocess = observed(1, [(np.array([[[-1.0] * 3, [1.0] * 3]]), np.ones((1, 2), bool))])
    assert preprocess(torch.tensor([[[100.0, -100.0, 0.5]]])).flatten().tolist() == pytest.approx([CLIP, -CLIP, 0.5])


def test_read_only_rows_are_taken():
    obs, valid = np.ones((1, 2, 3), np.float32), np.ones((1, 2), bool)
    obs.flags.writeable = valid.flags.writeable = False  # as an env may hand them out; a warning would be an error here
    preprocess = Preprocess(VECTOR, "running", None, 1)
    preprocess.observe(obs, valid)
    assert preprocess.count.item() == 2


@pytest.mark.parametrize(("scaling", "scale"), [("none", None), ("fixed", (1.0, 2.0, 3.0)), ("running", None)])
def test_settings_go_through_json_and_statistics_through_the_state_dict(scaling, scale):
    preprocess = Preprocess(VECTOR, scaling, scale, 2)
    preprocess.observe(torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
    again = Preprocess.from_json(preprocess.to_json(), VECTOR, 2)
    again.load_state_dict(preprocess.state_dict())
    obs = torch.randn(2, 5, 3)
    assert torch.equal(again(obs), preprocess(obs))


def test_every_part_of_an_observation_becomes_features_as_on_paper():
    assert Preprocess(ROOM, "none", None, None).feature_shape == (17,)
    assert preprocessed(ROOM, SEEN) == pytest.approx(FEATURES)


def test_one_integer_becomes_one_hot_counted_from_its_start():
    assert preprocessed(Discrete(4, start=-1), 1) == [0, 0, 1, 0]
    batch = Preprocess(Discrete(3), "none", None, 2)(torch.tensor([[0, 2], [1, 1]]))
    assert batch.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]]
    assert batch.dtype == torch.float32


def test_integers_in_a_table_become_one_hot_row_by_row():
    space = MultiDiscrete((2, 3, 2, 1), (0, 0, 7, 0), (2, 2))
    assert preprocessed(space, [[1, 2], [7, 0]]) == [0, 1, 0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1), (1, 2, 2, 1), (4,)])
def test_numbers_of_any_shape_become_a_vector_in_row_major_order(shape):
    space = Box(shape, "float32", -INF, INF)
    obs = torch.arange(2 * 3 * 4).float().reshape(2, 3, *shape)
    assert torch.equal(Preprocess(space, "none", None, 2)(obs), obs.reshape(2, 3, 4))


def test_one_number_alone_is_a_vector_of_one():
    assert Preprocess(Box((), "float64", -INF, INF), "none", None, 1)(torch.ones(1, 5)).tolist() == [[[1.0]] * 5]


def test_only_numbers_in_boxes_are_scaled_by_fixed():
    expected = [*FEATURES[:7], 3.0 / 4.0, 4.0, *FEATURES[9:16], 0.5]  # bounds 4, none, 10
    assert preprocessed(ROOM, SEEN, "fixed") == pytest.approx(expected)
    expected = [*FEATURES[:7], 1.5, 1.0, *FEATURES[9:16], 10.0]
    assert preprocessed(ROOM, SEEN, "fixed", (2.0, 4.0, 0.5)) == pytest.approx(expected)


def test_only_numbers_in_boxes_are_normalised_by_running():
    preprocess = Preprocess(ROOM, "running", None, 1)
    other = {**SEEN, "place": ((1.0, 10.0), 5), "lamps": (0, 0), "weight": 7.0}
    obs = np.stack([pack(ROOM, SEEN), pack(ROOM, other)])[None]
    preprocess.observe(obs, np.ones((1, 2), bool))
    scaled = [7, 8, 16]
    assert preprocess.mean.flatten()[scaled].tolist() == [2.0, 7.0, 6.0]
    assert preprocess.variance.flatten()[scaled].tolist() == [1.0, 9.0, 1.0]
    others = [i for i in range(17) if i not in scaled]
    assert preprocess.mean.flatten()[others].tolist() == [0.0] * 14
    assert preprocess.variance.flatten()[others].tolist() == [1.0] * 14
    first = preprocess(torch.from_numpy(obs))[0, 0]
    assert first.tolist() == pytest.approx([*FEATURES[:7], 1.0, -1.0, *FEATURES[9:16], -1.0])
    assert first[others].tolist() == torch.tensor(FEATURES)[others].tolist()  # the very same bits


def test_a_mask_is_no_feature_and_leaves_an_image_an_image():
    plain, masked = Preprocess(PIXELS, "none", None, 1), Preprocess(Masked(PIXELS, 3), "none", None, 1)
    obs = torch.arange(2 * 4, dtype=torch.uint8).reshape(1, 2, 1, 2, 2)
    packed = torch.cat([obs.flatten(2), torch.tensor([[[1, 0, 1], [0, 0, 1]]], dtype=torch.uint8)], dim=-1)
    assert plain.feature_shape == masked.feature_shape == (2, 1, 2)
    assert torch.equal(masked(packed), plain(obs))
    bits = Masked(Box((1, 2, 2), "bool", 0.0, 1.0), 2)
    assert Preprocess(bits, "none", None, None)(torch.tensor([1, 0, 1, 1, 0, 1])).tolist() == [[[1, 1]], [[0, 1]]]


def test_a_masked_vector_scales_like_the_vector_alone():
    space = Masked(VECTOR, 2)
    obs = torch.randn(2, 6, 3)
    packed = torch.cat([obs, torch.randint(2, (2, 6, 2))], dim=-1)
    for scaling, scale in (("none", None), ("fixed", (2.0, 4.0, 0.5)), ("running", None)):
        plain, masked = Preprocess(VECTOR, scaling, scale, 2), Preprocess(space, scaling, scale, 2)
        plain.observe(obs, torch.ones(2, 6, dtype=torch.bool))
        masked.observe(packed, torch.ones(2, 6, dtype=torch.bool))
        assert torch.equal(masked(packed), plain(obs))


def test_the_mask_is_read_and_one_that_allows_nothing_allows_everything():
    preprocess = Preprocess(Masked(Discrete(500), 3), "none", None, 1)
    obs = torch.tensor([[[7, 0, 1, 1], [8, 1, 0, 0], [9, 0, 0, 0]]], dtype=torch.int32)
    mask = preprocess.mask(obs)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[[False, True, True], [True, False, False], [True, True, True]]]
    assert preprocess.mask(obs[0, 0]).tolist() == [False, True, True]
    assert Preprocess(VECTOR, "none", None, 1).mask(torch.zeros(1, 1, 3)) is None


@pytest.mark.parametrize("space", [ROOM, Masked(ROOM, 2), Discrete(4), Masked(PIXELS, 2), MultiBinary((2, 2))], ids=str)
def test_members_are_preprocessed_alike_alone_and_no_constant_is_saved(space):
    has_numbers = space in (ROOM, Masked(ROOM, 2))
    stacked = Preprocess(space, "running" if has_numbers else "none", None, 3)
    rng = np.random.default_rng(0)
    obs = torch.from_numpy(rng.integers(0, 3, (3, 5, *space.shape)).astype(space.dtype))
    stacked.observe(obs, torch.ones(3, 5, dtype=torch.bool))
    for member in range(3):
        plain = stacked.unstack(member)
        assert torch.equal(plain(obs[member]), stacked(obs)[member])
        assert torch.equal(plain(obs[member, 0]), stacked(obs)[member, 0])
    assert set(stacked.state_dict()) == ({"count", "mean", "variance"} if has_numbers else set())


@pytest.mark.parametrize("space", [VECTOR, ROOM, Masked(ROOM, 4), Masked(PIXELS, 2), Discrete(4)], ids=str)
def test_it_is_one_graph_for_any_batch(space):
    # torch.export refuses a module whose path depends on the data
    preprocess = Preprocess(space, "none", None, 1)
    obs = torch.from_numpy(np.ones((1, 4, *space.shape), space.dtype))
    batch = torch.export.Dim("batch", min=2, max=64)
    graph = torch.export.export(preprocess, (obs,), dynamic_shapes=({1: batch},)).module()
    more = obs.repeat(1, 3, *[1] * len(space.shape))
    assert torch.equal(graph(more), preprocess(more))
