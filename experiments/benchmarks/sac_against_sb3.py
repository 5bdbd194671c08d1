"""rlab's SAC against Stable-Baselines3's at identical settings, one torch thread each, in turn.

Pendulum-v1, one env, one update for each env step from the 101st on, batches of 256; nets 256-256, SB3's default, and
64-64. Compared: one seed with one seed, and ten seeds in one process with ten runs one after another (one SB3 run is
timed and counted ten times). What is timed is the second half of every run, so that compiling and the first draws of
both are left out: seconds of the processor on a CPU, which other work on the machine changes less, and elapsed ones on
a GPU. Needs the extra `bench`.

    python -m rlab.experiments.benchmarks.sac_against_sb3 [--device cuda] [--engines compiled] [--nets 64]
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback

import rlab
from rlab.experiments.benchmarks.timing import ROUNDS, Moments, ratio, record, seconds_per_env_step

ENV_STEPS = 1_200
LEARNING_STARTS = 100  # env steps; SB3's default
LOG_EVERY = 100
ENGINES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {"vector": "sync", "compile": "off"},
    "compiled": {"vector": "sync", "compile": "on"},
    "compiled, tensor envs": {"vector": "tensor", "compile": "on"},
}


def clock(device: str) -> Callable[[], float]:
    """What is read for the time."""
    return time.process_time if device == "cpu" else time.perf_counter


def rlab_moments(hidden: tuple[int, ...], seeds: int, engine: str, device: str, env_steps: int) -> Moments:
    """SB3's defaults in rlab's words."""
    now = clock(device)

    class Watch(rlab.Listener):
        def on_metrics(self, env_steps: int, metrics: Mapping[str, Any]) -> None:
            moments.append((env_steps, now()))

    moments: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "sac",
            "Pendulum-v1",
            experiment="none",
            out=f"{folder}/run",
            seeds=seeds,
            env_steps=env_steps,
            device=device,
            num_envs=1,
            eval_every=0,
            final_eval_episodes=0,
            checkpoint_every=10**9,
            log_every=LOG_EVERY,
            learning_rate=3e-4,
            batch_size=256,
            replay_capacity=env_steps,
            learning_starts=LEARNING_STARTS,
            hidden=hidden,
            listeners=[Watch()],
            **ENGINES[engine],
        )
    return moments


def sb3_moments(hidden: tuple[int, ...], device: str, env_steps: int) -> Moments:
    """SB3's defaults, but for the size of replay, of which neither uses more."""
    now = clock(device)

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % LOG_EVERY == 0:
                moments.append((self.num_timesteps, now()))
            return True

    moments: list[tuple[int, float]] = []
    model = stable_baselines3.SAC(
        "MlpPolicy",
        gymnasium.make("Pendulum-v1"),
        buffer_size=env_steps,
        learning_starts=LEARNING_STARTS,
        policy_kwargs={"net_arch": list(hidden)},
        device=device,
        seed=0,
    )
    model.learn(env_steps, callback=Watch())
    return moments


def measure(
    hidden: tuple[int, ...], engines: Sequence[str], device: str, env_steps: int, rounds: int
) -> dict[str, Any]:
    """Seconds of a thousand env steps (of every seed) in each way, in turn, and how many times faster rlab's are."""
    ways = list(itertools.product(engines, (1, 10)))
    sb3: list[float] = []
    ours: dict[str, list[float]] = {f"{engine}, {seeds} seeds": [] for engine, seeds in ways}
    for _ in range(rounds):
        sb3.append(1_000 * seconds_per_env_step(sb3_moments(hidden, device, env_steps)))
        for engine, seeds in ways:
            found = seconds_per_env_step(rlab_moments(hidden, seeds, engine, device, env_steps))
            ours[f"{engine}, {seeds} seeds"].append(1_000 * found)
    faster = {
        f"{engine}, {seeds} seeds": ratio([seeds * each for each in sb3], ours[f"{engine}, {seeds} seeds"])
        for engine, seeds in ways
    }
    return {"seconds_per_1000_env_steps": {"sb3, 1 seed": sb3, **ours}, "times_faster": faster}


def main() -> None:
    """Time, print, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--env-steps", type=int, default=ENV_STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--engines", nargs="+", default=tuple(ENGINES), choices=tuple(ENGINES))
    parser.add_argument("--nets", type=int, nargs="+", default=(64, 256), help="widths of two equal layers")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # for both
    torch.set_num_threads(1)
    nets = {}
    for width in options.nets:
        name = f"{width}-{width}"
        nets[name] = measure((width, width), options.engines, options.device, options.env_steps, options.rounds)
        for way, times in nets[name]["times_faster"].items():
            print(f"net {name}, {way}: {times['median']:.2f}x", flush=True)
    said = {"sb3": stable_baselines3.__version__, "device": options.device, "env_steps": options.env_steps}
    record(__file__, {**said, "nets": nets}, "gpu" if options.device != "cpu" else "")


if __name__ == "__main__":
    main()
