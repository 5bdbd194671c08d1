"""Preprocessing: images, fixed scales, and running statistics that equal NumPy's over all valid rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.networks.preprocess import CLIP, Preprocess, fixed_scale
from rlab.networks.spaces import Box, Discrete

INF = math.inf
VECTOR = Box((3,), "float32", -INF, INF)


def test_uint8_images_become_shares_of_255_with_channels_first():
    space = Box((2, 3, 4), "uint8", 0.0, 255.0)
    obs = torch.arange(2 * 5 * 24, dtype=torch.uint8).reshape(2, 5, 2, 3, 4)
    x = Preprocess(space, "none", None, 2)(obs)
    assert x.shape == (2, 5, 4, 2, 3)
    assert x.dtype == torch.float32
    for where in np.ndindex(2, 5, 2, 3, 4):
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
    assert fixed_scale(Box((2, 1), "float32", -1.0, 5.0), None).tolist() == [[5.0], [5.0]]


@pytest.mark.parametrize("scale", [(1.0, 2.0), (1.0,) * 4, (1.0, 0.0, 1.0), (1.0, -2.0, 1.0), (1.0, INF, 2.0)])
def test_a_scale_that_is_no_divisor_for_each_component_is_refused(scale):
    with pytest.raises(UsageError, match=r"obs_scale \(1\.0, .*\) must be 3 positive numbers, one per component\."):
        Preprocess(VECTOR, "fixed", scale, 1)


@pytest.mark.parametrize(
    ("space", "scaling", "scale", "message"),
    [
        (VECTOR, "runing", None, r"unknown observation scaling 'runing'\. Did you mean 'running'\?"),
        (Box((9, 9, 1), "uint8", 0.0, 255.0), "running", None, "obs_scaling 'running' is for vectors; images"),
        (Discrete(4), "none", None, r"observations Discrete\(n=4, start=0\) are not supported; Box is\."),
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
