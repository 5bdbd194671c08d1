"""rlab lends an env none of its memory, keeps none of the env's, and believes nothing before it has looked.

In training (sync, async, foreign vector envs), in judging and recording, and where an env is played alone.
"""

import re
import sys
import warnings
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlab.envs import EnvSpec, GymVectorEnv, make_env, make_episodes, make_vec, obs_packing
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.evaluation.evaluate import evaluate
from rlab.evaluation.record import record
from rlab.experience.border import HostEnv
from rlab.experience.collector import Collector
from rlab.experience.fields import Field
from rlab.experience.sequence_samplers import read_rollout
from rlab.experience.storage import Storage

VECTORS = ("sync", "async")
UNIT = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch):
    monkeypatch.setattr(obs_packing, "_warned", set())


@pytest.fixture
def gym_in_use(monkeypatch):
    """Somebody has imported the old package gym."""
    monkeypatch.setitem(sys.modules, "gym", ModuleType("gym"))


class Target(gym.Env):
    """One step; the reward is best at 0.5. Scribbles on the action, and later on the one before."""

    observation_space = action_space = UNIT
    kept = np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = -float((action[0] - 0.5) ** 2)
        action *= -90
        self.kept[:] = 77
        self.kept = action
        return np.zeros(1, np.float32), reward, True, False, {}


class Scribbling(gym.Wrapper):
    def step(self, action):
        result = self.env.step(action)
        action[:] = 55
        return result


def rewards_of(action):
    return -((action[..., 0].astype(np.float64) - 0.5) ** 2)


@pytest.mark.parametrize("vector", VECTORS)
def test_what_is_stored_is_what_was_chosen_though_the_env_changes_its_actions(register, vector):
    env = make_vec(EnvSpec(register(lambda: Scribbling(Target()))), (0, 1), 2, vector)
    collector = Collector(HostEnv(env, torch.device("cpu")))
    storage = Storage(2, 2, 16, (Field("obs", (1,), "float32"), Field("action", (1,), "float32")))
    collector.start()
    rng, chosen = np.random.default_rng(0), []
    for _ in range(8):
        action = torch.from_numpy(rng.uniform(-1, 1, (2, 2, 1)).astype(np.float32))
        chosen.append(action.clone())
        step = collector.env.step(action)
        assert torch.equal(action, chosen[-1])
        assert np.allclose(step.reward, rewards_of(chosen[-1].numpy()), rtol=0, atol=1e-6)
        storage.add(collector.obs, action, step)
        collector.take(step, {})
    env.close()
    assert torch.equal(read_rollout(storage, 8)["action"], torch.stack(chosen, dim=2))


def test_recordings_hold_the_actions_that_were_chosen_and_judging_sees_their_rewards(register):
    spec = EnvSpec(register(lambda: Scribbling(Target())))
    envs = lambda n: make_episodes(spec, n)  # noqa: E731
    probe = envs(1)
    episodes = record(None, envs, (probe.obs_space, probe.action_space), 6, 0)
    actions = np.stack([episode.action[0] for episode in episodes])
    assert (np.abs(actions) <= 1).all()
    assert np.allclose([episode.reward[0] for episode in episodes], rewards_of(actions), rtol=0, atol=1e-6)

    class Half:
        seeds = (3,)
        action = np.full((1, 6, 1), 0.5, np.float32)

        def __call__(self, obs):
            return self.action[:, : obs.shape[1]]

    assert evaluate(Half(), envs, 6, 0).returns.tolist() == [[0.0] * 6]
    assert (Half.action == 0.5).all()


def test_a_foreign_vector_env_may_change_its_actions_and_swap_its_buffers(counting):
    class Swapping(counting.VectorEnv):
        """Fresh arrays at first, then the same ones again: looking once is not enough."""

        steps = 0

        def step(self, actions):
            obs, reward, terminated, truncated, info = super().step(actions)
            actions[:] = 55
            self.steps += 1
            if self.steps < 3:
                return obs.copy(), reward.copy(), terminated.copy(), truncated.copy(), info
            return obs, reward, terminated, truncated, info

    env = GymVectorEnv(Swapping(3, "NextStep"), seeds=(1,))
    obs = env.reset()
    kept, frozen = [], []
    for _ in range(10):
        action = counting.choose(obs)
        before = action.copy()
        step = env.step(action)
        assert (action == before).all()
        for array in (step.next_obs, step.reward, step.terminated, step.truncated, step.obs):
            kept.append(array)
            frozen.append(array.copy())
        obs = step.obs
    assert all(np.array_equal(now, then) for now, then in zip(kept, frozen, strict=True))


CLOCK = gym.spaces.Box(0, 9, (1,), np.float32)
SHARED = {
    "array": (CLOCK, lambda buffer: buffer),
    "dict": (gym.spaces.Dict(a=CLOCK), lambda buffer: {"a": buffer}),
    "tuple": (gym.spaces.Tuple((CLOCK, CLOCK)), lambda buffer: (buffer, buffer)),
}


@pytest.mark.parametrize("kind", sorted(SHARED))
@pytest.mark.parametrize("vector", VECTORS)
def test_envs_that_share_one_buffer_for_all_observations_are_told_apart(register, kind, vector):
    space, form = SHARED[kind]

    class Buffered(gym.Env):
        """Ends at step 2; observes its step, in a buffer that all instances share."""

        observation_space, action_space = space, gym.spaces.Discrete(9)
        buffer = np.zeros(1, np.float32)

        def reset(self, *, seed=None, options=None):
            self.t, self.buffer[:] = 0, 0
            return form(self.buffer), {}

        def step(self, action):
            self.t += 1
            self.buffer[:] = self.t + action
            return form(self.buffer), 0.0, self.t == 2, False, {}

    spec = EnvSpec(register(Buffered))
    env = make_vec(spec, (0,), 2, vector)
    env.reset()
    first = env.step(np.array([[3, 5]]))
    last = env.step(np.array([[3, 5]]))
    assert first.obs[0, :, 0].tolist() == [4, 6]
    assert last.next_obs[0, :, 0].tolist() == [5, 7]
    assert last.obs[0, :, 0].tolist() == [0, 0]
    env.close()
    episodes = make_episodes(spec, 2)
    episodes.reset([0, 1])
    assert episodes.step(np.array([3, 5]), np.ones(2, bool))[0][:, 0].tolist() == [4, 6]


@pytest.mark.parametrize("vector", VECTORS)
def test_infos_that_do_not_fit_each_other_never_meet(register, counting, vector):
    class Talkative(counting.Env):
        def info(self):
            odd = self.episode % 2 if self.t else self.t
            self.calls = getattr(self, "calls", 0) + 1
            return {
                "path": np.zeros(self.calls),
                "score": None if odd else 1.0,
                "how": lambda: self,
                "lock": (number for number in [1]),  # cannot be pickled
                "final_obs": np.full(2, 99.0, np.float32),
                "_final_obs": "mine",
                "final_info": {"a": 1},
                "episode": {"r": "none"},
            }

        def reset(self, **kwargs):
            return super().reset(**kwargs)[0], self.info()

        def step(self, action):
            return *super().step(action)[:4], self.info()

    env = make_vec(EnvSpec(register(Talkative)), (0,), 3, vector)
    lanes = counting.lanes_of(env, 30)
    env.close()
    plain = make_vec(EnvSpec(register(counting.Env)), (0,), 3)
    assert lanes == counting.lanes_of(plain, 30)


class Odd(gym.Env):
    """At step 2 of its second episode seed it gives `obs`, `reward` or `terminated` in place of what it should."""

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, **gives):
        self.gives = gives

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return 0, {}

    def step(self, action):
        self.t += 1
        given = {"obs": 1, "reward": 1.0, "terminated": False, "truncated": False}
        given |= self.gives if self.t == 2 else {}
        return *given.values(), {}


WRONG = [
    ({"obs": 7}, "gave 7 as its observation {}, but the space is Discrete(4), the integers 0 to 3"),
    ({"obs": 3.0}, "gave 3.0 as its observation {}, but the space is Discrete(4), the integers 0 to 3"),
    ({"reward": np.array([1.0, 2.0])}, "gave the reward [1.0, 2.0] of shape (2,) {}, but a reward is one number"),
    ({"reward": None}, "gave the reward None {}, but a reward is one number"),
    ({"terminated": "yes"}, "gave 'yes' as terminated {}, but terminated is True or False"),
    ({"truncated": np.zeros(2, bool)}, "gave [False, False] of shape (2,) as truncated {}, but truncated is True or"),
]


@pytest.mark.parametrize(("gives", "message"), WRONG, ids=str)
def test_a_wrong_value_is_named_with_its_env_and_seed_in_training_judging_and_play(register, gives, message):
    spec = EnvSpec(register(lambda: Odd(**gives)))
    for vector in VECTORS:
        env = make_vec(spec, (5,), 1, vector)
        env.reset()
        env.step(np.zeros((1, 1), int))
        with pytest.raises(RlabError) as caught:
            env.step(np.zeros((1, 1), int))
        assert str(caught.value).startswith(f"{spec.env_id} {message.format('in env 0 of seed 5')}")
        assert str(caught.value).endswith("(vector step 2)")
        env.close()
    episodes, single = make_episodes(spec, 2), make_env(spec)
    episodes.reset([8, 9])
    episodes.step(np.zeros(2, int), np.array([False, True]))
    single.reset(seed=9)
    single.step(0)
    for step in (lambda: episodes.step(np.zeros(2, int), np.array([False, True])), lambda: single.step(0)):
        with pytest.raises(RlabError) as caught:
            step()
        assert str(caught.value).startswith(f"{spec.env_id} {message.format('in the episode of seed 9')}")
        assert str(caught.value).endswith("(step 2)")


@pytest.mark.parametrize("reward", [np.array([2.0]), [2.0], np.float32(2), np.array(2.0), 2], ids=repr)
def test_a_reward_of_one_element_is_taken_everywhere(register, reward):
    spec = EnvSpec(register(lambda: Odd(reward=reward, terminated=np.array([True]))))
    for vector in VECTORS:
        env = make_vec(spec, (5,), 1, vector)
        env.reset()
        step = [env.step(np.zeros((1, 1), int)) for _ in range(2)][1]
        assert (step.reward.tolist(), step.terminated.tolist()) == ([[2.0]], [[True]])
        env.close()
    episodes = make_episodes(spec, 1)
    episodes.reset([8])
    _, rewards, terminated, _ = [episodes.step(np.zeros(1, int), np.ones(1, bool)) for _ in range(2)][1]
    assert (rewards.tolist(), terminated.tolist()) == ([2.0], [True])


class Large(Odd):
    """Observes one number."""

    def __init__(self, dtype, **gives):
        super().__init__(**gives)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), dtype)

    def reset(self, **kwargs):
        return np.zeros(1), super().reset(**kwargs)[1]

    def step(self, action):
        obs, *rest = super().step(action)
        return np.array([obs], np.float64), *rest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_numbers_that_float32_does_not_hold_are_named(register, dtype):
    what = {"obs": "in its observation" if dtype is np.float32 else "", "reward": ""}
    for part in what:
        spec = EnvSpec(register(lambda part=part: Large(dtype, **{part: 1e39})))
        for vector in VECTORS:
            env = make_vec(spec, (0,), 1, vector)
            env.reset()
            env.step(np.zeros((1, 1), int))
            with pytest.raises(RlabError, match=r"1e\+39 .*in env 0 of seed 0, which float32 does not hold") as caught:
                env.step(np.zeros((1, 1), int))
            if part == "reward":
                expected = "gave a reward of 1e+39 in env 0 of seed 0, which float32 does not hold (vector step 2)"
                assert str(caught.value) == f"{spec.env_id} {expected}"
            env.close()


@pytest.mark.filterwarnings("error")
def test_judging_sums_large_rewards_in_float64_and_recording_refuses_them(register):
    spec = EnvSpec(register(lambda: Large(np.float32, reward=1e39, terminated=True)))
    envs = lambda n: make_episodes(spec, n)  # noqa: E731
    probe = envs(1)

    class Still:
        seeds = (0,)

        def __call__(self, obs):
            return np.zeros(obs.shape[:2], int)

    assert evaluate(Still(), envs, 2, 0).returns.tolist() == [[1e39 + 1] * 2]
    with pytest.raises(
        RlabError, match=r"gave a reward of 1e\+39 in the episode of seed 0, which float32 does not hold"
    ):
        record(None, envs, (probe.obs_space, probe.action_space), 1, 0)
    large = EnvSpec(register(lambda: Large(np.float64, obs=1e39)))
    episodes = make_episodes(large, 1)
    episodes.reset([4])
    episodes.step(np.zeros(1, int), np.ones(1, bool))
    with pytest.raises(
        RlabError, match=r"gave an observation with 1e\+39 in the episode of seed 4, which float32 does"
    ):
        episodes.step(np.zeros(1, int), np.ones(1, bool))


def test_a_foreign_vector_env_is_looked_at_by_the_batch(counting):
    def first_step(change):
        class Wrong(counting.VectorEnv):
            def step(self, actions):
                return change(*super().step(actions))

        env = GymVectorEnv(Wrong(2, "NextStep"), (3,), "Wrong-v0")
        env.reset()
        with pytest.raises(RlabError) as caught:
            env.step(np.zeros((1, 2), int))
        return str(caught.value)

    at = "(vector step 1)"
    message = first_step(lambda obs, reward, *rest: (obs, reward * np.array([1.0, 1e39]), *rest))
    assert message == f"Wrong-v0 gave a reward of 1e+39 in env 1 of seed 3, which float32 does not hold {at}"
    message = first_step(lambda obs, *rest: (obs[:, :1], *rest))
    assert message == f"Wrong-v0 gave observations float32 (2, 1), but its space is float32 (2, 2) {at}"
    message = first_step(lambda obs, reward, *rest: (obs, reward[:1], *rest))
    assert message == f"Wrong-v0 gave rewards float64 (1,), but 2 numbers are expected {at}".replace(
        "float64", "float32"
    )
    message = first_step(lambda obs, reward, terminated, *rest: (obs, reward, terminated[:1], *rest))
    assert message == f"Wrong-v0 gave terminated bool (1,), but 2 of True or False are expected {at}"
    message = first_step(lambda *parts: parts[:4])
    assert message.startswith("Wrong-v0 returned 4 values from step, but step must return five values:")


def test_a_foreign_vector_env_with_integers_outside_their_space_is_refused(counting):
    class Counts(counting.VectorEnv):
        def __init__(self, num_envs, mode):
            super().__init__(num_envs, mode)
            self.single_observation_space = gym.spaces.Discrete(2)

        def reset(self, **kwargs):
            super().reset(**kwargs)
            return self.obs[:, 1].astype(np.int64), {}

        def step(self, actions):
            obs, *rest = super().step(actions)
            return obs[:, 1].astype(np.int64), *rest

    env = GymVectorEnv(Counts(2, "NextStep"), (3,), "Counts-v0")
    message = r"gave 2 as its observation in env [01] of seed 3, but the space is Discrete\(2\)"
    with pytest.raises(RlabError, match=message):
        take_100_steps(env)


def take_100_steps(env):
    env.reset()
    for _ in range(100):
        env.step(np.zeros((1, 2), int))


def test_a_final_observation_of_another_shape_is_refused(counting):
    class Narrow(counting.VectorEnv):
        def step(self, actions):
            *rest, info = super().step(actions)
            return *rest, {name: value[:, :1] if name == "final_obs" else value for name, value in info.items()}

    env = GymVectorEnv(Narrow(2, "SameStep"), (0,), "Narrow-v0")
    with pytest.raises(RlabError, match=r"gave the final_obs float32 \(1,\) in env \d of seed 0, but its space is"):
        counting.lanes_of(env, 10)


class OldStep(Odd):
    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class OldReset(Large):
    def reset(self, **kwargs):
        return super().reset(**kwargs)[0]


class OldSignature(Odd):
    def reset(self):
        return 0


class OldWrapper(gym.Wrapper):
    def step(self, action):
        return self.env.step(action)[:4]


RETURNS_4 = "returned 4 values from step, but step must return five values: obs, reward, terminated, truncated and info"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OldStep(), RETURNS_4),
        (lambda: gym.wrappers.TimeLimit(OldStep(), 9), "ValueError: not enough values to unpack (expected 5, got 4)"),
        (lambda: OldWrapper(Odd()), RETURNS_4),
        (lambda: gym.wrappers.TransformReward(OldWrapper(Odd()), abs), "failed in its first reset or step: ValueError"),
        (lambda: OldReset(np.float32), "returned [0.0] of shape (1,) from reset, but reset must return two values"),
        (lambda: OldSignature(), "failed in its first reset or step: TypeError: "),
    ],
    ids=["step", "step in a wrapper of its own", "wrapper", "wrapper in a wrapper", "reset", "signature"],
)
def test_the_interface_of_gym_is_named_with_what_to_do(register, make, message, gym_in_use):
    spec = EnvSpec(register(make))
    for made in (lambda: make_vec(spec, (0,), 1), lambda: make_episodes(spec, 1), lambda: make_env(spec)):
        with pytest.raises(RlabError) as caught:
            made()
        assert message in str(caught.value)
        assert "shimmy:GymV21Environment-v0" in str(caught.value)


def test_a_reset_that_forgets_its_info_is_named_through_any_wrapper(register):
    class Two(Odd):
        observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)

        def reset(self, **kwargs):
            return np.zeros(2, np.float32)  # a wrapper that unpacks this gets two numbers

    spec = EnvSpec(register(Two), wrappers=(("FlattenObservation", {}),))
    with pytest.raises(RlabError, match=r"returned \[0.0, 0.0\] of shape \(2,\) from reset, but reset must return two"):
        make_vec(spec, (0,), 1)


def test_an_env_that_is_not_gymnasiums_is_refused_with_what_to_do(register, gym_in_use):
    class Stranger:
        observation_space, action_space = UNIT, UNIT

    with pytest.raises(UsageError, match=r"must inherit from the gymnasium.Env class.*shimmy:GymV21Environment-v0"):
        make_vec(EnvSpec(register(Stranger)), (0,), 1)


@pytest.mark.parametrize("vector", VECTORS)
def test_an_env_whose_instances_have_other_spaces_is_named(register, vector):
    def growing(part, from_instance):
        made = []

        def make():
            env = Odd()
            made.append(env)
            if len(made) > from_instance:
                setattr(env, part, gym.spaces.Discrete(9))
            return env

        return EnvSpec(register(make))

    for part, name in (("observation_space", "observation"), ("action_space", "action")):
        env = make_vec(growing(part, 1), (3,), 1, vector)  # all but the probe
        with pytest.raises(RlabError, match=f"has the {name} space Discrete.n=9.* in env 0 of seed 3, though another"):
            env.reset()
        env.close()
        episodes = make_episodes(growing(part, 1), 1)
        with pytest.raises(RlabError, match=f"has the {name} space Discrete.n=9.* in the episode of seed 4, though"):
            episodes.reset([4])
        if vector == "sync":
            with pytest.raises(RlabError, match=f"has the {name} space Discrete.n=9.* in env 1 of seed 3, though"):
                make_vec(growing(part, 2), (3,), 2, vector).reset()


class Unclosable(Odd):
    def close(self):
        raise OSError("the port is in use")


@pytest.mark.parametrize("vector", VECTORS)
def test_an_env_that_cannot_be_closed_costs_a_warning_and_nothing_else(register, vector):
    spec = EnvSpec(register(Unclosable))
    message = f"{spec.env_id} failed in close: OSError: the port is in use"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        env = make_vec(spec, (0,), 2, vector)
        env.reset()
        assert env.step(np.zeros((1, 2), int)).reward.tolist() == [[1.0, 1.0]]
        env.close()
        episodes = make_episodes(spec, 1)
        episodes.reset([0])
        episodes.close()
    # once, of the probes of make_vec and make_episodes, the judging env, and the training envs
    (warning,) = warned
    told = re.sub(r" \(test_env_border.py:\d+\)$", "", str(warning.message))
    assert (warning.category, told) == (RlabWarning, message)


def test_a_failing_close_hides_no_error(register):
    class Both(Unclosable):
        def reset(self, **kwargs):
            raise RuntimeError("no fuel")

    env_id = register(Both)
    with (
        pytest.warns(RlabWarning),
        pytest.raises(RlabError, match="failed in its first reset or step: RuntimeError: no"),
    ):
        make_vec(EnvSpec(env_id), (0,), 1)


def test_a_foreign_vector_env_that_cannot_be_closed_is_a_warning_too(counting):
    class Stuck(counting.VectorEnv):
        def close_extras(self, **kwargs):
            raise OSError("stuck")

    with pytest.warns(RlabWarning, match=r"^Stuck-v0 failed in close: OSError: stuck \(test_env_border.py:\d+\)$"):
        GymVectorEnv(Stuck(1, "NextStep"), (0,), "Stuck-v0").close()


def test_gymnasiums_own_envs_pass_without_a_word():
    ids = ("CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "CliffWalking-v1", "Acrobot-v1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env_id in ids:
            env = make_env(EnvSpec(env_id))
            env.action_space.seed(0)
            for seed in range(2):
                env.reset(seed=seed)
                for _ in range(30):
                    if any(env.step(env.action_space.sample())[2:4]):
                        break
