"""What checkpoints cost a run: how long training stands still for one, how much memory that takes, and its share of the
time of the main job.

The first two are of runs that fill their storage and learn nothing, each in a process of its own: `dqn` with a replay
of 1 000 000 transitions of CartPole-v1, for one seed and for ten, and of 100 000 images of 84 x 84. A listener notes
when episodes end, which they do every few vector steps: the longest pause between two of them in a run that saves ten
times, beside that in a run that saves once, when it is over. Extra memory is the difference of the most that both
processes had. A pause may have other causes; it bounds that for a save from above.

The share of the main job, `dqn CartPole-v1 --seeds 10` with a checkpoint every 10 000 env steps, is the ratio of the
seconds of training to those of a run that saves at its end alone, in turn.

    python -m rlab.experiments.benchmarks.checkpoints
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import rlab
from rlab.experiments.benchmarks.main_job import environment
from rlab.experiments.benchmarks.timing import in_turn, ratio, record, seconds_of_training

SAVES = 10
NEVER = 10**9  # env steps, which no run here comes to
MAIN_STEPS, MAIN_ROUNDS = 20_000, 3
QUIET: dict[str, Any] = {"eval_every": 0, "final_eval_episodes": 0, "device": "cpu", "compile": "off"}


@dataclass(frozen=True)
class Case:
    """A storage that is filled once."""

    name: str
    images: bool
    transitions: int  # of each seed
    seeds: int


CASES = (
    Case("CartPole, 1 000 000 transitions", False, 1_000_000, 1),
    Case("CartPole, 1 000 000 transitions of each of ten seeds", False, 1_000_000, 10),
    Case("100 000 images of 84 x 84", True, 100_000, 1),
)


class Pauses(rlab.Listener):
    """The longest pause between two moments at which episodes ended, which they do every few vector steps."""

    def __init__(self) -> None:
        self.longest, self._last = 0.0, 0.0

    def on_episode(self, episode: Any) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - (self._last or now))
        self._last = now


class Images(gym.Env):
    """Shows pictures of noise, and ends every 20 steps."""

    observation_space = gym.spaces.Box(0, 255, (84, 84), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self._pictures = np.random.default_rng(0).integers(0, 256, (256, 84, 84), np.uint8)
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._pictures[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        return self._pictures[self._t % 256], 1.0, self._t % 20 == 0, False, {}


def fill(case: Case, saves: int) -> dict[str, float]:
    """Run one case in this process: its longest pause in seconds, and the most memory in MiB."""
    pauses = Pauses()
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "dqn",
            Images if case.images else "CartPole-v1",
            out=folder,
            experiment="none",
            env_steps=case.transitions,
            seeds=case.seeds,
            num_envs=8 if case.images else 64,
            replay_capacity=case.transitions,
            learning_starts=NEVER,
            hidden=(8,),
            listeners=[pauses],
            log_every=case.transitions // SAVES,
            checkpoint_every=case.transitions // saves if saves > 1 else NEVER,
            **QUIET,
        )
    return {"longest_pause": pauses.longest, "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measured(case: Case) -> dict[str, Any]:
    """Both runs of a case, each in a process of its own."""
    words = [sys.executable, "-m", __spec__.name if __spec__ else __name__, json.dumps(asdict(case))]
    runs = {}
    for name, saves in (("saves ten times", SAVES), ("saves once", 1)):
        done = subprocess.run([*words, str(saves)], check=True, capture_output=True, env=environment())
        runs[name] = json.loads(done.stdout.splitlines()[-1])
    extra = runs["saves ten times"]["memory_mib"] - runs["saves once"]["memory_mib"]
    return {"case": case.name, **runs, "extra_memory_mib": extra}


def main_job(checkpoint_every: int, seconds: list[float]) -> None:
    """The main job, whose seconds of training are kept."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["rlab", "train", "dqn", "CartPole-v1", "--seeds", "10", "--env-steps", str(MAIN_STEPS)]
        words += ["--checkpoint-every", str(checkpoint_every), "--final-eval-episodes", "0", "--out", f"{folder}/run"]
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, env=environment())
        seconds.append(seconds_of_training(Path(folder) / "run"))


def main() -> None:
    """Measure, print, record."""
    if len(sys.argv) > 1:
        print(json.dumps(fill(Case(**json.loads(sys.argv[1])), int(sys.argv[2]))))
        return
    rows = []
    for case in CASES:
        rows.append(measured(case))
        print(json.dumps(rows[-1]), flush=True)
    seconds: dict[str, list[float]] = {"every 10 000": [], "at the end": []}
    jobs: dict[str, Callable[[], Any]] = {
        "every 10 000": lambda: main_job(10_000, seconds["every 10 000"]),
        "at the end": lambda: main_job(NEVER, seconds["at the end"]),
    }
    in_turn(jobs, MAIN_ROUNDS)
    cost = ratio(seconds["every 10 000"], seconds["at the end"])
    print(f"a checkpoint every 10 000 env steps takes {cost['median'] - 1:.1%} of the main job's time")
    record(__file__, {"storages": rows, "main_job_seconds": seconds, "main_job_ratio": cost})


if __name__ == "__main__":
    main()
