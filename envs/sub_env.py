"""`SubEnv`: one Gymnasium env as rlab plays it, in training, evaluation, recording and play.

It shares no memory with the env: actions go in as copies, observations come out as copies. Everything that the env
gives is checked (see `checks`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker

from rlab.envs import checks
from rlab.envs.atari import AtariFrames
from rlab.envs.checks import EnvError
from rlab.envs.gym_spaces import space_from_gym
from rlab.envs.obs_checks import obs_reader
from rlab.envs.obs_packing import MASK_METHOD, Packing, close_or_warn, layers, mask_method, plain_packing
from rlab.envs.own_globals import OwnGlobals, due_again, warn_of_generators
from rlab.envs.watch import ENV_TIMEOUT, watched
from rlab.errors import RlabError
from rlab.networks.limits import same_form
from rlab.networks.spaces import MASK_KEY, Leaf, Masked, choices

T = TypeVar("T")
LATE_MASK = (
    f"its info has an {MASK_KEY!r}, though that of its first reset and step had none; give one in every reset and step."
)


class SubEnvError(RlabError):
    """One sub-env failed; the error can be pickled, and so passed between processes.

    Args:
        index: counts over all sub-envs of the vector env.
        fault: what went wrong.
        line: the whole message, where the env is played alone.
    """

    def __init__(self, index: int, fault: EnvError, line: str = "") -> None:
        super().__init__(index, fault, line)
        self.index, self.fault, self.line = index, fault, line

    def __str__(self) -> str:
        return self.line or self.fault.line(f"sub-env {self.index}", "", "")


class SubEnv(gym.Wrapper):
    """An env whose observations are arrays, whose rewards are floats and whose infos are empty.

    Of an info only the mask of actions is used, which becomes a part of the observation: Gymnasium's vector envs would
    merge infos that do not fit each other, and let an env's own `final_obs` replace the
    last observation of an episode.

    Args:
        packing: of the observations; None: they are arrays of the env's own space.
        index: which one of the sub-envs of a vector env this is; errors carry it.
        env_id: the name that errors use.
        own: the globals with which `env` was made, where it may use global random generators.
        timeout: seconds that each call of the env may take.

    Raises:
        UsageError: observations are not arrays, and there is no packing for them.
    """

    packing: Packing

    def __init__(
        self,
        env: gym.Env,
        packing: Packing | None = None,
        index: int = 0,
        env_id: str = "the env",
        own: OwnGlobals | None = None,
        timeout: float = ENV_TIMEOUT,
    ) -> None:
        super().__init__(env)
        self.timeout = timeout
        self.packing = packing or plain_packing(env, env_id)
        self.index = index
        self._own = own or OwnGlobals(index)
        self._seed: int | None = None  # of the episode under way, and its steps so far
        self._steps = 0
        self._earlier = 0  # calls before the first step of the episode
        self._alone_until = 0  # step of the episode before which the env is called without its own globals
        self._other_spaces = _other_spaces(env, self.packing)
        space = self.packing.obs_space
        if not isinstance(space, Leaf):
            dtype = np.dtype(space.dtype)
            low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            self.observation_space = gym.spaces.Box(low, high, space.shape, dtype.type)
        self._read = obs_reader(space.obs if isinstance(space, Masked) else space)
        self._counts_lives = next((layer for layer in layers(env) if isinstance(layer, AtariFrames)), None)
        self._mask = _MaskReader(self.packing, space, env, self._limited) if isinstance(space, Masked) else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation of an episode.

        Raises:
            SubEnvError: the env raised, or gave something invalid.
        """
        self._earlier += self._steps + 1  # with this reset
        self._seed, self._steps = seed, 0
        if self._other_spaces is not None:  # raised here, since a worker process cannot report it when it makes its env
            raise self._failure(self._other_spaces)
        if seed is not None:
            self._own.seed(seed)
        try:
            obs, info = checks.reset_values(self._call(self.env.reset, seed=seed, options=options))
            return self._observe(obs, info), {}
        except EnvError as fault:
            raise self._failure(fault) from None
        except BaseException as error:  # an env may raise anything, such as sys.exit()
            raise self._broken(error) from error

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; the env gets a copy of `action`, which it may change or keep.

        Raises:
            SubEnvError: the env raised, or gave something invalid.
        """
        self._steps += 1
        try:
            lent = action.copy() if isinstance(action, np.ndarray) else action
            alone = self._steps < self._alone_until
            result = self._limited(self.env.step, lent) if alone else self._call(self.env.step, lent)
            obs, reward, terminated, truncated, info = checks.step_values(result)
            terminated, truncated = checks.flag("terminated", terminated), checks.flag("truncated", truncated)
            reward = checks.reward_number(reward)
            return self._observe(obs, info, terminated, truncated), reward, terminated, truncated, {}
        except EnvError as fault:
            raise self._failure(fault) from None
        except BaseException as error:
            raise self._broken(error) from error

    def render(self) -> Any:
        """The env's picture.

        Raises:
            SubEnvError: the env raised.
        """
        try:
            return self._limited(self.env.render)
        except BaseException as error:
            raise self._broken(error) from error

    @property
    def life_lost(self) -> bool:
        """Whether the last step lost a life that training counts as the end of an episode, and the game went on."""
        return self._counts_lives is not None and self._counts_lives.life_lost

    @property
    def generators_used(self) -> list[str]:
        """The global random generators that the env was seen to draw from while it was new."""
        return self._own.generators_used

    def close(self) -> None:
        """Close the env; a failure is a warning, since it does not affect what was played."""
        close_or_warn(self.env, self.packing.env_id, self.timeout)

    def _limited(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return watched(self.timeout, self._line, function, *args, **kwargs)

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """The result of a reset or step, called with the env's own globals where it needs them."""
        own, number = self._own, self._earlier + self._steps
        if due_again(number):
            own.look_again(self._seed)
        result = own.call(self._limited, function, *args, **kwargs)
        if own.idle:  # until the number is the next power of two
            self._alone_until = self._steps + (1 << number.bit_length()) - number
        else:
            self._alone_until = 0
            if self.index == 0:
                warn_of_generators(self.packing.env_id, own)
        return result

    def _failure(self, fault: EnvError) -> SubEnvError:
        return SubEnvError(self.index, fault, self._line(fault))

    def _broken(self, error: BaseException) -> BaseException:
        """What to raise for an error that the env raised: itself where the user interrupted the program."""
        return error if checks.stopped_by_user(error) else self._failure(checks.raised(error))

    def _line(self, fault: EnvError) -> str:
        unseeded = self._seed is None  # it began where the one before it had ended
        where = f"in an episode of sub-env {self.index}" if unseeded else f"in the episode of seed {self._seed}"
        return fault.line(self.packing.env_id, where, f"at step {self._steps}")

    def _observe(self, obs: Any, info: Mapping[str, Any], terminated: bool = False, truncated: bool = False) -> Any:
        if self._mask is None:
            if info and self.packing.seen and info.get(MASK_KEY) is not None:
                raise EnvError("mask", "failed", LATE_MASK)
            return self._read(obs)
        return self._mask.observe(self._read, obs, info, terminated, truncated)


class _MaskReader:
    """Appends the mask of actions to its observation."""

    def __init__(self, packing: Packing, space: Masked, env: gym.Env, limited: Callable[..., Any]) -> None:
        method = mask_method(env) if packing.mask_method else None
        self._method = None if method is None else partial(limited, method)
        self._in_info, self._size, self._dtype = packing.mask_in_info, space.size, np.dtype(space.dtype)
        parts = env.observation_space
        self._in_obs = not self._in_info and isinstance(parts, gym.spaces.Dict) and MASK_KEY in parts.spaces
        # where the bits of each choice begin
        self._first_bits = list(accumulate(choices(packing.action_space), initial=0))[:-1]

    def observe(self, read: Any, obs: Any, info: Mapping[str, Any], terminated: bool, truncated: bool) -> np.ndarray:
        """The observation and its mask as one row.

        Raises:
            EnvError: the mask is missing or does not fit, it allows nothing though the episode has not ended, or the
                env's method gives a different one.
        """
        mask, ended = info.get(MASK_KEY), terminated or truncated
        if self._in_obs and isinstance(obs, Mapping):
            mask = obs.get(MASK_KEY)
            obs = {name: part for name, part in obs.items() if name != MASK_KEY}
        features = np.ravel(read(obs))
        # A terminated episode needs no mask: no action is chosen any more. A truncated one does.
        if self._method is None or terminated:
            bits = self._bits(mask, ended)
        else:
            bits = self._allowed(self._method(), ended, MASK_METHOD)
            if mask is not None and (bits != self._allowed(mask, ended, MASK_KEY)).any():
                raise EnvError("mask", "failed", f"its {MASK_KEY} and its {MASK_METHOD} differ; give one of them.")
        return np.concatenate([features, bits], dtype=self._dtype, casting="unsafe")

    def _bits(self, mask: Any, ended: bool) -> np.ndarray:
        if mask is None and self._method is None and not (ended and self._in_info):
            place = "info" if self._in_info else "observation"
            earlier = ", though that of its first reset had one" if self._in_info else ""
            raise EnvError("mask", "failed", f"its {place} has no {MASK_KEY!r}{earlier}.")
        return np.ones(self._size, bool) if mask is None else self._allowed(mask, ended, MASK_KEY)

    def _allowed(self, mask: Any, ended: bool, name: str) -> np.ndarray:
        bits = checks.mask_bits(mask, self._size)
        if not np.logical_or.reduceat(bits, self._first_bits).all():
            if not ended:
                raise EnvError("mask", "failed", f"its {name} allows no action, though the episode goes on.")
            return np.zeros(self._size, bool)  # a mask that allows nothing for one choice allows nothing at all
        return bits


class InterfaceCheck(gym.Wrapper):
    """The innermost wrapper: checks the form of what `reset` and `step` return before other wrappers unpack it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return checks.reset_values(self.env.reset(seed=seed, options=options))

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        return checks.step_values(self.env.step(action))


def _other_spaces(env: gym.Env, packing: Packing) -> EnvError | None:
    """The fault where this instance of an env has other spaces than the first one."""
    pairs = (
        ("observation", env.observation_space, packing.obs_space),
        ("action", env.action_space, packing.action_space),
    )
    for name, gym_space, known in pairs:
        found = space_from_gym(gym_space, f"the {name} space of {packing.env_id}")
        # a mask outside the observation's own space
        expected = known.obs if isinstance(known, Masked) and not isinstance(found, Masked) else known
        if not same_form(found, expected):
            why = f"though another instance of it has {expected}; one env id has the same spaces every time"
            return EnvError("spaces", f"has the {name} space {found}", why)
    return None


def with_interface_check(env: gym.Env) -> gym.Env:
    """The env that `gymnasium.make` gave, with `InterfaceCheck` instead of Gymnasium's passive checker.

    That one checks the first step alone and mostly warns; `SubEnv` checks every step.
    """
    if isinstance(env, PassiveEnvChecker):
        return InterfaceCheck(env.env)
    outer = env
    while isinstance(outer, gym.Wrapper):
        if isinstance(outer.env, PassiveEnvChecker):
            outer.env = InterfaceCheck(outer.env.env)
            break
        outer = outer.env
    return env
