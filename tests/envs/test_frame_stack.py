"""`FrameStack` shows an episode's newest frames; a run that stores them once learns what one with whole stacks does."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlab
from rlab.envs import EnvSpec, make_vec
from rlab.envs.frames import FrameStack
from rlab.envs.gym_spaces import FRAMES, space_from_gym
from rlab.envs.wrappers import apply_wrappers
from rlab.errors import UsageError
from rlab.networks.spaces import feature_shape
from rlab.runs.policies import load_policy


class Clock(gym.Env):
    """Every element of the frame of step t is t + 1."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, shape=(8, 9), dtype=np.uint8):
        self.observation_space = gym.spaces.Box(1, 255, shape, dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.frame(), {}

    def frame(self):
        return np.full(self.observation_space.shape, self.t + 1, self.observation_space.dtype)

    def step(self, action):
        self.t += 1
        return self.frame(), 1.0, self.t == 9, False, {}


@pytest.mark.parametrize(
    ("shape", "stacked", "axis", "features"),
    [
        ((8, 9), (3, 8, 9), 0, (3, 8, 9)),
        ((8, 9, 2), (8, 9, 6), 2, (6, 8, 9)),
        ((2, 9, 9), (6, 9, 9), 0, (6, 9, 9)),
        ((5,), (15,), 0, (15,)),
    ],
)
def test_the_newest_frame_is_the_last_and_zeros_come_before_the_first(shape, stacked, axis, features):
    env = FrameStack(Clock(shape), 3)
    space = space_from_gym(env.observation_space)
    assert (space.shape, space.frames, space.frame_axis, feature_shape(space)) == (stacked, 3, axis, features)
    seen = [env.reset(seed=0)[0], *(env.step(0)[0] for _ in range(3))]
    for obs in seen:
        assert obs.shape == stacked
        assert env.observation_space.contains(obs)  # zeros are in it, though the env's own space begins at 1
    of_frames = [[int(part.max()) for part in np.split(obs, 3, axis)] for obs in seen]
    assert of_frames == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert all(int(part.min()) == int(part.max()) for obs in seen for part in np.split(obs, 3, axis))
    assert [int(part.max()) for part in np.split(env.reset()[0], 3, axis)] == [0, 0, 1]  # nothing of the last episode


def test_what_cannot_be_stacked_gets_one_line():
    for env, frames, line in (
        (Clock((2, 3, 4, 5)), 3, "FrameStack expects numbers"),
        (gym.make("FrozenLake-v1"), 3, "FrameStack expects numbers"),
        (Clock((8, 9)), 1, "frames 1 must be a whole number from 2 to 255"),
        (FrameStack(Clock((5,)), 2), 2, "stacks of frames already"),
        (Clock((12, 36, 12)), 3, "may have its channels first or last"),
    ):
        with pytest.raises(ValueError, match=line):
            FrameStack(env, frames)
    with pytest.raises(UsageError, match="FrameStack must be the last wrapper"):
        apply_wrappers(Clock((5,)), [("FrameStack", {}), ("TimeAwareObservation", {})])
    unbounded = gym.wrappers.TransformObservation(
        Clock((8, 9), np.float32), lambda obs: obs, gym.spaces.Box(-np.inf, np.inf, (8, 9), np.float32)
    )
    with pytest.raises(ValueError, match="put FlattenObservation before it"):
        FrameStack(unbounded, 3)


def test_a_vector_env_hands_on_what_the_wrapper_says():
    env = make_vec(EnvSpec("CartPole-v1", wrappers=(("NoVelocity", {}), ("FrameStack", {"frames": 3}))), (0, 1), 2)
    assert (env.obs_space.shape, env.obs_space.frames) == ((6,), 3)
    assert (env.reset()[..., :4] == 0).all()
    env.close()


class Whole(FrameStack):
    """The same observations of a space that does not say what they are, so that storage keeps them whole."""

    def __init__(self, env, frames):
        super().__init__(env, frames)
        setattr(self.observation_space, FRAMES, 1)


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize(
    ("agent", "settings"),
    [
        ("dqn", {"env_steps": 700, "learning_starts": 100, "replay_capacity": 256, "n_step": 3, "num_envs": 4}),
        ("ppo", {"env_steps": 512, "rollout_steps": 64, "num_envs": 4}),
    ],
)
def test_a_run_learns_the_same_weights_from_frames_stored_once(agent, settings, tmp_path):
    tensors = []
    quick = {"experiment": "none", "eval_every": 10**6, "final_eval_episodes": 0, "seeds": 2, "hidden": [8]}
    for name in ("FrameStack", f"{__name__}:Whole"):
        out = tmp_path / name.rpartition(":")[2]
        rlab.train(agent, "CartPole-v1", wrappers=["NoVelocity", f"{name}:frames=3"], out=out, **quick, **settings)
        tensors.append(load_policy(out, trust=True).policy.state_dict())
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name
