"""Prioritised replay draws each row as often as it should, corrects the bias that this brings, and forgets nothing."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.draws import Draws
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.demonstrations import demonstrations_of
from rlab.experience.mixture_sampler import MixtureSampler
from rlab.experience.prioritised_sampler import FLOOR, PrioritisedSampler
from rlab.experience.prioritised_sequences import PrioritisedSequences
from rlab.experience.sum_tree import FAN_OUT, SumTree
from rlab.learning.returns import weighted_mean
from rlab.networks.spaces import Box, Discrete
from rlab.runs.encoding import decode, encode

EXACT = {"rtol": 1e-5, "atol": 0.0}  # of priorities from 1 on, beside a floor of 1e-6


def filled(make_world, draws, rows, style="same", members=1, num_envs=1, alpha=1.0):
    world = make_world(members, num_envs, style, 0.0)
    storage = world.storage(rows * num_envs)
    sampler = PrioritisedSampler(storage, draws(members), alpha=alpha)
    world.play(rows, storage)
    return world, storage, sampler


def prioritised_by(make_world, draws, errors):
    """A sampler of as many rows, whose errors are these."""
    world, storage, sampler = filled(make_world, draws, len(errors))
    sampler.feedback(torch.arange(len(errors))[None], torch.tensor([errors]))
    return world, storage, sampler


@pytest.mark.parametrize("batch", [1, 4, 700])
def test_rows_are_drawn_in_proportion_to_their_priority(make_world, draws, batch):
    _, _, sampler = prioritised_by(make_world, draws, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    rows = torch.cat([sampler.sample(batch)["row"][0] for _ in range(700 // batch)])
    count = np.bincount(rows, minlength=8)
    assert count[0] == 0  # its priority is a millionth
    expected = 25 * np.arange(1, 8)  # the priorities sum to 28
    assert (np.square(count[1:] - expected) / expected).sum() < 22.5  # chi-squared, 6 degrees of freedom, p = 0.001


def test_weights_correct_the_bias_of_the_draws_on_a_world_of_two_rows(make_world, draws):
    _, _, sampler = prioritised_by(make_world, draws, [3.0, 1.0])
    batch = sampler.sample(4)  # one row from each quarter of the priorities: three times the first, once the second
    assert batch["row"].tolist() == [[0, 0, 0, 1]]
    # 1 / (2 rows x probability 3/4) = 2/3 and 1 / (2 x 1/4) = 2; relative to the largest 1/3 and 1
    torch.testing.assert_close(batch["weight"], torch.tensor([[1 / 3, 1 / 3, 1 / 3, 1.0]]), **EXACT)
    loss = torch.tensor([10.0, 20.0])[batch["row"]]
    # (3 x 1/3 x 10 + 20) / 4 = 7.5, half of the mean over the two rows, as 1 / (rows x largest weight) says
    torch.testing.assert_close(weighted_mean(loss, batch["weight"]), torch.tensor([7.5]), **EXACT)


def test_a_batch_has_one_row_of_each_equal_part_of_the_priorities(make_world, draws):
    _, _, sampler = prioritised_by(make_world, draws, [1.0] * 12)
    for _ in range(20):
        assert (sampler.sample(6)["row"] // 2).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_alpha_is_the_exponent_of_the_error_and_0_draws_all_rows_alike(make_world, draws):
    for alpha, expected in ((0.5, [2.0, 3.0]), (0.0, [1.0, 1.0])):
        _, _, sampler = filled(make_world, draws, 2, alpha=alpha)
        sampler.feedback(torch.tensor([[0, 1]]), torch.tensor([[-4.0, 9.0]]))
        torch.testing.assert_close(sampler.tree.get(torch.tensor([[0, 1]])), torch.tensor([expected]).double(), **EXACT)


def test_new_rows_have_the_largest_priority_so_far_and_overwritten_ones_none(make_world, draws):
    world, storage, sampler = prioritised_by(make_world, draws, [7.0, 0.0, 5.0, 0.0])
    sampler.feedback(torch.tensor([[0]]), torch.tensor([[2.0]]))
    world.play(1, storage)  # row 4 takes the place of row 0
    rows = {row for _ in range(20) for row in sampler.sample(5)["row"][0].tolist()}
    assert rows == {2, 4}
    at = sampler.tree.get(torch.arange(4)[None])
    torch.testing.assert_close(at, torch.tensor([[7.0, FLOOR, 5.0, FLOOR]]).double(), **EXACT)


def test_rows_that_are_not_transitions_are_never_drawn(make_world, draws):
    world = make_world(2, 3, "next", 0.4)
    storage = world.storage(3 * 11)
    sampler = PrioritisedSampler(storage, draws(2))
    for steps in (2, 5, 30):
        world.play(steps, storage)
        batch = sampler.sample(200)
        assert storage.read(batch["row"], "valid")["valid"].all()
        held = storage.read_lanes(storage.rows_written - storage.rows, storage.rows, "valid")["valid"].sum(dim=(1, 2))
        assert torch.equal((sampler.tree.levels[0] > 0).sum(dim=1), held)


def test_a_sampler_of_storage_that_holds_rows_already_begins_with_them(make_world, draws):
    for steps in (4, 25):
        world = make_world(2, 3, "next", 0.3)
        storage = world.storage(3 * 9)
        beside = PrioritisedSampler(storage, draws(2))
        world.play(steps, storage)
        late = PrioritisedSampler(storage, draws(2))
        assert all(map(torch.equal, late.tree.levels, beside.tree.levels))


def test_of_a_row_that_is_twice_in_a_batch_the_last_error_counts(make_world, draws):
    _, _, sampler = filled(make_world, draws, 4)
    sampler.feedback(torch.tensor([[2, 1, 2, 2, 1]]), torch.tensor([[9.0, 5.0, 1.0, 3.0, 4.0]]))
    at = sampler.tree.get(torch.arange(4)[None])
    torch.testing.assert_close(at, torch.tensor([[1.0, 4.0, 3.0, 1.0]]).double(), **EXACT)
    torch.testing.assert_close(sampler.tree.total(), torch.tensor([[9.0]]).double(), **EXACT)
    torch.testing.assert_close(sampler.largest, torch.tensor([[9.0]]).double(), **EXACT)  # the largest was seen


def test_a_member_draws_alone_what_it_draws_beside_others(make_world):
    world = make_world(3, 2, "next")
    both = PrioritisedSampler(world.storage(20), Draws((4, 5, 6), "replay", "cpu"))
    world.play(15, both.storage)
    for _ in range(5):
        batch = both.sample(8)
        both.feedback(batch["row"], batch["reward"][..., 0])
    alone = PrioritisedSampler(both.storage, Draws((5,), "replay", "cpu"))
    alone.tree = SumTree(1, alone.size)
    alone.load_state({"draws": both.draws.state(), "tree": {"levels": [level[1:2] for level in both.tree.levels]},
                      "largest": both.largest[1:2]})  # fmt: skip
    here, there = (sampler._draw_places(8) for sampler in (alone, both))
    assert all(torch.equal(one, other[1:2]) for one, other in zip(here, there, strict=True))


def test_a_saved_prioritised_mixture_goes_on_with_the_very_next_draw(make_world, draws):
    world = make_world(2, 2, "next")
    storage = world.storage(20)
    ids = np.arange(5)
    episode = Episode(np.stack([ids, -ids], axis=-1), ids[:-1], np.ones(4, np.float32), True, False)
    shown = demonstrations_of(Dataset("shown", Box((2,), "int64", -1e9, 1e9), Discrete(10), (episode,) * 2), (0, 1))
    world.play(15, storage)

    def mixture():
        return MixtureSampler(*(PrioritisedSampler(rows, draws(2)) for rows in (storage, shown)), 0.5)

    sampler, again = mixture(), mixture()
    for _ in range(3):
        batch = sampler.sample(10)
        sampler.feedback(batch["row"], torch.arange(20.0).reshape(2, 10))
    again.load_state(decode(*encode(copy.deepcopy(sampler.state()))))
    world.play(2, storage)
    one, other = sampler.sample(30), again.sample(30)
    assert all(torch.equal(one[name], other[name]) for name in one)


def check_tree(tree, leaves):
    """The leaves are those of the reference `[S, size]`, every node is the sum of its children and leaves are found."""
    assert np.array_equal(tree.levels[0][:, : leaves.shape[1]].numpy(), leaves)
    for below, above in pairwise(tree.levels):
        for sums, parts in zip(above.numpy(), below.numpy(), strict=True):
            expected = [math.fsum(family) for family in parts.reshape(-1, FAN_OUT)]
            np.testing.assert_allclose(sums[: len(expected)], expected, rtol=FAN_OUT * 2**-53)
    share = (torch.arange(101) / 101).expand(len(leaves), -1).double().clone()
    share[:, -1] = 1 - 2**-53
    place = tree.find(share).numpy()
    ends = leaves.cumsum(axis=1)
    for s, (places, shares) in enumerate(zip(place, share.numpy(), strict=True)):
        assert (leaves[s, places] > 0).all()
        near = ends[s, -1] * leaves.shape[1] * 2**-52  # roundings of a plain sum
        assert (ends[s, places] - leaves[s, places] - near <= shares * ends[s, -1]).all()
        assert (shares * ends[s, -1] <= ends[s, places] + near).all()


def changed_at_random(members, size, batches, seed):
    rng, tree, leaves = np.random.default_rng(seed), SumTree(members, size), np.zeros((members, size))
    tree.fill(torch.ones(members, size, dtype=torch.float64))
    leaves[:] = 1.0
    for _ in range(batches):
        count = int(rng.integers(1, 65))
        place = np.stack([rng.choice(size, min(count, size), replace=False) for _ in range(members)])
        value = np.exp(rng.normal(0.0, 8.0, place.shape)) * (rng.random(place.shape) < 0.8)
        tree.set(torch.from_numpy(place), torch.from_numpy(value))
        np.put_along_axis(leaves, place, value, axis=1)
    leaves[:, 0] = 1.0  # some priority of each member is above 0
    tree.set(torch.zeros(members, 1, dtype=torch.int64), torch.ones(members, 1, dtype=torch.float64))
    return tree, leaves


@given(
    st.integers(1, 3),
    st.sampled_from([1, 2, 63, 64, 65, 129, 4_096, 4_097, 9_999]),
    st.integers(0, 20),
    st.integers(0, 99),
)
def test_the_sums_are_those_of_the_leaves_after_any_changes(members, size, batches, seed):
    check_tree(*changed_at_random(members, size, batches, seed))


@pytest.mark.prove
def test_the_sums_are_exact_after_a_million_changes():
    tree, leaves = changed_at_random(2, 50_000, 31_250, 0)  # of 32 leaves each on average
    check_tree(tree, leaves)


def windows(make_world, draws, rows, lane_rows, length, apart, num_envs=1):
    world = make_world(2, num_envs, "next", 0.1)
    storage = world.storage(lane_rows * num_envs)
    sampler = PrioritisedSequences(storage, draws(2), length, apart)
    world.play(rows, storage)
    return world, storage, sampler


def listed(sampler):
    """The ids of the first rows of the windows that can be drawn, of member 0."""
    places = sampler.tree.get(torch.arange(sampler.size).expand(2, -1))[0].nonzero().squeeze(1)
    return sorted(sampler._row(places).tolist())


@pytest.mark.parametrize(
    ("rows", "first"),
    [(3, []), (4, [0]), (5, [0]), (7, [0, 3]), (10, [0, 3, 6]), (11, [3, 6]), (23, [15, 18])],
)
def test_whole_windows_alone_are_drawn_which_begin_so_far_apart(make_world, draws, rows, first):
    # of 4 rows, 3 apart, in a lane that keeps 10: a window may begin at times up to rows - 4, from rows - 10 on
    _, _, sampler = windows(make_world, draws, rows, 10, 4, 3, num_envs=2)
    assert listed(sampler) == [time * 2 + env for time in first for env in range(2)]


def test_windows_are_drawn_in_proportion_to_what_was_said_of_them(make_world, draws):
    _, storage, sampler = windows(make_world, draws, 12, 20, 4, 2)
    assert listed(sampler) == [0, 2, 4, 6, 8]
    row = torch.tensor([[0, 2, 4, 6, 8]] * 2)
    sampler.feedback(row, torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]] * 2) ** (1 / 0.6))
    batch = sampler.sample(4)
    assert batch["row"].tolist() == [[2, 6, 6, 6]] * 2
    torch.testing.assert_close(batch["weight"], torch.tensor([[1.0, 1 / 3, 1 / 3, 1 / 3]] * 2), rtol=1e-3, atol=0.0)
    assert torch.equal(batch["obs"], storage.read(batch["row"].unsqueeze(-1) + torch.arange(4), "obs")["obs"])


def test_there_is_always_a_window_to_draw_however_far_apart_they_begin(make_world, draws):
    world, storage, sampler = windows(make_world, draws, 6, 6, 4, 50)
    assert sampler.apart == 3
    for _ in range(20):
        world.play(1, storage)
        assert listed(sampler)


def test_windows_of_demonstrations_are_whole_for_each_member(draws):
    action, reward = np.zeros(5, np.int64), np.zeros(5, np.float32)
    episode = Episode(np.arange(6, dtype=np.float32)[:, None], action, reward, True, False)
    shown = Dataset("shown", Box((1,), "float32", -9.0, 9.0), Discrete(2), (episode,) * 3)
    storage = demonstrations_of(shown, (0, 1), 2)
    assert listed(PrioritisedSequences(storage, draws(2), 4, 3)) == [0, 3, 6]  # 12 rows, the last of which is not one
    assert storage.last_rows.tolist() == [[10], [10]]
