"""NaN or Inf stops a run within one update, and the error names the tensor and the member."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlab.errors import RlabError
from rlab.learning.finite import check_sums, check_update, check_weights
from rlab.learning.means import Means


class FakeAgent:
    """Only weights, one number per member."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = torch.tensor(weights).reshape(-1, 1)

    def policy(self) -> Any:
        return SimpleNamespace(state_dict=lambda: {"network.0.weight": self.weights})


GOOD = {"loss/td_huber": torch.tensor([1.0, 2.0]), "grad/norm": torch.tensor([1.0, 1.0])}
BATCH = {"obs": torch.zeros(2, 3, 1), "action": torch.zeros(2, 3, dtype=torch.int64)}


def with_bad(tensors: dict[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
    """A copy with one bad number in member 1's part of one tensor."""
    bad = tensors[name].clone()
    bad[1].fill_(value)
    return {**tensors, name: bad}


def test_finite_numbers_pass() -> None:
    check_update(GOOD, BATCH, FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]
    check_weights(FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]


def test_a_metric_that_is_not_one_number_for_each_member_is_named() -> None:
    metrics = {**GOOD, "q/mean": torch.tensor(1.0)}
    with pytest.raises(
        RlabError, match=r"FakeAgent.update: the metric 'q/mean' is a tensor of the shape \(\); each must"
    ):
        check_update(metrics, BATCH, FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", list(GOOD))
def test_a_metric_that_is_not_finite_is_named_with_its_member(name: str, value: float) -> None:
    with pytest.raises(RlabError, match=rf"metric '{name}' of the member with seed 11 is not finite at update 5"):
        check_update(with_bad(GOOD, name, value), BATCH, FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]


def test_the_cause_is_named_before_the_effect() -> None:
    metrics, batch = with_bad(GOOD, "loss/td_huber", math.nan), with_bad(BATCH, "obs", math.inf)
    with pytest.raises(RlabError, match="batch tensor 'obs' of the member with seed 11"):
        check_update(metrics, batch, FakeAgent([1.0, math.nan]), (10, 11), 5)  # type: ignore[arg-type]


def test_infinities_of_both_signs_do_not_cancel() -> None:
    metrics = {"loss": torch.tensor([math.inf, 0.0]), "grad/norm": torch.tensor([-math.inf, 0.0])}
    with pytest.raises(RlabError, match="metric 'loss' of the member with seed 10"):
        check_update(metrics, BATCH, FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]


def test_large_finite_metrics_whose_sum_overflows_pass() -> None:
    check_update({"loss": torch.tensor([3e38, 3e38])}, BATCH, FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named_before_anything_is_saved_from_them(value: float) -> None:
    with pytest.raises(RlabError, match=r"parameter 'network\.0\.weight' of the member with seed 11 .* at update 5"):
        check_weights(FakeAgent([1.0, value]), (10, 11), 5)  # type: ignore[arg-type]


def test_a_metric_of_a_program_that_was_not_finite_is_named_by_its_sum() -> None:
    sums, agent = Means(), FakeAgent([1.0, math.nan])  # after the step its weights are broken, too
    sums.add(GOOD)
    check_sums(sums, agent, (10, 11), 4)  # type: ignore[arg-type]
    sums.add(with_bad(GOOD, "loss/td_huber", math.nan))
    sums.add(GOOD)
    with pytest.raises(RlabError, match="metric 'loss/td_huber' of the member with seed 11 is not finite at update 6"):
        check_sums(sums, agent, (10, 11), 6)  # type: ignore[arg-type]
