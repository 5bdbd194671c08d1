"""Learning from pictures: what an env draws, resized by hand, in training, judging, play and recording."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from hypothesis import given, settings
from hypothesis import strategies as st

import rlab
from rlab.envs import EnvSpec, env_spec, make_env, make_vec
from rlab.envs.pixels import Pixels, area_means
from rlab.errors import RlabError, UsageError

DOT = "rlab-test/Dot-v0"
PIXELS = ("Pixels", {"width": 2, "height": 2, "grey": True})


class Dot(gym.Env[np.ndarray, np.int64]):
    """A white dot walks along the diagonal of a black picture of 4 x 4; the observation would give it away."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium declares it
    observation_space = gym.spaces.Box(0.0, 4.0, (1,), np.float32)
    action_space: gym.spaces.Space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, broken: str = "") -> None:
        self.render_mode, self.broken, self.t = render_mode, broken, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.full(1, self.t, np.float32), float(action), self.t == 4, False, {}

    def render(self) -> Any:
        if self.broken == "pygame":
            raise DependencyNotInstalled("pygame is not installed")
        picture = np.zeros((4, 4, 3), np.float64 if self.broken else np.uint8)
        picture[min(self.t, 3), min(self.t, 3)] = 255
        return picture


gym.register(DOT, Dot)


def by_fractions(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same as `area_means`, pixel by pixel, in fractions."""

    def shares(old: int, new: int) -> list[list[Fraction]]:
        edges = [(Fraction(i * old, new), Fraction((i + 1) * old, new)) for i in range(new)]
        return [[max(Fraction(0), min(b, r + 1) - max(a, r)) / (b - a) for r in range(old)] for a, b in edges]

    down, across = shares(picture.shape[0], size[0]), shares(picture.shape[1], size[1])
    means = [
        [sum(d * a * int(picture[i, j]) for i, d in enumerate(ds) for j, a in enumerate(cs)) for cs in across]
        for ds in down
    ]
    return np.array([[int(mean + Fraction(1, 2)) for mean in row] for row in means])


@given(st.tuples(*[st.integers(1, 9)] * 4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_a_pixel_is_the_mean_of_its_area_at_any_size(sizes: tuple[int, int, int, int], seed: int) -> None:
    high, wide, *size = sizes
    picture = np.random.default_rng(seed).integers(0, 256, (high, wide), dtype=np.uint8)
    found = area_means(picture[:, :, None], (size[0], size[1]))[:, :, 0]
    assert found.tolist() == by_fractions(picture, (size[0], size[1])).tolist()


def test_a_large_bright_picture_does_not_overflow() -> None:
    white = np.full((2160, 3840, 1), 255_000, np.int32)  # of thousandths, as grey pictures are
    assert (area_means(white, (84, 84), 1000) == 255).all()


def test_pictures_are_the_observation_in_colour_or_grey() -> None:
    env = make_env(EnvSpec.parse(DOT, (), ["Pixels:width=2,height=2"]))
    obs, _ = env.reset(seed=0)
    # One white pixel in four: 255 / 4 = 63.75, which becomes 64.
    assert obs[:, :, 0].tolist() == [[64, 0], [0, 0]]
    assert (obs.shape, obs.dtype, env.observation_space.shape) == ((2, 2, 3), np.uint8, (2, 2, 3))
    for _ in range(2):
        obs, *_ = env.step(np.int64(0))
    assert obs[:, :, 2].tolist() == [[0, 0], [0, 64]]
    assert env.render().shape == (4, 4, 3)  # a film shows the env's own picture
    env.close()


def test_grey_is_brightness() -> None:
    class Colours(Dot):
        def render(self) -> np.ndarray:
            return np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)

    obs, _ = Pixels(Colours("rgb_array"), width=4, height=1, grey=True).reset()
    # 255 x 0.299 = 76.2, 255 x 0.587 = 149.7, 255 x 0.114 = 29.1
    assert obs[:, :, 0].tolist() == [[76, 150, 29, 255]]


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_stacked_pictures_reach_training_as_channels(vector: str) -> None:
    spec = EnvSpec(DOT, {}, (PIXELS, ("FrameStackObservation", {"stack_size": 2}), ("ChannelsLast", {})))
    envs = make_vec(spec, (0,), 2, vector)
    assert (envs.reset().shape, envs.obs_space.dtype) == ((1, 2, 2, 2, 2), "uint8")
    for _ in range(2):
        step = envs.step(np.zeros((1, 2), np.int64))
    assert step.obs[0, 1, :, :, 0].tolist() == [[64, 0], [0, 0]]  # the frame before
    assert step.obs[0, 1, :, :, 1].tolist() == [[0, 0], [0, 64]]  # the newest
    envs.close()


def test_a_run_that_learns_from_pictures_is_judged_played_and_recorded(tmp_path: Path) -> None:
    small = {"env_steps": 32, "num_envs": 2, "rollout_steps": 8, "minibatches": 1, "epochs": 1, "eval_every": 16}
    run = rlab.train("ppo", DOT, wrappers=["Pixels:width=36,height=36,grey=true"], out=tmp_path / "run",
                     eval_episodes=1, final_eval_episodes=2, **small)  # fmt: skip
    assert run.evaluation is not None
    assert rlab.evaluate(run.path, episodes=2).returns.tolist() == run.evaluation.returns.tolist()
    played = rlab.play(run.path, frames=True)
    assert [frame.shape for frame in played.frames] == [(4, 4, 3)] * 4
    dataset = rlab.collect(run.path, tmp_path / "data", episodes=2).dataset
    assert dataset.episodes[0].obs.shape == (5, 36, 36, 1)


@pytest.mark.parametrize(
    ("wrapper", "kwargs", "error", "said"),
    [
        ("Pixels", {"broken": "pygame"}, RlabError, r'needs pygame to draw itself: pip install "rlab-agents\[video\]"'),
        ("Pixels", {"broken": "floats"}, RlabError, r"its render\(\) gave float64 \(4, 4, 3\) where a picture is"),
        ("Pixels:width=0", {}, UsageError, "width 0 must be a whole number of pixels, 1 or more"),
        ("Pixels:grey=1", {}, UsageError, "grey 1 must be true or false"),
        ("Pixels:size=84", {}, UsageError, "size"),
    ],
)
def test_what_cannot_be_pictured_is_one_clear_line(
    wrapper: str, kwargs: dict[str, str], error: type[RlabError], said: str
) -> None:
    with pytest.raises(error, match=said):
        make_vec(EnvSpec.parse(DOT, kwargs, [wrapper]), (0,), 1)


class Blind(Dot):
    """Draws nothing."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize("make", [Blind, lambda: Blind()], ids=["class", "function"])
def test_an_env_that_draws_nothing_is_refused(make: Any) -> None:
    with pytest.raises(UsageError, match="cannot be drawn as 'rgb_array'; it knows: nothing"):
        make_vec(env_spec(make).changed(wrappers=["Pixels"]), (0,), 1)


def test_cartpole_is_seen_without_a_screen() -> None:
    env = make_env(EnvSpec.parse("CartPole-v1", (), ["Pixels:width=60,height=40,grey=true"]))
    obs, _ = env.reset(seed=0)
    assert obs.shape == (40, 60, 1)
    assert obs.min() < 100 < obs.max() == 255  # a dark cart on white
    env.close()
