"""Sub-envs in this process or in others, and an async vector env with time limits for them."""

import contextlib
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.async_vector_env import AsyncState

from rlab.envs.checks import EnvError
from rlab.envs.obs_packing import Packing
from rlab.envs.own_globals import OwnGlobals, ProcessGenerators
from rlab.envs.saved_sub_env import SavedSubEnv
from rlab.envs.sub_env import SubEnvError

STEP_TIME_LIMIT = 120.0  # seconds; no known env takes a minute for one step or reset
CLOSE_TIME_LIMIT = 5.0  # seconds that a worker has to close its env before it is killed


def sub_env_maker(
    make: Callable[[], gym.Env], index: int, packing: Packing | None = None, seed: int = 0
) -> Callable[[], gym.Env]:
    """A function that a vector env calls, here or in a worker process, to make its sub-env `index` (see `SubEnv`).

    Args:
        seed: of the global random generators while the env is made, and of those of its own process, if any.
    """
    parent = os.getpid()

    def make_sub_env() -> gym.Env:
        process = None
        if os.getpid() != parent:
            # Ctrl+C reaches every process of the terminal; the parent alone decides when its workers stop.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            process = ProcessGenerators(seed)
        own = OwnGlobals(seed)
        return SavedSubEnv(own.call(make), packing, index, own=own, process=process)

    return make_sub_env


class WatchedAsyncVectorEnv(gym.vector.AsyncVectorEnv):
    """Gymnasium's async vector env, with a time limit and clear errors for workers that die, hang or raise.

    Otherwise a hung env blocks its parent for ever, a killed worker is a bare `EOFError`, and an env that raises
    leaves the vector env half dead. Any of these ends all workers and raises `SubEnvError`.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], time_limit: float = STEP_TIME_LIMIT, **kwargs: Any
    ) -> None:
        self.time_limit = time_limit  # seconds, for one vector step or reset
        super().__init__(env_fns, **kwargs)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        with self._watched():
            self.step_async(actions)
            return self.step_wait(self.time_limit)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with self._watched():
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(self.time_limit)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What a method of each sub-env gives."""
        return self.call_each(name, [args] * self.num_envs, **kwargs)

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> tuple[Any, ...]:
        """What a method of each sub-env gives, called with arguments of its own."""
        with self._watched():
            self._assert_is_running()
            for pipe, args in zip(self.parent_pipes, arguments, strict=True):
                pipe.send(("_call", (name, args, kwargs)))
            self._state = AsyncState.WAITING_CALL
            return self.call_wait(self.time_limit)

    def _check_spaces(self) -> None:  # called last by the base class's constructor: the first contact with the workers
        with self._watched():
            super()._check_spaces()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except SubEnvError:
            self._kill()
            raise
        except (EOFError, OSError, multiprocessing.TimeoutError) as error:  # OSError: a pipe that broke
            failure = self._failure()
            self._kill()
            raise failure from error

    def _failure(self) -> SubEnvError:
        """Which worker is dead, or else which has not answered."""
        time.sleep(0.05)  # a process that has just closed its pipe may need a moment to be counted as dead
        for index, process in enumerate(self.processes):
            if process.exitcode is not None:
                return _broken(index, f"its worker process died (exit code {process.exitcode})")
        for index, pipe in enumerate(self.parent_pipes):
            if not pipe.poll(0):
                return _broken(index, f"no answer for {self.time_limit:g} s")
        return _broken(0, f"no complete answer for {self.time_limit:g} s")

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Called by the base class with every answer; it would print the traceback and keep the other workers."""
        if all(successes):
            return
        try:
            index, _, error, trace = self.error_queue.get(timeout=self.time_limit)
        except (queue.Empty, OSError) as lost:
            raise _broken(list(successes).index(False), "its worker failed without an error message") from lost
        failure = error if isinstance(error, SubEnvError) else _broken(index, f"{type(error).__name__}: {error}")
        raise failure from RuntimeError(f"in the worker process:\n{trace}")

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
        self.close()

    def close_extras(self, timeout: float | None = CLOSE_TIME_LIMIT, terminate: bool = False) -> None:
        """Ask the workers to close their envs, and kill those that have not after `timeout` seconds."""
        self._state = AsyncState.DEFAULT
        for pipe in self.parent_pipes:
            with contextlib.suppress(OSError):  # its worker is dead
                if not terminate:
                    pipe.send(("close", None))
        deadline = time.monotonic() + (0.0 if terminate else timeout or CLOSE_TIME_LIMIT)
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.parent_pipes:
            pipe.close()
        self.error_queue.close()
        self.error_queue.cancel_join_thread()


def _broken(index: int, why: str) -> SubEnvError:
    return SubEnvError(index, EnvError("raised", "failed", why))
