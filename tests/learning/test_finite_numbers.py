"""NaN or Inf stops a run within one update, and the error names the tensor and the member."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlab.errors import RlabError
from rlab.learning.finite import check_finite_agent, check_saved, check_sums, check_update
from rlab.learning.means import Means


class FakeAgent:
    """Only weights of a policy and a critic, one number per member."""

    def __init__(self, weights: Sequence[float], critic: Sequence[float] = (0.0, 0.0)) -> None:
        self.critic = torch.tensor(critic).reshape(-1, 1)
        self.weights = torch.tensor(weights).reshape(-1, 1)

    def state(self) -> dict[str, Any]:
        return {"policy": {"network.0.weight": self.weights}, "critic": {"0.weight": self.critic}}


GOOD = {"loss/td_huber": torch.tensor([1.0, 2.0]), "grad/norm": torch.tensor([1.0, 1.0])}
BATCH = {"obs": torch.zeros(2, 3, 1), "action": torch.zeros(2, 3, dtype=torch.int64)}


def with_bad(tensors: dict[str, Tensor], name: str, value: float) -> dict[str, Tensor]:
    """A copy with one bad number in member 1's part of one tensor."""
    bad = tensors[name].clone()
    bad[1].fill_(value)
    return {**tensors, name: bad}


def test_finite_numbers_pass() -> None:
    check_update(GOOD, BATCH, FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]
    check_finite_agent(FakeAgent([1.0, 1.0]), (10, 11), 5)  # type: ignore[arg-type]


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
    with pytest.raises(RlabError, match=r"^'policy/network\.0\.weight' of the member with seed 11 .* at update 5"):
        check_finite_agent(FakeAgent([1.0, value]), (10, 11), 5)  # type: ignore[arg-type]


def test_a_critic_that_is_not_finite_is_named_before_anything_is_saved_from_it() -> None:
    with pytest.raises(
        RlabError, match=r"^'critic/0\.weight' of the member with seed 10 is not finite at update 5; not"
    ):
        check_finite_agent(FakeAgent([1.0, 1.0], critic=[math.inf, 0.0]), (10, 11), 5)  # type: ignore[arg-type]


def saved(**agent: Any) -> dict[str, Any]:
    """A training state of two members, none of which was judged yet."""
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 5)}},
        "param_groups": [{"lr": 1e-3}],
    }
    return {
        "loop": {"updates": 7, "agent": {"optimizer": optimizer, **agent}, "collector": {"env": {"best": math.nan}}},
        "best": {"score": np.full(2, -np.inf), "weights": {"0.weight": torch.ones(2, 3)}},
    }


def broken(value: float) -> Tensor:
    """Member 1 has one bad number."""
    return torch.tensor([[0.0, 0.0], [0.0, value]])


def test_a_state_may_hold_the_scores_of_members_that_were_not_judged_and_what_is_an_env_s() -> None:
    check_saved(saved(fine=torch.ones(2, 3), count=torch.ones(2, dtype=torch.int64)), (10, 11))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("agent", "named"),
    [
        (lambda bad: {"critic": {"0.weight": bad}}, "'loop/agent/critic/0.weight' of the member with seed 11"),
        (lambda bad: {"optimizer": {"state": {0: {"exp_avg": bad}}}}, "'loop/agent/optimizer/state/0/exp_avg' of the"),
        (
            lambda bad: {"rewards": {"variance": bad.numpy()}},
            "'loop/agent/rewards/variance' of the member with seed 11",
        ),
        (lambda bad: {"dropout": [bad[1, 1].item()]}, "'loop/agent/dropout/0' is"),
        (lambda bad: {"scale": bad[1, 1]}, "'loop/agent/scale' is not finite at update 7: no run can go on from that."),
    ],
)
def test_whatever_is_not_finite_in_a_saved_state_is_named(agent: Any, named: str, value: float) -> None:
    with pytest.raises(RlabError, match=f"^{named}"):
        check_saved(saved(**agent(broken(value))), (10, 11))


def test_best_weights_that_are_not_finite_are_not_saved() -> None:
    state = saved()
    state["best"]["weights"]["0.weight"] = broken(math.nan)
    with pytest.raises(RlabError, match=r"^'best/weights/0\.weight' of the member with seed 11"):
        check_saved(state, (10, 11))


def test_what_a_module_of_the_user_s_keeps_and_does_not_train_may_be_infinite_but_not_nan() -> None:
    check_saved(saved(policy={"network.0.fixed-mask": broken(-math.inf)}), (10, 11))
    with pytest.raises(RlabError, match="fixed-mask"):
        check_saved(saved(policy={"network.0.fixed-mask": broken(math.nan)}), (10, 11))


def test_a_metric_of_a_program_that_was_not_finite_is_named_by_its_sum() -> None:
    sums = Means()
    sums.add(GOOD)
    check_sums(sums, (10, 11), 4)
    sums.add(with_bad(GOOD, "loss/td_huber", math.nan))
    sums.add(GOOD)
    with pytest.raises(RlabError, match="metric 'loss/td_huber' of the member with seed 11 is not finite at update 6"):
        check_sums(sums, (10, 11), 6)
