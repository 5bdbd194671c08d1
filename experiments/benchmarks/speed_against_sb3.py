"""rlab's DQN against Stable-Baselines3's at identical settings, one torch thread each, in turn.

The settings are the RL Zoo's for CartPole-v1 with net 64-64 and 256-256: 12 000 env steps, 5 504 updates of 64
transitions, one env. Compared: one seed with one seed, and ten seeds in one process with ten runs one after another
(one SB3 run is timed and counted ten times). Needs the extra `bench`.

A compiled run is timed at 12 000 and at 48 000 env steps: their difference is what it takes once it is compiled. What
compiling takes when nothing is cached is measured in a process of its own, once, and counted in a run of 500 000 env
steps, which is worked out from these and not run.

    python -m rlab.experiments.benchmarks.speed_against_sb3
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import stable_baselines3
import torch

import rlab
from rlab.experiments.benchmarks.timing import in_turn, ratio, record

ENV_STEPS = 12_000
LONGER = 4  # times as many
LONG = 500_000  # env steps


def train_rlab(hidden: tuple[int, ...], seeds: int, compile: str = "off", env_steps: int = ENV_STEPS) -> None:
    """The zoo's settings in rlab's words; judged once, by one episode, since SB3's run judges nothing."""
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "dqn",
            "CartPole-v1",
            experiment="none",
            out=folder,
            seeds=seeds,
            env_steps=env_steps,
            compile=compile,
            device="cpu",
            num_envs=1,
            eval_every=env_steps,
            eval_episodes=1,
            final_eval_episodes=0,
            learning_rate=2.3e-3,
            batch_size=64,
            replay_capacity=100_000,
            learning_starts=1_000,
            learn_every=256,
            updates_per_learn=128,
            target_every=10,
            epsilon_end=0.04,
            epsilon_fraction=0.16,
            hidden=hidden,
            layer_norm=False,
            optimizer_eps=1e-8,
        )


def train_sb3(hidden: tuple[int, ...]) -> None:
    """The zoo's settings in SB3's words."""
    model = stable_baselines3.DQN(
        "MlpPolicy",
        gymnasium.make("CartPole-v1"),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": list(hidden)},
        device="cpu",
        seed=0,
    )
    model.learn(ENV_STEPS)


def compiled(hidden: tuple[int, ...], seeds: int) -> dict[str, Any]:
    """How much faster rlab is compiled, for so many seeds against as many SB3 runs."""
    cold = seconds_of_first_start(hidden, seeds)
    train_rlab(hidden, seeds, "on")  # compiles, for the runs below to find in the cache
    seconds = in_turn(
        {
            "sb3": lambda: train_sb3(hidden),
            "rlab": lambda: train_rlab(hidden, seeds, "on"),
            "rlab_longer": lambda: train_rlab(hidden, seeds, "on", LONGER * ENV_STEPS),
        }
    )
    runs = [seeds * each for each in seconds["sb3"]]
    pairs = zip(seconds["rlab"], seconds["rlab_longer"], strict=True)
    steady = [(longer - short) / (LONGER - 1) for short, longer in pairs]
    share = LONG / ENV_STEPS
    whole = [cold + (share - 1) * each for each in steady]
    found = {
        "seconds": seconds,
        "first_start_seconds": cold,
        "times_faster_once_compiled": ratio(runs, steady),
        f"times_faster_in_{LONG}_env_steps": statistics.median(share * a / b for a, b in zip(runs, whole, strict=True)),
    }
    print(f"  compiled, {seeds} seeds: {found}", flush=True)
    return found


def seconds_of_first_start(hidden: tuple[int, ...], seeds: int) -> float:
    """Seconds of `ENV_STEPS` env steps where nothing is compiled yet."""
    code = (
        "import time, torch; torch.set_num_threads(1)\n"
        "from rlab.experiments.benchmarks.speed_against_sb3 import train_rlab\n"
        f"began = time.perf_counter(); train_rlab({hidden}, {seeds}, 'on'); print(time.perf_counter() - began)"
    )
    root = str(Path(__file__).resolve().parents[2])  # the checkout; harmless where rlab is installed
    paths = os.pathsep.join([root, *sys.path[1:]])
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    found: float = json.loads(done.stdout.split()[-1])
    return found


def main() -> None:
    """Time, print, record."""
    torch.set_flush_denormal(True)  # for both: SB3 gains a fifth from it
    torch.set_num_threads(1)
    nets = {}
    for hidden in ((64, 64), (256, 256)):
        name = "-".join(map(str, hidden))
        seconds = in_turn(
            {
                "sb3": lambda h=hidden: train_sb3(h),  # type: ignore[misc]
                "rlab_1": lambda h=hidden: train_rlab(h, 1),  # type: ignore[misc]
                "rlab_10": lambda h=hidden: train_rlab(h, 10),  # type: ignore[misc]
            }
        )
        one = ratio(seconds["sb3"], seconds["rlab_1"])
        ten = ratio([10 * s for s in seconds["sb3"]], seconds["rlab_10"])
        nets[name] = {"seconds": seconds, "one_seed_times_faster": one, "ten_seeds_times_faster": ten}
        print(f"net {name}: one seed {one['median']:.2f}x, ten seeds {ten['median']:.1f}x", flush=True)
        nets[name]["compiled"] = {str(seeds): compiled(hidden, seeds) for seeds in (1, 10)}
    record(__file__, {"sb3": stable_baselines3.__version__, "nets": nets})


if __name__ == "__main__":
    main()
