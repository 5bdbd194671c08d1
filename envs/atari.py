"""Atari games as agents see them, by the rules of ALE's own vector env: `AtariFrames`, and the preset that names it."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.pixels import area_means

# What `--wrapper Atari` stands for: keywords of the env, and wrappers with their arguments.
ATARI_KEYWORDS: Mapping[str, Any] = {
    "frameskip": 1,  # AtariFrames skips
    "obs_type": "grayscale",
    "repeat_action_probability": 0.25,  # sticky actions; Machado et al. 2018, and ALE's ids -v5
    "full_action_space": False,  # the actions that do something in the game, as in Mnih et al. 2015
    "max_num_frames_per_episode": 108_000,  # half an hour of play; Machado et al. 2018
}
ATARI_FRAMES: Mapping[str, Any] = {"skip": 4, "noops": 30, "fire": True, "life_loss": False}
ATARI_STACK: Mapping[str, Any] = {"frames": 4}  # Mnih et al. 2015, Methods
LIFE_LOST = "rlab_life_lost"  # of an info of a vector env: which rows [S * N] lost a life in this step


def atari_notes(env_id: str, wrappers: Sequence[Any]) -> list[str]:
    """A line for people where an Atari game is learned from as it comes."""
    if wrappers or not env_id.startswith("ALE/"):
        return []
    return ["note: the game as it comes; --wrapper Atari shrinks its pictures to 84x84 in grey and stacks four of them"]


class AtariFrames(gym.Wrapper):
    """Every `skip`-th frame of an Atari game, 84x84: `uint8 [84, 84]`, `[84, 84, 3]` in colour.

    An action is held for `skip` frames, and the larger one of the newest two values of each pixel is shown, since games
    draw some things in every other frame (Mnih et al. 2015, Methods). Pixels are means of areas, as those of `Pixels`.

    Args:
        skip: frames to an env step; Mnih et al. 2015 have 4.
        noops: a start is followed by fewer than so many frames without an action, their number drawn at random; Mnih et
            al. 2015 have 30.
        fire: press FIRE first, in games that have that action: some wait for it (Huang et al. 2022, Atari detail 4).
        life_loss: in training a lost life is learned from as the end of an episode (Mnih et al. 2015); Machado et al.
            2018 advise against it. Returns and judgements are of whole games either way.
        size: of the observation, in pixels.

    Raises:
        ValueError: the env is not an Atari game that shows single frames, or an argument is out of range.
    """

    def __init__(
        self,
        env: gym.Env,
        skip: int = ATARI_FRAMES["skip"],
        noops: int = ATARI_FRAMES["noops"],
        fire: bool = ATARI_FRAMES["fire"],
        life_loss: bool = ATARI_FRAMES["life_loss"],
        size: tuple[int, int] = (84, 84),
    ) -> None:
        super().__init__(env)
        for name, value, least in (("skip", skip, 1), ("noops", noops, 0), *((("size", side, 1)) for side in size)):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} {value!r} must be a whole number, {least} or more")
        for name, value in (("fire", fire), ("life_loss", life_loss)):
            if type(value) is not bool:
                raise ValueError(f"{name} {value!r} must be true or false")
        game: Any = env.unwrapped
        if not hasattr(game, "ale"):
            raise ValueError("AtariFrames is for Atari games, such as ALE/Pong-v5")
        screen = env.observation_space
        if game._frameskip != 1 or not isinstance(screen, gym.spaces.Box) or len(screen.shape) < 2:
            raise ValueError("it needs single frames: --wrapper Atari sets frameskip=1 and obs_type=grayscale itself")
        if not isinstance(env.action_space, gym.spaces.Discrete):
            raise ValueError("it presses buttons: leave out the keyword continuous")
        self.skip, self.noops, self.life_loss, self.size = skip, noops, life_loss, size
        meanings = game.get_action_meanings()
        self._noop = meanings.index("NOOP")
        self._fire = meanings.index("FIRE") if fire and "FIRE" in meanings else None
        self.observation_space = gym.spaces.Box(0, 255, (*size, *screen.shape[2:]), np.uint8)
        self.life_lost = False  # in the last step, where that counts and the game went on
        self._lives = 0
        self._screen = self._before = np.zeros(screen.shape, np.uint8)  # what is shown, and the frame before it
        frames = game.ale.getInt("max_num_frames_per_episode")
        self.time_limit = -(-frames // skip) if frames > 0 else None  # env steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        if seed is None:  # ALE's stream of sticky actions cannot be read; that of a seed can be begun again
            seed = int(self.env.unwrapped.np_random.integers(2**31))
        screen, info = self.env.reset(seed=seed, options=options)
        pressed = [] if self._fire is None else [self._fire]
        noops = int(self.env.unwrapped.np_random.integers(self.noops)) if self.noops else 0
        for action in [*pressed, *[self._noop] * (noops - len(pressed))]:
            screen, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                screen, info = self.env.reset(options=options)
        self._screen, self._before = screen, np.zeros_like(screen)
        self._lives, self.life_lost = info["lives"], False
        return self._shown(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for left in reversed(range(self.skip)):
            screen, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break  # the newest whole pair of frames stays on the screen
            if left == 1:
                self._before = screen
            elif left == 0:
                self._screen = screen
        self._screen = np.maximum(self._screen, self._before)
        self.life_lost = self.life_loss and info["lives"] < self._lives and not terminated
        self._lives = info["lives"]
        return self._shown(), total, terminated, truncated, info

    def _shown(self) -> np.ndarray:
        screen = self._screen
        means = area_means(screen.reshape(*screen.shape[:2], -1), self.size)
        return means.reshape(self.observation_space.shape)
