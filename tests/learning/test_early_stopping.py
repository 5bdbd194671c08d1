"""Early stopping: each member keeps the weights of its own best moment, and stops on its own."""

import copy

import numpy as np
import pytest
import torch

from rlab.errors import UsageError
from rlab.learning.early_stopping import EarlyStopping

NAN = float("nan")


def follow(stopping, losses, first=0):
    """Feeds losses `[time, S]`; at time t every weight of every member is t."""
    members = len(stopping.waited)
    for t, loss in enumerate(losses, start=first):
        weights = {"weight": torch.full((members, 2), float(t)), "bias": torch.full((members,), t)}
        stopping.observe(np.array(loss), weights, t)
    return stopping


def test_each_member_keeps_the_weights_of_its_lowest_loss():
    stopping = follow(EarlyStopping(3), [[5, 1, 3], [4, 2, 3], [6, 0, 3], [4, 1, 3]])
    assert stopping.best_loss.tolist() == [4, 0, 3]
    assert stopping.best.reached_at.tolist() == [1, 2, 0]  # a tie is no improvement
    assert stopping.best.weights["weight"].tolist() == [[1, 1], [2, 2], [0, 0]]
    assert stopping.best.weights["bias"].tolist() == [1, 2, 0]
    assert not stopping.stopped.any()


def test_a_member_stops_after_its_patience_and_then_takes_nothing_over():
    stopping = follow(EarlyStopping(2, patience=2), [[3, 3], [4, 2], [4, 1]])
    assert stopping.stopped.tolist() == [True, False]
    follow(stopping, [[0, 5], [0, 0.5]], first=3)
    assert stopping.stopped.tolist() == [True, False]
    assert stopping.best_loss.tolist() == [3, 0.5]
    assert stopping.best.weights["bias"].tolist() == [0, 4]


def test_an_improvement_begins_the_waiting_anew():
    stopping = follow(EarlyStopping(1, patience=2), [[3], [4], [2], [3], [1], [2]])
    assert stopping.waited.tolist() == [1]
    assert not stopping.stopped.any()


def test_a_nan_loss_is_not_an_improvement_but_leaves_weights_to_go_back_to():
    stopping = follow(EarlyStopping(2, patience=3), [[NAN, 1], [NAN, NAN]])
    assert stopping.waited.tolist() == [2, 1]
    assert stopping.best.weights["bias"].tolist() == [0, 0]
    follow(stopping, [[7, 9]], first=2)
    assert stopping.best.weights["bias"].tolist() == [2, 0]


def test_weights_are_copies():
    live = {"weight": torch.zeros(2, 3)}
    stopping = EarlyStopping(2)
    stopping.observe(np.array([1.0, 1.0]), live, 1)
    live["weight"].add_(1.0)
    assert stopping.best.weights["weight"].sum() == 0


def test_it_goes_on_from_its_state():
    losses = [[3, 3], [4, 2], [1, 3], [2, 2.5], [2, 1]]
    whole = follow(EarlyStopping(2, patience=2), losses)
    again = EarlyStopping(2, patience=2)
    again.load_state(copy.deepcopy(follow(EarlyStopping(2, patience=2), losses[:2]).state()))
    follow(again, losses[2:], first=2)
    for name, value in whole.state().items():
        assert str(again.state()[name]) == str(value), name


def test_a_patience_below_one_is_refused():
    with pytest.raises(UsageError, match=r"^patience 0 must be 1 validation or more; None never stops\.$"):
        EarlyStopping(1, patience=0)
