"""SAC's targets, losses and temperature on numbers worked on paper, for continuous actions and for choices."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from rlab.agents import load_agent
from rlab.agents.sac import SAC, SACConfig
from rlab.errors import UsageError
from rlab.learning.exploration import ActionNoise
from rlab.networks.spaces import Box, Discrete, Masked, Space
from rlab.types import Clock

CPU = torch.device("cpu")
NUMBER, THREE = Box((2,), "float32", -1.0, 1.0), Discrete(3)
WIDE = Box((1,), "float32", -1.0, 3.0)  # not symmetric: its middle is 1, its half range 2


def sac(actions: Space, obs: Space = NUMBER, seeds: tuple[int, ...] = (0,), kind: type = SAC, **settings: Any) -> Any:
    return kind(SACConfig(**{"hidden": (), "learning_starts": 0, **settings}), obs, actions, seeds, CPU)


@torch.no_grad()
def set_constant(network: torch.nn.Module, *values: float) -> None:
    """Outputs of a network without hidden layers that are these, whatever it is shown."""
    weight, bias = sorted(network.parameters(), key=lambda p: p.numel(), reverse=True)
    weight.zero_()
    bias.copy_(tensor(values).expand_as(bias))


def rows(action: Tensor, reward: float = 1.0, terminated: bool = False) -> dict[str, Tensor]:
    """A batch `[1, B]` as replay samples it."""
    lead = action.shape[:2]
    obs = torch.zeros(*lead, 2)
    ended = torch.full(lead, terminated)
    batch = {"obs": obs, "next_obs": obs, "action": action, "reward": torch.full((*lead, 1), reward)}
    return {**batch, "steps": torch.ones(lead, dtype=torch.int64), "terminated": ended, "truncated": ~ended}


def now(agent: Any, env_steps: int = 1, of: int = 10_000) -> dict[str, float]:
    return dict(agent.scheduled(Clock(env_steps, of)))


def test_critics_learn_the_soft_value_of_what_comes_next() -> None:
    agent = sac(WIDE, temperature=0.5, gamma=0.9)
    set_constant(agent.actor, 0.3, math.log(0.2))  # mean and log deviation
    for critic, value in zip(agent.target_critics, (7.0, 4.0), strict=True):
        set_constant(critic.top, value)
    for critic in agent.critics:
        set_constant(critic.top, 1.0)
    noise = ActionNoise("normal", 1, (0,), CPU, "sampled actions").next(1).item()
    batch = agent.prepare(rows(tensor([[[2.0]]])))
    assert batch["action"].item() == pytest.approx(0.5)  # (2 - 1) / 2
    updated = agent.update(batch, now(agent))
    u = 0.3 + 0.2 * noise
    density = math.exp(-(noise**2) / 2) / (0.2 * math.sqrt(2 * math.pi)) / (1 - math.tanh(u) ** 2)
    goal = 1.0 + 0.9 * (4.0 - 0.5 * math.log(density))  # the smaller target, and the entropy's weight
    assert updated.metrics["loss/critics"].item() == pytest.approx(2 * 0.5 * (goal - 1.0) ** 2, rel=1e-4)
    assert updated.feedback.item() == pytest.approx(abs(goal - 1.0), rel=1e-4)


def test_at_an_ending_nothing_comes_next_and_at_a_time_limit_it_does() -> None:
    agent = sac(WIDE, gamma=0.9)
    for terminated, discount in ((True, 0.0), (False, 0.9)):
        batch = agent.prepare(rows(tensor([[[2.0]]]), terminated=terminated))
        assert batch["discount"].tolist() == [[pytest.approx(discount)]]


def test_critics_of_choices_learn_the_exact_soft_value_over_what_is_allowed() -> None:
    agent = sac(THREE, Masked(NUMBER, 3), temperature=0.5, gamma=0.9)
    set_constant(agent.actor, math.log(1.0), math.log(3.0), math.log(16.0))
    for critic, values in zip(agent.target_critics, ((2.0, 9.0, 100.0), (8.0, 4.0, 100.0)), strict=True):
        set_constant(critic.top, *values)
    for critic in agent.critics:
        set_constant(critic.top, 1.0, 2.0, 3.0)
    given = rows(tensor([[1]]))
    mask = torch.tensor([[[1.0, 1.0, 0.0]]])
    batch = agent.prepare({**given, **{name: torch.cat([given[name], mask], -1) for name in ("obs", "next_obs")}})
    updated = agent.update(batch, now(agent))
    entropy = 0.25 * math.log(4.0) + 0.75 * math.log(4.0 / 3.0)  # of 1/4 and 3/4: the third is forbidden
    goal = 1.0 + 0.9 * (0.25 * 2.0 + 0.75 * 4.0 + 0.5 * entropy)  # the smaller of two for each choice
    assert updated.metrics["loss/critics"].item() == pytest.approx((goal - 2.0) ** 2, rel=1e-5)
    assert updated.metrics["policy/entropy"].item() == pytest.approx(entropy, rel=1e-5)
    # the policy climbs to .25 * 1 + .75 * 2 and half of the entropy, by the critics as they are after their step
    moved = [critic.top(torch.zeros(1, 1, 2))[0, 0] for critic in agent.critics]
    q = torch.minimum(*moved)
    expected = -(0.25 * q[0] + 0.75 * q[1] + 0.5 * entropy).item()
    assert updated.metrics["loss/actor"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("actions", [WIDE, THREE], ids=str)
def test_the_policy_s_gradient_is_that_of_finite_differences(actions: Space) -> None:
    agent = sac(actions, hidden=(5,), activation="tanh", temperature=0.3)
    for network in (agent.actor, agent.critics):
        network.double()
    obs = torch.rand(1, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alpha = torch.full((1, 1), 0.3, dtype=torch.float64)
    draws = agent._samples.state()

    def loss() -> Tensor:
        agent._samples.load_state(draws)
        found: Tensor = -agent.value(agent.critics, obs, agent.actor(obs), None, alpha)[0].mean()
        return found

    parameters = list(agent.actor.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.detach().view(-1)
        for index in range(0, flat.numel(), 3):
            before, found = flat[index].item(), []
            for step in (1e-6, -1e-6):
                flat[index] = before + step
                found.append(loss().item())
            flat[index] = before
            assert gradient.view(-1)[index].item() == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-5, abs=1e-8)


class OfBandit(SAC):
    """Its critics know what a bandit pays: choices 1, 0 and 0.5; a number 1 - 4 (u - 0.25)^2 in half ranges."""

    def q_values(self, critics: Any, obs: Tensor, action: Tensor | None = None) -> Tensor:
        if action is None:
            return tensor([1.0, 0.0, 0.5]).expand(*obs.shape[:2], 3).unsqueeze(1) + 0.0 * super().q_values(critics, obs)
        return (1.0 - 4.0 * (action - 0.25).square()).squeeze(-1).unsqueeze(1) + 0.0 * super().q_values(
            critics, obs, action
        )


def solved(actions: Space, updates: int, **settings: Any) -> tuple[Any, Tensor]:
    """SAC of three members after so many updates in the bandit, and its temperatures `[updates, S]` meanwhile."""
    agent = sac(actions, seeds=(0, 1, 2), kind=OfBandit, learning_rate=3e-2, **settings)
    shape = (3, 128) if isinstance(actions, Discrete) else (3, 128, 1)
    action = torch.zeros(shape, dtype=torch.int64 if isinstance(actions, Discrete) else torch.float32)
    batch = agent.prepare(rows(action, terminated=True))
    found = [agent.update(batch, now(agent, t, of=updates)).metrics["policy/temperature"] for t in range(updates)]
    return agent, torch.stack(found)


def entropy_of_softmax(rewards: list[float], alpha: float) -> float:
    weights = [math.exp(reward / alpha) for reward in rewards]
    shares = [weight / sum(weights) for weight in weights]
    return -sum(share * math.log(share) for share in shares)


def test_the_temperature_of_choices_finds_the_known_optimum_of_a_bandit() -> None:
    # The best policy of entropy H is softmax(r / alpha) with the alpha for which that has the entropy H (paper: the
    # Lagrangian of max E r + alpha (H - target)). With the target 0.7 nats:
    low, high = 0.05, 5.0
    for _ in range(60):  # the entropy rises with alpha
        middle = (low + high) / 2
        low, high = (middle, high) if entropy_of_softmax([1.0, 0.0, 0.5], middle) < 0.7 else (low, middle)
    agent, found = solved(THREE, 600, target_entropy=0.7, lr_schedule="linear")
    assert found[-1].tolist() == pytest.approx([low] * 3, rel=0.01)
    shares = agent.actor(torch.zeros(3, 1, 2)).softmax(-1)[0, 0]
    weights = [math.exp(reward / low) for reward in (1.0, 0.0, 0.5)]
    assert shares.tolist() == pytest.approx([weight / sum(weights) for weight in weights], rel=0.02)


def test_the_temperature_of_a_number_finds_the_known_optimum_of_a_bandit() -> None:
    # The best density is proportional to exp(r / alpha): normal, with the variance alpha / 8, and the entropy
    # log(2 pi e alpha / 8) / 2. That is the target -1 where alpha = 8 e^-2 / (2 pi e) = 0.0634; what is cut off at the
    # bounds is beyond 8 deviations. A squashed normal of that width is not normal by some percent of its deviation.
    agent, found = solved(WIDE, 900)
    # one sample tells the entropy of a row: at this rate the temperatures go on moving by some tenths around it
    assert found[600:].mean().item() == pytest.approx(8.0 * math.exp(-3.0) / (2.0 * math.pi), rel=0.15)
    policy = agent.policy()(np.zeros((3, 1, 2), np.float32))
    assert policy.ravel().tolist() == pytest.approx([1.5] * 3, abs=0.05)  # 1 + 2 * 0.25 in the env's units


def test_a_fixed_temperature_stays_and_has_no_optimizer() -> None:
    agent, _ = solved(WIDE, 3, temperature=0.2)
    assert agent._log_temperature.exp().flatten().tolist() == pytest.approx([0.2] * 3)
    assert set(agent.optimizers) == {"actor", "critics"}


def test_the_target_entropy_is_a_share_of_what_a_mask_leaves() -> None:
    agent = sac(THREE, Masked(NUMBER, 3))
    mask = tensor([[[True, True, True], [True, False, True], [False, True, False]]])
    found = agent.target_entropy({"mask": mask})
    assert found.tolist() == [pytest.approx([0.98 * math.log(3), 0.98 * math.log(2), 0.0])]
    assert sac(THREE).target_entropy({}) == pytest.approx(0.98 * math.log(3))
    assert sac(Box((4,), "float32", -1.0, 1.0)).target_entropy({}) == -4.0


@pytest.mark.parametrize(
    ("actions", "settings", "unread"),
    [
        (WIDE, {}, {"entropy_share"}),
        (THREE, {}, {"exploration_noise"}),
        (WIDE, {"temperature": 0.1}, {"entropy_share", "target_entropy"}),
        (THREE, {"target_entropy": 0.1}, {"exploration_noise", "entropy_share"}),
    ],
)
def test_settings_that_others_leave_without_effect_are_known(actions: Space, settings: Any, unread: set[str]) -> None:
    own = {"temperature", "target_entropy", "entropy_share", "exploration_noise"}
    assert SACConfig(**settings).unread(actions).keys() & own == unread


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"temperature": 0.0}, {"entropy_share": 1.5}, {"exploration_noise": "blue"}, {"utd": 0}):
        with pytest.raises(UsageError):
            SACConfig(**settings)


@pytest.mark.parametrize(
    ("actions", "target", "said"),
    [
        (THREE, 1.2, "0 to 1.099 nats"),  # ln 3
        (THREE, -0.1, "0 to 1.099 nats"),
        (NUMBER, 1.5, "1.386 nats or less"),  # two numbers of [-1, 1]: 2 ln 2
        (WIDE, 0.7, "0.6931 nats or less"),  # in half ranges
        (WIDE, float("-inf"), "0.6931 nats or less"),
        (WIDE, float("nan"), "0.6931 nats or less"),
    ],
)
def test_a_target_that_no_policy_can_have_is_refused(actions: Space, target: float, said: str) -> None:
    with pytest.raises(UsageError, match=rf"target_entropy {target:g} is out of reach: .* has an entropy of {said}\."):
        sac(actions, target_entropy=target)


def test_its_class_is_the_registered_one() -> None:
    assert load_agent("sac") is SAC
