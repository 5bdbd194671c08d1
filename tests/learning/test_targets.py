"""Target networks: how much of the online weights they take over, and when."""

import pytest
import torch
from torch import nn

from rlab.learning.targets import follow, share_due
from rlab.types import Clock


def network(weight: float, count: int = 0) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.full((2,), weight))
    module.register_buffer("count", torch.tensor(count))
    return module


@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize(("tau", "weight", "count"), [(0.0, 1.0, 1), (0.25, 3.0, 1), (1.0, 9.0, 5)])
def test_a_target_takes_over_a_share_of_the_weights_and_all_of_a_hard_copy(
    kind: type, tau: float, weight: float, count: int
) -> None:
    target, online = network(1.0, 1), network(9.0, 5)
    follow(target, online, kind(tau))
    assert (target.weight.tolist(), target.count.item()) == ([weight] * 2, count)
    assert online.weight.tolist() == [9.0, 9.0]


def test_weights_that_broke_reach_the_target_only_with_a_share() -> None:
    target, online = network(1.0), network(float("nan"))
    follow(target, online, 0.0)
    assert target.weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("env_steps", "per_step", "every", "tau", "share"),
    [
        (0, 1, 5, 1.0, 0.0),  # nothing has happened yet
        (4, 1, 5, 1.0, 0.0),
        (5, 1, 5, 1.0, 1.0),
        (6, 1, 5, 1.0, 0.0),
        (14, 7, 5, 1.0, 1.0),  # 8 to 14 passes 10
        (21, 7, 10, 1.0, 1.0),  # 15 to 21 passes 20
        (28, 7, 10, 1.0, 0.0),  # 22 to 28 passes none
        (8, 8, 3, 0.5, 0.75),  # 1 to 8 passes 3 and 6: half, and half of what is left
        (16, 16, 1, 0.1, 1.0 - 0.9**16),
    ],
)
def test_the_share_that_is_due_on_numbers_worked_by_hand(
    env_steps: int, per_step: int, every: int, tau: float, share: float
) -> None:
    assert share_due(Clock(env_steps, 100, per_step), every, tau) == pytest.approx(share)


def test_one_share_is_what_following_at_every_multiple_would_be() -> None:
    once, often, online = network(1.0), network(1.0), network(9.0)
    follow(once, online, share_due(Clock(32, 100, 16), 5, 0.1))  # 17 to 32 passes 20, 25 and 30
    for _ in range(3):
        follow(often, online, 0.1)
    torch.testing.assert_close(once.weight, often.weight)
