"""This clone of rlab against another one, such as an older commit: training, judging and recording, each in
processes of their own, in turn, with one torch thread. Seconds are those of the CPU, so that what else a machine does
counts little.

Each clone needs an environment of its own (`make .venv/ready` there), since rlab is installed editable.

    git worktree add ../older COMMIT && make -C ../older .venv/ready
    python -m rlab.experiments.benchmarks.against_clone ../older
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlab.experiments.benchmarks.timing import ROUNDS, ratio, record

PRELUDE = """
import tempfile, time, warnings
warnings.simplefilter("ignore")
import rlab
out = tempfile.mkdtemp() + "/run"
quiet = {"eval_every": 0, "final_eval_episodes": 0, "log_every": 10**6, "checkpoint_every": 10**6}
def timed(call):
    began = time.process_time()
    call()
    print(time.process_time() - began)
"""
# A short run first: what is imported and compiled once does not count.
TRAIN = """
settings = {settings}
rlab.train({agent!r}, {env!r}, **settings, **quiet, env_steps=2_000, out=out + "-first")
timed(lambda: rlab.train({agent!r}, {env!r}, **settings, **quiet, env_steps={env_steps}, out=out))
"""
JUDGED = """
rlab.train("dqn", "CartPole-v1", seeds=10, env_steps=4_000, out=out, **quiet)
timed(lambda: {call})
"""
# what -> a script that prints the seconds of what is measured, without imports and preparation
SCRIPTS = {
    "dqn CartPole, 1 seed": TRAIN.format(agent="dqn", env="CartPole-v1", settings={}, env_steps=20_000),
    "dqn CartPole, 10 seeds": TRAIN.format(agent="dqn", env="CartPole-v1", settings={"seeds": 10}, env_steps=20_000),
    "ppo CartPole, 1 seed": TRAIN.format(agent="ppo", env="CartPole-v1", settings={}, env_steps=40_000),
    "ppo Pendulum, 10 seeds": TRAIN.format(agent="ppo", env="Pendulum-v1", settings={"seeds": 10}, env_steps=20_000),
    "a2c CartPole, 1 seed": TRAIN.format(agent="a2c", env="CartPole-v1", settings={}, env_steps=20_000),
    "evaluate, 10 members": JUDGED.format(call="rlab.evaluate(out, episodes=100)"),
    "collect, 40 episodes": JUDGED.format(call="rlab.collect(out, out + '-data', episodes=40)"),
}


def seconds_in(clone: Path, script: str) -> float:
    """What a script prints when it is run in a clone, with the clone's own Python."""
    python, environment = clone / ".venv" / "bin" / "python", {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", PRELUDE + script], cwd=clone, env=environment, capture_output=True, check=True)
    return float(done.stdout.split()[-1])


def main(other: str, rounds: int = ROUNDS) -> None:
    """Time, print, record."""
    here, there = Path(__file__).resolve().parents[2], Path(other).resolve()
    found: dict[str, Any] = {}
    for what, script in SCRIPTS.items():
        pairs = [(seconds_in(here, script), seconds_in(there, script)) for _ in range(rounds)]
        seconds = {"this": [a for a, _ in pairs], "other": [b for _, b in pairs]}
        speed = ratio(seconds["other"], seconds["this"])
        found[what] = {"seconds": seconds, "speed_of_other": speed}
        print(f"{what}: {speed['median']:.3f} times the other clone's speed", flush=True)
    record(__file__, {"this": _commit(here), "other": _commit(there), "found": found})


def _commit(clone: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS)
