"""Every row of the wrapper table resolves, and an unknown one gets the near miss."""

import contextlib
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

from rlab.envs import WRAPPERS, EnvSpec, make_env, make_episodes, make_vec
from rlab.envs.gym_spaces import space_from_gym
from rlab.envs.wrappers import ChannelsLast, apply_wrappers, load_wrapper, refuse_running_statistics
from rlab.errors import UsageError
from rlab.networks.images import named_leaves
from rlab.networks.spaces import feature_shape


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_every_wrapper_of_the_table_resolves(name):
    package = WRAPPERS[name][1]
    if package is not None and not package.installed:
        with pytest.raises(UsageError, match=r"needs .*: pip install"):
            load_wrapper(name)
        pytest.skip(f"{package.name} is not installed: pip install '{package.install}'")
    home, _, class_name = WRAPPERS[name][0].partition(":")
    if home == "gymnasium.wrappers" and not hasattr(gym.wrappers, class_name):
        line = f"wrapper {name} needs a newer Gymnasium than {gym.__version__}: pip install --upgrade gymnasium"
        with pytest.raises(UsageError, match=re.escape(line)):
            load_wrapper(name)
        pytest.skip(f"Gymnasium {gym.__version__} is older than {name}")
    assert load_wrapper(name).__name__ == name


def test_a_wrapper_that_an_old_gymnasium_lacks_gets_a_line_of_its_own(monkeypatch):
    monkeypatch.delattr(gym.wrappers, "StickyAction")
    with pytest.raises(UsageError, match=r"wrapper StickyAction needs a newer Gymnasium than [\d.]+: pip install"):
        load_wrapper("StickyAction")


def test_wrappers_are_applied_from_first_to_last():
    spec = EnvSpec("CartPole-v1", wrappers=(("TimeAwareObservation", {}), ("FrameStackObservation", {"stack_size": 3})))
    env = make_env(spec)
    assert env.observation_space.shape == (3, 5)
    assert env.reset(seed=0)[0].shape == (3, 5)


class Frames(gym.Env):
    """Every pixel of frame t is t; channel c adds 100 c."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, shape):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def frame(self):
        image = np.full(self.observation_space.shape, self.t, np.uint8)
        if image.ndim == 3:
            image += np.arange(image.shape[2], dtype=np.uint8) * 100
        return image

    def reset(self, *, seed=None, options=None):
        self.t = 1
        return self.frame(), {}

    def step(self, action):
        self.t += 1
        return self.frame(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((4, 5), [1, 2, 3]), ((4, 5, 2), [1, 101, 2, 102, 3, 103])],  # frames 1, 2, 3; the newest last
)
def test_a_stack_of_frames_becomes_one_image_with_channels_last(shape, channels):
    env = apply_wrappers(Frames(shape), [("FrameStackObservation", {"stack_size": 3}), ("ChannelsLast", {})])
    assert isinstance(env, ChannelsLast)
    env.reset()
    env.step(0)
    obs = env.step(0)[0]
    assert obs.shape == env.observation_space.shape == (4, 5, len(channels))
    assert obs.dtype == np.uint8
    assert obs[2, 3].tolist() == channels
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(("wrapper", "shape"), [({}, (36, 12, 12)), ({"axis": 2}, (12, 36, 12))])
def test_behind_channels_last_no_shape_is_guessed_about(wrapper, shape):
    """Frames of 36x12, 12 of them: channels first or last, the shape (12, 36, 12) does not tell."""
    frames = [("FrameStackObservation", {"stack_size": 12})]
    env = apply_wrappers(Frames((36, 12)), [*frames, ("ChannelsLast", wrapper)])
    assert env.reset()[0].shape == shape
    assert space_from_gym(env.observation_space).image_size == shape
    with pytest.raises(UsageError, match="may have its channels first or last"):
        feature_shape(space_from_gym(apply_wrappers(Frames((36, 12)), frames).observation_space))
    with pytest.raises(UsageError, match="axis 1 must be 0, from which channels move, or 2"):
        apply_wrappers(Frames((36, 12)), [*frames, ("ChannelsLast", {"axis": 1})])


class Scene(gym.Env):
    """A picture of 12x8 with 8 channels first, inside a Tuple inside a Dict."""

    observation_space = gym.spaces.Dict(
        {"x": gym.spaces.Discrete(2), "eyes": gym.spaces.Tuple([gym.spaces.Box(0, 255, (8, 12, 8), np.uint8)])}
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.view = np.arange(768).reshape(8, 12, 8).astype(np.uint8)
        return {"x": 1, "eyes": (self.view,)}, {}


def test_channels_last_takes_a_part_of_a_dict_or_tuple():
    for axis, shape in ((0, (12, 8, 8)), (2, (8, 12, 8))):
        env = apply_wrappers(Scene(), [("ChannelsLast", {"axis": axis, "key": "eyes/0"})])
        obs, _ = env.reset()
        assert env.observation_space.contains(obs)
        assert obs["x"] == 1
        assert obs["eyes"][0].shape == shape
        assert obs["eyes"][0][3, 2, 5] == (env.unwrapped.view[5, 3, 2] if axis == 0 else env.unwrapped.view[3, 2, 5])
        assert dict(named_leaves(space_from_gym(env.observation_space)))["eyes/0"].image_size == shape
    with pytest.raises(UsageError, match="ChannelsLast finds no part 'ears' in Dict"):
        apply_wrappers(Scene(), [("ChannelsLast", {"key": "ears"})])
    with pytest.raises(UsageError, match="key=NAME selects a part"):
        apply_wrappers(Scene(), [("ChannelsLast", {})])


@pytest.mark.parametrize(
    ("env_id", "kept"), [("CartPole-v1", [0, 2]), ("Pendulum-v1", [0, 1]), ("LunarLander-v3", [0, 1, 4, 6, 7])]
)
def test_no_velocity_leaves_positions_angles_and_contacts(env_id, kept):
    if env_id.startswith("Lunar"):
        pytest.importorskip("Box2D")
    whole, env = make_env(EnvSpec(env_id)), make_env(EnvSpec(env_id, wrappers=(("NoVelocity", {}),)))
    assert env.observation_space.low.tolist() == whole.observation_space.low[kept].tolist()
    assert env.observation_space.high.tolist() == whole.observation_space.high[kept].tolist()
    assert env.reset(seed=3)[0].tolist() == whole.reset(seed=3)[0][kept].tolist()
    action = whole.action_space.sample()
    there, here = whole.step(action), env.step(action)
    assert here[0].tolist() == there[0][kept].tolist()
    assert here[1:4] == there[1:4]


def test_no_velocity_is_the_first_wrapper_of_an_env_that_it_knows():
    with pytest.raises(UsageError, match="NoVelocity must be the first of the wrappers"):
        make_env(EnvSpec("CartPole-v1", wrappers=(("TimeAwareObservation", {}), ("NoVelocity", {}))))
    with pytest.raises(UsageError, match=r"which elements are velocities is known of CartPole, .*, not of FrozenLake"):
        make_env(EnvSpec("FrozenLake-v1", wrappers=(("NoVelocity", {}),)))


def test_json_lists_become_the_tuples_that_gymnasium_asks_for():
    class Wants(gym.Wrapper):
        def __init__(self, env, shape):
            super().__init__(env)
            assert shape == (84, (1, 2))

    globals()["Wants"] = Wants
    make_env(EnvSpec("CartPole-v1", wrappers=((f"{__name__}:Wants", {"shape": [84, [1, 2]]}),)))


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (("FlatenObservation", {}), "unknown wrapper 'FlatenObservation'. Did you mean 'FlattenObservation'?"),
        (
            ("NormalizeObservation", {}),
            "wrapper NormalizeObservation would lose the running statistics of what it scales, which a wrapper does "
            'not save with the policy; leave it out and use --obs-scaling running (from Python obs_scaling="running")',
        ),
        (("NormalizeReward", {}), "wrapper NormalizeReward would lose"),
        (("VecNormalize", {}), "wrapper VecNormalize would lose the running statistics of observations and rewards, "),
        (("TimeLimit", {}), "wrapper TimeLimit: rlab does without it; --max-episode-steps N sets a time limit"),
        (("Monitor", {}), "wrapper Monitor: rlab does without it; --log-episodes writes a line for each episode"),
        (("RecordEpisodeStatistics", {}), "wrapper RecordEpisodeStatistics: rlab does without it; --log-episodes"),
        (("ClipReward", {}), "wrapper ClipReward: rlab does without it; it does not clip rewards, since that would"),
        (("RecordVideo", {}), "wrapper RecordVideo: rlab does without it; rlab play RUN --video film.mp4 films"),
        (("VecFrameStack", {}), "wrapper VecFrameStack: rlab does without it; use FrameStack:frames=4"),
        (("nowhere_at_all:W", {}), "wrapper 'nowhere_at_all:W' cannot be loaded"),
        (("subprocess:Popen", {}), "wrapper 'subprocess:Popen' is not a subclass of gymnasium.Wrapper"),
        (("gymnasium.wrappers:Nothing", {}), "wrapper 'gymnasium.wrappers:Nothing' cannot be loaded"),
        (("StickyAction", {"prob": 1}), "wrapper StickyAction cannot be applied to"),
        (("ChannelsLast", {}), "wrapper ChannelsLast cannot be applied to"),
    ],
)
def test_a_wrapper_that_does_not_work_gives_one_line(wrapper, message):
    with pytest.raises(UsageError) as caught:
        make_env(EnvSpec("CartPole-v1", wrappers=(wrapper,)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_minigrid_is_flattened():
    pytest.importorskip("minigrid", reason="minigrid is not installed: pip install 'rlab-agents[minigrid]'")
    env = make_env(EnvSpec.parse("MiniGrid-Empty-5x5-v0", wrappers=["FlatObsWrapper"]))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert obs.ndim == 1


class Forgets(gym.wrappers.NormalizeObservation):
    """A subclass of somebody's."""


class OwnScale:
    """Running statistics of another make."""

    mean, var, count = 0.0, 1.0, 0

    def update(self, values):
        """Nothing."""


class OwnNormalizer(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.obs_scale = OwnScale()


class NormalizesItself(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2)

    def __init__(self):
        self.return_rms = gym.wrappers.utils.RunningMeanStd(shape=())


OBS, REWARD = '--obs-scaling running (from Python obs_scaling="running")', "--reward-scaling running (from Python rew"


@pytest.mark.parametrize(
    ("wrapper", "named", "instead"),
    [
        ("gymnasium.wrappers:NormalizeObservation", "CartPole-v1: NormalizeObservation scales by running", OBS),
        ("gymnasium.wrappers:NormalizeReward", "CartPole-v1: NormalizeReward scales by running", REWARD),
        (f"{__name__}:Forgets", "CartPole-v1: Forgets scales by running", OBS),
        (f"{__name__}:OwnNormalizer", "CartPole-v1: OwnNormalizer scales by running", OBS),
        ("gymnasium.wrappers.vector:NormalizeObservation", "NormalizeObservation' is for vector envs; leave it", OBS),
        ("gymnasium.wrappers.vector:NormalizeReward", "NormalizeReward' is for vector envs; leave it", REWARD),
        ("gymnasium.wrappers.vector:FlattenObservation", "is for vector envs; name the one for single envs", ""),
    ],
)
@pytest.mark.parametrize("make", [lambda spec: make_vec(spec, (0,), 2), make_env, lambda spec: make_episodes(spec, 1)])
def test_wrappers_whose_memory_no_policy_keeps_are_refused(make, wrapper, named, instead):
    with pytest.raises(UsageError) as caught:
        make(EnvSpec.parse("CartPole-v1", wrappers=[wrapper]))
    assert named in str(caught.value)
    assert instead in str(caught.value)
    assert "\n" not in str(caught.value)


def test_running_statistics_inside_what_somebody_registered_are_refused_too(register):
    inside = register(lambda: gym.wrappers.ClipReward(gym.wrappers.NormalizeReward(gym.make("CartPole-v1")), 0.0, 1.0))
    added = register(CartPoleEnv, additional_wrappers=(gym.wrappers.NormalizeObservation.wrapper_spec(),))
    for env_id, name in ((inside, "NormalizeReward"), (added, "NormalizeObservation")):
        with pytest.raises(UsageError, match=f"{name} scales by running statistics"):
            make_env(EnvSpec(env_id))
    with pytest.raises(UsageError, match=r"NormalizesItself scales by running statistics.*--reward-scaling running"):
        make_env(EnvSpec(register(NormalizesItself)))


class Bare:
    """A thing with these attributes."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class SomeMeanStd:
    """Known by its name alone."""


class Keeps(NormalizesItself):
    def __init__(self, **kept):
        self.__dict__.update(kept)


ARRAYS = {"running_mean": np.zeros(2), "running_var": np.ones(2)}


@pytest.mark.parametrize(
    ("kept", "refused"),
    [
        (ARRAYS, True),
        ({"scaler": Bare(**ARRAYS)}, True),
        ({"scaler": dict(ARRAYS)}, True),
        ({"scaler": Bare(of_obs=SomeMeanStd())}, True),
        ({"scalers": {"obs": SomeMeanStd()}}, True),
        ({"scalers": [SomeMeanStd()]}, True),
        ({"running_mean": 0.0}, False),
        ({"network": torch.nn.Sequential(torch.nn.BatchNorm1d(2)), "layer": torch.nn.BatchNorm1d(2)}, False),
    ],
)
def test_running_statistics_one_object_deeper_are_refused_where_their_name_says_it(kept, refused):
    said = r"^Mine-v0: Keeps scales by running statistics of what it has seen, which"
    with pytest.raises(UsageError, match=said) if refused else contextlib.nullcontext():
        refuse_running_statistics(Keeps(**kept), "Mine-v0")


def test_a_wrapper_that_changes_rewards_without_memory_is_a_part_of_the_task():
    env = make_env(EnvSpec.parse("CartPole-v1", wrappers=["gymnasium.wrappers:ClipReward:max_reward=0.25"]))
    env.reset(seed=0)
    assert env.step(0)[1] == 0.25
