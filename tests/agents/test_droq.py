"""DroQ's rules on small numbers: which critics count, dropout everywhere, many updates per env step; REDQ's targets."""

from typing import Any

import pytest
import torch
from torch import tensor

from rlab.agents import load_agent
from rlab.agents.droq import DroQ, DroQConfig
from rlab.errors import UsageError
from rlab.learning.contract import updates_due
from rlab.networks.layers import StackedDropout, StackedLayerNorm
from rlab.networks.spaces import Box, Discrete
from rlab.types import Clock

CPU = torch.device("cpu")
OBS, ACTIONS = Box((2,), "float32", -1.0, 1.0), Box((1,), "float32", -1.0, 1.0)


def droq(seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    return DroQ(DroQConfig(**{"hidden": (8,), "learning_starts": 0, **settings}), OBS, ACTIONS, seeds, CPU)


def layers(network: torch.nn.Module, kind: type) -> int:
    return sum(isinstance(layer, kind) for layer in network.modules())


def test_critics_have_dropout_and_layer_norm_and_the_policy_has_neither() -> None:
    agent = droq()
    for kind in (StackedDropout, StackedLayerNorm):
        assert layers(agent.critics, kind) == layers(agent.target_critics, kind) == 1
        assert layers(agent.actor, kind) == 0
    top = [type(layer).__name__ for layer in agent.critics.network.top]
    assert top == ["StackedLinear", "StackedDropout", "StackedLayerNorm", "ReLU", "StackedLinear"]  # figure 1


def test_dropout_is_on_in_targets_and_critics_alike_and_each_draws_its_own() -> None:
    agent = droq(dropout=0.5)
    obs, action = torch.rand(1, 16, 2), torch.rand(1, 16, 1)
    first, second = (agent.q_values(agent.critics, obs, action) for _ in range(2))
    assert not torch.equal(first, second)
    online, target = droq(dropout=0.5), droq(dropout=0.5)
    assert not torch.equal(
        online.q_values(online.critics, obs, action), target.q_values(target.target_critics, obs, action)
    )  # of the same weights


def test_the_policy_climbs_the_mean_and_targets_take_the_smallest_value() -> None:
    agent = droq()
    q = tensor([[[1.0, 5.0], [3.0, 1.0]]])  # [S, C, B]
    assert agent.agreed(agent.critics, q).tolist() == [[2.0, 3.0]]
    assert agent.agreed(agent.target_critics, q).tolist() == [[1.0, 1.0]]


def test_redq_s_targets_take_the_smallest_of_a_few_critics_drawn_for_each_member() -> None:
    agent = droq((0, 1), critics=4, target_critics=2)
    q = torch.arange(4.0).view(1, 4, 1).expand(2, 4, 3)
    found = torch.stack([agent.agreed(agent.target_critics, q) for _ in range(600)])  # [600, S, B]
    assert (found == found[..., :1]).all()  # one draw for the whole batch
    shares = torch.stack([(found[..., 0] == value).double().mean(dim=0) for value in range(4)], dim=1)
    # of 6 pairs 3 have 0 as the smallest, 2 have 1, 1 has 2; the deviation of 600 draws is 0.02 at most
    torch.testing.assert_close(shares, tensor([[3.0, 2.0, 1.0, 0.0]] * 2).double() / 6, rtol=0.0, atol=0.09)
    assert not torch.equal(found[:, 0], found[:, 1])


def test_there_are_twenty_updates_for_each_env_step_and_one_of_them_moves_the_policy() -> None:
    config = DroQConfig(learning_starts=0)
    assert [updates_due(config, step, step + 1) for step in range(3)] == [20] * 3
    assert updates_due(DroQConfig(learning_starts=0, utd=3, learn_every=4), 3, 4) == 12
    for settings, period in (
        ({}, 20),
        ({"utd": 3, "learn_every": 4}, 3),
        ({"utd": None, "updates_per_learn": 8, "learn_every": 2}, 4),
        ({"utd": None, "learn_every": 4}, 1),  # one update in four env steps moves the policy too
        ({"utd": 3, "policy_delay": 2}, 2),
    ):
        agent = droq(**settings)
        assert [agent.moves_policy() for _ in range(2 * period)] == [*[False] * (period - 1), True] * 2


def test_a_member_beside_others_learns_what_it_learns_alone() -> None:
    settings: dict[str, Any] = {"critics": 3, "target_critics": 2, "optimizer_eps": 1e-2, "policy_delay": 2}
    together, alone = droq((3, 5), **settings), droq((5,), **settings)
    for update in range(8):
        draws = torch.Generator().manual_seed(update)
        batch = {name: torch.rand(2, 16, 2, generator=draws) for name in ("obs", "next_obs")}
        batch |= {"action": torch.rand(2, 16, 1, generator=draws), "reward": torch.rand(2, 16, generator=draws)}
        batch["discount"] = torch.full((2, 16), 0.9)
        time = together.scheduled(Clock(1, 10_000))
        both = together.update(batch, time)
        one = alone.update({name: value[1:] for name, value in batch.items()}, time)
        for name, value in one.metrics.items():
            torch.testing.assert_close(both.metrics[name][1:], value, rtol=1e-4, atol=1e-4)


def test_it_is_registered_takes_choices_too_and_refuses_more_targets_than_critics() -> None:
    assert load_agent("droq") is DroQ
    assert DroQ.action_spaces == (Box, Discrete)
    with pytest.raises(UsageError, match="target_critics 3 are more than the critics, 2"):
        DroQConfig(target_critics=3)
