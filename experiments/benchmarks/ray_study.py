"""What a cluster costs, and whether a machine that vanishes changes a result: one population of `dqn` on CartPole-v1 in
four processes, with `--engine local` and with `--engine ray`, in turn.

The cluster is of this machine: a head and four node processes with two CPUs each, so that there is room for what a dead
node leaves behind; no more than two cores need be there. One node is killed when the first process has come half way.
Weights, curves and results of both runs must have the same bytes. The overhead is the time of the command on the
cluster, with everything that it does again, over that of the command on this machine. Starting the cluster does not
count: it is there before.

    python -m rlab.experiments.benchmarks.ray_study [--small]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlab.experiments.benchmarks.main_job import environment
from rlab.experiments.benchmarks.timing import record

JOBS, SEEDS = 4, 8
STEPS, SMALL_STEPS = 600_000, 8_192  # the first for about 5 minutes on two cores
ROOM: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextmanager
def cluster() -> Iterator[Any]:
    """A head without CPUs and a node for each process."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **ROOM})
    try:
        for _ in range(JOBS):
            found.add_node(num_cpus=2, **ROOM)
        yield found
    finally:
        found.shutdown()


def train(out: Path, env_steps: int, engine: str, address: str = "") -> tuple[float, str]:
    """Seconds of the command, and what it said."""
    words = ["train", "dqn", "CartPole-v1", "--seeds", str(SEEDS), "--jobs", str(JOBS), "--engine", engine]
    words += [
        "--env-steps",
        str(env_steps),
        "--eval-every",
        str(env_steps // 10),
        "--device",
        "cpu",
        "--compile",
        "off",
    ]
    words += ["--checkpoint-every", str(env_steps // 20), "--log-every", str(env_steps // 50), "--out", str(out)]
    env = {**environment(), "RAY_ADDRESS": address}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "rlab", *words], capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"rlab {' '.join(words)} failed: {done.stderr}")
    return time.perf_counter() - began, done.stderr


def kill_half_way(nodes: Any, run: Path, env_steps: int) -> None:
    """Kill a node as soon as the first process has logged half of the budget."""
    log = run / "parts" / "0" / "metrics.jsonl"
    while not log.is_file() or last_step(log) < env_steps / 2:
        time.sleep(0.1)
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)


def last_step(log: Path) -> int:
    """The clock of the last whole row."""
    rows = log.read_text().rpartition("\n")[0].splitlines()[1:]
    return int(json.loads(rows[-1])["env_steps"]) if rows else 0


def differences(first: Path, second: Path) -> list[str]:
    """The files of two runs that should be equal and are not."""
    weights = sorted(path.relative_to(first).as_posix() for path in first.glob("*/*.safetensors"))
    names = ["metrics.jsonl", "eval.jsonl", "result.json", *weights]
    return [n for n in names if not (second / n).is_file() or (first / n).read_bytes() != (second / n).read_bytes()]


def study(env_steps: int) -> dict[str, Any]:
    """Train both ways, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        local, ray = Path(folder) / "local", Path(folder) / "ray"
        local_seconds, _ = train(local, env_steps, "local")
        with cluster() as nodes:
            killer = threading.Thread(target=kill_half_way, args=(nodes, ray, env_steps), daemon=True)
            killer.start()
            ray_seconds, said = train(ray, env_steps, "ray", nodes.address)
        return {
            "command": f"rlab train dqn CartPole-v1 --seeds {SEEDS} --jobs {JOBS} --env-steps {env_steps}",
            "local_seconds": round(local_seconds, 1),
            "ray_seconds": round(ray_seconds, 1),
            "overhead": round(ray_seconds / local_seconds - 1.0, 3),
            "run_again": [line for line in said.splitlines() if "runs again" in line],
            "files_that_differ": differences(local, ray),
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a few thousand env steps, to see that all of it runs")
    parser.add_argument("--env-steps", type=int, default=None, help="the budget of each seed")
    parser.add_argument("--out", default=None, help="where the result goes instead of beside this script")
    options = parser.parse_args(argv)
    found = study(options.env_steps or (SMALL_STEPS if options.small else STEPS))
    print(json.dumps(found, indent=2))
    if options.out is not None or not options.small:
        record(__file__, found, out=None if options.out is None else Path(options.out))


if __name__ == "__main__":
    main()
