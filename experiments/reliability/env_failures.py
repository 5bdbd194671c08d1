"""Envs that fail in every way and place: each is named in time, and leaves no process behind.

    python -m rlab.experiments.reliability.env_failures

Each case is a program of its own in whose env one instance raises, leaves, dies or hangs: `rlab train` with sync envs,
`rlab eval`, and the async vector env of training by itself, with each way of starting processes. Measured is the time
from that moment to the line that names it. Then programs with async envs are killed at once, some while their envs
hang, and the processes that are left 5 s later are counted. Left out are an env in the program's own process that kills
it with SIGKILL, since nothing is left that could say so, and one that hangs in C while it holds Python's lock.
`env_failures.result.json` is what came out.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

LIMIT = 0.3  # seconds, --env-timeout
SLACK = 1.0  # seconds behind it, within which a failure is named
ORPHANS_AFTER = 5.0  # seconds
KINDS = ("raise", "sys.exit", "os._exit", "SIGKILL", "sleep", "busy loop", "hang in C")
HANGS = KINDS[4:]
PLACES = ("constructor", "reset", "step", "close")
STARTS = ("fork", "spawn", "forkserver")
RESULT = Path(__file__).with_suffix(".result.json")

ENV = '''
import ctypes, multiprocessing, os, signal, sys, time
from pathlib import Path
import gymnasium as gym
import numpy as np

HERE = Path(__file__).parent
KIND, PLACE, MODE = (os.environ.get(name) for name in ("FAIL_KIND", "FAIL_PLACE", "FAIL_MODE"))
made = 0


def fail():
    (HERE / "failed").write_text(repr(time.time()))
    if KIND == "raise":
        raise ValueError("no more fuel")
    if KIND == "sys.exit":
        sys.exit(3)
    if KIND == "os._exit":
        os._exit(3)
    if KIND == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if KIND == "sleep":
        time.sleep(1000)
    while KIND == "busy loop":
        pass
    lock, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)  # a mutex of zeros, which can be locked once
    libc.pthread_mutex_lock(lock), libc.pthread_mutex_lock(lock)


def chosen():
    """The third instance of a process, behind the one that is looked at first; of workers the first that is made."""
    global made
    made += 1
    if MODE != "async":
        return made == 3
    try:
        return multiprocessing.parent_process() is not None and not (HERE / "chosen").touch(exist_ok=False)
    except FileExistsError:
        return False


class Failing(gym.Env):
    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.chosen, self.t = chosen(), 0
        with open(HERE / "pids", "a") as pids:
            print(os.getpid(), file=pids)
        self.at("constructor")

    def at(self, place):
        if self.chosen and place == PLACE:
            fail()

    def reset(self, *, seed=None, options=None):
        self.at("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == 3:
            self.at("step")
        return np.zeros(1, np.float32), 1.0, self.t % 5 == 0, False, {}

    def close(self):
        self.at("close")
'''

TRAIN = ["train", "ppo", "failing:Failing", "--env-steps", "32", "--num-envs", "2", "--rollout-steps", "8"]
TRAIN += ["--minibatches", "1", "--eval-every", "0", "--hidden", "4", "--out", "run"]
PROGRAM = "import multiprocessing, sys; multiprocessing.set_start_method(sys.argv[1]); "
PROGRAM += "from rlab.cli.main import main; sys.exit(main(sys.argv[2:]))"
PLAYER = """
import multiprocessing, sys
from pathlib import Path
import numpy as np
from rlab.envs import EnvSpec, make_vec
from rlab.errors import RlabError
multiprocessing.set_start_method(sys.argv[1])
try:
    env = make_vec(EnvSpec("failing:Failing", timeout=float(sys.argv[2])), (0,), 2, "async")
    env.reset()
    for _ in range(int(sys.argv[3])):
        env.step(np.zeros((1, 2), np.int64))
        Path("played").touch()
    env.close()
except RlabError as error:
    sys.exit(str(error))
"""

CAUSES = {
    "raise": r"no more fuel",
    "sys.exit": r"SystemExit: 3",
    "os._exit": r"(SystemExit: os\._exit\(3\)|its worker process died \(exit code 3\))",
    "SIGKILL": r"its worker process died \(exit code -9\)",
}
WHERE = {
    ("async", "constructor"): r"could not be started: sub-env [01] failed",
    ("sync", "constructor"): r"cannot be made",
    ("judging", "constructor"): r"cannot be made",
    ("judging", "reset"): r"in the episode of seed \d+ at step 0",
    ("judging", "step"): r"in the episode of seed \d+ at step 3",
    ("async", "reset"): r"in env [01] of seed 0 at vector step 0",
    ("sync", "reset"): r"in env [01] of seed 0 at vector step 0",
    ("async", "step"): r"in env [01] of seed 0 at vector step 3",
    ("sync", "step"): r"in env [01] of seed 0 at vector step 3",
}
IN_C = r"in an episode of sub-env \d+ at step \d+|in the episode of seed \d+ at step \d+|while it was made|in close"


@dataclass(frozen=True)
class Case:
    """One way to fail."""

    kind: str
    place: str
    mode: str  # async, sync or judging
    start: str = "fork"  # how worker processes are started

    def line(self, limit: float) -> re.Pattern[str]:
        """What a line that names it has in it, in this order; `limit`: seconds, --env-timeout."""
        cause = CAUSES.get(self.kind, rf"no answer for {limit:g} s")
        where = WHERE.get((self.mode, self.place), "failed in close")
        if self.kind == "hang in C" and self.mode != "async":
            where = IN_C
        return re.compile(f"failing:Failing.*({where}).*{cause}")


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    case: Case
    named_after: float | None  # seconds after it failed; None: it was not named
    exit_code: int
    left: int  # processes that were alive `ORPHANS_AFTER` s after the program's end

    @property
    def good(self) -> bool:
        """Whether it was named in time, and left nothing."""
        limit = SLACK + (LIMIT if self.case.kind in HANGS else 0.0)
        return self.named_after is not None and self.named_after <= limit and not self.left

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {**asdict(self.case), "named_after_s": self.named_after, "exit_code": self.exit_code, "left": self.left}


def cases() -> list[Case]:
    """All of them."""
    in_processes = [Case(kind, place, "async", start) for kind, place, start in product(KINDS, PLACES, STARTS)]
    here = [kind for kind in KINDS if kind != "SIGKILL"]
    return in_processes + [Case(kind, place, mode) for kind, place, mode in product(here, PLACES, ("sync", "judging"))]


def train(folder: Path) -> None:
    """A run in that folder, in which nothing fails, for judging to fail."""
    (folder / "failing.py").write_text(ENV)
    words = [*TRAIN, "--vector", "sync", "--final-eval-episodes", "0"]
    started(folder, "fork", words, Case("", "", "sync")).communicate()
    (folder / "pids").unlink()


def play(case: Case, folder: Path, limit: float = LIMIT) -> Outcome:
    """Run the program of a case in an empty folder, one that judges in a folder with a run; `limit`: seconds,
    --env-timeout."""
    (folder / "failing.py").write_text(ENV)
    wanted, named = case.line(limit), None
    if case.mode == "async":
        program = started(folder, case.start, [str(limit), "10"], case, PLAYER)
    else:
        words = [*TRAIN, "--vector", "sync", "--final-eval-episodes", "0"]
        words = words if case.mode == "sync" else ["eval", "run", "--episodes", "2", "--trust"]
        program = started(folder, case.start, [*words, "--env-timeout", str(limit)], case)
    assert program.stderr is not None
    with program.stderr as lines:
        for line in lines:
            if named is None and wanted.search(line):
                named = time.time() - float((folder / "failed").read_text())
    code = program.wait()
    return Outcome(case, named, code, len(_left(folder)))


def started(folder: Path, start: str, words: list[str], case: Case, program: str = PROGRAM) -> subprocess.Popen[str]:
    """A program of a case, with its standard error to be read."""
    told = {"FAIL_KIND": case.kind, "FAIL_PLACE": case.place, "FAIL_MODE": case.mode}
    return subprocess.Popen(
        [sys.executable, "-c", program, start, *words],
        cwd=folder,
        env={**os.environ, **told},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _left(folder: Path) -> list[int]:
    """The processes with envs that are alive, after as many seconds as they may take."""
    pids = {int(word) for word in (folder / "pids").read_text().split()}
    end = time.monotonic() + ORPHANS_AFTER
    while pids and time.monotonic() < end:
        pids = {pid for pid in pids if _alive(pid)}
        time.sleep(0.05)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return sorted(pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def orphans(kind: str, start: str, folder: Path) -> int:
    """How many workers live on 5 s after their parent was killed; `kind`: how one of them hangs, "" for none."""
    (folder / "failing.py").write_text(ENV)
    program = started(folder, start, ["3600", "1000000000"], Case(kind, "step", "async", start), PLAYER)
    mark = folder / ("failed" if kind else "played")
    while not mark.exists() and program.poll() is None:
        time.sleep(0.05)
    program.kill()
    told = program.communicate()[1]
    if not mark.exists():
        raise RuntimeError(f"the program ended by itself: {told}")
    return len(_left(folder))


def _played(case: Case, trained: Path) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        if case.mode == "judging":
            shutil.copytree(trained, folder, dirs_exist_ok=True)
        outcome = play(case, Path(folder))
    sys.stderr.write(f"{'good' if outcome.good else 'BAD '} {outcome.to_json()}\n")
    return outcome


def _killed(kind: str, start: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        left = {"hangs": kind, "start": start, "left": orphans(kind, start, Path(folder))}
    sys.stderr.write(f"killed: {left}\n")
    return left


def main(rounds: int = 9) -> None:
    """All cases, and `rounds` times twelve killed programs, two at a time; the record is written as it goes."""
    with tempfile.TemporaryDirectory() as trained, ThreadPoolExecutor(2) as two:
        train(Path(trained))
        found = list(two.map(lambda case: _played(case, Path(trained)), cases()))
        killed: list[dict[str, Any]] = []
        _write(found, killed)
        for one in two.map(lambda how: _killed(how[0], how[1]), product(("", *HANGS), STARTS, range(rounds))):
            killed.append(one)
            _write(found, killed)
    bad = sum(not outcome.good for outcome in found) + sum(one["left"] > 0 for one in killed)
    if bad:
        sys.exit(f"{bad} of {len(found) + len(killed)} were not named in time, or left a process")


def _write(found: list[Outcome], killed: list[dict[str, Any]]) -> None:
    record = {
        "format": 1,
        "limit_s": LIMIT,
        "cases": len(found),
        "named_in_time": sum(o.good for o in found),
        "slowest_s": max(o.named_after for o in found if o.named_after is not None),
        "killed_programs": len(killed),
        "with_orphans": sum(k["left"] > 0 for k in killed),
        "rows": [o.to_json() for o in found],
        "killed": killed,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
