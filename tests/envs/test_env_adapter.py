"""The adapter gives true successors, whatever the autoreset mode and whatever steps the envs."""

import re
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.envs import GymVectorEnv
from rlab.envs.adapter import autoreset_mode
from rlab.envs.workers import WatchedAsyncVectorEnv, sub_env_maker
from rlab.errors import RlabError, UsageError
from rlab.randomness import env_seed
from rlab.runs.encoding import decode, encode

MODES = sorted(mode.value for mode in AutoresetMode)


def sync(make, seeds, num_envs, mode="SameStep"):
    makers = [sub_env_maker(make, index) for index in range(len(seeds) * num_envs)]
    return GymVectorEnv(SyncVectorEnv(makers, autoreset_mode=mode), seeds, "World-v0")


def vector_env(counting, kind, mode, num_envs):
    if kind == "native":
        return counting.VectorEnv(num_envs, mode)
    makers = [sub_env_maker(counting.Env, index) for index in range(num_envs)]
    if kind == "watched":
        return WatchedAsyncVectorEnv(makers)
    return {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[kind](makers, autoreset_mode=mode)


@pytest.mark.parametrize(("kind", "mode"), [*product(["native", "sync", "async"], MODES), ("watched", "SameStep")])
def test_every_mode_and_kind_gives_the_transitions_of_a_plain_loop(counting, kind, mode):
    env = GymVectorEnv(vector_env(counting, kind, mode, 4), seeds=(3, 11), env_id="Counting-v0")
    lanes = counting.lanes_of(env, vector_steps=60)
    env.close()
    assert set(lanes) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for (s, n), lane in lanes.items():
        assert len(lane) >= 30
        assert lane == counting.lane_by_hand(env_seed((3, 11)[s], n), len(lane))


@pytest.mark.parametrize("mode", MODES)
@given(first=st.integers(0, 2**31), members=st.integers(1, 3), num_envs=st.integers(1, 3), steps=st.integers(1, 50))
@settings(max_examples=20)
def test_native_and_sync_give_the_transitions_of_a_plain_loop_for_any_seeds(
    counting, mode, first, members, num_envs, steps
):
    seeds = tuple(range(first, first + members))
    for kind in ("native", "sync"):
        env = GymVectorEnv(vector_env(counting, kind, mode, members * num_envs), seeds)
        for (s, n), lane in counting.lanes_of(env, steps).items():
            assert lane == counting.lane_by_hand(env_seed(seeds[s], n), len(lane))


@pytest.mark.parametrize("mode", MODES)
def test_only_next_step_spends_vector_steps_on_reset_rows(counting, mode):
    raw = counting.VectorEnv(1, mode)
    lane = counting.lanes_of(GymVectorEnv(raw, seeds=(5,)), vector_steps=50)[0, 0]
    resets = raw.obs[0, 0]  # the env's own count of its episodes, from 0
    assert resets > 5
    assert 50 - len(lane) == (resets if mode == "NextStep" else 0)


@pytest.mark.parametrize("mode", MODES)
def test_episode_returns_equal_an_independent_recount(counting, mode):
    # Counting pays step + 100 * action, so an episode of length L returns L (L + 1) / 2 + 100 * its actions.
    env = GymVectorEnv(counting.VectorEnv(2, mode), seeds=(9,))
    episodes, lengths, sums = [], np.zeros((1, 2)), np.zeros((1, 2))
    obs = env.reset()
    for _ in range(60):
        action = np.zeros((1, 2), dtype=int)
        step = env.step(action)
        sums += step.reward
        lengths += step.valid
        for i in zip(*np.nonzero(step.terminated | step.truncated), strict=True):
            episodes.append((lengths[i], sums[i]))
            lengths[i] = sums[i] = 0
        obs = step.obs
    assert obs[..., 0].sum() in (len(episodes), len(episodes) - 1, len(episodes) - 2)  # the env's own episode counters
    assert len(episodes) > 20
    assert all(total == length * (length + 1) / 2 for length, total in episodes)


def test_both_flags_at_once_count_as_an_ending(counting):
    env = GymVectorEnv(counting.VectorEnv(8, "SameStep"), seeds=(0,))
    env.reset()
    raw = env._env
    seen_both = 0
    for _ in range(40):
        step = env.step(np.zeros((1, 8), dtype=int))
        both = raw.terminated & raw.truncated
        seen_both += both.sum()
        assert not (step.terminated & step.truncated).any()
        assert (step.terminated[0] == raw.terminated).all()
        assert (step.truncated[0] == (raw.truncated & ~both)).all()
    assert seen_both > 5


@pytest.mark.parametrize("mode", MODES)
def test_steps_stay_as_they_were_when_the_env_reuses_its_buffers(counting, mode):
    env = GymVectorEnv(counting.VectorEnv(3, mode), seeds=(1,))
    kept = [env.reset()]
    frozen = [kept[0].copy()]
    for _ in range(20):
        step = env.step(counting.choose(kept[-1]))
        for array in (step.next_obs, step.reward, step.terminated, step.truncated, step.valid, step.obs):
            kept.append(array)
            frozen.append(array.copy())
    for now, then in zip(kept, frozen, strict=True):
        assert np.array_equal(now, then)


def test_shapes_and_dtypes_are_those_of_the_contract(counting):
    env = GymVectorEnv(counting.VectorEnv(6, "NextStep"), seeds=(1, 2, 3))
    assert (env.num_envs, env.seeds) == (2, (1, 2, 3))
    assert env.reset().shape == (3, 2, 2)
    step = env.step(np.zeros((3, 2), dtype=int))
    assert step.obs.shape == step.next_obs.shape == (3, 2, 2)
    assert step.obs.dtype == np.float32
    for array, dtype in [
        (step.reward, np.float64),
        (step.terminated, bool),
        (step.truncated, bool),
        (step.valid, bool),
    ]:
        assert array.shape == (3, 2)
        assert array.dtype == dtype


def test_a_member_meets_the_same_worlds_beside_any_other_members(counting):
    together = counting.lanes_of(sync(counting.Env, (4, 7, 2), 2), 30)
    alone = counting.lanes_of(sync(counting.Env, (7,), 2), 30)
    assert [together[1, n] for n in range(2)] == [alone[0, n] for n in range(2)]


def test_the_same_seeds_give_the_same_bits_and_other_seeds_do_not(counting):
    first, again, other = (counting.lanes_of(sync(counting.Env, seeds, 2), 30) for seeds in [(0, 1), (0, 1), (2, 3)])
    assert first == again
    streams = [str(lane) for lane in [*first.values(), *other.values()]]
    assert len(set(streams)) == 8  # every member and env on a stream of its own


def test_a_resumed_run_starts_fresh_episodes(counting):
    env = sync(counting.Env, (0,), 3)
    first = counting.lanes_of(env, 30)
    resumed = sync(counting.Env, (0,), 3)
    resumed.load_state(decode(*encode(env.state())))
    second = counting.lanes_of(resumed, 30)
    assert second[0, 0] == counting.lane_by_hand(env_seed(0, 0, restart=1), 30)
    assert not {str(lane) for lane in first.values()} & {str(lane) for lane in second.values()}
    assert resumed.state()["restart"] == 1


class Shifted(gym.Env):
    """Actions 5, 6, 7; the reward is the action that arrived. One step an episode."""

    observation_space = gym.spaces.Box(0, 255, (2, 2, 1), np.uint8)
    action_space = gym.spaces.Discrete(3, start=5)
    frame = np.zeros((2, 2, 1), np.uint8)  # one array for every observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.frame[:] = 1
        return self.frame, {}

    def step(self, action):
        self.frame[:] = 200
        return self.frame, float(action), True, False, {}


def test_actions_count_from_zero_and_the_env_gets_its_own_numbers():
    env = sync(Shifted, (0,), 3)
    env.reset()
    action = np.array([[0, 1, 2]])
    assert env.step(action).reward.tolist() == [[5.0, 6.0, 7.0]]
    assert action.tolist() == [[0, 1, 2]]  # the stored action stays as it was


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_last_frame_survives_the_reset_though_the_env_reuses_its_array_and_stays_uint8(mode):
    class Own(Shifted):
        def __init__(self):
            self.frame = np.zeros((2, 2, 1), np.uint8)

    env = sync(Own, (0,), 2, mode)
    assert env.reset().dtype == np.uint8
    step = env.step(np.zeros((1, 2), dtype=int))
    assert step.next_obs.dtype == np.uint8
    assert (step.next_obs == 200).all()
    assert (step.obs == 1).all()


class Faulty(gym.Env):
    """`fault` decides what goes wrong at the third step of the second sub-env (the one with the larger seed)."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    fault = "none"

    def reset(self, *, seed=None, options=None):
        self.seed, self.t = seed, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        bad = self.t == 3 and self.seed == env_seed(8, 1)
        if bad and self.fault == "raise":
            raise ValueError("the pole is gone")
        obs = np.array([np.nan if bad and self.fault == "obs" else 0.0], np.float32)
        return obs, np.inf if bad and self.fault == "reward" else 0.0, False, False, {}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "World-v0 failed in env 1 of seed 8 at vector step 3: ValueError: the pole is gone"),
        ("obs", "World-v0 gave a non-finite observation in env 1 of seed 8 at vector step 3: [nan]"),
        ("reward", "World-v0 gave a non-finite reward in env 1 of seed 8 at vector step 3: inf"),
    ],
)
def test_a_faulty_env_is_named_with_its_member_and_step(fault, message):
    env = sync(type("Faulted", (Faulty,), {"fault": fault}), (2, 8), 2)
    env.reset()
    for _ in range(2):
        env.step(np.zeros((2, 2), dtype=int))
    with pytest.raises(RlabError) as caught:
        env.step(np.zeros((2, 2), dtype=int))
    assert re.sub(r" \(test_env_adapter.py:\d+\)$", "", str(caught.value)) == message
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "states no autoreset mode"),
        ({"autoreset_mode": "Sometimes"}, "states the autoreset mode 'Sometimes'"),
        ({"autoreset-mode": AutoresetMode.SAME_STEP}, "states no autoreset mode"),
    ],
)
def test_an_unknown_autoreset_mode_is_refused(counting, metadata, message):
    raw = counting.VectorEnv(2, "NextStep")
    raw.metadata = metadata
    with pytest.raises(UsageError, match=message):
        GymVectorEnv(raw, (0,), "Odd-v0")


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_may_be_the_enum_or_its_value(counting, mode):
    raw = counting.VectorEnv(2, mode)
    assert autoreset_mode(raw, "x") is AutoresetMode(mode)
    raw.metadata = {"autoreset_mode": mode}
    assert autoreset_mode(raw, "x") is AutoresetMode(mode)


def test_an_env_that_hides_its_final_observation_is_refused(counting):
    class Hiding(counting.VectorEnv):
        def step(self, actions):
            return (*super().step(actions)[:4], {"final_observation": "the name before Gymnasium 1.0"})

    env = GymVectorEnv(Hiding(2, "SameStep"), (0,), "Old-v0")
    with pytest.raises(RlabError, match=r"Old-v0 ended env \d of seed 0 at vector step \d without a final_obs"):
        counting.lanes_of(env, 10)


def test_a_next_step_env_that_ends_in_its_reset_row_is_refused(counting):
    raw = counting.VectorEnv(2, "SameStep")
    raw.metadata = {"autoreset_mode": "NextStep"}  # a wrong statement: this env has reset already
    with pytest.raises(RlabError, match="in its reset row"):
        counting.lanes_of(GymVectorEnv(raw, (0,), "Wrong-v0"), 60)


def test_observations_that_do_not_fit_their_space_are_refused(counting):
    class Doubles(counting.VectorEnv):
        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return obs.astype(np.float64), info

    with pytest.raises(RlabError, match=r"gave observations float64 \(2, 2\), but its space is float32 \(2, 2\)"):
        GymVectorEnv(Doubles(2, "NextStep"), (0,), "Doubles-v0").reset()
