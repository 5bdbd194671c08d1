"""The values written beside the probe worlds of other spaces are the worlds' true values."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs import BOX_PROBES, PROBES, SPACE_PROBES, EnvSpec, make_env, make_vec

GAMMA = 0.9


def key(value):
    """Observations and actions as something that a table can be asked for."""
    if isinstance(value, dict):
        return tuple((name, key(part)) for name, part in sorted(value.items()))
    return tuple(np.asarray(value).tolist()) if np.ndim(value) else float(value)


def actions_of(space):
    """Every action; of a continuous one, some on a grid that the stated ones are on."""
    if isinstance(space, gym.spaces.Discrete):
        return [np.int64(a) for a in range(space.start, space.start + space.n)]
    if isinstance(space, gym.spaces.MultiDiscrete):
        ranges = [range(s, s + n) for s, n in zip(space.start, space.nvec, strict=True)]
        return [np.array(a) for a in itertools.product(*ranges)]
    if isinstance(space, gym.spaces.MultiBinary):
        return [np.array(a, np.int8) for a in itertools.product((0, 1), repeat=space.n)]
    return [np.array([a], np.float32) for a in np.linspace(space.low[0], space.high[0], 9)]


def transitions(env_id):
    """`(obs, allowed?, action) -> (reward, next_obs, next_allowed, terminated)`, from 40 seeds and all actions."""
    env = gym.make(env_id).unwrapped
    rows = {}
    for first, second, seed in itertools.product(actions_of(env.action_space), actions_of(env.action_space), range(40)):
        obs, info = env.reset(seed=seed)
        for action in (first, second):
            mask = info.get("action_mask")
            next_obs, reward, terminated, truncated, info = env.step(action)
            assert not truncated
            if mask is None or mask[int(action)]:
                rows[key(obs), key(action)] = (reward, key(next_obs), terminated)
            if terminated:
                break
            obs = next_obs
    return rows


@pytest.mark.parametrize("env_id", sorted(SPACE_PROBES))
def test_the_stated_values_solve_bellmans_equation(env_id):
    rows = transitions(env_id)
    q = dict.fromkeys(rows, 0.0)
    for _ in range(5):
        v = {obs: max(value for (other, _), value in q.items() if other == obs) for obs, _ in q}
        q = {at: reward + GAMMA * (0.0 if terminated else v[after]) for at, (reward, after, terminated) in rows.items()}
    stated = SPACE_PROBES[env_id].values(GAMMA)
    assert {key(row.obs) for row in stated} == {obs for obs, _ in q}
    for obs, action, value in stated:
        found = v[key(obs)] if action is None else q[key(obs), key(action)]
        assert value == pytest.approx(found), (obs, action)


@pytest.mark.parametrize("env_id", sorted(SPACE_PROBES))
def test_the_stated_return_is_that_of_the_stated_values(env_id):
    best = {}
    for obs, action, _ in sorted(SPACE_PROBES[env_id].values(GAMMA), key=lambda row: row.value):
        if action is not None:
            best[key(obs)] = action
    env, returns = gym.make(env_id).unwrapped, []
    for seed in range(300):
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, over, _, _ = env.step(np.asarray(best[key(obs)]))
            total += reward
        returns.append(total)
    # the worlds are exact, but for the draw of ProbeDiscreteObservation: 300 draws have a standard error of .05
    assert np.mean(returns) == pytest.approx(SPACE_PROBES[env_id].episode_return, abs=0.15 if np.std(returns) else 1e-9)


def test_a_number_decides_what_the_second_step_of_the_world_of_credit_pays():
    env = gym.make("rlab/ProbeBoxCredit-v0").unwrapped
    stated = {(obs, action): value for obs, action, value in BOX_PROBES["rlab/ProbeBoxCredit-v0"].values(GAMMA)}
    for action, paid in ((2.0, 1.0), (0.5, 0.5), (-1.0, -1.0), (3.0, 7 / 9)):  # 1 - 2 (a - 2)^2 / 9
        assert env.reset(seed=0)[0].tolist() == [0.0]
        obs, reward, terminated, truncated, _ = env.step(np.array([action], np.float32))
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert obs.tolist() == pytest.approx([paid])
        _, reward, terminated, truncated, _ = env.step(np.array([-action], np.float32))
        assert (reward, terminated, truncated) == (pytest.approx(paid), True, False)
        assert stated.get(((0.0,), (action,)), GAMMA * paid) == pytest.approx(GAMMA * paid)
        assert stated.get(((paid,), None), paid) == pytest.approx(paid)
    assert stated[(0.0,), None] == GAMMA  # no number pays more than 2 does


def test_the_endless_world_of_numbers_pays_1_and_is_cut_after_three_steps():
    env = gym.make("rlab/ProbeBoxEndless-v0")
    env.reset(seed=0)
    seen = [env.step(np.array([action], np.float32))[1:4] for action in (-1.0, 0.0, 3.0)]
    assert seen == [(1.0, False, False), (1.0, False, False), (1.0, False, True)]
    values = [row.value for row in BOX_PROBES["rlab/ProbeBoxEndless-v0"].values(GAMMA)]
    assert values == pytest.approx([10.0] * 4)  # 1 + .9 + .81 + ...


@pytest.mark.parametrize("env_id", sorted({**SPACE_PROBES, **BOX_PROBES}))
def test_a_probe_obeys_its_spaces_and_is_stepped_in_training_and_evaluation(env_id):
    env = gym.make(env_id)
    for seed in range(5):
        assert env.observation_space.contains(env.reset(seed=seed)[0])
        assert key(env.reset(seed=seed)[0]) == key(env.reset(seed=seed)[0])
    for action in actions_of(env.action_space):
        env.reset(seed=0)
        assert env.action_space.contains(action)
        assert env.observation_space.contains(env.step(action)[0])
    vector = make_vec(EnvSpec.parse(env_id), (0, 1), 2)
    assert vector.reset().shape == (2, 2, *vector.obs_space.shape)
    step = vector.step(np.zeros((2, 2, *vector.action_space.shape), vector.action_space.dtype))
    assert step.next_obs.shape == (2, 2, *vector.obs_space.shape)
    assert make_env(EnvSpec(env_id)).reset(seed=0)[0].shape == vector.obs_space.shape


def test_what_is_forbidden_would_pay_most():
    env = gym.make("rlab/ProbeMasked-v0").unwrapped
    for first in (0, 1):
        _, info = env.reset(seed=0)
        for action in (first, None):
            forbidden = [a for a in range(3) if not info["action_mask"][a]]
            paid = env.PAID[env.x]
            assert min(paid[a] for a in forbidden) > max(paid[a] for a in range(3) if a not in forbidden)
            if action is not None:
                _, _, _, _, info = env.step(action)
    assert env.step(1)[4]["action_mask"].tolist() == [0, 0, 0]


def test_no_probe_has_the_name_of_another():
    assert len({*SPACE_PROBES, *PROBES, *BOX_PROBES}) == len(SPACE_PROBES) + len(PROBES) + len(BOX_PROBES)
