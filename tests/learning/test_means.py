"""Means of metrics over stretches of any length."""

import torch

from rlab.learning.means import Means


def rows(values, name="loss/a"):
    return [{name: torch.tensor([value, -value])} for value in values]


def test_the_mean_of_a_metric_is_over_the_updates_that_reported_it():
    means = Means()
    means.add({"loss/critic": torch.tensor([1.0, 2.0]), "loss/actor": torch.tensor([10.0, 20.0])})
    means.add({"loss/critic": torch.tensor([3.0, 6.0])})  # an actor that learns at every second update
    means.add({"loss/critic": torch.tensor([2.0, 1.0]), "loss/actor": torch.tensor([30.0, 60.0])})
    found = means.take()
    assert {name: value.tolist() for name, value in found.items()} == {
        "loss/critic": [2.0, 3.0],  # (1 + 3 + 2) / 3, (2 + 6 + 1) / 3
        "loss/actor": [20.0, 40.0],  # (10 + 30) / 2, (20 + 60) / 2
    }
    assert means.take() == {}  # a new stretch


def test_a_metric_that_still_has_its_gradient_is_reported_without_it():
    means = Means()
    means.add({"loss/a": 2.0 * torch.ones(2, requires_grad=True)})
    assert means.take()["loss/a"].tolist() == [2.0, 2.0]


def test_a_mean_is_the_same_to_the_bit_wherever_its_stretch_was_saved():
    values = [1.0 + 0.1 * i for i in range(400)]
    whole, saved = Means(), Means()
    for i, row in enumerate(rows(values)):
        whole.add(row)
        saved.add(row)
        if i % 7 == 0:
            state = saved.state()
            saved = Means()
            saved.load_state(state, torch.device("cpu"))
    assert whole.take()["loss/a"].tolist() == saved.take()["loss/a"].tolist()


def test_what_is_saved_does_not_grow_with_the_updates():
    means = Means()
    for row in rows(float(i) for i in range(10_000)):
        means.add(row)
    (entry,) = means.state()
    assert (entry["names"], entry["count"].tolist()) == (["loss/a"], [10_000])
    assert entry["sum"].tolist() == [[49_995_000.0, -49_995_000.0]]  # 9 999 x 10 000 / 2


def test_the_sums_stay_in_the_same_memory_so_that_a_program_can_add_to_them():
    means = Means()
    means.add(rows([1.0])[0])
    places = [(total.data_ptr(), count.data_ptr()) for total, count in means._sums.values()]
    means.take()
    means.add(rows([3.0])[0])
    assert [(total.data_ptr(), count.data_ptr()) for total, count in means._sums.values()] == places
    assert means.take()["loss/a"].tolist() == [3.0, -3.0]


def test_whether_everything_was_finite_is_known_from_the_sums():
    means = Means()
    assert means.finite()
    for value in (1.0, float("nan"), 2.0):
        means.add(rows([value])[0])
    assert not means.finite()
    means.take()
    means.add(rows([3e38])[0])
    means.add(rows([3e38])[0])  # whose sum float32 does not hold
    assert means.finite()
