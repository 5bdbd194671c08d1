"""Films of a run under way: on the disk, in TensorBoard, without a trace in what is learned."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlab
from rlab.envs import EnvSpec, SubEnv
from rlab.jobs import films
from rlab.runs.listing import list_runs

pytest.importorskip("pygame")
Image = pytest.importorskip("PIL.Image")

STEPS = {"env_steps": 512, "log_every": 128, "eval_every": 512, "eval_episodes": 1, "final_eval_episodes": 0}
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 4, "seeds": 2, "hidden": (8,), "max_episode_steps": 12}
SMALL |= {"learning_starts": 64, "batch_size": 16, **STEPS}

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_run_is_filmed_as_often_as_asked_and_learns_the_same(tmp_path: Path, road: SimpleNamespace) -> None:
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "filmed", film_every=256, **SMALL)
    assert sorted(path.name for path in (run.path / "films").iterdir()) == ["256.gif", "512.gif"]
    with Image.open(run.path / "films" / "256.gif") as film:
        assert film.n_frames <= 13  # the first picture, and one after each step of a short episode
        assert max(film.size) <= films.MOST_PIXELS
    accumulator = EventAccumulator(str(run.path)).Reload()
    assert [image.step for image in accumulator.Images("film")] == [256, 512]
    assert accumulator.Images("film")[0].encoded_image_string == (run.path / "films" / "256.gif").read_bytes()
    plain = rlab.train("dqn", "CartPole-v1", out=tmp_path / "plain", **SMALL)
    road.check_same(road.weights(plain.path), road.weights(run.path))
    assert not (plain.path / "films").exists()
    assert [row["status"] for row in list_runs(tmp_path)] == ["finished", "finished"]


def test_what_is_missing_is_said_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(rlab.UsageError, match="--film-every: rlab/ProbeConstant-v0 cannot be drawn"):
        rlab.train("dqn", "rlab/ProbeConstant-v0", out=tmp_path / "run", film_every=256, **SMALL)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(rlab.UsageError, match=r"--film-every: CartPole-v1 cannot be drawn: .*pygame is not installed"):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", film_every=256, **SMALL)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(rlab.UsageError, match=r'--film-every needs Pillow: pip install "rlab-agents\[video\]"'):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", film_every=256, **SMALL)
    with pytest.raises(rlab.UsageError, match="film_every -1 must be 0 or more"):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", film_every=-1, **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_film_that_fails_costs_one_warning_and_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    spec = EnvSpec.parse("CartPole-v1")

    def no_policy() -> Any:
        raise rlab.RlabError("the camera broke")

    camera = films.Films(tmp_path, spec, no_policy, 100, 0, 0, lambda *film: shown.append(1))
    camera.on_metrics(50, {})
    with pytest.warns(UserWarning, match="no more films of this run: the camera broke"):
        camera.on_metrics(100, {})
    camera.on_metrics(200, {})
    assert shown == []


class Drawn(gym.Env):
    """An episode without an end, drawn large."""

    metadata: ClassVar[dict[str, Any]] = {"render_fps": 50}
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.zeros((700, 900, 3), np.uint8)


class AlwaysZero:
    seeds = (0,)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        return np.zeros(obs.shape[:2], np.int64)


def test_a_film_is_short_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "make_env", lambda spec, mode: SubEnv(Drawn()))
    frames, fps = films.film_episode(EnvSpec.parse("CartPole-v1"), AlwaysZero(), 0)
    assert (len(frames), frames[0].shape, fps) == (films.MOST_FRAMES, (234, 300, 3), 50.0)  # every third pixel
