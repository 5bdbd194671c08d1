"""DQN and double DQN on observations of every kind, and with masks: what is forbidden is neither done nor hoped for."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.cli.main import main
from rlab.envs import SPACE_PROBES, EnvSpec, make_env, make_vec
from rlab.experience.env_contract import Step
from rlab.learning.contract import Now
from rlab.learning.exploration import EpsilonGreedy
from rlab.networks.spaces import Discrete, Masked, pack
from rlab.runs.policies import load_policy
from rlab.types import Clock

pytestmark = pytest.mark.usefixtures("quick_disk", "registered_here")
FAMILY = ("dqn", "double_dqn")
ROOM = Masked(Discrete(3), 4)  # three states, four actions
GAMMA = 0.9


def masked_agent(name: str, lab: SimpleNamespace, seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    """An agent on tables: `weight[s, a]` is Q(s, a) of three one-hot states and four actions."""
    agent: Any = load_agent(name)
    config = agent.Config(**{"hidden": (), "layer_norm": False, "loss": "squared", **settings})
    made = agent(config, ROOM, Discrete(4), seeds, torch.device("cpu"))
    best_is_last = [[1.0, 2.0, 3.0, 9.0]] * 3
    lab.set_table(made.q_network, best_is_last)
    lab.set_table(made.target_network, [[4.0, 3.0, 2.0, 50.0]] * 3)
    return made


def observed(states: list[int], masks: list[list[int]]) -> torch.Tensor:
    """`[S=1, B, 5]`: the array form of states and masks."""
    return torch.from_numpy(pack(ROOM, states, np.array(masks)))[None]


def transitions(next_masks: list[list[int]], terminated: list[bool]) -> dict[str, torch.Tensor]:
    """Rows that earn 1 and lead to state 1, whatever the action, as replay samples them."""
    rows = len(next_masks)
    return {
        "obs": observed([0] * rows, [[1, 1, 0, 0]] * rows),
        "action": torch.zeros(1, rows, dtype=torch.int64),
        "reward": torch.ones(1, rows, 1),
        "steps": torch.ones(1, rows, dtype=torch.int64),
        "terminated": torch.tensor([terminated]),
        "truncated": torch.zeros(1, rows, dtype=torch.bool),
        "next_obs": observed([1] * rows, next_masks),
    }


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("duration", [None, 2.0])
def test_acting_never_takes_what_is_forbidden(lab: SimpleNamespace, name: str, duration: float | None) -> None:
    agent = masked_agent(name, lab, seeds=(0, 1), epsilon_duration=duration, epsilon_end=0.5)
    rng = np.random.default_rng(0)
    for now in range(50):  # 50 x 2 members x 100 envs, from all exploration to half of it
        allowed = rng.random((2, 100, 4)) < 0.5
        allowed[..., 0] |= ~allowed.any(axis=-1)
        obs = torch.from_numpy(pack(ROOM, rng.integers(3, size=(2, 100)), allowed))
        action = agent.act(obs, agent.scheduled(Clock(now, 50)), {}).action
        assert torch.from_numpy(allowed).gather(-1, action.unsqueeze(-1)).all()


@pytest.mark.parametrize("name", FAMILY)
def test_greedy_is_the_best_of_what_is_allowed_in_training_and_in_the_policy(lab: SimpleNamespace, name: str) -> None:
    agent = masked_agent(name, lab, epsilon_start=0.0, epsilon_end=0.0)
    obs = observed([0, 1, 2, 0], [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]])
    # where nothing is allowed, nothing is chosen
    assert agent.act(obs, agent.scheduled(Clock(0, 1)), {}).action.tolist() == [[2, 0, 3, 3]]
    assert agent.policy()(obs.numpy()).tolist() == [[2, 0, 3, 3]]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # the target network says 4, 3, 2, 50; what is allowed decides which of it counts
        ("dqn", [4.0, 3.0, 50.0]),
        # the online network says 1, 2, 3, 9 and picks the best allowed, which the target network values
        ("double_dqn", [2.0, 2.0, 50.0]),
    ],
)
def test_a_target_hopes_only_for_what_is_allowed(lab: SimpleNamespace, name: str, values: list[float]) -> None:
    agent = masked_agent(name, lab, gamma=0.5)
    masks = [[1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]]
    batch = agent.prepare(transitions(masks, [False] * 3))
    next_q = agent.next_q(batch)
    assert next_q.isneginf().tolist() == [[[not bit for bit in mask] for mask in masks]]
    with torch.no_grad():
        policy = agent.next_policy(next_q, batch)
    assert policy.sum(dim=-1).tolist() == [[1.0, 1.0, 1.0]]
    assert next_q[policy == 1.0].tolist() == values
    errors = [1.0 + 0.5 * value - 1.0 for value in values]  # Q(0, 0) is 1
    loss = agent.loss(batch)[0].item()
    assert loss == pytest.approx(np.mean([0.5 * error**2 for error in errors]))


@pytest.mark.parametrize("name", FAMILY)
def test_where_the_world_ended_a_mask_of_nothing_leaves_finite_numbers(lab: SimpleNamespace, name: str) -> None:
    agent = masked_agent(name, lab)
    batch = agent.prepare(transitions([[0, 0, 0, 0]], [True]))
    assert batch["discount"].item() == 0.0
    assert agent.next_q(batch).isfinite().all()
    assert agent.loss(batch)[0].item() == 0.0  # Q(0, 0) is 1 already, as is the reward
    metrics = agent.update(batch, agent.scheduled(Clock(1, 10))).metrics
    assert all(value.isfinite().all() for value in metrics.values())


@pytest.mark.parametrize("name", FAMILY)
def test_a_masked_agent_goes_on_from_its_state_to_the_same_bits(lab: SimpleNamespace, name: str) -> None:
    first, second = (masked_agent(name, lab, epsilon_duration=2.0, epsilon_end=0.7) for _ in range(2))
    masks = np.random.default_rng(0).random((20, 1, 30, 4)) < 0.7
    masks[..., 1] = True
    obs = [torch.from_numpy(pack(ROOM, np.full((1, 30), 1), mask)) for mask in masks]
    now = first.scheduled(Clock(1, 2))
    for before in obs[:10]:
        first.act(before, now, {})
    second.load_state(first.state())
    for after in obs[10:]:
        assert torch.equal(first.act(after, now, {}).action, second.act(after, now, {}).action)


def test_without_a_mask_exploration_is_that_of_a_mask_that_allows_everything(lab: SimpleNamespace) -> None:
    agent = lab.table_agent("dqn", epsilon_start=1.0)
    drawn = agent.act(torch.zeros(1, 50, 3), agent.scheduled(Clock(0, 100)), {}).action
    greedy, allowed = torch.zeros(1, 50, dtype=torch.int64), torch.ones(1, 50, 2, dtype=torch.bool)
    for mask in (None, allowed):
        assert torch.equal(drawn, EpsilonGreedy(2, (0,)).choose(greedy, 1.0, mask))
    assert 0 < drawn.sum() < 50


class Forbidden(load_agent("dqn")):  # type: ignore[misc]
    """Notes the bits of whatever it did and saw in training."""

    def observe(self, obs: torch.Tensor, step: Step, now: Now) -> None:
        super().observe(obs, step, now)
        self.seen_rewards = [*getattr(self, "seen_rewards", []), step.reward.max().item()]


def test_in_training_the_forbidden_reward_is_never_earned(lab: SimpleNamespace) -> None:
    settings = {"learning_starts": 50, "batch_size": 16}
    agent = lab.train_members(Forbidden, "rlab/ProbeMasked-v0", (0, 1), 600, **settings)
    assert max(agent.seen_rewards) == 1.0  # and not 10


DISCRETE_WORLDS = sorted(
    env_id for env_id in SPACE_PROBES if isinstance(make_env(EnvSpec(env_id)).action_space, gym.spaces.Discrete)
)


EVERY_DAY = ("dqn", "rlab/ProbeMasked-v0")
OTHERS = [each for each in itertools.product(FAMILY, DISCRETE_WORLDS) if each != EVERY_DAY]


@pytest.mark.parametrize(
    ("name", "env_id"), [EVERY_DAY, *(pytest.param(*each, marks=pytest.mark.prove) for each in OTHERS)]
)
def test_plain_defaults_learn_the_values_of_worlds_with_other_spaces(name: str, env_id: str, tmp_path: Path) -> None:
    seeds, budget = 3, {"env_steps": 2_500, "eval_every": 2_500, "eval_episodes": 2, "final_eval_episodes": 20}
    run = rlab.train(name, env_id, experiment="none", out=tmp_path / "run", seeds=seeds, gamma=GAMMA, **budget)
    policy, world = load_policy(tmp_path / "run").policy, SPACE_PROBES[env_id]
    known = [row for row in world.values(GAMMA) if row.action is not None]
    scale = max(abs(row.value) for row in known)
    for row in known:
        obs = torch.from_numpy(pack(policy.spec.obs_space, row.obs))
        q = policy.outputs(obs.expand(seeds, 1, *obs.shape)).detach()[:, 0, row.action]
        assert (q - row.value).abs().max() <= 0.02 * scale, f"{row} was learned as {q.tolist()}"
    assert run.evaluation is not None
    if env_id != "rlab/ProbeDiscreteObservation-v0":  # its return is what it draws
        np.testing.assert_allclose(run.evaluation.returns, world.episode_return)


class Shifted(gym.Env[np.ndarray, np.int64]):
    """One step; of the actions 5, 6 and 7 the last one pays 1. Any other breaks it."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32), gym.spaces.Discrete(3, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), {5: 0.0, 6: 0.5, 7: 1.0}[int(action)], True, False, {}


@pytest.mark.parametrize("name", FAMILY)
def test_actions_that_start_elsewhere_are_trained_judged_and_played(name: str, tmp_path: Path) -> None:
    if "rlab-test/Shifted-v0" not in gym.registry:
        gym.register("rlab-test/Shifted-v0", entry_point=Shifted)
    budget = {"env_steps": 600, "eval_every": 600, "eval_episodes": 2, "final_eval_episodes": 3}
    out = tmp_path / "run"
    run = rlab.train(name, "rlab-test/Shifted-v0", experiment="none", out=out, learning_starts=50, **budget)
    assert run.evaluation is not None
    assert (run.evaluation.returns == 1.0).all()
    assert rlab.load(out)(np.zeros(1, np.float32)) == 7


@pytest.mark.parametrize(("env_id", "hidden"), [("Taxi-v4", (32,)), ("FrozenLake-v1", None), ("Blackjack-v1", (16,))])
def test_gymnasium_s_own_tables_train_are_judged_loaded_and_acted_on(
    env_id: str, hidden: tuple[int, ...] | None, tmp_path: Path
) -> None:
    budget = {"env_steps": 400, "eval_every": 400, "eval_episodes": 2, "final_eval_episodes": 3, "num_envs": 4}
    settings = {"learning_starts": 100, "batch_size": 16, "hidden": hidden, "seeds": 2, "max_episode_steps": 20}
    run = rlab.train("dqn", env_id, experiment="none", out=tmp_path / "run", **budget, **settings)
    assert run.evaluation is not None
    assert run.evaluation.returns.shape == (2, 3)
    policy = rlab.load(tmp_path / "run", seed=1)
    env = gym.make(env_id)
    obs, info = env.reset(seed=0)
    for _ in range(10):  # on what the env itself gives
        action = policy(obs, mask=info.get("action_mask"))[()]
        assert env.action_space.contains(action)
        assert info.get("action_mask") is None or info["action_mask"][action]
        obs, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            obs, info = env.reset()


def test_taxi_is_never_driven_into_a_wall(tmp_path: Path) -> None:
    # Taxi's mask forbids what would change nothing; a masked run never stands still.
    env = make_vec(EnvSpec("Taxi-v4"), (0,), 4)
    agent: Any = load_agent("dqn")(load_agent("dqn").Config(), env.obs_space, env.action_space, (0,), "cpu")  # type: ignore[attr-defined]
    obs = env.reset()
    for time in range(200):
        acted = agent.act(torch.from_numpy(obs), agent.scheduled(Clock(time, 200)), {})
        step = env.step(acted.action.numpy())
        assert (step.next_obs[..., 0] != obs[..., 0]).all()
        obs = step.obs


@pytest.mark.parametrize(
    ("agent", "env_id"),
    # a mask, an integer, several parts, and an action that is no choice
    [("dqn", "Taxi-v4"), ("dqn", "FrozenLake-v1"), ("dqn", "Blackjack-v1"), ("ppo", "Pendulum-v1")],
)
def test_a_policy_of_such_an_env_is_played(
    agent: str, env_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = {"env_steps": 40, "eval_every": 40, "eval_episodes": 1, "final_eval_episodes": 0, "max_episode_steps": 3}
    rlab.train(agent, env_id, experiment="none", out=tmp_path / "run", hidden=(8,), **budget)
    film = tmp_path / "film.gif"
    assert main(["play", str(tmp_path / "run"), "--video", str(film), "--seed", "5"]) == 0
    assert "episode seed 5: return " in capsys.readouterr().out
    assert film.stat().st_size > 0
