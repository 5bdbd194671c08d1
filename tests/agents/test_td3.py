"""TD3's targets, smoothing and delay, and DDPG as what is left without them, on numbers worked on paper."""

from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from rlab.agents import load_agent
from rlab.agents.ddpg import DDPG
from rlab.agents.td3 import TD3
from rlab.errors import UsageError
from rlab.learning.exploration import ActionNoise
from rlab.networks.spaces import Box
from rlab.types import Clock

CPU = torch.device("cpu")
OBS, WIDE = Box((2,), "float32", -1.0, 1.0), Box((1,), "float32", -1.0, 3.0)  # half range 2 around 1


def agent_of(kind: type, seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    config: Any = kind.Config(**{"hidden": (), "learning_starts": 0, **settings})  # type: ignore[attr-defined]
    return kind(config, OBS, WIDE, seeds, CPU)


@torch.no_grad()
def set_linear(network: torch.nn.Module, weights: list[float], bias: float) -> None:
    """A network without hidden layers: these weights of its inputs, `[in]`, and this bias."""
    weight, offset = sorted(network.parameters(), key=lambda p: p.numel(), reverse=True)
    weight.copy_(tensor(weights).unsqueeze(-1).expand_as(weight))
    offset.fill_(bias)


def rows(action: float, reward: float = 1.0, batch: int = 1) -> dict[str, Tensor]:
    obs, lead = torch.zeros(1, batch, 2), (1, batch)
    found = {"obs": obs, "next_obs": obs, "action": torch.full((*lead, 1), action)}
    found |= {"reward": torch.full((*lead, 1), reward), "steps": torch.ones(lead, dtype=torch.int64)}
    return found | {name: torch.zeros(lead, dtype=torch.bool) for name in ("terminated", "truncated")}


def now(agent: Any) -> dict[str, float]:
    return dict(agent.scheduled(Clock(1, 100)))


def test_critics_learn_the_smaller_value_of_a_smoothed_action() -> None:
    agent = agent_of(TD3, gamma=0.9, seeds=(0,))
    set_linear(agent.target_actor, [0.0, 0.0], 0.5)
    for critic, slope in zip(agent.target_critics, (2.0, 3.0), strict=True):  # Q = slope * action
        set_linear(critic.top, [0.0, 0.0, slope], 0.0)
    for critic in agent.critics:
        set_linear(critic.top, [0.0, 0.0, 4.0], 1.0)
    rest = max(-0.5, min(0.5, 0.2 * ActionNoise("normal", 1, (0,), CPU, "target actions").next(1).item()))
    batch = agent.prepare(rows(2.0))
    updated = agent.update(batch, now(agent))
    following = max(-1.0, min(1.0, torch.tensor(0.5).tanh().item() + rest))
    goal = 1.0 + 0.9 * min(2.0 * following, 3.0 * following)
    error = goal - (4.0 * 0.5 + 1.0)  # the action 2 is half of the way from the middle to the bound
    assert updated.metrics["loss/critics"].item() == pytest.approx(error**2, rel=1e-5)  # of two critics, halved
    assert updated.feedback.item() == pytest.approx(abs(error), rel=1e-5)


def test_smoothing_is_normal_noise_of_its_deviation_cut_at_its_clip() -> None:
    agent = agent_of(TD3)
    set_linear(agent.target_actor, [0.0, 0.0], 0.0)  # so that target actions are the noise
    batch = agent.prepare(rows(1.0, batch=40_000))
    found = agent.target_actions(batch).flatten()
    assert found.abs().max().item() == 0.5
    # beyond 2.5 deviations are 1.24 %; of 40 000 that share has a deviation of 0.06 %
    assert (found.abs() == 0.5).float().mean().item() == pytest.approx(0.0124, abs=0.0024)
    assert found[found.abs() < 0.5].std().item() == pytest.approx(0.2 * 0.9547, abs=0.003)  # of a normal cut there


@pytest.mark.parametrize(("delay", "expected"), [(1, 7), (2, 3), (3, 2)])
def test_the_policy_and_the_targets_move_once_for_so_many_updates_of_the_critics(delay: int, expected: int) -> None:
    agent = agent_of(TD3, policy_delay=delay)
    batch = agent.prepare(rows(2.0))
    watched = {"actor": agent.actor, "critics": agent.critics, "target": agent.target_critics}
    watched["target actor"] = agent.target_actor
    moved = dict.fromkeys([*watched, "reported"], 0)
    for _ in range(7):
        before = {name: [p.clone() for p in network.parameters()] for name, network in watched.items()}
        updated = agent.update(batch, now(agent))
        moved["reported"] += "loss/actor" in updated.metrics
        for name, network in watched.items():
            pairs = zip(before[name], network.parameters(), strict=True)
            moved[name] += any(not torch.equal(old, new) for old, new in pairs)
    assert moved == {"critics": 7, **dict.fromkeys(("actor", "target", "target actor", "reported"), expected)}


def test_the_policy_climbs_the_first_critic() -> None:
    agent = agent_of(TD3, policy_delay=1, learning_rate=1e-2)
    set_linear(agent.actor, [0.0, 0.0], 0.3)
    for critic, slope in zip(agent.critics, (1.0, -50.0), strict=True):  # the second would have it go down
        set_linear(critic.top, [0.0, 0.0, slope], 0.0)
    outputs = agent.actor(torch.zeros(1, 1, 2))
    updated = agent.update(agent.prepare(rows(1.0, reward=0.0)), now(agent))
    first = agent.critics[0].top(torch.cat([torch.zeros(1, 1, 2), outputs.tanh()], -1))
    assert updated.metrics["loss/actor"].item() == pytest.approx(-first.item(), rel=1e-5)
    assert agent.actor(torch.zeros(1, 1, 2)).item() == pytest.approx(0.31, abs=1e-4)  # Adam's first step is the rate


def test_targets_take_over_their_share() -> None:
    agent = agent_of(TD3, policy_delay=1, target_tau=0.25)
    before = [p.clone() for p in agent.target_critics.parameters()]
    agent.update(agent.prepare(rows(2.0)), now(agent))
    for old, new, online in zip(before, agent.target_critics.parameters(), agent.critics.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)


def test_it_explores_with_noise_in_half_ranges_and_acts_greedily_without() -> None:
    agent = agent_of(TD3, exploration_scale=0.25, seeds=tuple(range(100)))
    set_linear(agent.actor, [0.0, 0.0], 0.0)
    action = agent.act(torch.zeros(100, 200, 2), now(agent), {}).action
    assert action.shape == (100, 200, 1)
    assert action.mean().item() == pytest.approx(1.0, abs=0.015)  # 20 000 numbers: 4 times 0.5 / 141
    assert action.std().item() == pytest.approx(0.5, abs=0.01)  # a quarter of the half range 2
    greedy = agent.policy()(torch.zeros(100, 1, 2))
    assert greedy.flatten().tolist() == [1.0] * 100


def test_ddpg_has_one_critic_no_smoothing_and_no_delay() -> None:
    agent = agent_of(DDPG, gamma=0.9)
    assert len(agent.critics) == len(agent.target_critics) == 1
    set_linear(agent.target_actor, [0.0, 0.0], 0.5)
    set_linear(agent.target_critics[0].top, [0.0, 0.0, 2.0], 0.0)
    set_linear(agent.critics[0].top, [0.0, 0.0, 4.0], 1.0)
    updated = agent.update(agent.prepare(rows(2.0)), now(agent))
    error = 1.0 + 0.9 * 2.0 * torch.tensor(0.5).tanh().item() - 3.0
    assert updated.metrics["loss/critics"].item() == pytest.approx(0.5 * error**2, rel=1e-5)
    assert "loss/actor" in updated.metrics


def test_their_settings_are_those_of_the_papers() -> None:
    td3, ddpg = TD3.Config(), DDPG.Config()
    assert (td3.exploration_scale, td3.target_noise, td3.noise_clip, td3.policy_delay) == (0.1, 0.2, 0.5, 2)
    assert (ddpg.target_noise, ddpg.policy_delay) == (0.0, 1)
    assert "noise_clip" in ddpg.unread(WIDE)
    assert "noise_clip" not in td3.unread(WIDE)
    for settings in ({"exploration_noise": "blue"}, {"target_noise": -1.0}, {"policy_delay": 0}):
        with pytest.raises(UsageError):
            TD3.Config(**settings)
    assert (load_agent("td3"), load_agent("ddpg")) == (TD3, DDPG)
