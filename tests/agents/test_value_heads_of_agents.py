"""C51, QR-DQN and IQN as a switch of DQN and its family: one step worked by hand, known worlds, members, resuming."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.agents.dqn import DQNConfig
from rlab.envs import PROBES
from rlab.errors import UsageError
from rlab.networks.spaces import Discrete, Masked, pack
from rlab.runs.policies import load_policy
from rlab.types import Clock

HEADS = ("c51", "qr", "iqn")
SMALL: dict[str, dict[str, Any]] = {
    "c51": {"value_head": "c51", "atoms": 5, "value_min": -2.0, "value_max": 2.0},
    "qr": {"value_head": "qr", "quantiles": 2},
    "iqn": {"value_head": "iqn", "iqn_samples": 4, "iqn_points": 6},
}
ONLINE = [[0.0, 0.0], [9.0, 1.0], [0.0, 2.0]]  # in state 1 it prefers action 0


def set_rows(network: Any, rows: Any) -> None:
    """Write what a network of one linear layer gives in each of the three states, `[3][width]`."""
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(rows).expand_as(network[0].weight))
        network[0].bias.zero_()


def loss_of(lab: SimpleNamespace, agent: Any, *rows: Any) -> float:
    found: float = agent.loss(agent.prepare(lab.windows(*rows)))[0].item()
    return found


@pytest.mark.parametrize(("name", "returns"), [("dqn", [2.0, 8.0]), ("double_dqn", [1.0, 3.0])])
def test_a_step_of_qr_dqn_is_that_of_algorithm_one(lab: SimpleNamespace, name: str, returns: list[float]) -> None:
    agent = lab.table_agent(name, gamma=0.5, quantile_kappa=0.0, **SMALL["qr"])
    # quantiles of actions 0 and 1 in the three states
    set_rows(agent.q_network, [[0.0, 0.0, 1.0, 2.0], [9.0, 9.0, 1.0, 1.0], [0.0] * 4])
    set_rows(agent.target_network, [[0.0] * 4, [1.0, 3.0, 2.0, 8.0], [0.0] * 4])
    targets, loss = [1.0 + 0.5 * each for each in returns], 0.0
    for predicted, fraction in ((1.0, 0.25), (2.0, 0.75)):  # action 1 of state 0
        for target in targets:
            error = target - predicted
            loss += abs(fraction - (error < 0)) * abs(error) / 2
    assert loss_of(lab, agent, [0], [1], [[1.0]], [1], [False]) == pytest.approx(loss)


@pytest.mark.parametrize(("name", "following"), [("dqn", [0.0, 0.0, 0.0, 0.25, 0.75]), ("double_dqn", [0, 0, 1, 0, 0])])
def test_a_step_of_c51_is_that_of_algorithm_one(lab: SimpleNamespace, name: str, following: list[float]) -> None:
    agent = lab.table_agent(name, gamma=0.5, **SMALL["c51"])  # atoms -2, -1, 0, 1, 2
    low = -1e4  # the logarithm of nothing
    sure_of_0, better = [low, low, 0.0, low, low], [low, low, low, 0.0, math.log(3.0)]  # returns 0, and 1 or 2
    set_rows(agent.q_network, [[0.0] * 10, better + sure_of_0, [0.0] * 10])
    set_rows(agent.target_network, [[0.0] * 10, sure_of_0 + better, [0.0] * 10])
    # the atoms of what comes next end at 1 + 0.5 z: 0, 0.5, 1, 1.5 and 2
    target = np.zeros(5)
    for probability, (near, far) in zip(following, ((2, 2), (2, 3), (3, 3), (3, 4), (4, 4)), strict=True):
        target[near] += probability / 2
        target[far] += probability / 2
    entropy = -sum(p * math.log(p) for p in target if p > 0)
    loss = loss_of(lab, agent, [0], [1], [[1.0]], [1], [False])
    assert loss == pytest.approx(math.log(5.0) - entropy, rel=1e-5)  # the prediction is uniform


def test_where_the_world_ended_a_distribution_is_the_reward(lab: SimpleNamespace) -> None:
    agent = lab.table_agent("dqn", gamma=0.5, **SMALL["c51"])
    agent_qr = lab.table_agent("dqn", gamma=0.5, quantile_kappa=0.0, **SMALL["qr"])
    for network in (agent.q_network, agent.target_network):
        set_rows(network, [[0.0] * 10, [5.0] * 10, [0.0] * 10])
    for network in (agent_qr.q_network, agent_qr.target_network):
        set_rows(network, [[0.0] * 4, [7.0] * 4, [0.0] * 4])
    assert loss_of(lab, agent, [0], [1], [[1.0]], [1], [True]) == pytest.approx(math.log(5.0))  # surely 1
    assert loss_of(lab, agent_qr, [0], [1], [[1.0]], [1], [True]) == pytest.approx(0.25 + 0.75)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("munchausen", [False, True])
def test_the_gradient_of_an_agent_s_loss_is_that_of_finite_differences(
    lab: SimpleNamespace, head: str, munchausen: bool
) -> None:
    agent = lab.table_agent("double_dqn", munchausen=munchausen, quantile_kappa=0.5, dueling=True, **SMALL[head])
    batch = agent.prepare(lab.windows([0, 1], [0, 1], [[0.3], [-0.7]], [2, 0], [False, True]))
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    agent.replayed.training_network = agent.q_network.double()  # not in training: the fractions of IQN stand still
    agent.head.double()
    with torch.no_grad():
        for parameter in agent.q_network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    weight = max(agent.q_network.parameters(), key=torch.numel)
    (gradient,) = torch.autograd.grad(agent.loss(batch)[0].sum(), weight)
    flat, step = weight.data.view(-1), 1e-6
    for place in gradient.abs().flatten().topk(5).indices.tolist():
        ends = []
        for sign in (1.0, -1.0):
            before = flat[place].item()
            flat[place] += sign * step
            ends.append(agent.loss(batch)[0].sum().item())
            flat[place] = before
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient.flatten()[place].item(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["dqn", "double_dqn"])
def test_what_is_forbidden_is_neither_done_nor_hoped_for(lab: SimpleNamespace, head: str, name: str) -> None:
    room = Masked(Discrete(3), 4)
    agent: Any = load_agent(name)
    config = agent.Config(hidden=(), layer_norm=False, munchausen=name == "double_dqn", **SMALL[head])
    agent = agent(config, room, Discrete(4), (0,), torch.device("cpu"))
    rows = 40
    allowed = np.random.default_rng(0).random((1, rows, 4)) < 0.5
    allowed[..., 2] |= ~allowed.any(axis=-1)
    obs = torch.from_numpy(pack(room, np.zeros((1, rows), np.int64), allowed))
    action = agent.act(obs, agent.scheduled(Clock(99, 100)), {}).action
    assert torch.from_numpy(allowed).gather(-1, action.unsqueeze(-1)).all()
    batch = lab.windows([0] * rows, [0] * rows, [[1.0]] * rows, [0] * rows, [False] * rows)
    batch = agent.prepare({**batch, "obs": obs, "next_obs": obs, "action": action})
    with torch.no_grad():
        policy = agent.next_policy(agent.next_q(batch), batch)
    assert (policy[~torch.from_numpy(allowed)] == 0.0).all()
    torch.testing.assert_close(policy.sum(dim=-1), torch.ones(1, rows))
    updated = agent.update(batch, agent.scheduled(Clock(1, 10)))
    assert all(value.isfinite().all() for value in updated.metrics.values())
    assert updated.feedback.shape == (1, rows)


@pytest.mark.parametrize("head", HEADS)
def test_the_margin_of_demonstrations_is_one_of_mean_values(lab: SimpleNamespace, head: str) -> None:
    agent = lab.table_agent("dqfd", n_step=1, demonstration_weight=2.0, margin=0.8, **SMALL[head])
    batch = agent.prepare(lab.windows([0, 1], [0, 1], [[0.3], [-0.7]], [2, 0], [False, True]))
    agent.replayed.training_network = agent.q_network  # the fractions of IQN stand still
    (term,) = agent.terms
    outputs = agent.replayed.outputs(batch).detach()
    q = agent.head.values(outputs)[0]
    wanted = [max(q[row, a] + 0.8 * (a != row) for a in (0, 1)) - q[row, row] for row in (0, 1)]
    assert term.loss(outputs, batch).item() == pytest.approx(float(sum(wanted)) / 2)


@pytest.mark.parametrize("head", HEADS)
def test_an_agent_goes_on_from_its_state_to_the_same_bits(lab: SimpleNamespace, head: str) -> None:
    first, second = (lab.table_agent("double_dqn", seeds=(4,), hidden=(8,), **SMALL[head]) for _ in range(2))
    rows = lab.windows([0, 1], [0, 1], [[1.0], [2.0]], [1, 2], [False, False])

    def live(agent: Any, env_steps: int) -> None:
        agent.update(agent.prepare(rows), agent.scheduled(Clock(env_steps, 100)))

    for t in range(3):
        live(first, t)
    second.load_state(copy.deepcopy(first.state()))
    for t in range(3, 6):
        live(first, t)
        live(second, t)
    for a, b in zip(first.policy().state_dict().values(), second.policy().state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("head", HEADS)
def test_a_member_learns_the_same_alone_and_beside_others(lab: SimpleNamespace, head: str) -> None:
    settings: dict[str, Any] = {"learning_starts": 32, "batch_size": 8, "hidden": (8, 8), **SMALL[head]}
    settings |= {"n_step": 3, "dueling": True, "munchausen": True, "target_every": 16}
    both = lab.train_members("double_dqn", "CartPole-v1", [0, 1], 96, **settings).policy().only(1)
    alone = lab.train_members("double_dqn", "CartPole-v1", [1], 96, **settings).policy().only(1)
    for (name, one), other in zip(both.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_with_memory_may_predict_a_distribution(lab: SimpleNamespace, head: str) -> None:
    settings: dict[str, Any] = {
        "memory": "gru",
        "memory_size": 4,
        "sequence_length": 3,
        "burn_in": 1,
        "munchausen": True,
    }
    settings |= {"learning_starts": 32, "batch_size": 4, "hidden": (8,), "replay": "prioritised", "noisy": True}
    agent = lab.train_members("double_dqn", "CartPole-v1", [0], 64, **settings, **SMALL[head])
    assert all(tensor.isfinite().all() for tensor in agent.policy().state_dict().values())


class TwoCoins(gym.Env[np.ndarray, np.int64]):
    """Two steps without a choice: the second earns -1 in a quarter of all episodes and 1 in the others."""

    observation_space, action_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.second = False
        return np.array([1.0, 0.0], np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = 0.0 if not self.second else -1.0 if self.np_random.random() < 0.25 else 1.0
        ended, self.second = self.second, True
        return np.array([0.0, 1.0], np.float32), reward, ended, False, {}


# Every day rainbow learns with c51, and tests/learning finds quantiles by the loss of qr.
@pytest.mark.parametrize("head", ["iqn", *(pytest.param(head, marks=pytest.mark.prove) for head in ("c51", "qr"))])
def test_the_distribution_of_random_returns_is_learned(lab: SimpleNamespace, head: str) -> None:
    if "rlab-test/TwoCoins-v0" not in gym.registry:
        gym.register("rlab-test/TwoCoins-v0", entry_point=TwoCoins)
    settings: dict[str, Any] = {
        "c51": {"value_head": "c51", "atoms": 9, "value_min": -1.0, "value_max": 1.0},
        "qr": {"value_head": "qr", "quantiles": 8, "quantile_kappa": 0.0},
        "iqn": {"value_head": "iqn", "quantile_kappa": 0.0, "iqn_points": 8, "hidden": (32,)},
    }[head]
    more: dict[str, Any] = {"gamma": 0.5, "target_every": 100, "batch_size": 256, "updates_per_learn": 2}
    settings = {"learning_rate": 5e-3, "lr_schedule": "linear", "layer_norm": False, **settings, **more}
    agent = lab.train_members("dqn", "rlab-test/TwoCoins-v0", [0, 1], 4_000, **settings)
    outputs = agent.policy().outputs(torch.eye(2).expand(2, 2, 2))  # [S, state, width]
    for state, (low, high) in enumerate(((-0.5, 0.5), (-1.0, 1.0))):  # the first is discounted by a half
        for action in (0, 1):
            if head == "c51":
                mass = agent.head.logits(outputs).softmax(dim=-1)[:, state, action]
                support = agent.head.support
                assert (mass[:, (support - low).abs().argmin()] - 0.25).abs().max() < 0.08
                assert (mass[:, (support - high).abs().argmin()] - 0.75).abs().max() < 0.08
            else:
                # the two lowest of eight quantiles are below a quarter; the third may lie between
                returns = agent.head.returns(outputs)[:, state, action]
                wanted = torch.tensor([low] * 2 + [high] * 6)
                away = (returns - wanted).abs()
                assert away[:, [0, 4, 5, 6, 7]].max() < 0.15, returns


@pytest.mark.prove
@pytest.mark.parametrize("env_id", sorted(PROBES))
@pytest.mark.parametrize("head", HEADS)
def test_plain_defaults_solve_a_probe_world_in_ten_of_ten_seeds(head: str, env_id: str, tmp_path: Path) -> None:
    solve(head, env_id, tmp_path / "run", seeds=10, env_steps=20_000)


@pytest.mark.prove
@pytest.mark.parametrize("head", HEADS)
def test_plain_defaults_solve_a_probe_world(head: str, tmp_path: Path) -> None:
    solve(head, "rlab/ProbeCredit-v0", tmp_path / "run", seeds=2, env_steps=1_500, share=0.1)


def solve(head: str, env_id: str, out: Path, seeds: int, env_steps: int, share: float = 0.02) -> None:
    """The values are known on paper to this share of the largest, or to a fifth of the distance of C51's atoms."""
    world, gamma = PROBES[env_id], 0.9
    budget: dict[str, Any] = {"seeds": seeds, "env_steps": env_steps, "eval_every": 10**6, "final_eval_episodes": 10}
    run = rlab.train("dqn", env_id, experiment="none", out=out, gamma=gamma, value_head=head, **budget)
    policy = load_policy(out).policy
    known = world.values(gamma)
    tolerance = max(share * max(abs(row.value) for row in known), 0.08 if head == "c51" else 0.0)
    for row in known:
        with torch.no_grad():
            q = policy.head.values(policy.outputs(torch.tensor(row.obs).expand(seeds, 1, -1)))[:, 0]
        learned = q.amax(dim=-1) if row.action is None else q[:, row.action]
        assert (learned - row.value).abs().max().item() <= tolerance, f"{row} was learned as {learned.tolist()}"
    if env_id != "rlab/ProbeObservation-v0":
        assert run.evaluation is not None
        np.testing.assert_allclose(run.evaluation.returns, world.episode_return)


def test_settings_out_of_range_are_refused() -> None:
    for settings, said in (
        ({"value_head": "c5"}, "unknown value_head 'c5'. Did you mean 'c51'?"),
        ({"atoms": 1}, "atoms 1 must be 2 or more."),
        ({"value_min": 10.0}, "value_min 10.0 must be below value_max 10.0, and both finite."),
        ({"quantile_kappa": -1.0}, "quantile_kappa -1.0 must be 0 or more."),
        ({"iqn_points": 0}, "iqn_points 0 must be 1 or more."),
    ):
        with pytest.raises(UsageError) as caught:
            DQNConfig(**settings)
        assert str(caught.value).startswith(said)


def test_settings_of_another_head_are_refused(tmp_path: Path) -> None:
    for settings, said in (
        ({"atoms": 7}, "--atoms has no effect here: it is for value_head c51, and that is q. Leave it out."),
        ({"value_head": "qr", "loss": "squared"}, "--loss has no effect here: it is for value_head q, and that is qr."),
    ):
        with pytest.raises(UsageError) as caught:
            rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **settings)
        assert str(caught.value).startswith(said)
