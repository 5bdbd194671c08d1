"""`rlab play RUN`: watch a policy, in a window where there is a screen, as a film where there is none."""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rlab.cli.flags import parse
from rlab.errors import RlabError, UsageError, pip_install

DEFAULT_FPS = 30  # where the env does not say how fast its frames are


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """Which policy to watch, for how long, and where to."""

    run: tyro.conf.Positional[str]  # a run folder or a policy folder
    member: int | None = None  # training seed of the member; None: the first
    episodes: int = 1  # to watch
    seed: int = 100_000  # of the first episode; the same as in rlab eval
    video: str | None = None  # FILE.mp4 or FILE.gif instead of a window
    trust: bool = False  # run envs, wrappers and layers of others that the folder names


def run(argv: list[str]) -> int:
    """Parse, play, say what each episode returned."""
    (options,) = parse(argv, (PlayOptions,), prog="rlab play")
    if options.episodes < 1:
        raise UsageError(f"--episodes {options.episodes} must be 1 or more.")
    from rlab.cli.saved import open_policy
    from rlab.envs import make_env

    saved = open_policy(options.run, options.trust)
    member = saved.policy.member(options.member)
    video = _video_path(options.video)
    if video is not None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # frames are wanted, not a window
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # or SDL complains that it has none
    env = make_env(saved.env, "human" if video is None else "rgb_array")
    frames: list[np.ndarray] = []
    try:
        for k in range(options.episodes):
            total, steps = 0.0, 0
            for reward, frame in _episode(env, member, options.seed + k):
                total, steps = total + reward, steps + 1
                if video is not None:
                    frames.append(frame)
            print(f"episode seed {options.seed + k}: return {total:.1f} in {steps} steps")
    finally:
        env.close()
    if video is not None:
        write_video(video, frames, env.metadata.get("render_fps", DEFAULT_FPS))
        print(f"film: {video}")
    return 0


def _episode(env: Any, policy: Any, seed: int) -> Iterator[tuple[float, Any]]:
    """One greedy episode: the reward of each step and the picture after it."""
    obs, _ = env.reset(seed=seed)
    ended = False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(policy(np.asarray(obs)))
        ended = terminated or truncated
        yield float(reward), env.render()


def _video_path(video: str | None) -> Path | None:
    if video is None:
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            print("there is no screen, so this becomes a film: play.gif", file=sys.stderr)
            return Path("play.gif")
        return None
    path = Path(video)
    if path.suffix not in (".mp4", ".gif"):
        raise UsageError(f"--video {video} must end in .mp4 or .gif.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--video {video}: {path.parent} is no folder that can be written.")
    return path


def write_video(path: Path, frames: list[np.ndarray], fps: int) -> None:
    """Frames `[height, width, 3]` uint8 as an mp4 or gif.

    Raises:
        UsageError: moviepy is not installed.
        RlabError: the file cannot be written.
    """
    try:
        from moviepy import ImageSequenceClip  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(f"films need moviepy: {pip_install('video')}") from error
    clip = ImageSequenceClip(frames, fps=fps)
    try:
        if path.suffix == ".gif":
            clip.write_gif(str(path), logger=None)
        else:
            clip.write_videofile(str(path), logger=None, audio=False)
    except OSError as error:
        raise RlabError(f"cannot write {path}: {error}") from error
