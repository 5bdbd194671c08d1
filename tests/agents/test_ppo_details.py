"""The details of PPO, one by one: each has a switch, and those with arithmetic have numbers."""

import math
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab.agents import load_agent
from rlab.agents.ppo import PPO, PPOConfig
from rlab.errors import RlabError, UsageError
from rlab.experience.env_contract import Step
from rlab.experience.sequence_samplers import read_rollout
from rlab.experience.storage import Storage
from rlab.learning.contract import Now
from rlab.networks.spaces import Box, Discrete
from rlab.types import Clock

OBS = Box((3,), "float32", -1.0, 1.0)
CLOCK = Clock(1_000, 10_000)
ON_POLICY = ("a2c", "ppo", "reinforce")


def made(name: str = "ppo", seeds: tuple[int, ...] = (0, 1), actions: Any = None, **settings: Any) -> Any:
    agent: Any = load_agent(name)
    config = agent.Config(**{"hidden": (16,), "rollout_steps": 8, **settings})
    return agent(config, OBS, actions or Discrete(3), seeds, torch.device("cpu"))


def uniform(rng: np.random.Generator, lanes: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(-1, 1, (*lanes, 3)).astype(np.float32))


def collected(agent: Any, num_envs: int = 2, steps: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    """A rollout of random observations, the agent's own actions, random rewards and endings."""
    rng, members = np.random.default_rng(seed), len(agent.seeds)
    storage = Storage(members, num_envs, steps * num_envs, agent.fields())
    lanes = (members, num_envs)
    obs = uniform(rng, lanes)
    for _ in range(steps):
        action, after = agent.act(obs, agent.scheduled(CLOCK), {}).action, uniform(rng, lanes)
        terminated = torch.from_numpy(rng.random(lanes) < 0.1)
        truncated = torch.from_numpy(rng.random(lanes) < 0.1) & ~terminated
        reward = torch.from_numpy(rng.normal(size=lanes))
        storage.add(obs, action, Step(after, after, reward, terminated, truncated, torch.ones_like(terminated)))
        obs = after
    return read_rollout(storage, steps)


def test_the_first_minibatch_has_ratio_one_and_neither_clips_nor_moves() -> None:
    for actions in (Discrete(3), Box((2,), "float32", -2.0, 2.0)):
        agent = made(actions=actions)
        rows = agent.prepare(collected(agent))
        outputs, _ = agent.forward(rows)
        ratio = (agent.head.log_prob(outputs, rows["action"]) - rows["log_prob"]).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0.0, atol=1e-6)
        part = {name: value[:, :5] for name, value in rows.items()}
        metrics = agent.update(part, agent.scheduled(CLOCK)).metrics
        assert metrics["policy/clip_fraction"].tolist() == [0.0, 0.0]
        torch.testing.assert_close(metrics["policy/kl"], torch.zeros(2), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("name", ON_POLICY)
def test_gradients_equal_finite_differences(name: str) -> None:
    agent = made(name, seeds=(0,), hidden=(4,), entropy_weight=0.1)
    rows = agent.prepare(collected(agent))
    agent.actor.double()
    agent.critic.double()
    rows = {key: value.double() if value.is_floating_point() else value for key, value in rows.items()}
    # away from the old policy, so that the ratio is not at a kink, with some rows beyond the clip
    generator = torch.Generator().manual_seed(0)
    parameters = [*agent.actor.parameters(), *agent.critic.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def loss() -> torch.Tensor:
        total: torch.Tensor = agent.loss(rows, agent.scheduled(CLOCK))[0].sum()
        return total

    grads = torch.autograd.grad(loss(), parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        flat, step = parameter.data.view(-1), 1e-6
        for i in range(0, flat.numel(), 3):
            kept = flat[i].item()
            flat[i] = kept + step
            above = loss().item()
            flat[i] = kept - step
            below = loss().item()
            flat[i] = kept
            assert grad.view(-1)[i].item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7)


def test_weights_start_orthogonal_with_the_gains_of_the_paper() -> None:
    agent = made(hidden=(16, 16))
    first, second, last = (m.weight for m in agent.actor.modules() if hasattr(m, "weight"))
    *_, value = (m.weight for m in agent.critic.modules() if hasattr(m, "weight"))
    for member in range(2):
        torch.testing.assert_close(first[member] @ first[member].T, 2.0 * torch.eye(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(second[member] @ second[member].T, 2.0 * torch.eye(16), rtol=0, atol=1e-5)
        torch.testing.assert_close(last[member].T @ last[member], 1e-4 * torch.eye(3), rtol=0, atol=1e-7)
        assert value[member].norm().item() == pytest.approx(1.0, abs=1e-5)
    assert all(not m.bias.any() for m in agent.actor.modules() if hasattr(m, "bias"))
    changed = made(hidden=(16,), init_gain=1.0, actor_gain=1.0, critic_gain=3.0)
    assert [m.weight for m in changed.critic.modules() if hasattr(m, "weight")][-1][0].norm().item() == pytest.approx(3)


def test_adam_has_the_epsilon_of_the_paper() -> None:
    assert made().optimizer.torch_optimizer.defaults["eps"] == 1e-5
    assert made(optimizer_eps=1e-3).optimizer.torch_optimizer.defaults["eps"] == 1e-3


def test_the_learning_rate_ends_at_one_part_of_the_number_of_rollouts(lab: SimpleNamespace) -> None:
    seen: list[float] = []

    class Watched(PPO):
        def update(self, batch: Any, now: Now) -> Any:
            updated = super().update(batch, now)
            seen.append(self.optimizer.torch_optimizer.param_groups[0]["lr"])
            return updated

    settings = {"rollout_steps": 5, "epochs": 1, "minibatches": 1, "learning_rate": 1.0, "hidden": (4,)}
    lab.train_members(Watched, "rlab/ProbeConstant-v0", (0,), 100, num_envs=4, **settings)
    assert seen == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])  # 5 rollouts of 20 env steps; CleanRL's frac


def test_policy_and_value_have_bodies_of_their_own_unless_shared() -> None:
    apart, shared = made(), made(shared_body=True)
    assert len({id(p) for p in (*apart.actor.parameters(), *apart.critic.parameters())}) == 8
    assert [tuple(p.shape) for p in shared.critic.parameters()] == [(2, 16, 1), (2, 1, 1)]
    body = next(iter(shared.actor.parameters()))
    rows = shared.prepare(collected(shared))
    _, value = shared.forward(rows)
    assert torch.autograd.grad(value.sum(), body)[0].abs().sum() > 0
    outputs, _ = shared.forward(rows)
    torch.testing.assert_close(outputs, shared.actor(rows["obs"]))


@pytest.mark.parametrize("on", [True, False])
def test_advantages_are_normalised_within_each_minibatch_where_asked(on: bool) -> None:
    agent = made(normalize_advantage=on)
    rows = {name: value[:, :6] for name, value in agent.prepare(collected(agent)).items()}
    loss = agent.loss(rows, agent.scheduled(CLOCK))[2]["loss/policy"]
    advantage = rows["advantage"]
    if on:
        advantage = (advantage - advantage.mean(1, keepdim=True)) / advantage.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(loss, -advantage.mean(1), rtol=1e-4, atol=1e-6)  # the ratio is one


def test_a_minibatch_of_one_row_is_no_nan() -> None:
    agent = made()
    rows = {name: value[:, :1] for name, value in agent.prepare(collected(agent)).items()}
    assert all(value.isfinite().all() for value in agent.update(rows, agent.scheduled(CLOCK)).metrics.values())


def test_value_clipping_is_off_by_default_and_holds_values_where_asked() -> None:
    losses = {}
    for clip in (None, 0.1):
        agent = made(clip_value=clip)
        rows = agent.prepare(collected(agent))
        rows["value"] = rows["value"] + 1.0  # the old value is one above the present one
        rows["target"] = rows["value"].clone()
        losses[clip] = agent.loss(rows, agent.scheduled(CLOCK))[2]["loss/value"]
    torch.testing.assert_close(losses[None], torch.full((2,), 0.5))  # half of 1 squared
    torch.testing.assert_close(losses[0.1], torch.full((2,), 0.5))  # held at 0.1 below: 0.005, and the larger counts


def test_the_entropy_bonus_has_its_weight_and_may_fade() -> None:
    agent = made(entropy_weight=0.5, entropy_final=0.0)
    rows = agent.prepare(collected(agent))
    plain, clock = made(entropy_weight=0.0), Clock(16, 10**9, per_step=2)
    with_bonus, _, metrics = agent.loss(rows, agent.scheduled(clock))
    without = plain.loss(rows, plain.scheduled(clock))[0]
    torch.testing.assert_close(without - with_bonus, 0.5 * metrics["policy/entropy"])
    assert metrics["policy/entropy"].tolist() == pytest.approx([math.log(3)] * 2, abs=1e-3)  # near uniform at first
    half_way = agent.scheduled(Clock(5_016, 10_000, per_step=2))  # its rollout of 16 env steps began at 5 000
    assert half_way["entropy weight"] == pytest.approx(0.25)


def test_the_whole_gradient_of_a_member_is_clipped_at_once() -> None:
    agent = made(max_grad_norm=1e-3, optimizer="sgd", learning_rate=1.0, lr_schedule="constant")
    rows = agent.prepare(collected(agent))
    before = agent.optimizer.flat.detach().clone()
    metrics = agent.update(rows, agent.scheduled(CLOCK)).metrics
    assert (metrics["grad/norm"] > 1e-3).all()
    moved = (agent.optimizer.flat.detach() - before).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((2,), 1e-3), rtol=1e-2, atol=0.0)


def test_the_clip_range_fades_where_asked() -> None:
    agent = made(clip=0.4, clip_final=0.5)
    for env_steps, expected in ((16, 0.4), (5_016, 0.3)):  # the end of a rollout of 16 env steps
        now = agent.scheduled(Clock(env_steps, 10_000, per_step=2))
        assert now["policy/clip_range"] == pytest.approx(expected)


def test_a_member_that_moved_too_far_stands_still_for_the_rest_of_its_rollout() -> None:
    agent = made(target_kl=0.01, learning_rate=0.05, lr_schedule="constant", epochs=4, minibatches=1)
    rows = agent.prepare(collected(agent))
    with torch.no_grad():  # member 1 has gone far away already
        agent.actor[-1].bias[1] += torch.tensor([3.0, -3.0, 0.0])
    before = agent.optimizer.flat.detach().clone()
    metrics = agent.update(rows, agent.scheduled(CLOCK)).metrics
    assert metrics["policy/kl"][1] > 0.015 > metrics["policy/kl"][0]
    assert not torch.equal(agent.optimizer.flat[0], before[0])
    assert torch.equal(agent.optimizer.flat[1], before[1])
    agent.update(rows, agent.scheduled(CLOCK))
    assert torch.equal(agent.optimizer.flat[1], before[1])
    agent.prepare(collected(agent, seed=1))  # the next rollout starts with everybody
    assert agent._going.all()


def test_kl_and_clip_fraction_on_numbers_worked_by_hand() -> None:
    agent = made(seeds=(0,), normalize_advantage=False)
    rows = agent.prepare(collected(agent))
    rows["log_prob"] = rows["log_prob"] - math.log(1.5)  # so the ratio is 1.5 everywhere
    metrics = agent.loss(rows, agent.scheduled(CLOCK))[2]
    assert metrics["policy/kl"].item() == pytest.approx(0.5 - math.log(1.5), abs=1e-5)
    assert metrics["policy/clip_fraction"].item() == 1.0
    advantage = rows["advantage"]
    expected = torch.maximum(-1.5 * advantage, -1.2 * advantage).mean()
    assert metrics["loss/policy"].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


def test_observations_are_scaled_by_what_was_seen_before_the_rollout_and_clipped() -> None:
    agent = made(obs_scaling="running", epochs=2, minibatches=1)
    batch = collected(agent)
    rows = agent.prepare(batch)
    torch.testing.assert_close(rows["obs"], batch["obs"][:, :, :-1].flatten(1, 2))  # nothing was seen before
    agent.update(rows, agent.scheduled(CLOCK))
    agent.update(rows, agent.scheduled(CLOCK))
    assert agent.preprocess.count.tolist() == [0, 0]  # a rollout is learned from with one scale
    agent.rollout_learned(batch)
    assert agent.preprocess.count.tolist() == [16, 16]
    seen = batch["obs"][:, :, :-1].flatten(1, 2).double()
    torch.testing.assert_close(agent.preprocess.mean[:, 0], seen.mean(1))
    far = agent.preprocess(torch.full((2, 1, 3), 1e6))
    assert far.max().item() == 10.0


def test_rewards_are_scaled_where_asked() -> None:
    raw, scaled = made(), made(reward_scaling="running")
    batch = collected(raw)
    batch["reward"] = batch["reward"] * 1_000
    assert raw.prepare(dict(batch))["target"].abs().max() > 100
    assert scaled.prepare(dict(batch))["target"].abs().max() <= 10 / (1 - 0.99)


def test_the_value_of_a_cut_episode_is_that_of_what_followed() -> None:
    agent = made(seeds=(0,), gae_lambda=0.0, gamma=0.5)
    storage = Storage(1, 1, 2, agent.fields())
    a, b, c = (torch.full((1, 1, 3), x) for x in (0.1, 0.5, 0.9))
    one, action = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64)
    no, yes = one < 0, one > 0
    storage.add(a, action, Step(c, b, one, no, yes, yes))  # cut: b followed, c is the reset
    storage.add(c, action, Step(a, a, one, no, no, yes))
    rows = agent.prepare(read_rollout(storage, 2))
    expected = [1 + 0.5 * agent.value(b).item(), 1 + 0.5 * agent.value(a).item()]
    assert rows["target"][0].tolist() == pytest.approx(expected, abs=1e-5)


def test_stored_actions_are_the_acted_ones_and_within_bounds() -> None:
    for squash in (False, True):
        agent = made(actions=Box((2,), "float32", (-1.0, 0.0), (3.0, 0.5)), squash=squash, log_std_init=1.0)
        obs = torch.zeros(2, 500, 3)
        action = agent.act(obs, agent.scheduled(CLOCK), {}).action
        assert (action >= torch.tensor([-1.0, 0.0])).all()
        assert (action <= torch.tensor([3.0, 0.5])).all()
        assert agent.head.log_prob(agent.policy().outputs(obs), action).isfinite().all()
        greedy = agent.policy()(obs.numpy())  # judged by the mode, not by samples
        np.testing.assert_array_equal(greedy, agent.policy()(obs.numpy()))
        assert (greedy.std(axis=1) == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0.0}, "clip 0.0 must be above 0"),
        ({"gae_lambda": 1.5}, "gae_lambda 1.5 must be in [0, 1]"),
        ({"epochs": 0}, "epochs 0 must be 1 or more"),
        ({"reward_scaling": "fixed"}, "reward_scaling 'fixed' must be one of none, running"),
        ({"clip_final": -1.0}, "clip_final -1.0 must be 0 or more"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_one_clear_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        PPOConfig(**settings)
    assert message in str(caught.value)


def test_reinforce_without_a_baseline_refuses_time_limits_before_anything_is_written(tmp_path: Any) -> None:
    import rlab

    with pytest.raises(UsageError, match="end by themselves with these settings; CartPole-v1 cuts them after 500"):
        rlab.train("reinforce", "CartPole-v1", out=tmp_path / "run", baseline=False)
    assert not (tmp_path / "run").exists()


class CutWithoutNotice(gym.Env[np.ndarray, np.int64]):
    """Its third step is cut, though it states no time limit."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), 1.0, False, self.t == 3, {}


def test_reinforce_without_a_baseline_refuses_an_episode_that_is_cut_without_notice(lab: SimpleNamespace) -> None:
    if "rlab-test/CutWithoutNotice-v0" not in gym.registry:
        gym.register("rlab-test/CutWithoutNotice-v0", entry_point=CutWithoutNotice)
    with pytest.raises(RlabError) as caught:
        lab.train_members("reinforce", "rlab-test/CutWithoutNotice-v0", [0], 64, baseline=False)
    said = "the env cut an episode, which Reinforce cannot learn from with these settings. "
    assert str(caught.value) == f"{said}That is for --no-baseline; leave the baseline on."


def test_reinforce_without_a_baseline_learns_from_whole_episodes_alone() -> None:
    agent = made("reinforce", seeds=(0,), baseline=False, gamma=0.5, normalize_advantage=False)
    storage = Storage(1, 1, 4, agent.fields())
    obs, action = torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.int64)
    no, valid = torch.tensor([[False]]), torch.tensor([[True]])
    for t, ended in enumerate((False, True, False, False)):
        storage.add(obs, action, Step(obs, obs, torch.full((1, 1), t + 1.0), no | ended, no, valid))
    rows = agent.prepare(read_rollout(storage, 4))
    assert rows["weight"].tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert rows["advantage"][0, :2].tolist() == [2.0, 2.0]  # 1 + .5*2 ; 2


def test_a_minibatch_of_one_normalised_row_is_refused_since_nothing_would_be_learned(tmp_path: Any) -> None:
    import rlab

    with pytest.raises(UsageError, match="normalising needs two rows in a minibatch"):
        rlab.train("ppo", "CartPole-v1", out=tmp_path / "run", num_envs=1, rollout_steps=7, minibatches=7)
