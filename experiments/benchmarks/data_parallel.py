"""What several processes gain that train one large learner together: seconds of 10 000 env steps, with one process and
with more.

PPO and double DQN with hidden layers of 1024-1024 on CartPole-v1, 16 envs, one thread a process, no judging: PPO with
rollouts of 128 x 16, 10 epochs x 4 minibatches; double DQN with one update of 512 rows a vector step. All processes are
on this machine, so that a figure means something where there is a free core for each. Elapsed time of training, from
`timing.jsonl`.

    python -m rlab.experiments.benchmarks.data_parallel [--small] [--processes 1,2] [--out FILE]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlab.experiments.benchmarks.timing import record, seconds_of_training

STEPS = 10_000  # env steps that a result is stated for
COMMON = [
    *("CartPole-v1", "--experiment", "none", "--vector", "native", "--compile", "off", "--device", "cpu"),
    *("--num-envs", "16", "--eval-every", "0", "--final-eval-episodes", "0", "--checkpoint-every", "1000000000"),
]
AGENTS: Mapping[str, tuple[str, ...]] = {
    "ppo": ("--rollout-steps", "128", "--epochs", "10", "--minibatches", "4"),
    "double_dqn": (
        "--batch-size",
        "512",
        "--learn-every",
        "16",
        "--updates-per-learn",
        "1",
        "--learning-starts",
        "512",
    ),
}


def seconds(agent: str, processes: int, env_steps: int, hidden: int) -> float:
    """Train, and give the seconds that `STEPS` env steps take."""
    root = str(Path(__file__).resolve().parents[2])  # the checkout; harmless where rlab is installed
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "rlab", "train", agent, *COMMON, *AGENTS[agent], "--hidden", str(hidden), str(hidden)]
        words += ["--env-steps", str(env_steps), "--log-every", str(env_steps), "--out", f"{folder}/run"]
        command = [sys.executable, *(together if processes > 1 else []), *words]
        subprocess.run(command, check=True, env=env, capture_output=True)
        return seconds_of_training(Path(folder, "run")) * STEPS / env_steps


def main(argv: Sequence[str] | None = None) -> None:
    """Time, print, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--small", action="store_true", help="one rollout of a small network, to see that all of it runs"
    )
    parser.add_argument("--processes", default="1,2", help="numbers of processes, the first of them to compare with")
    parser.add_argument("--out", default=None, help="where the result goes instead of beside this script")
    options = parser.parse_args(argv)
    env_steps, hidden = (2_048, 16) if options.small else (4_096, 1024)
    rows: list[dict[str, Any]] = []
    for agent in AGENTS:
        first: float | None = None
        for processes in map(int, options.processes.split(",")):
            found = seconds(agent, processes, env_steps, hidden)
            first = first or found
            rows.append({"agent": agent, "processes": processes, "seconds": found, "times_as_fast": first / found})
            print(rows[-1], flush=True)
    record(__file__, {"env_steps": STEPS, "rows": rows}, out=None if options.out is None else Path(options.out))


if __name__ == "__main__":
    main()
