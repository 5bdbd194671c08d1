"""Wrappers by name, so that an env spec is plain data. `their.module:Class` works as well as a row of the table.

What belongs to an agent is not here: reward clipping and normalisation of observations would change what an evaluation
measures or be lost with the policy, so agents and policies carry them themselves.
"""

import copy
import importlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

from rlab.envs.checks import Hung, raised, stopped_by_user
from rlab.envs.gym_spaces import CHANNELS
from rlab.envs.ids import Package
from rlab.envs.pixels import Pixels
from rlab.errors import UsageError, extra, unknown
from rlab.networks.bounds import LAST
from rlab.places import message_of

OPENCV = Package("OpenCV", "cv2", "opencv-python-headless")
MINIGRID = Package("minigrid", "minigrid", extra("minigrid"))

# where they live, the package that they need beyond Gymnasium, and their names
_SHIPPED: tuple[tuple[str, Package | None, tuple[str, ...]], ...] = (
    (
        "gymnasium.wrappers",
        None,
        (
            *("FlattenObservation", "TimeAwareObservation", "DelayObservation", "DiscretizeObservation"),
            *("DiscretizeAction", "ClipAction", "RescaleAction", "StickyAction", "RepeatAction"),
            *("GrayscaleObservation", "MaxAndSkipObservation", "FrameStackObservation"),
        ),
    ),
    ("gymnasium.wrappers", OPENCV, ("ResizeObservation",)),
    ("rlab.envs.atari", None, ("AtariFrames",)),
    ("rlab.envs.pixels", None, ("Pixels",)),
    ("rlab.envs.frames", None, ("FrameStack",)),
    ("rlab.envs.velocities", None, ("NoVelocity",)),
    ("rlab.envs.wrappers", None, ("ChannelsLast", "CartPolePhysics")),
    # its observation holds a text, which these encode or drop
    ("minigrid.wrappers", MINIGRID, ("FlatObsWrapper", "ImgObsWrapper", "FullyObsWrapper", "RGBImgPartialObsWrapper")),
)
# name -> `module:Class`, and the package that it needs
WRAPPERS: Mapping[str, tuple[str, Package | None]] = {
    name: (f"{module}:{name}", package) for module, package, names in _SHIPPED for name in names
}

ATARI = "Atari"  # stands for AtariFrames, FrameStack and keywords of the env, which an `EnvSpec` spells out

ARRAYS = frozenset({"running_mean", "running_var"})  # running statistics as two arrays
MOST_PARTS = 1_000  # of an object that are searched


_LIMIT = "--max-episode-steps N sets a time limit (from Python max_episode_steps=N)"
_EPISODES = "--log-episodes writes a line for each episode of training (from Python log_episodes=True)"
_ATARI = "use Atari, which skips, shrinks and stacks frames; Atari:life_loss=true learns from lost lives as endings"
_CLIPPING = (
    "it does not clip rewards, since that would change what evaluation measures; --reward-clip 1 clips them for "
    "learning alone, and --reward-scaling running (of ppo, a2c and reinforce) scales them"
)
_VECTOR = "--num-envs N runs N envs, --vector async each in its own process"
_FILM = "rlab play RUN --video film.mp4 films the trained policy, --film-every N films while it trains"

# Wrappers of Gymnasium, Stable-Baselines3 and CleanRL that are not in the table: what to use instead.
ELSEWHERE: Mapping[str, str] = {
    "TimeLimit": _LIMIT,
    **dict.fromkeys(("Monitor", "VecMonitor", "RecordEpisodeStatistics"), _EPISODES),
    **dict.fromkeys(("ClipReward", "ClipRewardEnv", "TransformReward"), _CLIPPING),
    **dict.fromkeys(("RecordVideo", "VecVideoRecorder"), _FILM),
    "VecFrameStack": "use FrameStack:frames=4",
    "VecTransposeImage": "pictures with channels last become channels first by themselves",
    **dict.fromkeys(("DummyVecEnv", "SubprocVecEnv", "SyncVectorEnv", "AsyncVectorEnv"), _VECTOR),
    **dict.fromkeys(("AtariWrapper", "AtariPreprocessing", "NoopResetEnv", "MaxAndSkipEnv"), _ATARI),
    **dict.fromkeys(("FireResetEnv", "EpisodicLifeEnv", "WarpFrame"), _ATARI),
    "OrderEnforcing": "what the env gives is checked at every step",
    "PassiveEnvChecker": "what the env gives is checked at every step, and rlab check ENV reports what is wrong",
}


class ChannelsLast(gym.ObservationWrapper):
    """A stack of frames `[K, H, W]` or `[K, H, W, C]` as one image with channels last, `[H, W, K]` or `[H, W, K*C]`.

    Put it after FrameStackObservation. Channel `k * C + c` is channel c of frame k; the newest frame is the last.
    With `axis=2` the channels of `[H, W, K]` are last already: nothing moves, and nothing is guessed from the shape.
    `key` is the part of a Dict or Tuple to change: a name or number, joined by slashes for nested parts.
    """

    def __init__(self, env: gym.Env, axis: int = 0, key: str | int = "") -> None:
        super().__init__(env)
        self._axis, self._path = axis, str(key).split("/") if key != "" else []
        self.observation_space = self._space(env.observation_space, self._path)

    def observation(self, observation: Any) -> Any:
        return self._at(observation, self._path)

    def _space(self, space: gym.Space, path: Sequence[str]) -> gym.Space:
        if path and isinstance(space, gym.spaces.Dict) and path[0] in space.spaces:
            inside = {path[0]: self._space(space[path[0]], path[1:])}
            return gym.spaces.Dict([(name, inside.get(name, part)) for name, part in space.items()])
        if path and isinstance(space, gym.spaces.Tuple) and path[0] in map(str, range(len(space))):
            parts = enumerate(space)
            return gym.spaces.Tuple([self._space(p, path[1:]) if str(i) == path[0] else p for i, p in parts])
        if path:
            raise ValueError(f"ChannelsLast finds no part {'/'.join(path)!r} in {space}")
        if not isinstance(space, gym.spaces.Box) or len(space.shape) not in (3, 4):
            hint = "; key=NAME selects a part" if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple) else ""
            raise ValueError(f"ChannelsLast expects frames [K, H, W] or [K, H, W, C], not {space}{hint}")
        if self._axis not in (0, 2) or (self._axis == 2 and len(space.shape) != 3):
            raise ValueError(f"axis {self._axis!r} must be 0, from which channels move, or 2 of a shape [H, W, K]")
        found = gym.spaces.Box(self._moved(space.low), self._moved(space.high), dtype=space.dtype.type)
        setattr(found, CHANNELS, LAST)
        return found

    def _at(self, value: Any, path: Sequence[str]) -> Any:
        """An observation, or a part of one, with the array at `path` moved; the env's own is left as it is."""
        if not path:
            return self._moved(value)
        if isinstance(value, Mapping):
            return {**value, path[0]: self._at(value[path[0]], path[1:])}
        return tuple(self._at(part, path[1:]) if str(i) == path[0] else part for i, part in enumerate(value))

    def _moved(self, frames: np.ndarray) -> np.ndarray:
        if self._axis == 2:
            return frames
        last = np.moveaxis(frames, 0, 2)  # [H, W, K] or [H, W, K, C]
        return np.ascontiguousarray(last.reshape(*last.shape[:2], -1))


class CartPolePhysics(gym.Wrapper):
    """CartPole with other physics, in SI units: gravity 9.8, masscart 1.0, masspole 0.1, length 0.5 (half the pole's)
    and force_mag 10.0 by default.

    It changes no space.
    """

    SETTINGS = ("gravity", "masscart", "masspole", "length", "force_mag")

    def __init__(self, env: gym.Env, **settings: float) -> None:
        super().__init__(env)
        cart_pole = env.unwrapped
        if not isinstance(cart_pole, CartPoleEnv):
            raise ValueError("CartPolePhysics is for CartPole alone")
        if not settings:
            raise ValueError(f"give one or more of {', '.join(self.SETTINGS)}, as in CartPolePhysics:length=1.0")
        for name, value in settings.items():
            if name not in self.SETTINGS:
                raise unknown("setting", name, self.SETTINGS)
            if type(value) not in (int, float) or not 0 < value < float("inf"):  # a bool is an int
                raise ValueError(f"{name} {value!r} must be a number above 0")
            setattr(cart_pole, name, float(value))
        # what CartPole derives from these in its constructor
        cart_pole.total_mass = cart_pole.masspole + cart_pole.masscart
        cart_pole.polemass_length = cart_pole.masspole * cart_pole.length


def check_wrapper(name: str) -> None:
    """Raises UsageError where a name of the table is unknown or its package is missing."""
    if ":" in name:
        return
    if name not in WRAPPERS:
        raise _unknown_wrapper(name)
    package = WRAPPERS[name][1]
    if package is not None and not package.installed:
        raise UsageError(f'wrapper {name} needs {package.name}: pip install "{package.install}"')


def _unknown_wrapper(name: str) -> UsageError:
    """The error for a name that is not in the table: what rlab has instead, or a near miss."""
    if name in ("NormalizeObservation", "NormalizeReward", "VecNormalize"):
        which = "observations and rewards" if name == "VecNormalize" else "what it scales"
        return UsageError(
            f"wrapper {name} would lose the running statistics of {which}, which a wrapper does not save with the "
            f"policy; {_instead(name)}"
        )
    if name in ELSEWHERE:
        return UsageError(f"wrapper {name}: rlab does without it; {ELSEWHERE[name]}")
    return unknown("wrapper", name, [*WRAPPERS, ATARI])


def foreign_wrapper_module(name: str) -> str | None:
    """The module that a `their.module:Class` wrapper imports; None for a name of the table."""
    module, colon, _ = name.partition(":")
    return module if colon else None


def load_wrapper(name: str) -> type[gym.Wrapper]:
    """The wrapper class for a name of the table or `their.module:Class`.

    Raises:
        UsageError: an unknown name (with the near miss), a missing package, or something that is not a Gymnasium
            wrapper.
    """
    check_wrapper(name)
    location = WRAPPERS[name][0] if name in WRAPPERS else name
    module_name, _, class_name = location.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a foreign module may raise anything when imported, such as sys.exit()
        if name in WRAPPERS and isinstance(error, AttributeError):
            line = f"wrapper {name} needs a newer Gymnasium than {gym.__version__}: pip install --upgrade gymnasium"
            raise UsageError(line) from None
        raise UsageError(f"wrapper {name!r} cannot be loaded: {message_of(error)}") from error
    if isinstance(found, type) and issubclass(found, gym.vector.VectorWrapper):
        hint = _instead(found.__name__) if "Normalize" in found.__name__ else "name the one for single envs"
        raise UsageError(f"wrapper {name!r} is for vector envs; {hint}")
    if not (isinstance(found, type) and issubclass(found, gym.Wrapper)):  # never call something else from a file
        raise UsageError(f"wrapper {name!r} is not a subclass of gymnasium.Wrapper")
    return found


def refuse_running_statistics(env: gym.Env, env_id: str) -> None:
    """Refuse an env that scales by what it has seen, in a wrapper (also one inside what was registered) or by itself.

    Such numbers are not saved with the policy. Each training env would have different ones, evaluation would start
    with fresh ones, and the reported returns would not be the env's.

    Raises:
        UsageError: naming the layer of the env, and the setting that does the same and is saved.
    """
    layer: Any = env
    while layer is not None:
        kind = type(layer)
        own = {key: value for key, value in _attributes(layer).items() if value is not getattr(layer, "env", None)}
        kept = [key for key, value in own.items() if _is_running_statistics(value) or _holds_running_statistics(value)]
        known = isinstance(layer, gym.wrappers.NormalizeObservation | gym.wrappers.NormalizeReward)
        if kept or known or own.keys() >= ARRAYS:
            raise UsageError(
                f"{env_id}: {kind.__name__} scales by running statistics of what it has seen, which are not saved with "
                f"the policy, so that it would be evaluated with others; {_instead(' '.join([kind.__name__, *kept]))}"
            )
        layer = layer.env if isinstance(layer, gym.Wrapper) else None


def _is_running_statistics(value: Any) -> bool:
    """Gymnasium's RunningMeanStd, and classes modelled on it."""
    names = ("update", "mean", "var", "count")
    return _bears_their_name(value) or all(hasattr(value, name) for name in names)


def _holds_running_statistics(value: Any) -> bool:
    """Whether they are one object deeper, or in a dict, a list or a tuple; by their class names."""
    own = _attributes(value)
    parts = value if isinstance(value, list | tuple) else own.values()
    return own.keys() >= ARRAYS or any(_bears_their_name(part) for part in islice(parts, MOST_PARTS))


def _attributes(thing: Any) -> Mapping[str, Any]:
    """An object's attributes, or a dict. A network's batch normalisation keeps its statistics elsewhere."""
    return thing if isinstance(thing, dict) else getattr(thing, "__dict__", {})


def _bears_their_name(value: Any) -> bool:
    return any("MeanStd" in kind.__name__ for kind in type(value).__mro__)


def _instead(words: str) -> str:
    """What to use instead of such a wrapper, by the words in its names."""
    small = words.lower()
    obs = "obs" in small or "state" in small
    rewards = any(word in small for word in ("reward", "return", "ret_"))
    settings = [name for name, named in (("obs", obs), ("reward", rewards)) if named] or ["obs", "reward"]
    flags = " and ".join(f"--{name}-scaling running" for name in settings)
    keywords = ", ".join(f'{name}_scaling="running"' for name in settings)
    return f"leave it out and use {flags} (from Python {keywords})"


def pictures_wanted(wrappers: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether one of them observes what the env draws, so that the env must be made to draw arrays.

    Raises:
        UsageError: as for `load_wrapper`.
    """
    return any(issubclass(load_wrapper(name), (Pixels, gym.wrappers.AddRenderObservation)) for name, _ in wrappers)


def apply_wrappers(env: gym.Env, wrappers: Sequence[tuple[str, Mapping[str, Any]]]) -> gym.Env:
    """The env inside its wrappers, the first innermost; each gets copies of its arguments.

    Raises:
        UsageError: a wrapper does not exist, or refuses this env or its arguments (with its own message), or stands
            behind FrameStack.
    """
    if "FrameStack" in [name for name, _ in wrappers[:-1]]:
        raise UsageError("FrameStack must be the last wrapper: storage makes its stacks again from single frames")
    for name, args in wrappers:
        wrapper = load_wrapper(name)
        try:
            env = wrapper(env, **copy.deepcopy(dict(args)))
        except BaseException as error:  # AssertionError, TypeError, DependencyNotInstalled: wrappers raise them all
            if stopped_by_user(error):
                raise
            why = (
                raised(error).why
                if isinstance(error, Hung)
                else message_of(error) or f"it does not suit {env.observation_space}"
            )
            raise UsageError(f"wrapper {name} cannot be applied to {env}: {why}") from error
    return env
