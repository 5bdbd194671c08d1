"""The values written beside the probe worlds are the worlds' true values."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs import PROBES, EnvSpec, make_vec
from rlab.envs.probe import remembered

GAMMA = 0.9


def branch(env_id, actions, seed):
    """Play these actions from the start: `(obs, action, reward, next_obs, terminated, truncated)` for each."""
    env = gym.make(env_id)
    obs, _ = env.reset(seed=seed)
    rows = []
    for action in actions:
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((tuple(obs.tolist()), action, reward, tuple(next_obs.tolist()), terminated, truncated))
        obs = next_obs
        if terminated or truncated:
            break
    return rows


def transitions(env_id):
    """Every transition that the first steps of a few seeds can show."""
    sequences = [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]
    return {row for seed in range(8) for actions in sequences for row in branch(env_id, actions, seed)}


@pytest.mark.parametrize("env_id", sorted(PROBES))
def test_the_stated_values_solve_bellmans_equation(env_id):
    # Value iteration over all transitions of the real world; a time limit is not an ending.
    rows = transitions(env_id)
    q = {(obs, action): 0.0 for obs, action, *_ in rows}
    for _ in range(500):
        v = {obs: max(q[obs, 0], q[obs, 1]) for obs, _ in q}
        q = {(o, a): r + GAMMA * (0.0 if terminated else v[o2]) for o, a, r, o2, terminated, _ in rows}
    stated = PROBES[env_id].values(GAMMA)
    assert {obs for obs, _ in q} == {value.obs for value in stated}
    assert len(stated) == 3 * len({value.obs for value in stated})
    for obs, action, value in stated:
        expected = max(q[obs, 0], q[obs, 1]) if action is None else q[obs, action]
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("env_id", sorted(PROBES))
def test_the_stated_return_is_that_of_the_stated_values(env_id):
    best = {
        v.obs: v.action for v in sorted(PROBES[env_id].values(GAMMA), key=lambda v: v.value) if v.action is not None
    }
    env, returns = gym.make(env_id), []
    for seed in range(200):
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(best[tuple(obs.tolist())])
            total, over = total + reward, terminated or truncated
        returns.append(total)
    # the worlds are exact, but for the coin of ProbeObservation: 200 coins have a standard error of .07
    assert np.mean(returns) == pytest.approx(PROBES[env_id].episode_return, abs=0.25 if np.std(returns) else 1e-9)


def test_the_endless_world_is_cut_and_never_ends():
    rows = branch("rlab/ProbeEndless-v0", (0, 1, 0, 1), seed=0)
    assert [(reward, terminated, truncated) for _, _, reward, _, terminated, truncated in rows] == [
        (1.0, False, False),
        (1.0, False, False),
        (1.0, False, True),
    ]


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_the_memory_world_is_worth_what_is_stated_after_each_history(delay):
    """Backwards over all histories: the state is all that was observed, as a policy with memory knows it."""
    rows = {}
    for seed, actions in itertools.product(range(6), ((0,) * (delay + 1), (1,) * (delay + 1))):
        env = gym.make("rlab/ProbeMemory-v0", delay=delay)
        history = (tuple(env.reset(seed=seed)[0].tolist()),)
        for step, action in enumerate(actions):
            obs, reward, terminated, truncated, _ = env.step(action)
            rows[history, action] = (reward, terminated, (*history, tuple(obs.tolist())))
            assert not truncated
            assert terminated == (step == delay)
            history = (*history, tuple(obs.tolist()))
    stated = {(row.obs, row.action): row.value for row in remembered(GAMMA, delay)}
    assert {history for history, _ in rows} == {history for history, _ in stated}
    for (history, action), (reward, terminated, after) in rows.items():
        expected = reward + (0.0 if terminated else GAMMA * stated[after, None])
        assert stated[history, action] == pytest.approx(expected)
        assert stated[history, None] == pytest.approx(max(stated[history, 0], stated[history, 1]))


def test_without_memory_the_memory_world_pays_nothing_in_expectation():
    # After the cue all observations are 0, so the answer is one action or the other: right after one of the two cues.
    for action in (0, 1):
        paid = set()
        for seed in range(6):
            env = gym.make("rlab/ProbeMemory-v0", delay=3)
            cue = env.reset(seed=seed)[0].item()
            seen = [env.step(action) for _ in range(4)]
            assert [obs.item() for obs, *_ in seen] == [0.0] * 4
            paid.add((cue, seen[-1][1]))
        assert sorted(paid) == [(-1.0, 1.0 - 2 * action), (1.0, 2 * action - 1.0)]  # each cue has a chance of 1/2


@pytest.mark.parametrize("env_id", sorted(PROBES))
def test_a_probe_obeys_its_spaces_and_its_seed(env_id):
    env = gym.make(env_id)
    for seed in range(5):
        first, again = branch(env_id, (0, 1, 0), seed), branch(env_id, (0, 1, 0), seed)
        assert first == again
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    step = make_vec(EnvSpec.parse(env_id), (0, 1), 2)
    assert step.reset().shape == (2, 2, 1)
