"""EnvPool's envs behind the same adapter."""

import importlib.util
import itertools

import numpy as np
import pytest

from rlab.envs import EnvSpec, make_vec
from rlab.envs.ids import Package
from rlab.errors import UsageError

needs_envpool = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None, reason="envpool is not installed: pip install 'rlab-agents[envpool]'"
)
SPEC = EnvSpec("CartPole-v1", max_episode_steps=12)


def test_without_envpool_one_line_names_the_extra(monkeypatch):
    monkeypatch.setattr("rlab.envs.pool.ENVPOOL", Package("EnvPool", "no_such_module_here", "rlab-agents[envpool]"))
    with pytest.raises(UsageError) as caught:
        make_vec(SPEC, (0,), 2, "envpool")
    assert str(caught.value) == '--vector envpool needs EnvPool: pip install "rlab-agents[envpool]"'


def test_envpool_takes_no_wrappers():
    with pytest.raises(UsageError, match="--vector envpool takes no wrappers"):
        make_vec(EnvSpec("CartPole-v1", wrappers=(("FlattenObservation", {}),)), (0,), 2, "envpool")


def lanes(env, vector_steps):
    obs, found = env.reset(), []
    for _ in range(vector_steps):
        action = (obs[..., 2] > 0).astype(np.int64)
        step = env.step(action)
        found.append((obs, step.next_obs, step.reward, step.terminated, step.truncated, step.valid))
        obs = step.obs
    return found


@needs_envpool
def test_envpool_gives_true_transitions_on_a_stream_per_env():
    env = make_vec(SPEC, (0, 1), 3, "envpool")
    rows = lanes(env, 60)
    starts = env.reset()
    assert len({tuple(obs) for obs in starts.reshape(6, 4).tolist()}) == 6
    for (_, next_obs, _, terminated, truncated, _), (obs, *_, valid) in itertools.pairwise(rows):
        assert np.array_equal(next_obs, obs)  # NEXT_STEP shows the true last observation
        assert np.array_equal(valid, ~(terminated | truncated))  # and spends the next row on the reset
    assert sum(truncated.sum() for *_, truncated, _ in rows) > 0
    assert all((reward == valid).all() for _, _, reward, _, _, valid in rows)  # 1 a step, 0 for a reset row


@needs_envpool
def test_envpool_repeats_itself_and_a_member_does_not_depend_on_the_others():
    first, again = (lanes(make_vec(SPEC, (0, 1), 3, "envpool"), 40) for _ in range(2))
    alone = lanes(make_vec(SPEC, (1,), 3, "envpool"), 40)
    for one, two, three in zip(first, again, alone, strict=True):
        for a, b, c in zip(one, two, three, strict=True):
            assert np.array_equal(a, b)
            assert np.array_equal(a[1:], c)


@needs_envpool
def test_discrete_observations_of_envpool_have_the_dtype_of_their_space():
    env = make_vec(EnvSpec("FrozenLake-v1"), (0,), 2, "envpool")
    assert env.reset().dtype == np.int64
    assert env.step(np.zeros((1, 2), dtype=int)).next_obs.dtype == np.int64


@needs_envpool
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (EnvSpec("rlab/ProbeAction-v0"), "EnvPool cannot make rlab/ProbeAction-v0"),
        (EnvSpec("CartPole-v1", {"sutton_barto_reward": True}), "EnvPool cannot make CartPole-v1"),
    ],
)
def test_what_envpool_cannot_make_gives_one_line(spec, message):
    with pytest.raises(UsageError) as caught:
        make_vec(spec, (0,), 2, "envpool")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
