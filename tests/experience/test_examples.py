"""Labelled examples: every row once in every epoch, in each member's own order, and held-out rows with every class."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.experience.examples import EpochSampler, Examples, stratified_order
from rlab.randomness import stream


def numbered(count, seeds=(3, 4), **options):
    """Inputs that say which row they are; targets ten times that."""
    number = np.arange(count)
    return Examples(seeds, number[:, None].astype(np.float32), number * 10, **options)


@given(st.integers(1, 12), st.lists(st.integers(1, 15), min_size=1, max_size=8))
def test_every_row_comes_exactly_once_in_every_epoch_however_it_is_drawn(rows, sizes):
    sampler = EpochSampler(numbered(rows), "dataset")
    drawn = np.concatenate([sampler.sample(size)["target"].numpy() for size in sizes], axis=1) // 10
    for member in drawn:
        for start in range(0, len(member), rows):
            epoch = member[start : start + rows]
            assert len(set(epoch.tolist())) == len(epoch)


def test_inputs_and_targets_stay_together_and_members_and_epochs_have_orders_of_their_own():
    drawn = EpochSampler(numbered(50), "dataset").sample(100)
    assert (drawn["input"][..., 0] * 10 == drawn["target"]).all()
    assert (drawn["input"][..., 0] == drawn["row"]).all()
    orders = drawn["target"].numpy().reshape(4, 50)
    assert len({tuple(order) for order in orders.tolist()}) == 4
    assert (np.sort(orders, axis=1) == np.arange(50) * 10).all()


def test_an_order_does_not_depend_on_the_other_members():
    alone = EpochSampler(numbered(9, seeds=(4,)), "dataset").sample(30)["target"][0]
    assert (EpochSampler(numbered(9), "dataset").sample(30)["target"][1] == alone).all()


def test_each_member_draws_from_rows_of_its_own():
    inputs = np.arange(2 * 5).reshape(2, 5).astype(np.float32)
    own = Examples((3, 4), inputs, inputs.astype(int), per_member=True)
    drawn = EpochSampler(own, "dataset").sample(5)["target"]
    assert [sorted(member) for member in drawn.tolist()] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    some = numbered(9, rows=[np.array([1, 3]), np.array([0, 5, 8])])
    drawn = EpochSampler(some, "dataset").sample(6)["target"]
    assert [set(member) for member in drawn.tolist()] == [
        {10, 30},
        {0, 50, 80},
    ]


@pytest.mark.parametrize("before", [0, 4, 10, 13])
def test_draws_go_on_from_a_state_to_the_row(before):
    whole, first, second = (EpochSampler(numbered(10), "dataset") for _ in range(3))
    if before:
        whole.sample(before)
        first.sample(before)
    second.load_state(copy.deepcopy(first.state()))
    assert (second.sample(25)["target"] == whole.sample(25)["target"]).all()


def test_shared_arrays_are_not_copied_for_every_member():
    inputs = np.zeros((100, 3), np.float32)
    examples = Examples(range(50), inputs, np.zeros(100, int))
    whole = examples.rows()["input"]
    assert whole.shape == (50, 100, 3)
    assert whole.untyped_storage().data_ptr() == inputs.ctypes.data
    kept, _ = examples.split(0.5)
    assert kept._inputs is inputs


def test_rows_are_padded_behind_the_last_one_and_the_weight_says_so():
    batch = numbered(9, rows=[np.array([1, 3]), np.array([0, 5, 8])]).rows()
    assert batch["weight"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["target"][0, :2].tolist() == [10, 30]
    assert batch["target"][1].tolist() == [0, 50, 80]
    assert numbered(9).rows(limit=2)["target"].tolist() == [[0, 10], [0, 10]]
    assert numbered(9, rows=[np.array([1, 3]), np.array([0, 5, 8])]).rows(limit=1)["target"].tolist() == [[10], [0]]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.sampled_from([0.1, 0.2, 0.29, 0.5, 0.9]))
def test_a_split_holds_out_the_asked_share_of_every_class_to_within_a_row(labels, fraction):
    labels = np.array(labels)
    examples = Examples((0, 1), np.arange(len(labels))[:, None].astype(np.float32), labels)
    train, held_out = examples.split(fraction)
    number = min(max(round(len(labels) * fraction), 1), len(labels) - 1)
    assert held_out.sizes.tolist() == [number, number]
    for member in range(2):
        rows = np.concatenate([train.member_rows[member], held_out.member_rows[member]])
        assert sorted(rows.tolist()) == list(range(len(labels)))
        for c in set(labels.tolist()):
            share = number / len(labels) * (labels == c).sum()
            assert abs((held_out.member_targets(member) == c).sum() - share) < 1


def test_splits_differ_between_members_and_follow_their_seeds():
    examples = numbered(40, seeds=(0, 1, 0))
    _, held_out = examples.split(0.25)
    rows = [set(r.tolist()) for r in held_out.member_rows]
    assert rows[0] == rows[2] != rows[1]
    _, other = examples.split(0.25, seeds=(7, 7, 7))
    assert set(other.member_rows[0].tolist()) == set(other.member_rows[1].tolist()) != rows[0]


def test_a_split_of_a_part_stays_inside_it():
    train, held_out = numbered(9, rows=[np.array([1, 3, 5]), np.array([0, 5, 8])]).split(0.4)
    assert sorted([*train.member_rows[0], *held_out.member_rows[0]]) == [1, 3, 5]
    assert sorted([*train.member_rows[1], *held_out.member_rows[1]]) == [0, 5, 8]


def test_numbers_have_no_classes_to_be_stratified_by():
    generator = stream(0, "some use")
    order = stratified_order(np.repeat([2, 0, 1], 4), generator)
    in_order = np.repeat([2, 0, 1], 4)[order]
    assert (in_order.reshape(3, 4) == in_order[::4, None]).all()
    assert sorted(order.tolist()) == list(range(12))
    orders = {tuple(np.arange(3)[stratified_order(np.arange(3), generator)]) for _ in range(50)}
    assert len(orders) == 6  # single rows are as random as without classes
    assert stratified_order(np.repeat([2.0, 0.0], 50), generator).tolist() != sorted(range(100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Examples((0,), np.zeros((3, 2)), np.zeros(4)), "targets [4] must have the same number of rows"),
        (lambda: Examples((0,), np.zeros((0, 2)), np.zeros(0)), "the examples are empty; give one row or more."),
        (lambda: Examples((0,), np.array([[np.nan]]), np.zeros(1)), "inputs contain NaN or infinite numbers"),
        (lambda: Examples((0,), np.zeros((1, 1)), np.array([np.inf])), "targets contain NaN or infinite numbers"),
        (lambda: Examples((0,), np.array([["a"]]), np.zeros(1)), "inputs of dtype <U1 are not supported"),
        (lambda: Examples((0, 1), np.zeros((3, 2, 1)), np.zeros((3, 2)), per_member=True), "3 members do not match 2"),
        (lambda: numbered(3, rows=[np.array([0])]), "rows of 1 members do not match 2 seeds."),
        (lambda: numbered(3, rows=[np.array([0]), np.array([3])]), "seed 4 must have one row or more, numbered 0 to 2"),
        (lambda: numbered(3).split(1.0), "validation_fraction 1.0 must be above 0 and below 1."),
        (lambda: numbered(1).split(0.5), "a single example cannot be split"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(make, message):
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
