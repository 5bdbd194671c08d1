"""A member whose numbers are not finite stands still; the others step to the bit as they would have."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlab.errors import RlabError, RlabWarning
from rlab.learning.contract import Updated
from rlab.learning.dropping import AFTER_STEP, Dropped, Survivors, spread
from rlab.learning.optimizer_settings import OPTIMIZERS, OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer

SEEDS = (10, 11, 12)


class Learner:
    """Three members with three weights each, and one optimizer."""

    device = torch.device("cpu")

    def __init__(self, name: str = "adam", **settings: float) -> None:
        torch.manual_seed(0)
        self.network = nn.Module()
        self.network.weight = nn.Parameter(torch.randn(3, 3))
        self.optimizer = StackedOptimizer(OptimizerSettings(name, 0.1, **settings), self.network.parameters())
        self.networks, self.optimizers = {"network": self.network}, {"all": self.optimizer}

    def step(self, target: float = 0.0, factor: Tensor | None = None, rate: float | Tensor = 0.1) -> Tensor:
        """One step; the loss of member i is multiplied by `factor[i]`."""
        loss = (self.network.weight - target).pow(4).sum(dim=1)
        return self.optimizer.step(loss if factor is None else loss * factor, {"optimizer/learning_rate": rate})

    def numbers(self) -> list[Tensor]:
        """The weights, and the moments of the optimizer."""
        return [number.detach().clone() for number in self.optimizer._numbers()]


def with_survivors(learner: Learner) -> Survivors:
    return Survivors(learner, SEEDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_member_with_a_gradient_of_nan_stands_still_and_the_others_step_as_they_would_have(
    name: str, rate: float | Tensor
) -> None:
    settings = {"max_grad_norm": 1.0, "weight_decay": 0.01, "l1": 0.001}
    whole, broken = Learner(name, **settings), Learner(name, **settings)
    survivors = with_survivors(broken)
    for learner in (whole, broken):
        learner.step(rate=rate)
    kept = broken.numbers()
    for target in (1.0, 2.0, 3.0):
        whole.step(target, rate=rate)
        # the loss is not finite once; later the member would step again, and still does not
        broken.step(target, torch.tensor([1.0, math.nan if target == 1.0 else 1.0, 1.0]), rate)
    assert survivors.alive.tolist() == [True, False, True]
    for found, alone, before in zip(broken.numbers(), whole.numbers(), kept, strict=True):
        assert torch.equal(found[[0, 2]], alone[[0, 2]])
        assert torch.equal(found[1], before[1])


def test_without_a_fault_steps_are_to_the_bit_those_without_survivors() -> None:
    plain, guarded = Learner(), Learner()
    with_survivors(guarded)
    for learner in (plain, guarded):
        for _ in range(3):
            learner.step()
    assert all(map(torch.equal, plain.numbers(), guarded.numbers()))


def test_a_loss_that_is_infinite_with_a_finite_gradient_counts() -> None:
    learner = Learner("sgd")
    survivors = with_survivors(learner)
    weights = learner.network.weight
    learner.optimizer.step(weights.sum(dim=1) + torch.tensor([math.inf, 0.0, 0.0]))
    assert survivors.alive.tolist() == [False, True, True]


def test_a_step_that_breaks_the_weights_is_taken_back() -> None:
    learner = Learner("sgd")
    survivors, before = with_survivors(learner), learner.numbers()[0]
    # finite losses and gradients: 1e5 * 3e38 is not a float32
    rate = torch.tensor(3e38)
    learner.optimizer.step(
        (learner.network.weight * torch.tensor([[1e-3], [1e-3], [1e5]])).sum(dim=1), {"optimizer/learning_rate": rate}
    )
    assert survivors.alive.tolist() == [True, True, False]
    after = learner.numbers()[0]
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[0], before[0])


def test_moments_that_overflow_are_taken_back() -> None:
    learner = Learner("adam")
    survivors, before = with_survivors(learner), learner.numbers()
    factor = torch.tensor([1.0, 1e25, 1.0])  # (1e25)^2 is not a float32, which makes the step 0 and the moment infinite
    learner.step(factor=factor)
    assert survivors.alive.tolist() == [True, False, True]
    assert all(torch.equal(now[1], then[1]) for now, then in zip(learner.numbers(), before, strict=True))


def test_a_member_that_stands_still_for_another_reason_is_not_dropped_by_the_step_that_it_did_not_take() -> None:
    learner = Learner("sgd")
    survivors = with_survivors(learner)
    slope, rate = torch.tensor([[1e-3], [1e5], [1e-3]]), {"optimizer/learning_rate": torch.tensor(1e36)}
    still = torch.tensor([True, False, True])
    learner.optimizer.step((learner.network.weight * slope).sum(dim=1), rate, members=still)
    assert survivors.alive.tolist() == [True, True, True]
    learner.optimizer.step((learner.network.weight * slope).sum(dim=1), rate)
    assert survivors.alive.tolist() == [True, False, True]


def test_metrics_that_are_not_finite_drop_a_member_and_its_rows_teach_the_sampler_nothing() -> None:
    survivors = with_survivors(Learner())
    metrics = {"loss": torch.tensor([1.0, 2.0, 3.0]), "q/mean": torch.tensor([1.0, 2.0, -math.inf])}
    found = survivors.learned(Updated(metrics, torch.tensor([[1.0, 2.0], [3.0, 4.0], [math.nan, 5.0]])))
    assert found.feedback is not None
    assert found.feedback.tolist() == [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]
    assert survivors.alive.tolist() == [True, True, False]
    assert survivors.rows(torch.ones(3, 2, dtype=torch.bool)).tolist() == [[True, True], [True, True], [False, False]]


def test_the_host_says_who_was_dropped_with_the_cause_before_the_effect() -> None:
    survivors = with_survivors(Learner())
    survivors.look([], 7, 1)
    assert survivors.left == SEEDS
    survivors.alive[1] = False
    suspects = [("loss", torch.tensor([1.0, math.nan, 1.0])), ("grad", torch.tensor([1.0, math.nan, 1.0]))]
    with pytest.warns(
        RlabWarning, match="^seed 11 was dropped at update 1,200: loss was not finite; 2 of 3 seeds go on"
    ):
        survivors.look(suspects, 70, 1200)
    survivors.look(suspects, 71, 1201)  # once
    survivors.alive[0] = False
    with pytest.warns(RlabWarning, match=f"^seed 10 was dropped at update 1,300: {AFTER_STEP}; 1 of 3 seeds goes on"):
        survivors.look([("loss", torch.zeros(3))], 80, 1300)
    survivors.alive[2] = False
    with pytest.raises(
        RlabError, match=r"^every seed was dropped, so that none is left to train; the last: seed 12 was"
    ):
        survivors.look([], 90, 1400)


def test_what_is_not_known_of_dropped_members_is_nan() -> None:
    survivors = with_survivors(Learner())
    with pytest.warns(RlabWarning, match="seed 11 was dropped"):
        survivors.drop(1, "its env broke", 5, 2)
    assert survivors.hide(np.array([1.0, 2.0, 3.0])).tolist()[::2] == [1.0, 3.0]
    assert np.isnan(survivors.hide(np.array([1.0, 2.0, 3.0]))[1])
    assert survivors.hide(np.array(4.0)) == 4.0
    assert survivors.spread(np.array([[5], [6]]), 0).tolist() == [[5], [0], [6]]
    assert spread(np.array([[5.0]]), np.array([False, False, True]), -1.0).tolist() == [[-1.0], [-1.0], [5.0]]


def test_who_was_dropped_survives_a_save() -> None:
    survivors = with_survivors(Learner())
    with pytest.warns(RlabWarning, match="seed 11 was dropped"):
        survivors.drop(1, "its env broke", 5, 2)
    fresh = with_survivors(Learner())
    fresh.load_state(survivors.state())
    assert fresh.left == (10, 12)
    assert fresh.alive.tolist() == [True, False, True]
    assert Dropped.from_json(survivors.facts(range(3)), "there") == (Dropped(11, 5, 2, "its env broke"),)


@pytest.mark.parametrize("data", [{}, [1], [{"seed": 1}], [{"seed": "1", "time": 1, "updates": 1, "reason": ""}]])
def test_a_file_that_lists_something_else_is_refused(data: object) -> None:
    with pytest.raises(RlabError, match=r"^there: 'dropped' must list members by seed, time, updates, reason, not"):
        Dropped.from_json(data, "there")


def test_an_agent_that_steps_by_itself_is_refused() -> None:
    learner = Learner()
    learner.networks["critic"] = nn.Linear(1, 1)
    with pytest.raises(RlabError, match="drop-member: Learner steps its critic by itself"):
        with_survivors(learner)
