"""Watching a policy: in a window, as a film or as frames, with the return of each episode."""

import base64
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rlab.envs import EnvLike, SingleEpisodes, SubEnv, make_env
from rlab.envs.watch import ENV_TIMEOUT
from rlab.errors import RlabError, UsageError, extra
from rlab.evaluation.episode_driver import check_spaces, play_one
from rlab.jobs.aliases import answering
from rlab.jobs.films import draw_without_window
from rlab.jobs.judging import FINAL_EPISODE_SEED
from rlab.jobs.progress import in_notebook
from rlab.jobs.saved import check_can_sample, open_policy
from rlab.learning.runtime import own_surroundings
from rlab.networks.policy import Policy
from rlab.runs import files
from rlab.trust import Trust

DEFAULT_FPS = 30  # where the env does not say how fast its frames are
FILM = "play.gif"  # where there is no screen


@dataclass(frozen=True)
class Played:
    """Seed, return and length of each episode; a notebook shows the film."""

    seeds: tuple[int, ...]  # of the episodes
    returns: tuple[float, ...]
    lengths: tuple[int, ...]  # env steps
    video: Path | None = None
    frames: tuple[np.ndarray, ...] = field(default=(), repr=False)  # [height, width, 3] uint8, one after each step

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab play --json` prints."""
        rows = zip(self.seeds, self.returns, self.lengths, strict=True)
        episodes = [{"seed": seed, "return": total, "length": length} for seed, total, length in rows]
        return {"format": 1, "episodes": episodes, "video": None if self.video is None else str(self.video)}

    def report(self) -> str:
        """One line for each episode, and where the film is."""
        rows = zip(self.seeds, self.returns, self.lengths, strict=True)
        lines = [f"episode seed {seed}: return {total:.1f} in {length} steps" for seed, total, length in rows]
        return "\n".join([*lines, *([] if self.video is None else [f"film: {self.video}"])])

    def _repr_html_(self) -> str | None:
        """How a notebook shows it: the film itself, inside the page."""
        if self.video is None or not self.video.is_file():
            return None
        data = base64.b64encode(self.video.read_bytes()).decode()
        text = "<br>".join(self.report().splitlines())
        if self.video.suffix == ".gif":
            return f'<img src="data:image/gif;base64,{data}"><br>{text}'
        return f'<video controls autoplay loop src="data:video/mp4;base64,{data}"></video><br>{text}'


@answering
def play(
    run: str | PathLike[str],
    *,
    episodes: int = 1,
    seed: int = FINAL_EPISODE_SEED,
    member: int | None = None,
    stochastic: bool = False,
    video: str | Path | None = None,
    frames: bool = False,
    env_timeout: float = ENV_TIMEOUT,
    env: EnvLike | None = None,
    trust: Trust = False,
) -> Played:
    """Watch a trained policy: in a window, or as a film where there is no screen, and in a notebook inside the page.

        rlab.play("runs/my-run", episodes=3, video="three.mp4").returns

    Args:
        run: a run folder (its final policy) or a policy folder.
        episodes: how many to watch.
        seed: of the first episode; the same as in `rlab.evaluate`.
        member: training seed of the one that plays; None: the first.
        stochastic: sample actions as in training, instead of the greedy ones; they are those that
            `rlab.evaluate(..., stochastic=True)` draws in the same episode.
        video: a new file `.mp4` or `.gif` instead of a window; None where there is no window: `play.gif`, or the
            first of `play-2.gif`, `play-3.gif` ... that does not exist.
        frames: keep the pictures in memory, as arrays, instead of a window or a film (or beside the film named).
        env_timeout: seconds for each constructor, reset, step and close of an env.
        env: makes the env where only the process that trained in it can: `env=MyEnv`; None: the one on record.
        trust: allow envs, wrappers and layers from outside rlab that the folder names, which run their code.

    Raises:
        UsageError: no such member, a film that cannot be written, or moviepy is missing.
        RlabError: the folder is missing or broken, or an episode does not end.
    """
    if episodes < 1:
        raise UsageError(f"episodes {episodes} must be 1 or more.")
    saved = open_policy(run, trust, env)
    policy = saved.policy.only(saved.policy.seeds[0] if member is None else member)
    if stochastic:
        check_can_sample(saved.policy)
    film = _film_path(None if video is None else Path(video), frames)
    pictured = film is not None or frames
    if pictured:
        draw_without_window()
    seeds, spec = tuple(range(seed, seed + episodes)), replace(saved.env, timeout=env_timeout)
    with own_surroundings(threads=1), closing(make_env(spec, "rgb_array" if pictured else "human")) as played_in:
        returns, lengths, pictures = _watched(played_in, policy, seeds, not stochastic, pictured)
    if film is not None:
        write_video(film, pictures, played_in.metadata.get("render_fps", DEFAULT_FPS))
    return Played(seeds, returns, lengths, film, tuple(pictures) if frames else ())


def _watched(
    env: SubEnv, policy: Policy, seeds: Sequence[int], greedy: bool, pictured: bool
) -> tuple[tuple[float, ...], tuple[int, ...], list[np.ndarray]]:
    """The return and length of each episode, and where `pictured` what the env looks like after each step."""
    envs, pictures = SingleEpisodes([env]), list[Any]()
    returns, lengths = [], []
    check_spaces(policy, envs)
    for seed in seeds:
        total, steps = 0.0, 0
        for step in play_one(envs, policy, seed, greedy):
            total, steps = total + float(step.reward[0, 0]), steps + 1
            picture = env.render()
            if pictured:
                pictures.append(picture)
        returns.append(total)
        lengths.append(steps)
    return tuple(returns), tuple(lengths), pictures


def _film_path(video: Path | None, frames: bool) -> Path | None:
    """Where the film goes; None where a window is shown or the frames alone are wanted."""
    if video is None:
        return None if frames or (_has_screen() and not in_notebook()) else files.free_path(Path(FILM))
    if video.suffix not in (".mp4", ".gif"):
        raise UsageError(f"--video {video} must end in .mp4 or .gif.")
    if video.exists():
        raise UsageError(f"{video} exists; nothing was touched. Name a new file with --video.")
    if not video.parent.is_dir() or not os.access(video.parent, os.W_OK):
        raise UsageError(f"--video {video}: {video.parent} is not a folder that can be written.")
    return video


def _has_screen() -> bool:
    on_linux = sys.platform.startswith("linux")
    return not on_linux or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def write_video(path: Path, frames: list[np.ndarray], fps: int) -> None:
    """Frames `[height, width, 3]` uint8 as an mp4 or gif.

    Raises:
        UsageError: moviepy is not installed.
        RlabError: the file cannot be written.
    """
    try:
        from moviepy import ImageSequenceClip  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(f'films need moviepy: pip install "{extra("video")}"') from error
    clip = ImageSequenceClip(frames, fps=fps)
    try:
        if path.suffix == ".gif":
            clip.write_gif(str(path), logger=None)
        else:
            clip.write_videofile(str(path), logger=None, audio=False)
    except OSError as error:
        raise RlabError(f"cannot write {path}: {error}") from error
