"""Numbers that would ruin running statistics for good are left out of them, and remembered."""

import math

import numpy as np
import pytest
import torch

from rlab.networks.outliers import HELD, KNOWN, Outlier, Outliers
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Dict, Discrete, pack

VECTOR = Box((2,), "float32", -math.inf, math.inf)


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def fitted(rows: int, members: int = 2) -> Preprocess:
    """Statistics of so many rows with mean 1 and deviation 1 in both features."""
    preprocess = Preprocess(VECTOR, "running", None, members)
    preprocess.observe(
        torch.tensor([0.0, 2.0]).repeat(rows // 2).reshape(1, rows, 1).expand(members, rows, 2), ones(2, rows)
    )
    return preprocess


def test_one_outlier_leaves_the_statistics_as_the_other_rows_alone_make_them():
    whole, found = fitted(200), fitted(200)
    obs = torch.tensor([[[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]] * 2)
    whole.observe(obs, torch.tensor([[True, True, True], [True, False, True]]))
    obs[1, 1, 1] = 1e30
    found.observe(obs, ones(2, 3))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in found.state_dict().items())
    assert found.outliers.found() == [Outlier(member=1, lane=1, feature=1, value=np.float32(1e30), left_out=1)]
    assert found(torch.tensor([[[1.0, 1e30]]] * 2)).tolist()[0][0][1] == 10.0  # what the network sees is clipped


@pytest.mark.parametrize(
    ("rows", "value", "kept"),
    [
        (KNOWN, 1e6, True),  # 1 + 1e6 deviations are as far as it goes
        (KNOWN, 1e6 + 2.0, False),
        (KNOWN - 2, 1e15, True),  # too little is known to call it absurd
        (KNOWN - 2, 2e19, False),  # above HELD at any time
        (0, 2e19, False),
        (0, 1e19, True),
    ],
)
def test_what_is_absurd_depends_on_size_and_on_what_came_before(rows, value, kept):
    assert 1e19 < HELD < 2e19
    preprocess = fitted(rows) if rows else Preprocess(VECTOR, "running", None, 2)
    preprocess.observe(torch.tensor([[[0.0, value]]] * 2, dtype=torch.float64), ones(2, 1))
    assert (preprocess.count == rows + kept).all()


def test_a_feature_that_stood_still_may_begin_to_move():
    preprocess = Preprocess(VECTOR, "running", None, 1)
    preprocess.observe(torch.zeros(1, 1000, 2), ones(1, 1000))  # deviation 0
    preprocess.observe(torch.full((1, 1, 2), 1e5), ones(1, 1))
    assert preprocess.count.item() == 1001


def test_large_numbers_that_differ_little_are_not_absurd():
    wide = Box((1,), "float64", -math.inf, math.inf)
    preprocess = Preprocess(wide, "running", None, 1)
    preprocess.observe(torch.full((1, 200, 1), 1.7e9, dtype=torch.float64), ones(1, 200))
    preprocess.observe(torch.full((1, 1, 1), 3.4e9, dtype=torch.float64), ones(1, 1))
    assert preprocess.count.item() == 201


def test_of_a_rollout_the_env_is_named_and_rows_that_do_not_count_are_not_looked_at():
    outliers = Outliers(2)
    values = torch.zeros(2, 6, 1, dtype=torch.float64)  # 3 envs, 2 steps each
    values[0, 5], values[1, 2] = 1e30, 1e30
    valid = ones(2, 3, 2)
    valid[1, 1, 0] = False
    start = torch.zeros(2, 1, 1, dtype=torch.float64)
    kept = outliers.keep(values, valid, torch.zeros(2), start, start + 1.0)
    assert kept.tolist() == [[True] * 5 + [False], [True, True, False, True, True, True]]
    assert outliers.found() == [Outlier(0, lane=2, feature=0, value=1e30, left_out=1)]
    outliers.keep(values * 2.0, valid, torch.zeros(2), start, start + 1.0)
    assert outliers.found() == [Outlier(0, lane=2, feature=0, value=1e30, left_out=2)]  # still the first


def test_what_is_not_scaled_is_not_looked_at_and_nothing_of_it_is_saved():
    space = Dict((("at", VECTOR), ("in", Discrete(3))))
    preprocess = Preprocess(space, "running", None, 1)
    preprocess.observe(pack(space, {"at": np.zeros((1, 4, 2)), "in": np.zeros((1, 4), int)}), np.ones((1, 4), bool))
    assert preprocess.outliers.found() == []
    assert preprocess.state_dict().keys() == {"count", "mean", "variance"}
    assert Preprocess(VECTOR, "none", None, 1).outliers is None
