"""One learning step of DQN and double DQN on tables worked by hand."""

import copy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab.agents import check_action_space, load_agent
from rlab.agents.dqn import DQNConfig
from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.learning.contract import Now
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from rlab.types import Clock

FAMILY = ("dqn", "double_dqn")
ONLINE = [[0.0, 0.0], [9.0, 1.0], [0.0, 2.0]]  # in state 1 it prefers action 0
TARGET = [[0.0, 0.0], [4.0, 6.0], [8.0, 3.0]]  # in state 1 it prefers action 1


def step_of(num_envs: int, valid: bool = True) -> Step:
    """A vector step of one member in which nothing happens."""
    obs, no = torch.zeros(1, num_envs, 3), torch.zeros(1, num_envs, dtype=torch.bool)
    return Step(obs, obs, torch.zeros(1, num_envs), no, no, torch.full((1, num_envs), valid))


def prepared(lab: SimpleNamespace, agent: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = agent.prepare(lab.windows(*args, **kwargs))
    return batch


@pytest.mark.parametrize(("name", "next_value"), [("dqn", 6.0), ("double_dqn", 4.0)])
def test_the_target_is_the_one_of_the_paper(lab: SimpleNamespace, name: str, next_value: float) -> None:
    agent = lab.table_agent(name, gamma=0.5, loss="squared")
    lab.set_table(agent.q_network, ONLINE)
    lab.set_table(agent.target_network, TARGET)
    batch = prepared(lab, agent, [0], [1], [[1.0]], [1], [False])
    loss, q, _ = agent.loss(batch)
    assert q.tolist() == [[[0.0, 0.0]]]
    assert loss.item() == 0.5 * (1.0 + 0.5 * next_value) ** 2  # Q(0, 1) is 0


@pytest.mark.parametrize("name", FAMILY)
def test_an_ending_does_not_bootstrap_and_a_time_limit_does(lab: SimpleNamespace, name: str) -> None:
    agent = lab.table_agent(name, gamma=0.5, loss="squared")
    for network in (agent.q_network, agent.target_network):
        lab.set_table(network, TARGET)
    ends = {"ended": (True, False), "cut": (False, True), "both": (True, True), "neither": (False, False)}
    losses = {}
    for end, (terminated, truncated) in ends.items():
        batch = prepared(lab, agent, [0], [0], [[1.0]], [2], [terminated], [truncated])
        losses[end] = agent.loss(batch)[0].item()
    bootstrapped = 0.5 * (1.0 + 0.5 * 8.0) ** 2
    assert losses == {"ended": 0.5, "cut": bootstrapped, "both": 0.5, "neither": bootstrapped}


@pytest.mark.parametrize("name", FAMILY)
def test_n_step_targets_discount_by_the_steps_really_taken(lab: SimpleNamespace, name: str) -> None:
    agent = lab.table_agent(name, gamma=0.5, loss="squared", n_step=3)
    for network in (agent.q_network, agent.target_network):
        lab.set_table(network, TARGET)
    # three whole steps; two steps up to a time limit; two steps up to an ending
    rewards, states = [[1.0, 2.0, 4.0], [1.0, 2.0, 0.0], [1.0, 2.0, 0.0]], [0, 0, 0]
    batch = prepared(
        lab, agent, states, states, rewards, [2, 2, 2], [False, False, True], [False, True, False], [3, 2, 2]
    )
    returns = np.array([1 + 1 + 1 + 0.125 * 8, 1 + 1 + 0.25 * 8, 1 + 1])
    assert agent.loss(batch)[0].item() == pytest.approx((0.5 * returns**2).mean())


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_the_loss_of_a_batch_is_the_mean_of_its_rows(lab: SimpleNamespace, name: str, loss: str) -> None:
    agent = lab.table_agent(name, gamma=0.9, loss=loss)
    rng = np.random.default_rng(0)
    states, actions, following = rng.integers(3, size=16), rng.integers(2, size=16), rng.integers(3, size=16)
    reward, ended = rng.normal(scale=3.0, size=(16, 1)).astype(np.float32), rng.random(16) < 0.3
    rows = [x.tolist() for x in (states, actions, reward, following, ended)]
    whole = agent.loss(prepared(lab, agent, *rows))[0].item()
    alone = [agent.loss(prepared(lab, agent, *([x[i]] for x in rows)))[0].item() for i in range(16)]
    assert whole == pytest.approx(np.mean(alone), rel=1e-5)


def test_huber_s_step_is_limited_where_the_squared_one_is_not(lab: SimpleNamespace) -> None:
    def moved(loss: str) -> float:
        settings = {"loss": loss, "optimizer": "sgd", "learning_rate": 0.1, "max_grad_norm": None}
        agent = lab.table_agent("dqn", **settings)
        lab.set_table(agent.q_network, [[0.0, 0.0]] * 3)
        agent.update(prepared(lab, agent, [0], [0], [[5.0]], [0], [True]), agent.scheduled(Clock(1, 10)))
        return agent.q_network.state_dict()["0.weight"][0, 0, 0].item()

    assert moved("huber") == pytest.approx(0.1)  # gradient 1
    assert moved("squared") == pytest.approx(0.5)  # gradient 5


@pytest.mark.parametrize("name", FAMILY)
def test_no_gradient_reaches_the_target_network_and_an_update_leaves_it_alone(lab: SimpleNamespace, name: str) -> None:
    agent = lab.table_agent(name, hidden=(8,))
    before = {k: v.clone() for k, v in agent.target_network.state_dict().items()}
    for _ in range(3):
        agent.update(
            prepared(lab, agent, [0, 1], [0, 1], [[1.0], [2.0]], [1, 2], [False, False]), agent.scheduled(Clock(1, 10))
        )
    assert not any(p.requires_grad for p in agent.target_network.parameters())
    assert all(p.grad is None for p in agent.target_network.parameters())
    assert all(torch.equal(before[k], v) for k, v in agent.target_network.state_dict().items())
    assert not torch.equal(agent.q_network.state_dict()["0.weight"], before["0.weight"])


@pytest.mark.parametrize("name", FAMILY)
def test_the_two_networks_start_equal(lab: SimpleNamespace, name: str) -> None:
    agent = lab.table_agent(name, seeds=(3, 5), hidden=(8,), dueling=True)
    for online, target in zip(agent.q_network.parameters(), agent.target_network.parameters(), strict=True):
        assert torch.equal(online, target)


def test_a_hard_update_copies_and_a_soft_one_takes_its_share(lab: SimpleNamespace) -> None:
    for tau, expected in ((1.0, 9.0), (0.25, 0.25 * 9.0 + 0.75 * 4.0)):
        agent = lab.table_agent("dqn", target_tau=tau, target_every=10)
        lab.set_table(agent.q_network, ONLINE)
        lab.set_table(agent.target_network, TARGET)
        agent.observe(torch.zeros(1, 1, 3), step_of(1), agent.scheduled(Clock(9, 100)))
        assert agent.target_network.state_dict()["0.weight"][0, 1, 0].item() == 4.0
        agent.observe(torch.zeros(1, 1, 3), step_of(1), agent.scheduled(Clock(10, 100)))
        assert agent.target_network.state_dict()["0.weight"][0, 1, 0].item() == pytest.approx(expected)


def test_a_soft_update_at_tau_one_is_a_hard_copy(lab: SimpleNamespace) -> None:
    soft = lab.table_agent("dqn", target_tau=1.0 - 1e-7, target_every=1)
    hard = lab.table_agent("dqn", target_tau=1.0, target_every=1)
    for agent in (soft, hard):
        lab.set_table(agent.q_network, ONLINE)
        lab.set_table(agent.target_network, TARGET)
        agent.observe(torch.zeros(1, 1, 3), step_of(1), agent.scheduled(Clock(1, 100)))
    for a, b in zip(soft.target_network.parameters(), hard.target_network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_envs", [1, 3, 8, 16])
def test_soft_updates_move_the_target_by_env_steps_whatever_the_number_of_envs(
    lab: SimpleNamespace, num_envs: int
) -> None:
    agent = lab.table_agent("dqn", target_tau=0.1, target_every=2)
    lab.set_table(agent.q_network, [[1.0, 1.0]] * 3)
    lab.set_table(agent.target_network, [[0.0, 0.0]] * 3)
    for now in range(num_envs, 49, num_envs):  # 48 is a multiple of them all
        clock = Clock(now, 48, per_step=num_envs)
        agent.observe(torch.zeros(1, num_envs, 3), step_of(num_envs), agent.scheduled(clock))
    # 24 times a tenth of what is left
    assert agent.target_network.state_dict()["0.weight"][0, 0, 0].item() == pytest.approx(1.0 - 0.9**24, rel=1e-5)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("num_envs", [1, 3, 8, 16])
def test_the_target_network_is_copied_exactly_when_its_period_is_crossed(
    lab: SimpleNamespace, name: str, num_envs: int
) -> None:
    every, budget = 20, 192
    weights: list[torch.Tensor] = []

    class Watched(load_agent(name)):  # type: ignore[misc]
        """Notes the target's weights after every vector step."""

        def observe(self, obs: torch.Tensor, step: Step, now: Now) -> None:
            super().observe(obs, step, now)
            weights.append(next(self.target_network.parameters()).detach().clone())

    settings = {"learning_starts": 0, "learn_every": 1, "updates_per_learn": 1, "batch_size": 4, "hidden": (4,)}
    lab.train_members(Watched, "CartPole-v1", [0], budget, num_envs, target_every=every, **settings)
    steps = list(range(num_envs, budget + 1, num_envs))
    after = dict(zip(steps, weights, strict=True))
    changed = [now for before, now in pairwise(steps) if not torch.equal(after[before], after[now])]
    assert changed == [t for t in steps if t // every > (t - num_envs) // every]


def test_epsilon_is_exact_over_a_run_and_reported(lab: SimpleNamespace) -> None:
    agent = lab.table_agent("dqn", epsilon_start=1.0, epsilon_end=0.1, epsilon_fraction=0.5)
    for env_steps, expected in ((0, 1.0), (250, 0.55), (500, 0.1), (1000, 0.1), (1008, 0.1)):
        assert agent.scheduled(Clock(env_steps, 1000))["explore/epsilon"] == pytest.approx(expected)


@pytest.mark.parametrize("name", FAMILY)
def test_training_explores_and_the_policy_is_greedy(lab: SimpleNamespace, name: str) -> None:
    agent = lab.table_agent(name, epsilon_start=1.0, epsilon_end=0.0, epsilon_fraction=0.5)
    lab.set_table(agent.q_network, ONLINE)
    obs = lab.one_hot([1] * 400)
    explored = agent.act(obs, agent.scheduled(Clock(0, 100)), {}).action
    assert explored.shape == (1, 400)
    assert 140 < explored.sum() < 260  # half of them are action 1
    assert (agent.act(obs, agent.scheduled(Clock(50, 100)), {}).action == 0).all()
    assert (agent.policy()(obs.numpy()) == 0).all()


def test_the_learning_rate_schedule_arrives_in_the_optimizer(lab: SimpleNamespace) -> None:
    agent = lab.table_agent("dqn", learning_rate=0.1, lr_schedule="linear", lr_final=0.0, lr_warmup_fraction=0.5)
    batch = prepared(lab, agent, [0], [0], [[1.0]], [1], [False])
    for env_steps, expected in ((25, 0.05), (50, 0.1), (75, 0.05), (100, 0.0)):
        agent.update(batch, agent.scheduled(Clock(env_steps, 100)))
        assert agent.optimizer.torch_optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        assert agent.scheduled(Clock(env_steps, 100))["optimizer/learning_rate"] == pytest.approx(expected)


def test_the_default_optimizer_is_adam_with_the_eps_of_the_config(lab: SimpleNamespace) -> None:
    agent = lab.table_agent("dqn")
    assert isinstance(agent.optimizer.torch_optimizer, torch.optim.Adam)
    assert agent.optimizer.torch_optimizer.param_groups[0]["eps"] == agent.config.optimizer_eps == 1.5e-4
    assert agent.config.loss == "huber"


def test_metrics_are_one_number_per_member(lab: SimpleNamespace) -> None:
    agent = lab.table_agent("dqn", seeds=(0, 1, 2))
    batch = {k: v.expand(3, *v.shape[1:]) for k, v in lab.windows([0], [0], [[1.0]], [1], [False]).items()}
    metrics = agent.update(agent.prepare(batch), agent.scheduled(Clock(1, 10))).metrics
    assert set(metrics) == {"loss/td_huber", "q/mean", "grad/norm"}
    assert all(value.shape == (3,) and not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", FAMILY)
def test_dropout_acts_in_updates_alone(lab: SimpleNamespace, name: str) -> None:
    agent = lab.table_agent(name, hidden=(64,), dropout=0.5)
    obs = lab.one_hot([0, 1, 2])
    assert torch.equal(agent.policy().outputs(obs), agent.policy().outputs(obs))
    batch = prepared(lab, agent, [0], [0], [[1.0]], [1], [False])
    assert agent.loss(batch)[0].item() != agent.loss(batch)[0].item()  # two draws
    assert torch.equal(agent.policy().outputs(obs), agent.policy().outputs(obs))


@pytest.mark.parametrize("name", FAMILY)
def test_an_agent_goes_on_from_its_state_to_the_same_bits(lab: SimpleNamespace, name: str) -> None:
    settings = {"hidden": (16,), "dropout": 0.3, "obs_scaling": "running", "optimizer": "adam", "target_tau": 0.5}
    first, second = (lab.table_agent(name, seeds=(4,), target_every=2, **settings) for _ in range(2))
    rng = np.random.default_rng(0)

    def live(agent: Any, obs: torch.Tensor, env_steps: int) -> torch.Tensor:
        now = agent.scheduled(Clock(env_steps, 100))
        agent.observe(obs, step_of(4), now)
        batch = agent.prepare(lab.windows([0, 1], [0, 1], [[1.0], [2.0]], [1, 2], [False, False]))
        agent.update(batch, now)
        action: torch.Tensor = agent.act(obs, now, {}).action
        return action

    seen = torch.from_numpy(rng.normal(size=(10, 1, 4, 3)).astype(np.float32))
    for t in range(5):
        live(first, seen[t], 4 * t)
    second.load_state(copy.deepcopy(first.state()))
    for t in range(5, 10):
        assert (live(first, seen[t], 4 * t) == live(second, seen[t], 4 * t)).all()
    for a, b in zip(first.policy().state_dict().values(), second.policy().state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_running_statistics_take_in_transitions_alone_and_stand_still_in_evaluation(lab: SimpleNamespace) -> None:
    agent = lab.table_agent("dqn", obs_scaling="running")
    obs, now = torch.tensor([[[1.0, 10.0, -1.0], [3.0, 30.0, -1.0]]]), agent.scheduled(Clock(2, 100))
    agent.observe(obs, step_of(2), now)
    agent.observe(obs * 1000.0, step_of(2, valid=False), now)  # reset rows
    before = {k: v.clone() for k, v in agent.policy().state_dict().items() if k.startswith("preprocess")}
    assert before["preprocess.mean"].flatten().tolist() == [2.0, 20.0, -1.0]
    assert before["preprocess.variance"].flatten().tolist() == [1.0, 100.0, 0.0]
    agent.policy()((obs * 77.0).numpy())
    agent.act(obs * 77.0, now, {})
    after = agent.policy().state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "hubber"}, "unknown loss 'hubber'. Did you mean 'huber'?"),
        ({"batch_size": 0}, "batch_size 0 must be 1 or more."),
        ({"n_step": -1}, "n_step -1 must be 1 or more."),
        ({"target_every": 0}, "target_every 0 must be 1 or more."),
        ({"learn_every": 0}, "learn_every 0 must be 1 or more."),
        ({"updates_per_learn": 0}, "updates_per_learn 0 must be 1 or more."),
        ({"learning_starts": -1}, "learning_starts -1 must be 0 or more."),
        ({"gamma": 1.01}, "gamma 1.01 must be in [0, 1]."),
        ({"epsilon_end": float("nan")}, "epsilon_end nan must be in [0, 1]."),
        ({"target_tau": 0.0}, "target_tau 0.0 must be in (0, 1]."),
        ({"batch_size": 101, "replay_capacity": 100}, "batch_size 101 is more than replay_capacity 100."),
        ({"n_step": 101, "batch_size": 1, "replay_capacity": 100}, "n_step 101 is more than replay_capacity 100."),
    ],
)
def test_a_setting_out_of_range_is_refused_where_it_is_born(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        DQNConfig(**settings)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adm"}, {"lr_schedule": "cosin"}, {"dropout": 1.0}, {"activation": "rleu"}, {"init": "hee"}],
    ids=str,
)
def test_a_setting_that_belongs_to_a_part_is_refused_before_training(
    lab: SimpleNamespace, settings: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        lab.table_agent("dqn", **{"hidden": (4,), **settings})


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("space", "hint"),
    [
        (
            Box((1,), "float32", -2.0, 2.0),
            "agents that can: a2c, crossq, ddpg, droq, ppo, reinforce, sac, td3; from a dataset: bc, encoder, iql.",
        ),
        (
            Box((2,), "float32", (-2.0, -2.0), (2.0, float("inf"))),
            "agents that can: a2c, ppo, reinforce; from a dataset: bc, encoder, iql.",
        ),
        (MultiDiscrete((2, 3), (0, 0), (2,)), "agents that can: a2c, ppo, reinforce; from a dataset: bc, encoder."),
        (MultiBinary((2,)), "agents that can: a2c, ppo, reinforce; from a dataset: bc, encoder."),
        (
            Box((1,), "int64", -2.0, 2.0),
            "no registered agent can. Make the space a MultiDiscrete where its integers are choices, or its dtype "
            "float32 where they are not.",
        ),
    ],
    ids=str,
)
def test_actions_that_do_not_suit_are_refused_in_one_line_that_says_what_does(
    name: str, space: Space, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_action_space(name, load_agent(name), space, "World-v0")
    assert str(caught.value) == f"{name} cannot choose the actions {space} of World-v0; {hint}"


def test_actions_that_suit_are_not_refused() -> None:
    check_action_space("dqn", load_agent("dqn"), Discrete(3), "World-v0")


class BothFlags(gym.Env[np.ndarray, np.int64]):
    """Its first step is an ending and a time limit at once."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 1.0, True, True, {}


@pytest.mark.parametrize("name", ["dqn", pytest.param("double_dqn", marks=pytest.mark.prove)])
def test_both_flags_at_once_are_learned_as_an_ending(lab: SimpleNamespace, name: str) -> None:
    if "rlab-test/BothFlags-v0" not in gym.registry:
        gym.register("rlab-test/BothFlags-v0", entry_point=BothFlags)
    settings = {"gamma": 0.9, "learning_starts": 10, "learn_every": 2, "batch_size": 16, "target_every": 20}
    agent = lab.train_members(name, "rlab-test/BothFlags-v0", [0], 1000, learning_rate=1e-2, **settings)
    q = agent.policy().outputs(torch.zeros(1, 1, 1))
    assert (q - 1.0).abs().max() < 0.02  # 10 where the time limit wins
