"""From the shell prompt to a saved, solved CartPole policy: rlab's default command against SB3 with the zoo's settings.

Each run is a process of its own, imports included, one torch thread, in turn. rlab's ends with its judgement on 100
episodes; SB3's ends with `model.save`. Needs the extra `bench`.

    python -m rlab.experiments.benchmarks.main_job
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rlab.experiments.benchmarks.timing import in_turn, ratio, record

SB3 = """
import torch; torch.set_num_threads(1)
import sys
from stable_baselines3 import DQN
model = DQN("MlpPolicy", "CartPole-v1", learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000,
            gamma=0.99, target_update_interval=10, train_freq=256, gradient_steps=128, exploration_fraction=0.16,
            exploration_final_eps=0.04, policy_kwargs={"net_arch": [256, 256]}, device="cpu", seed=0)
model.learn(50_000)
model.save(sys.argv[1])
"""


def run_rlab(returns: list[float]) -> None:
    """The README's first command; the mean return of the policy that it saved is kept."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["rlab", "train", "dqn", "CartPole-v1", "--out", f"{folder}/run", "--json"]
        done = subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, env=environment())
        returns.append(json.loads(done.stdout)["per_seed"][0]["return_mean"])


def run_sb3() -> None:
    """The zoo's 50 000 steps."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", SB3, f"{folder}/model"], check=True, env=environment())


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])  # the checkout; harmless where rlab is installed
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}


def main() -> None:
    """Time, print, record."""
    returns: list[float] = []
    seconds = in_turn({"sb3": run_sb3, "rlab": lambda: run_rlab(returns)})
    share = ratio(seconds["rlab"], seconds["sb3"])
    print(f"rlab takes {share['median']:.2f} of SB3's time; its policies return {returns}")
    record(__file__, {"seconds": seconds, "rlab_share_of_sb3": share, "rlab_returns": returns})


if __name__ == "__main__":
    main()
