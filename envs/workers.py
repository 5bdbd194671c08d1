"""Sub-envs in this process or in others, and an async vector env whose workers are watched."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
from gymnasium.vector.utils import (
    CloudpickleWrapper,
    clear_mpi_env_vars,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from rlab.envs.checks import EnvError, raised
from rlab.envs.obs_packing import Packing
from rlab.envs.orphans import die_with_parent
from rlab.envs.own_globals import OwnGlobals, seed_process
from rlab.envs.saved_sub_env import REPLAY_SECONDS, SavedSubEnv
from rlab.envs.sub_env import SubEnv, SubEnvError
from rlab.envs.watch import ENV_TIMEOUT, GRACE, too_late, when_lost
from rlab.envs.watched import Seat, WatchedVectorEnv, answer
from rlab.errors import RlabWarning

START_LIMIT = 120.0  # seconds in which a new process imports what it needs, before it makes its env


def sub_env_maker(
    make: Callable[[], gym.Env],
    index: int,
    packing: Packing | None = None,
    seed: int = 0,
    timeout: float = ENV_TIMEOUT,
) -> Callable[[], SavedSubEnv]:
    """A function that a vector env calls, here or in a worker process, to make its sub-env `index` (see `SubEnv`).

    Args:
        seed: of the global random generators while the env is made, of those of its own process, if any, and of its
            spaces.
        timeout: seconds that each call of the env may take.
    """
    parent = os.getpid()

    def make_sub_env() -> SavedSubEnv:
        alone = os.getpid() != parent
        if alone:
            seed_process(seed)
        own = OwnGlobals(seed)
        return SavedSubEnv(own.call(make), packing, index, own=own, timeout=timeout, alone=alone, seed=seed)

    return make_sub_env


class WatchedAsyncVectorEnv(WatchedVectorEnv):
    """A process for each sub-env, which is watched: one that dies, hangs or whose env raises is named in time.

    Args:
        makers, restarts: as of `WatchedVectorEnv`.
        time_limit: seconds for each constructor, reset, step and close of an env.
        context: how processes are started: fork, spawn or forkserver; None: as Python does.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], SubEnv]],
        time_limit: float = ENV_TIMEOUT,
        restarts: int = 0,
        context: str | None = None,
    ) -> None:
        super().__init__(makers, restarts)
        first = makers[0]()  # its spaces must be known before there is memory to be shared
        self._take_spaces(first)
        first.close()
        processes: Any = multiprocessing.get_context(context)  # Gymnasium declares the module
        self._time_limit, self._processes = time_limit, processes
        space = self.single_observation_space
        self._memory = create_shared_memory(space, n=self.num_envs, ctx=processes)
        self._obs = read_from_shared_memory(space, self._memory, n=self.num_envs)
        self._open()

    @property
    def processes(self) -> list[Any]:
        """Of the workers, in their order."""
        return [seat.process for seat in self._seats if isinstance(seat, _Worker)]

    def _seat(self, index: int) -> Seat:
        return _Worker(index, self._makers[index], self._memory, self._processes, self._time_limit)

    def _broke(self) -> None:
        self.close_extras(terminate=True)
        self.closed = True


class _Worker:
    """The parent's side of a process with one sub-env."""

    def __init__(self, index: int, make: Callable[[], SubEnv], memory: Any, context: Any, time_limit: float) -> None:
        self.index, self._limit = index, time_limit
        self.pipe, theirs = context.Pipe()
        lasts = threading.current_thread() is threading.main_thread()
        args = (index, CloudpickleWrapper(make), theirs, memory, os.getpid(), lasts)
        self.process = context.Process(target=_work, name=f"rlab env {index}", args=args, daemon=True)
        with clear_mpi_env_vars():
            self.process.start()
        # Before Python asks it to end, which it ignores, and waits.
        self._at_exit = Finalize(self, self.process.kill, exitpriority=10)
        theirs.close()
        self._asked = 1  # for its env
        self._deadline = time.monotonic() + START_LIMIT

    def send(self, command: str, *args: Any) -> None:
        """Ask for something."""
        with contextlib.suppress(OSError):  # it is dead, which `receive` says
            self.pipe.send((command, args))
        if not self._asked:
            # The worker itself notices most of what hangs. An episode that is played again makes many calls of its env.
            grace = GRACE + (REPLAY_SECONDS if command == "call" else 0.0)
            self._deadline = time.monotonic() + self._limit + grace
        self._asked += 1

    @property
    def busy(self) -> bool:
        """Whether it has not answered yet."""
        return self._asked > 0

    def receive(self, at_most: float | None = None) -> Any:
        """The last of its answers to all that it was asked.

        Args:
            at_most: seconds to wait for that; None: as long as calls of its env may take.

        Raises:
            SubEnvError: its env failed, it does not answer in time, or it has died.
        """
        end = None if at_most is None else time.monotonic() + at_most
        while True:
            now = time.monotonic()
            try:
                if not self.pipe.poll(max(0.0, (self._deadline if end is None else end) - now)):
                    raise self._failure(too_late(self._limit if at_most is None else at_most))
                kind, answer, *rest = self.pipe.recv()
            except (EOFError, OSError) as error:  # OSError: a pipe that broke
                self.process.join(1.0)  # one that has just closed its pipe may need a moment to be counted as dead
                code = self.process.exitcode
                raise self._failure(f"its worker process died (exit code {code})") from error
            if kind == "begun":  # another call of the env, at this time of the clock that all processes share
                self._deadline = answer + self._limit + GRACE
            elif kind == "failed":
                raise answer from RuntimeError(f"in the worker process:\n{rest[0]}")
            else:
                self._asked -= 1
                if not self._asked:
                    return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        self._at_exit.cancel()
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _failure(self, why: str) -> SubEnvError:
        return SubEnvError(self.index, EnvError("raised", "failed", why))


def _work(index: int, make: CloudpickleWrapper, pipe: Any, memory: Any, parent: int, lasts: bool) -> None:
    """The worker process: makes its env and does what it is asked for, until it is asked to close it."""
    # They may reach every process of a terminal or a job; the parent alone decides when its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(parent, lasts)
    when_lost(lambda line: None)  # the parent ends this process

    def another_call() -> None:
        pipe.send(("begun", time.monotonic()))

    def put(obs: Any) -> None:
        write_to_shared_memory(env.observation_space, index, obs, memory)

    try:
        another_call()
        env: Any = make()
        pipe.send(("done", None))
        while True:
            command, args = pipe.recv()
            if command == "close":
                pipe.send(("done", _closed(env)))
                return
            pipe.send(("done", answer(env, command, args, put, another_call)))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except BaseException as error:  # an env may raise anything
        failure = error if isinstance(error, SubEnvError) else SubEnvError(index, raised(error))
        pipe.send(("failed", failure, traceback.format_exc()))


def _closed(env: SubEnv) -> list[str]:
    """The warnings of closing an env, which the parent gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env.close()
    return [str(each.message) for each in caught if issubclass(each.category, RlabWarning)]
