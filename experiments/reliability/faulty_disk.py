"""A disk that breaks at one operation: stands in for functions of `os`, for what lies below one folder."""

import itertools
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rlab
from rlab.runs.folder import is_run

OPERATIONS = ("open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir")
READS = os.O_ACCMODE | os.O_CREAT
SHARED: dict[str, Any] = {
    "experiment": "none",
    "num_envs": 2,
    "hidden": (4,),
    "env_steps": 240,
    "checkpoint_every": 120,
}
SHARED |= {"log_every": 60, "eval_every": 120, "eval_episodes": 1, "final_eval_episodes": 1, "log_episodes": True}
REPLAY: dict[str, Any] = {"learning_starts": 40, "learn_every": 20, "batch_size": 4, "replay_capacity": 200}
ROLLOUT: dict[str, Any] = {"rollout_steps": 15}
WAYS = ("dqn", "ppo", "fine-tuning with a teacher")
Fault = Callable[[int, str, Callable[..., Any], tuple[Any, ...]], None]  # number, name, the real function, arguments


class Disk:
    """Counts the operations of this process below a folder, and asks before each of them."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self._folder, self._fault = str(folder), fault
        self._numbers = itertools.count()
        self._open: set[int] = set()

    def install(self) -> None:
        """From here on, in this process. Nothing waits for the disk: what was written outlives a process as it is."""
        os.fsync = lambda fd: None
        for name in OPERATIONS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        close = os.close

        def closed(fd: int) -> None:
            self._open.discard(fd)
            close(fd)

        os.close = closed

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            counts = self._concerns(name, args)
            if counts:
                self._fault(next(self._numbers), name, real, args)
            answer = real(*args, **kwargs)
            if name == "open" and counts:
                self._open.add(answer)
            return answer

        return operation

    def _concerns(self, name: str, args: tuple[Any, ...]) -> bool:
        if isinstance(args[0], int):
            return args[0] in self._open
        below = os.path.abspath(os.fspath(args[0])).startswith(self._folder)
        return below and (name != "open" or bool(args[1] & READS) or os.path.isdir(args[0]))


def go(way: str, path: Path, source: Path) -> None:
    """Train from where the folder is, to the end."""
    if is_run(path):
        rlab.resume(path)
    elif way == "dqn":
        rlab.train("dqn", "CartPole-v1", out=path, **SHARED, **REPLAY)
    elif way == "ppo":
        rlab.train("ppo", "CartPole-v1", out=path, **SHARED, **ROLLOUT)
    else:
        settings = {name: value for name, value in SHARED.items() if name != "hidden"}
        rlab.finetune(source, out=path, teacher=str(source), **settings, **REPLAY)


def in_a_process(do: Callable[[], Any]) -> int:
    """Call a function in a fork of this process; its exit code, which is 0 where it returns and 1 where it raises."""

    def run() -> None:
        try:
            do()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return int(process.exitcode or 0)


def emptied(path: Path) -> Path:
    """The path, with nothing there."""
    shutil.rmtree(path, ignore_errors=True)
    return path
