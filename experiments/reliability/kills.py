"""SIGKILL at random instants: a run that is killed again and again becomes, to the bit, the run that never was.

Each way of training (`WAYS`) is trained once without a stop. Then it is trained in processes that are killed, half of
them at any instant and half while they write something of a save, and resumed until it is finished. After every kill
the newest checkpoint must be whole. At the end everything that was saved must equal that of the first run: weights,
optimizer, storage, envs, episodes, logs and curves.

    python -m rlab.experiments.reliability.kills [--kills N] [--leave-out draws] [--out FILE]

`--leave-out draws` is the control: the exploration of a resumed run begins its random stream anew, which must show.
"""

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import rlab
from rlab.draws import Draws
from rlab.errors import RlabError
from rlab.experiments.benchmarks.timing import record
from rlab.jobs.verify import saved_differences
from rlab.learning.loop import EnvLoop
from rlab.runs import files
from rlab.runs.checkpoint import has_checkpoint, load_checkpoint
from rlab.runs.folder import RunFolder, is_run

KILLS = 200  # of each way
INTERVAL = 120  # env steps between two checkpoints
SHARED: dict[str, Any] = {"experiment": "none", "seeds": 2, "num_envs": 4, "hidden": (8,), "env_steps": 800}
SHARED |= {"checkpoint_every": INTERVAL, "log_every": 40, "eval_every": 400, "eval_episodes": 1}
SHARED |= {"final_eval_episodes": 1, "log_episodes": True}
REPLAY = {"learning_starts": 80, "learn_every": 8, "batch_size": 8, "replay_capacity": 400}
RUNNING = {"rollout_steps": 15, "obs_scaling": "running", "reward_scaling": "running"}
WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dqn": ("dqn", "CartPole-v1", REPLAY),
    "double_dqn": ("double_dqn", "CartPole-v1", {**REPLAY, "vector": "tensor", "n_step": 3}),
    "reinforce": ("reinforce", "CartPole-v1", {"rollout_steps": 15}),
    "a2c": ("a2c", "Acrobot-v1", {**RUNNING, "vector": "sync"}),
    "ppo": ("ppo", "CartPole-v1", {**RUNNING, "vector": "sync"}),
}
HANGS = 120.0  # seconds after which a process is taken for hung


@dataclass
class Found:
    """What the kills of one way of training did."""

    kills: int = 0
    while_writing: int = 0  # of them, in the middle of writing a file
    runs: int = 0
    runs_lost: int = 0  # that could not be loaded or resumed
    runs_that_differ: int = 0  # from the one that was not killed
    oldest_checkpoint: int = 0  # env steps between the newest whole checkpoint and the kill, at most
    differences: tuple[str, ...] = ()  # the first of them


class Watch:
    """What a process that trains tells the one that kills it."""

    def __init__(self) -> None:
        self.clock, self.writes, self.writing = (multiprocessing.Value("q", 0, lock=False) for _ in range(3))

    def install(self) -> None:
        """In the process that trains: tell the clock, and how many files were begun and are being written."""
        write, look_in = files.write_bytes, EnvLoop._look_in

        def told_write(path: Path, data: bytes) -> None:
            self.writes.value += 1
            self.writing.value += 1
            write(path, data)
            self.writing.value -= 1

        def told_look_in(loop: EnvLoop) -> None:
            self.clock.value = loop.clock.env_steps
            look_in(loop)

        files.write_bytes = told_write
        EnvLoop._look_in = told_look_in  # type: ignore[method-assign, assignment]


def leave_out_draws() -> None:
    """The random stream of a resumed run begins anew: it must show."""
    load = Draws.load_state
    Draws.load_state = lambda draws, state: load(draws, {"draw": 0})  # type: ignore[method-assign, assignment]


CONTROLS: dict[str, Callable[[], None]] = {"draws": leave_out_draws}


def train_or_resume(way: str, path: Path, watch: Watch | None, control: str | None) -> None:
    """One process: train from where the folder is, to the end."""
    if watch is not None:
        watch.install()
    agent, env_id, settings = WAYS[way]
    try:
        if is_run(path):
            if control is not None:
                CONTROLS[control]()
            rlab.resume(path)
        else:
            rlab.train(agent, env_id, out=path, **{**SHARED, **settings})
    except BaseException as error:
        print(f"{path}: {type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)  # without what the parent's modules would do at their end


def killed_once(
    way: str, path: Path, chances: random.Random, typical: float, control: str | None, found: Found
) -> bool:
    """Start a process and kill it, at any instant or while it writes; whether it was killed before its end."""
    watch = Watch()
    context = multiprocessing.get_context("fork")  # torch is imported once
    process = context.Process(target=train_or_resume, args=(way, path, watch, control))
    process.start()
    ends = time.monotonic() + HANGS
    if chances.random() < 0.5:
        process.join(chances.expovariate(1 / typical))
    else:
        first = chances.randrange(1, 60)
        while process.is_alive() and watch.writes.value < first and time.monotonic() < ends:
            time.sleep(0.0002)
        process.join(chances.random() * 0.002)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        found.kills += 1
        found.while_writing += watch.writing.value > 0
        check_what_is_left(path, watch.clock.value, found)
        return True
    process.join(HANGS)
    if process.exitcode:
        raise RlabError(f"the process that trained {way} ended with exit code {process.exitcode}")
    return False


def check_what_is_left(path: Path, clock: int, found: Found) -> None:
    """The newest checkpoint can be read, storage and all; how old it is.

    Raises:
        RlabError: it cannot.
    """
    if not is_run(path):
        return  # killed before its folder was made
    folder, saved = RunFolder.open(path), 0
    if has_checkpoint(folder):
        state, chunks = load_checkpoint(folder)
        for chunk in chunks:
            chunk.arrays()
        saved = int(state["loop"]["env_steps"])
    found.oldest_checkpoint = max(found.oldest_checkpoint, clock - saved)


def import_once() -> None:
    """Import here what training imports when it is first used, so that no process has to."""
    for name in ("torch.utils.tensorboard.writer", "tensorboard.plugins.hparams.metadata"):
        importlib.import_module(name)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports the compiler


def uninterrupted(way: str, path: Path) -> float:
    """Train without a stop, in a process like those that are killed; the seconds that it took."""
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=train_or_resume, args=(way, path, None, None))
    process.start()
    process.join()
    if process.exitcode:
        raise RlabError(f"{way} could not be trained")
    return time.monotonic() - began


def study(way: str, kills: int, root: Path, control: str | None) -> Found:
    """Kill runs of one way until there are so many kills; every run is finished and compared."""
    chances, found = random.Random(f"{way}, {kills} kills"), Found()
    whole, path = root / way / "whole", root / way / "killed"
    typical = uninterrupted(way, whole) / 4
    while found.kills < kills:
        shutil.rmtree(path, ignore_errors=True)
        found.runs += 1
        try:
            of_this_run = 0
            while found.kills < kills and of_this_run < 12 and killed_once(way, path, chances, typical, control, found):
                of_this_run += 1
            uninterrupted_end(way, path, control)
            differences = tuple(saved_differences(RunFolder.open(whole), RunFolder.open(path)))
        except RlabError as error:
            found.runs_lost += 1
            found.differences = found.differences or (str(error),)
            continue
        found.runs_that_differ += bool(differences)
        found.differences = found.differences or differences[:5]
    return found


def uninterrupted_end(way: str, path: Path, control: str | None) -> None:
    """Resume a run to its end, where it has not come to it."""
    if is_run(path) and rlab.Run.open(path).finished:
        return
    process = multiprocessing.get_context("fork").Process(target=train_or_resume, args=(way, path, None, control))
    process.start()
    process.join(HANGS)
    if process.exitcode is None:
        process.kill()
    if process.exitcode != 0:
        raise RlabError(f"{path} could not be resumed")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study and print or record what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--leave-out", choices=CONTROLS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--out", type=Path, help="where to write the result; by default it is recorded beside this script"
    )
    options = parser.parse_args(argv)
    import_once()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rlab-kills-") as root:
        for way in options.ways:
            results[way] = asdict(study(way, options.kills, Path(root), options.leave_out))
            print(way, results[way], flush=True)
    record(__file__, {"interval": INTERVAL, "kills": options.kills, "ways": results}, out=options.out)


if __name__ == "__main__":
    main()
