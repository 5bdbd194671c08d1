"""rlab's SAC against Stable-Baselines3's at identical settings, one torch thread each, in turn.

Pendulum-v1, one env, one update for each env step from the 101st on, batches of 256; nets 256-256, SB3's default, and
64-64. Compared: one seed with one seed, and ten seeds in one process with ten runs one after another (one SB3 run is
timed and counted ten times). Both numbers are of processor time too, which other work on the machine changes less.
Needs the extra `bench`.

    python -m rlab.experiments.benchmarks.sac_against_sb3
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import stable_baselines3
import torch

import rlab
from rlab.experiments.benchmarks.timing import ratio, record

ENV_STEPS = 600
LEARNING_STARTS = 100  # env steps; SB3's default
ROUNDS = 5


def train_rlab(hidden: tuple[int, ...], seeds: int) -> None:
    """SB3's defaults in rlab's words; judged once, by one episode, since SB3's run judges nothing."""
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "sac",
            "Pendulum-v1",
            experiment="none",
            out=folder,
            seeds=seeds,
            env_steps=ENV_STEPS,
            compile="off",
            device="cpu",
            vector="sync",
            num_envs=1,
            eval_every=ENV_STEPS,
            eval_episodes=1,
            final_eval_episodes=0,
            learning_rate=3e-4,
            batch_size=256,
            replay_capacity=ENV_STEPS,
            learning_starts=LEARNING_STARTS,
            hidden=hidden,
        )


def train_sb3(hidden: tuple[int, ...]) -> None:
    """SB3's defaults, but for the size of replay, of which neither uses more."""
    model = stable_baselines3.SAC(
        "MlpPolicy",
        gymnasium.make("Pendulum-v1"),
        buffer_size=ENV_STEPS,
        learning_starts=LEARNING_STARTS,
        policy_kwargs={"net_arch": list(hidden)},
        device="cpu",
        seed=0,
    )
    model.learn(ENV_STEPS)


def timed(things: dict[str, Callable[[], Any]]) -> dict[str, dict[str, list[float]]]:
    """Seconds by the clock and of the processor of each thing, one after another in every round."""
    found: dict[str, dict[str, list[float]]] = {"clock": {}, "processor": {}}
    for _ in range(ROUNDS):
        for name, thing in things.items():
            began, used = time.perf_counter(), time.process_time()
            thing()
            found["clock"].setdefault(name, []).append(time.perf_counter() - began)
            found["processor"].setdefault(name, []).append(time.process_time() - used)
    return found


def main() -> None:
    """Time, print, record."""
    torch.set_flush_denormal(True)  # for both
    torch.set_num_threads(1)
    nets: dict[str, dict[str, Any]] = {}
    for hidden in ((64, 64), (256, 256)):
        name = "-".join(map(str, hidden))
        things: dict[str, Callable[[], Any]] = {
            "sb3": lambda h=hidden: train_sb3(h),  # type: ignore[misc]
            "rlab_1": lambda h=hidden: train_rlab(h, 1),  # type: ignore[misc]
            "rlab_10": lambda h=hidden: train_rlab(h, 10),  # type: ignore[misc]
        }
        nets[name] = {}
        for kind, seconds in timed(things).items():
            one = ratio(seconds["sb3"], seconds["rlab_1"])
            ten = ratio([10 * s for s in seconds["sb3"]], seconds["rlab_10"])
            nets[name][kind] = {"seconds": seconds, "one_seed_times_faster": one, "ten_seeds_times_faster": ten}
            print(f"net {name}, {kind}: one seed {one['median']:.2f}x, ten {ten['median']:.2f}x", flush=True)
    record(__file__, {"sb3": stable_baselines3.__version__, "env_steps": ENV_STEPS, "nets": nets})


if __name__ == "__main__":
    main()
