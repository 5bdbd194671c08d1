"""Saved policies with memory: judged, watched and recorded as any other; what cannot take them says so in one line."""

from pathlib import Path

import numpy as np
import pytest

import rlab
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import UsageError
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.policy import PolicySpec, build_policy
from rlab.runs.policies import save_policy

CARTPOLE = EnvSpec("CartPole-v1", max_episode_steps=40)
SEEDS = (3, 4, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three untrained members that remember; their weights are large, so that memory decides."""
    envs = make_episodes(CARTPOLE, 1)
    network = q_network_spec(envs.obs_space, 2, BodySettings((8,), memory=MemorySettings("gru", 8, 1)))
    preprocess, head = {"scaling": "none", "scale": None}, {"kind": "q", "epsilon": 0.3}
    policy = build_policy(PolicySpec(envs.obs_space, envs.action_space, preprocess, network, head), SEEDS)
    for parameter in policy.network.parameters():
        parameter.data *= 3.0
    made = tmp_path_factory.mktemp("remembers") / "policy"
    save_policy(made, policy, {"agent": "dqn", "env": CARTPOLE.to_json()})
    return made


@pytest.mark.parametrize("stochastic", [False, True])
def test_play_keeps_the_state_over_the_episode_and_returns_what_an_evaluation_does(
    folder: Path, stochastic: bool
) -> None:
    judged = rlab.evaluate(folder, episodes=4, stochastic=stochastic)
    for member, seed in enumerate(SEEDS):
        done = rlab.play(folder, member=seed, episodes=4, frames=True, stochastic=stochastic)
        assert list(done.returns) == judged.returns[member].tolist()


def test_a_loaded_member_plays_by_hand_what_was_judged(folder: Path) -> None:
    policy = rlab.load(folder, 4)
    envs = make_episodes(CARTPOLE, 1)
    obs, state, steps = envs.reset([100_000]), policy.initial_state(1), 0
    going = np.array([True])
    while going.any():
        action, state = policy(obs, state=state)
        obs, _, terminated, truncated = envs.step(action, going)
        going, steps = ~(terminated | truncated), steps + 1
    assert steps == rlab.evaluate(folder, member=4, episodes=1).lengths[0, 0]


def test_episodes_of_a_policy_with_memory_are_recorded(folder: Path, tmp_path: Path) -> None:
    done = rlab.collect(folder, tmp_path / "dataset", episodes=6)
    assert done.dataset.summary()["episodes"] == 6


def test_a_member_with_memory_is_exported_judged_and_timed_as_any_other(folder: Path, tmp_path: Path) -> None:
    done = rlab.export(folder, "numpy", member=4, out=tmp_path / "policy.npz")
    assert done.exported.parity.failure is None
    assert {timed.batch for timed in done.latency} == {1, 64}
    judged = rlab.evaluate(tmp_path / "policy.npz", episodes=3)
    assert judged.returns.tolist() == rlab.evaluate(folder, member=4, episodes=3).returns.tolist()


def test_a_teacher_with_memory_is_taken_where_its_state_is_carried_and_else_refused(
    folder: Path, tmp_path: Path
) -> None:
    quick = {"teacher": folder, "seed": 3, "experiment": "none", "eval_every": 10**6, "final_eval_episodes": 1}
    run = rlab.train("ppo", CARTPOLE, env_steps=1024, num_envs=4, out=tmp_path / "run", **quick)
    with pytest.raises(UsageError, match="sac cannot learn from a teacher with memory, whose state it does not carry"):
        rlab.train("sac", CARTPOLE, env_steps=64, out=tmp_path / "other", **quick)
    assert not (tmp_path / "other").exists()
    assert run.finished
