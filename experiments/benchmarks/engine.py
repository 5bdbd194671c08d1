"""What the engine gains: the same training as it is, compiled, with envs on the host and as tensors, on CPU and GPU.

DQN has 64-64 with LayerNorm, 8 envs a seed, one update of 128 rows a vector step, replay of 50 000; PPO 64-64, rollouts
of 128 x 8, 4 epochs x 4 minibatches; CartPole-v1, no judging. One process each. `seconds` are those that 50 000 env
steps of a seed take once all is running, from the slope between rows of the log (process time on the CPU, which other
programs on the machine disturb less; elapsed time on a GPU); `start` is what comes before: imports, compiling, the
first steps. `second_start` is that of a process that finds the code compiled. rejax is timed in turn where it is
installed.

    python -m rlab.experiments.benchmarks.engine [--small] [--seeds 1,10] [--out FILE]
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rlab.experiments.benchmarks.timing import record, seconds_per_env_step

STEPS = 50_000  # env steps that a result is stated for
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "dqn": {"batch_size": 128, "learn_every": 8, "updates_per_learn": 1, "replay_capacity": 50_000, "n_step": 1},
    "ppo": {"rollout_steps": 128, "epochs": 4, "minibatches": 4},
}
COMMON: Mapping[str, Any] = {
    "num_envs": 8,
    "hidden": (64, 64),
    "eval_every": 0,
    "final_eval_episodes": 0,
    "checkpoint_every": 10**9,
}
ENGINES: Mapping[str, Mapping[str, Any]] = {
    "host envs": {"vector": "native", "compile": "off"},
    "tensor envs": {"vector": "tensor", "compile": "off"},
    "host envs, compiled": {"vector": "native", "compile": "on"},
    "tensor envs, compiled": {"vector": "tensor", "compile": "on"},
}
LIMIT = 240.0  # seconds of one process


def measure(agent: str, device: str, seeds: int, engine: Mapping[str, Any], env_steps: int) -> dict[str, float]:
    """Train in this process; seconds of `STEPS` env steps in steady state, and of what comes before them."""
    began, clock = time.perf_counter(), time.perf_counter if device.startswith("cuda") else time.process_time
    import rlab

    class Watch(rlab.Listener):
        rows: ClassVar[list[tuple[int, float]]] = []

        def on_metrics(self, env_steps: int, metrics: Mapping[str, Any]) -> None:
            self.rows.append((env_steps, clock()))

    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            agent,
            "CartPole-v1",
            env_steps=env_steps,
            seeds=seeds,
            device=device,
            log_every=1024 * max(1, env_steps // 20_480),
            out=f"{folder}/run",
            listeners=[Watch()],
            **COMMON,
            **SETTINGS[agent],
            **engine,
        )
    seconds = seconds_per_env_step(Watch.rows) * STEPS
    whole = time.perf_counter() - began
    return {"seconds": seconds, "start": max(0.0, whole - seconds * env_steps / STEPS), "env_steps": env_steps}


def in_process(*words: str, threads: int = 1) -> dict[str, Any]:
    """`measure` in a process of its own; what went wrong where it failed or took too long."""
    root = str(Path(__file__).resolve().parents[2])  # the checkout; harmless where rlab is installed
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": root}
    command = [sys.executable, "-m", "rlab.experiments.benchmarks.engine", "--one", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"failed": f"took over {LIMIT:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode)}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


REJAX = """
import json, sys, time
import jax
from rejax import DQN, PPO
agent, seeds, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
shared = dict(env="CartPole-v1", total_timesteps=steps, eval_freq=steps, skip_initial_evaluation=True)
if agent == "dqn":
    algo = DQN.create(**shared, num_envs=8, batch_size=128, num_epochs=1, buffer_size=50_000, fill_buffer=1_000)
else:
    algo = PPO.create(**shared, num_envs=8, num_steps=128, num_epochs=4, num_minibatches=4)
run = jax.jit(jax.vmap(algo.train))
keys = jax.random.split(jax.random.PRNGKey(0), seeds)
times = []
for _ in range(2):
    began = time.perf_counter()
    jax.block_until_ready(run(keys))
    times.append(time.perf_counter() - began)
print(json.dumps({"seconds": times[1] * 50_000 / steps, "start": times[0] - times[1], "env_steps": steps}))
"""


def rejax(agent: str, seeds: int, env_steps: int) -> dict[str, Any]:
    """The same of rejax, whose whole run is one compiled program."""
    command = [sys.executable, "-c", REJAX, agent, str(seeds), str(env_steps)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"failed": f"took over {LIMIT:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Time, print, record."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a few thousand env steps, to see that all of it runs")
    parser.add_argument("--seeds", default=None, help="numbers of seeds, such as 1,10,100")
    parser.add_argument("--agents", default="dqn,ppo")
    parser.add_argument("--engines", default=None, help="some of: " + "; ".join(ENGINES))
    parser.add_argument("--out", default=None, help="where the result goes instead of beside this script")
    parser.add_argument("--one", nargs=5, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one is not None:
        agent, device, seeds, engine, env_steps = options.one
        print(json.dumps(measure(agent, device, int(seeds), ENGINES[engine], int(env_steps))))
        return
    gpu = torch.cuda.is_available()
    device, default = ("cuda", "1,10,100,1000") if gpu else ("cpu", "1,10")
    engines = options.engines.split("; ") if options.engines else list(ENGINES)
    rows = []
    for agent in options.agents.split(","):
        for seeds in map(int, (options.seeds or default).split(",")):
            for name in engines:
                if seeds > 100 and "host envs" in name:
                    continue  # the host would be what is measured
                steps = 4_096 if options.small else (100_000 if "compiled" in name else 30_000)
                row = in_process(agent, device, str(seeds), name, str(steps))
                if "compiled" in name and "start" in row:
                    again = in_process(agent, device, str(seeds), name, "4096")
                    row["second_start"] = again.get("start", again.get("failed"))
                rows.append({"agent": agent, "device": device, "seeds": seeds, "engine": name, **row})
                print(rows[-1], flush=True)
            if importlib.util.find_spec("rejax") is not None:
                row = rejax(agent, seeds, 8_192 if options.small else STEPS)
                rows.append({"agent": agent, "device": device, "seeds": seeds, "engine": "rejax", **row})
                print(rows[-1], flush=True)
    if options.out is None:
        record(__file__, {"rows": rows}, "gpu" if gpu else "")
    else:
        Path(options.out).write_text(json.dumps({"format": 1, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
