"""Films of a run in training: a greedy episode at regular intervals, as `films/<clock>.gif` and in TensorBoard."""

import io
import math
import os
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rlab.envs import EnvSpec, SingleEpisodes, make_env
from rlab.errors import RlabError, UsageError, pip_install
from rlab.evaluation.episode_driver import PolicyStack, play_one
from rlab.places import warn
from rlab.randomness import kept_generators
from rlab.runs import files
from rlab.types import crossed

MOST_FRAMES = 300  # ten seconds of most envs
MOST_PIXELS = 320  # of its longer side
DEFAULT_FPS = 30  # where the env does not say how fast its frames are
Show = Callable[[int, bytes, tuple[int, int]], None]  # the clock, the film and its height and width


def check_can_film(spec: EnvSpec) -> None:
    """Draw one picture before training, so that a missing package or an env without pictures is an error at once.

    Raises:
        UsageError: Pillow or what draws the env is not installed, or the env cannot be drawn.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--film-every needs Pillow: {pip_install('video')}") from error
    try:
        with kept_generators():
            film_episode(spec, None, 0)
    except RlabError as error:
        raise UsageError(f"--film-every: {str(error).rstrip('.')}. Leave it out, or draw the env.") from error


def film_episode(spec: EnvSpec, policy: PolicyStack | None, seed: int) -> tuple[list[np.ndarray], float]:
    """The first `MOST_FRAMES` pictures `[height, width, 3]` of a greedy episode, and the frames per second.

    Args:
        policy: a stack of one member; None: the first picture alone.

    Raises:
        RlabError: the env cannot be made or drawn.
    """
    draw_without_window()
    env = make_env(spec, "rgb_array")
    try:
        env.reset(seed=seed)
        frames = [picture_of(env, spec)]
        if policy is not None:  # the same start again
            steps = islice(play_one(SingleEpisodes([env]), policy, seed), MOST_FRAMES - 1)
            frames += [picture_of(env, spec) for _ in steps]
        return frames, float(env.metadata.get("render_fps") or DEFAULT_FPS)
    finally:
        env.close()


def draw_without_window() -> None:
    """Envs that are drawn with SDL give pictures in place of a window, in this process from now on."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # or SDL complains that it has none


def gif(frames: list[np.ndarray], fps: float) -> bytes:
    """Pictures as an animated GIF."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    pause = max(20, round(1000 / fps))  # milliseconds; browsers play shorter ones slowly
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=pause, loop=0)
    return file.getvalue()


class Films:
    """The listener that films a member at the first report after each multiple of `every`.

    A film that fails does not stop the training: a warning, and no further films.

    Args:
        policy: gives the stack of one member that is filmed.
    """

    def __init__(
        self,
        folder: Path,
        spec: EnvSpec,
        policy: Callable[[], PolicyStack],
        every: int,
        seed: int,
        resume_at: int,
        show: Show,
    ) -> None:
        self._folder, self._spec, self._policy, self._show = folder / "films", spec, policy, show
        self._every, self._seed, self._last = every, seed, resume_at
        self._works = True

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        """Film where it is time."""
        due, self._last = crossed(self._last, env_steps, self._every), env_steps
        if not (due and self._works):
            return
        try:
            with kept_generators():
                frames, fps = film_episode(self._spec, self._policy(), self._seed)
            film = gif(frames, fps)
            files.make_folder(self._folder)
            files.write_bytes(self._folder / f"{env_steps}.gif", film)
            height, width = frames[0].shape[:2]
            self._show(env_steps, film, (height, width))
        except (RlabError, ValueError, OSError) as error:
            self._works = False
            warn(f"no more films of this run: {error}")

    def on_evaluation(self, env_steps: int, returns: Any, lengths: Any) -> None:
        """Nothing to film."""

    def on_save(self, env_steps: int) -> None:
        """Films are on the disk already."""


def picture_of(env: Any, spec: EnvSpec) -> np.ndarray:
    """What the env looks like now, `[height, width, 3]` uint8 and small.

    Raises:
        RlabError: the env gives no picture.
    """
    try:
        drawn = env.render()
    except RlabError as error:
        cause = error.__cause__ or error  # anything that an env may raise, such as an import of pygame that fails
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise RlabError(f"{spec.label} cannot be drawn: {reason}") from error
    picture = np.asarray(drawn)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise RlabError(f"{spec.label} is drawn as {picture.dtype} {picture.shape}, not as uint8 (height, width, 3)")
    step = math.ceil(max(picture.shape[:2]) / MOST_PIXELS)
    return np.ascontiguousarray(picture[::step, ::step])
