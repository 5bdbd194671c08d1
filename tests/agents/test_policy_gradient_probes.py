"""The plain defaults of every policy-gradient agent learn the values and actions that are known on paper."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlab.agents import AGENTS, load_agent
from rlab.envs import PROBES, SPACE_PROBES, EnvSpec, make_episodes
from rlab.evaluation.evaluate import evaluate

GAMMA = 0.9
BUDGET = 40_000  # env steps, a goal of these agents
# Less for every day, with a wider tolerance: of ten seeds of each agent the worst value was 0.03 off, half of that.
QUICK_TOLERANCE = 0.05
QUICK_BUDGET = {
    "rlab/ProbeEndless-v0": 20_000,
    "rlab/ProbeContinuous-v0": 12_000,
    "rlab/ProbeMultiDiscrete-v0": 6_000,
}
# Of ten seeds. The parts of that observation say nothing one by one, so that a policy may commit itself to the wrong
# action in one state for good: of 30 seeds 6 of reinforce did, 2 of a2c and none of ppo.
MISSES = {("reinforce", "rlab/ProbeDictObservation-v0"): 4, ("a2c", "rlab/ProbeDictObservation-v0"): 2}
ON_POLICY = sorted(name for name in AGENTS if getattr(load_agent(name), "data", "") == "rollout")


def check_solved(lab: SimpleNamespace, name: str, env_id: str, seeds: int, env_steps: int, tolerance: float) -> None:
    """V within `tolerance` of the paper, as a share of the largest value, and the best possible return."""
    world = PROBES[env_id]
    agent: Any = lab.train_members(name, env_id, tuple(range(seeds)), env_steps, num_envs=8, gamma=GAMMA)
    known = [row for row in world.values(GAMMA) if row.action is None]
    scale = max(abs(row.value) for row in known)
    for row in known:
        with torch.no_grad():
            learned = agent.value(torch.tensor(row.obs).expand(seeds, 1, -1))[:, 0]
        worst = (learned - row.value).abs().max().item()
        if env_id == "rlab/ProbeCredit-v0" and row.obs == (-1.0,):
            continue  # where a policy that has learned never goes
        assert worst <= tolerance * scale, f"{row} was learned as {learned.tolist()}"
    if env_id == "rlab/ProbeObservation-v0":
        return  # its return is its first coin, whatever one does
    np.testing.assert_allclose(returns(agent, env_id, 20), world.episode_return)


def returns(agent: Any, env_id: str, episodes: int) -> np.ndarray:
    """Greedy returns `[S, E]`."""
    return evaluate(agent.policy(), lambda n: make_episodes(EnvSpec(env_id), n), episodes, 100_000).returns


def check_spaces_solved(
    lab: SimpleNamespace, name: str, env_id: str, seeds: int, env_steps: int, tolerance: float, near: float, misses: int
) -> None:
    """The best possible return in all seeds but `misses`, or a share `near` of it where the last digits of a continuous
    action take long."""
    agent: Any = lab.train_members(name, env_id, tuple(range(seeds)), env_steps, num_envs=8, gamma=GAMMA)
    if env_id == "rlab/ProbeDiscreteObservation-v0":  # actions change nothing there: it is about values
        for row in SPACE_PROBES[env_id].values(GAMMA):
            obs = torch.full((seeds, 1), row.obs)
            assert (agent.value(obs) - row.value).abs().max().item() <= tolerance
        return
    best = SPACE_PROBES[env_id].episode_return
    least = near * best if env_id == "rlab/ProbeContinuous-v0" else best
    found = returns(agent, env_id, 60).mean(axis=1)
    assert (found < least).sum() <= misses, found


@pytest.mark.parametrize("env_id", [env_id for env_id in QUICK_BUDGET if env_id in SPACE_PROBES])
def test_plain_defaults_of_ppo_solve_a_world_of_every_kind_of_space(lab: SimpleNamespace, env_id: str) -> None:
    # An agent that learns nothing of a continuous action earns 0; of ten seeds the least was 0.83.
    check_spaces_solved(lab, "ppo", env_id, 2, QUICK_BUDGET[env_id], QUICK_TOLERANCE, near=0.7, misses=0)


@pytest.mark.prove
@pytest.mark.parametrize("env_id", sorted(SPACE_PROBES))
@pytest.mark.parametrize("name", ON_POLICY)
def test_plain_defaults_solve_a_world_of_every_kind_of_space_with_ten_seeds(
    lab: SimpleNamespace, name: str, env_id: str
) -> None:
    check_spaces_solved(lab, name, env_id, 10, BUDGET, 0.02, near=0.9, misses=MISSES.get((name, env_id), 0))


@pytest.mark.parametrize("env_id", [env_id for env_id in QUICK_BUDGET if env_id in PROBES])
def test_plain_defaults_of_a2c_solve_a_probe_world(lab: SimpleNamespace, env_id: str) -> None:
    check_solved(lab, "a2c", env_id, seeds=2, env_steps=QUICK_BUDGET[env_id], tolerance=QUICK_TOLERANCE)


@pytest.mark.prove
@pytest.mark.parametrize("env_id", sorted(PROBES))
@pytest.mark.parametrize("name", ON_POLICY)
def test_plain_defaults_solve_a_probe_world_in_ten_of_ten_seeds(lab: SimpleNamespace, name: str, env_id: str) -> None:
    check_solved(lab, name, env_id, seeds=10, env_steps=BUDGET, tolerance=0.02)
