"""Native CartPole with a stream per sub-env is the same world as a list of CartPoles, only faster."""

import re

import gymnasium as gym
import numpy as np
import pytest

from rlab.envs import EnvSpec, NativeEpisodes, SingleEpisodes, make_episodes, make_vec
from rlab.envs.native import SeededCartPole, why_not_native
from rlab.envs.watched import WatchedSyncVectorEnv
from rlab.errors import RlabError, UsageError

CARTPOLE = EnvSpec("CartPole-v1")


def chase(obs):
    """Push to where the pole leans: it falls after some forty steps."""
    return (obs[..., 2] > 0).astype(np.int64)


def balance(obs):
    """Push to where the pole leans or is about to: it stays up for 500 steps."""
    return (obs[..., 2] + 0.5 * obs[..., 3] > 0).astype(np.int64)


def lanes(env, vector_steps, policy=chase):
    obs = env.reset()
    found = {index: [] for index in np.ndindex(obs.shape[:2])}
    for _ in range(vector_steps):
        action = policy(obs)
        step = env.step(action)
        for i in zip(*np.nonzero(step.valid), strict=True):
            found[i].append(
                [*obs[i], action[i], step.reward[i], *step.next_obs[i], step.terminated[i], step.truncated[i]]
            )
        obs = step.obs
    return {index: np.array(lane) for index, lane in found.items()}


def test_initial_states_are_those_of_the_single_env_with_that_seed():
    seeds = [3, 2**30 + 5, 3]
    obs, _ = SeededCartPole(num_envs=3).reset(seed=seeds)
    for row, seed in enumerate(seeds):
        assert np.array_equal(obs[row], gym.make("CartPole-v1").reset(seed=seed)[0])


@pytest.mark.parametrize("limit", [None, 30])
def test_native_and_sync_cartpole_make_the_same_transitions(limit):
    spec = EnvSpec("CartPole-v1", max_episode_steps=limit)
    native, sync = (lanes(make_vec(spec, (0, 5), 3, vector), 400) for vector in ("native", "sync"))
    for index, lane in native.items():
        assert len(lane) > 350
        assert np.allclose(lane, sync[index][: len(lane)], atol=1e-5)
        assert len(lane) < 400  # episodes did end, and NEXT_STEP spent rows on resets


def test_what_other_envs_do_does_not_change_env_0():
    def others_push_right(obs):
        action = np.ones(obs.shape[:2], dtype=np.int64)
        action[0, 0] = chase(obs)[0, 0]
        return action

    same = lanes(make_vec(CARTPOLE, (0,), 4, "native"), 300)
    others = lanes(make_vec(CARTPOLE, (0,), 4, "native"), 300, others_push_right)
    assert np.array_equal(same[0, 0], others[0, 0])
    assert len(same[0, 1]) != len(others[0, 1])


def test_a_member_meets_the_same_cartpoles_beside_any_other_members():
    together = lanes(make_vec(CARTPOLE, (1, 9, 4), 2, "native"), 200)
    alone = lanes(make_vec(CARTPOLE, (9,), 2, "native"), 200)
    assert all(np.array_equal(together[1, n], alone[0, n]) for n in range(2))


@pytest.mark.parametrize(("env_id", "limit", "expected"), [("CartPole-v0", None, 200), ("CartPole-v1", 7, 7)])
def test_the_time_limit_is_the_registered_one_or_the_specs(env_id, limit, expected):
    env = make_vec(EnvSpec(env_id, max_episode_steps=limit), (0,), 1)
    assert env._env.max_episode_steps == expected


def test_keywords_reach_the_native_env():
    # Sutton and Barto's reward is 0 for every step that does not end the episode.
    env = make_vec(EnvSpec("CartPole-v1", kwargs={"sutton_barto_reward": True}), (0,), 2, "native")
    env.reset()
    assert env.step(np.zeros((1, 2), dtype=int)).reward.tolist() == [[0.0, 0.0]]


def test_auto_takes_native_where_it_can_and_sync_elsewhere():
    wrapped = EnvSpec("CartPole-v1", wrappers=(("FlattenObservation", {}),))
    for spec, kind in [(CARTPOLE, SeededCartPole), (wrapped, WatchedSyncVectorEnv)]:
        assert isinstance(make_vec(spec, (0,), 2)._env, kind)
    assert isinstance(make_vec(EnvSpec("Acrobot-v1"), (0,), 1)._env, WatchedSyncVectorEnv)


@pytest.fixture
def shared_stream_env():
    gym.register(
        "SharedStream-v0", "gymnasium.envs.classic_control:CartPoleEnv", vector_entry_point="some.where:VecEnv"
    )
    yield "SharedStream-v0"
    del gym.registry["SharedStream-v0"]


def test_explicit_native_is_refused_with_the_reason(shared_stream_env):
    wrapped = EnvSpec("CartPole-v1", wrappers=(("FlattenObservation", {}),))
    for spec, reason in [
        (wrapped, "a native vector env takes no wrappers"),
        (EnvSpec("Acrobot-v1"), "Acrobot-v1 has no native vector env"),
        (
            EnvSpec(shared_stream_env),
            "SharedStream-v0's native vector env is not known to give each sub-env its own random stream",
        ),
    ]:
        with pytest.raises(UsageError) as caught:
            make_vec(spec, (0,), 2, "native")
        assert str(caught.value) == f"--vector native: {reason}; use --vector sync"
    assert isinstance(make_vec(EnvSpec(shared_stream_env), (0,), 2)._env, WatchedSyncVectorEnv)


def test_a_keyword_that_only_the_single_env_takes_rules_native_out():
    reason = why_not_native(gym.registry["CartPole-v1"], {"gravity": 1.6}, ())
    assert reason == "CartPole-v1's native vector env does not take gravity"


def play(envs, seeds, policy=chase):
    """Return, length and last observation of each env's episode, stepping only the rows that still run."""
    obs, active = envs.reset(seeds), np.ones(len(seeds), dtype=bool)
    returns, lengths, last = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=int), None
    while active.any():
        last = obs
        obs, reward, terminated, truncated = envs.step(policy(obs), active)
        assert np.array_equal(obs[~active], last[~active])
        assert not reward[~active].any()
        assert not (terminated | truncated)[~active].any()
        returns += reward
        lengths += active
        active = active & ~(terminated | truncated)
    return returns, lengths, obs


def single_episodes(spec, n):
    return SingleEpisodes([gym.make(spec.env_id, max_episode_steps=spec.max_episode_steps) for _ in range(n)])


@pytest.mark.parametrize(("policy", "limit", "longest"), [(chase, None, 60), (chase, 30, 30), (balance, None, 500)])
def test_native_episodes_return_what_single_envs_return(policy, limit, longest):
    spec, seeds = EnvSpec("CartPole-v1", max_episode_steps=limit), range(100, 112)
    native = make_episodes(spec, 12)
    assert isinstance(native, NativeEpisodes)
    fast, slow = play(native, seeds, policy), play(single_episodes(spec, 12), seeds, policy)
    assert np.array_equal(fast[0], slow[0])
    assert np.array_equal(fast[1], slow[1])
    assert np.allclose(fast[2], slow[2], atol=1e-5)
    assert 25 < fast[1].max() <= longest
    again = play(native, seeds, policy)  # the envs start afresh from their seeds
    assert all(np.array_equal(a, b) for a, b in zip(fast, again, strict=True))


def test_a_paused_native_env_goes_on_where_it_stood():
    native, single = make_episodes(CARTPOLE, 2), gym.make("CartPole-v1")
    native.reset([1, 2])
    single.reset(seed=1)
    for t in range(20):
        on = np.array([t % 2 == 0, True])
        obs, *_ = native.step(np.array([1, 0]) if t < 4 else np.array([t % 4 // 2, 0]), on)
        if on[0]:
            expected = single.step(1 if t < 4 else t % 4 // 2)[0]
        assert np.allclose(obs[0], expected, atol=1e-6)


def test_a_paused_native_env_uses_up_no_time():
    native = make_episodes(EnvSpec("CartPole-v1", max_episode_steps=4), 2)
    native.reset([1, 2])
    cuts = []
    for t in range(6):
        *_, truncated = native.step(np.array([t % 2, t % 2]), np.array([t >= 2, t < 4]))
        cuts.append(truncated.tolist())
    # env 0 is stepped at t = 2, 3, 4, 5 and env 1 at t = 0, 1, 2, 3: each is cut at its own fourth step
    assert cuts == [[False, False]] * 3 + [[False, True], [False, False], [True, False]]


def test_evaluation_does_not_disturb_training_envs():
    env, alone = make_vec(CARTPOLE, (0,), 2), make_vec(CARTPOLE, (0,), 2)
    first, second = env.reset(), alone.reset()
    assert np.array_equal(first, second)
    for t in range(40):
        if t == 10:
            play(make_episodes(CARTPOLE, 3), [0, 1, 2])
        action = np.full((1, 2), t % 2)
        assert np.array_equal(env.step(action).obs, alone.step(action).obs)


class Falls(gym.Env):
    """Raises, or gives what is no number, in its second step where its seed is 41."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, how):
        self.how = how

    def reset(self, *, seed=None, options=None):
        self.seed, self.t = seed, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        bad = self.seed == 41 and self.t == 2
        if bad and self.how == "raises":
            raise OSError("disk on fire")
        return np.zeros(1, np.float32), np.nan if bad else 1.0, False, False, {}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "Falls-v0 failed in the episode of seed 41 at step 2: OSError: disk on fire"),
        ("nan", "Falls-v0 gave a non-finite reward in the episode of seed 41 at step 2: nan"),
    ],
)
def test_an_env_that_fails_in_evaluation_is_named_with_its_seed(how, message):
    envs = SingleEpisodes([Falls(how) for _ in range(2)], "Falls-v0")
    envs.reset([40, 41])
    both = np.array([True, True])
    envs.step(np.zeros(2, dtype=int), both)
    with pytest.raises(RlabError) as caught:
        envs.step(np.zeros(2, dtype=int), both)
    assert re.sub(r" \(test_env_native.py:\d+\)$", "", str(caught.value)) == message
    envs.close()
