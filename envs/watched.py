"""A vector env of sub-envs that are watched and, where that is asked for, made again when they fail."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

from rlab.envs.atari import LIFE_LOST
from rlab.envs.checks import raised
from rlab.envs.sub_env import SubEnv, SubEnvError
from rlab.errors import RlabError
from rlab.places import warn
from rlab.randomness import env_seed

INTERRUPTED = 5.0  # seconds to close its env for one that is in the middle of something when the program ends


class Seat(Protocol):
    """One sub-env, in this process or in another."""

    @property
    def busy(self) -> bool:
        """Whether it was asked for something that it has not answered."""
        ...

    def send(self, command: str, *args: Any) -> None:
        """Ask for something."""
        ...

    def receive(self, at_most: float | None = None) -> Any:
        """The last of its answers to all that it was asked, within `at_most` seconds; None: as long as calls of its env
        may take.

        Raises:
            SubEnvError: its env failed.
        """
        ...

    def end(self) -> None:
        """Nothing more will be asked."""
        ...


class WatchedVectorEnv(gym.vector.VectorEnv):
    """Sub-envs that reset in the step that ends an episode (SAME_STEP). A failure raises `SubEnvError`.

    A sub-env that fails may be made again instead, in a fresh episode on a seed of its own. Its step is lost: its
    observation is that of the fresh episode, its reward is 0 and nothing has ended. `info["restarted"]` has the failure
    for each such row, `info[LIFE_LOST]` says which rows lost a life, where any did (see `SubEnv.life_lost`).

    Args:
        makers: of the sub-envs, as `workers.sub_env_maker` gives them.
        restarts: how often each of them is made again before it fails.
    """

    def __init__(self, makers: Sequence[Callable[[], SubEnv]], restarts: int = 0) -> None:
        self.num_envs, self._makers, self.most_restarts = len(makers), tuple(makers), restarts
        self.restarts = np.zeros(self.num_envs, np.int64)  # so far
        self.seeds: list[int | None] = [None] * self.num_envs  # of their last reset with a seed
        self._seats: list[Seat] = []
        self._obs: Any = None

    def _seat(self, index: int) -> Seat:
        """A sub-env that is being made."""
        raise NotImplementedError

    def _broke(self) -> None:
        """One of them has failed for good."""

    def _take_spaces(self, first: SubEnv) -> None:
        self._env_id = first.packing.env_id
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _open(self) -> None:
        with self._all_or_none():
            for index in range(self.num_envs):
                self._seats.append(self._seat(index))
            for seat in self._seats:
                seat.receive()

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every sub-env; `seed` has one seed for each, or is None."""
        seeds = [None] * self.num_envs if seed is None else seed
        self.seeds = [old if new is None else int(new) for old, new in zip(self.seeds, seeds, strict=True)]
        restarted: dict[int, SubEnvError] = {}
        with self._all_or_none():
            for seat, own in zip(self._seats, seeds, strict=True):
                seat.send("reset", own, options)
            for index, seat in enumerate(self._seats):
                try:
                    seat.receive()
                except SubEnvError as error:
                    restarted[index] = self._restart(index, error)
        return self._obs, {"restarted": restarted} if restarted else {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every sub-env; the observations are in memory that the next step writes to."""
        reward, final_obs = np.zeros(self.num_envs), np.full(self.num_envs, None, dtype=object)
        terminated, truncated, life_lost = np.zeros((3, self.num_envs), dtype=bool)
        restarted: dict[int, SubEnvError] = {}
        with self._all_or_none():
            for seat, action in zip(self._seats, iterate(self.action_space, actions), strict=True):
                seat.send("step", action)
            for i, seat in enumerate(self._seats):
                try:
                    reward[i], terminated[i], truncated[i], life_lost[i], final_obs[i] = seat.receive()
                except SubEnvError as error:
                    restarted[i] = self._restart(i, error)
        info: dict[str, Any] = {"restarted": restarted} if restarted else {}
        if life_lost.any():
            info[LIFE_LOST] = life_lost
        ended = terminated | truncated
        if ended.any():
            info |= {"final_obs": final_obs, "_final_obs": ended}
        return self._obs, reward, terminated, truncated, info

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """What the method of this name of every sub-env returns, called with arguments of its own."""
        with self._all_or_none():
            for seat, own in zip(self._seats, arguments, strict=True):
                seat.send("call", name, own)
            return tuple(seat.receive() for seat in self._seats)

    def _restart(self, index: int, error: SubEnvError) -> SubEnvError:
        """Make a sub-env again and begin an episode in it; returns how it failed.

        Raises:
            SubEnvError: it may not be made again any more.
        """
        failure = error
        while self.restarts[index] < self.most_restarts:
            self.restarts[index] += 1
            self._seats[index].end()
            try:
                seat = self._seats[index] = self._seat(index)
                seat.receive()
                # The numbers of its own seed are used by nothing else: it counts on from those.
                seat.send("reset", env_seed(self.seeds[index] or 0, index, int(self.restarts[index])), None)
                seat.receive()
                return failure
            except SubEnvError as again:
                error = again
        raise error

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        try:
            yield
        except SubEnvError:
            self._broke()
            raise

    def close_extras(self, terminate: bool = False) -> None:
        """Have the sub-envs close their envs, and end them; the first failure is a warning.

        Args:
            terminate: end them at once.
        """
        lines: list[str] = []
        busy = [seat.busy for seat in self._seats]
        for seat in self._seats:
            if not terminate:
                seat.send("close")
        for index, (seat, was_busy) in enumerate(zip(self._seats, busy, strict=True)):
            try:
                lines += [] if terminate else seat.receive(INTERRUPTED if was_busy else None)
            except SubEnvError as error:
                lines += [] if was_busy else [error.fault.line(self._env_id, f"in close of sub-env {index}", "")]
            seat.end()
        for line in lines[:1]:
            warn(line)


class WatchedSyncVectorEnv(WatchedVectorEnv):
    """All sub-envs in this process, one after the other."""

    def __init__(self, makers: Sequence[Callable[[], SubEnv]], restarts: int = 0) -> None:
        super().__init__(makers, restarts)
        self.envs = [make() for make in makers]
        self._take_spaces(self.envs[0])
        self._obs = create_empty_array(self.single_observation_space, n=self.num_envs, fn=np.zeros)
        self._seats = [_Here(index, env, self._obs) for index, env in enumerate(self.envs)]

    def _seat(self, index: int) -> Seat:
        with contextlib.suppress(RlabError):
            self.envs[index].close()  # a failure there is a warning
        try:
            self.envs[index] = self._makers[index]()
        except RlabError as error:
            raise SubEnvError(index, raised(error)) from error
        return _Here(index, self.envs[index], self._obs)


class _Here:
    """A sub-env in this process, which does what it is asked for when the answer is wanted."""

    busy = False

    def __init__(self, index: int, env: SubEnv, obs: Any) -> None:
        self._index, self._env, self._obs = index, env, obs
        self._asked: tuple[str, tuple[Any, ...]] | None = None

    def send(self, command: str, *args: Any) -> None:
        self._asked = (command, args)

    def receive(self, at_most: float | None = None) -> Any:
        if self._asked is None:
            return None  # it is made
        (command, args), self._asked = self._asked, None
        if command == "close":
            self._env.close()
            return []
        return answer(self._env, command, args, self._put, lambda: None)

    def end(self) -> None:
        """There is no process to end."""

    def _put(self, obs: Any) -> None:
        self._obs[self._index] = obs


def answer(
    env: SubEnv, command: str, args: tuple[Any, ...], put: Callable[[Any], None], another_call: Callable[[], None]
) -> Any:
    """What a sub-env answers to a command.

    Args:
        put: takes what is to be acted on next.
        another_call: called between a step and the reset behind it.
    """
    if command == "call":
        name, own = args
        return getattr(env, name)(*own)
    if command == "reset":
        put(env.reset(seed=args[0], options=args[1])[0])
        return None
    final_obs = None
    obs, reward, terminated, truncated, _ = env.step(*args)
    life_lost = env.life_lost
    if terminated or truncated:
        final_obs = obs
        another_call()
        obs, _ = env.reset()
    put(obs)
    return reward, terminated, truncated, life_lost, final_obs
