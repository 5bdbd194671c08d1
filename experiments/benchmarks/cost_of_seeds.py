"""What S seeds in one process cost, against one: the same DQN run with S = 1, 2, 5, 10, 20, 50, one torch thread.

python -m rlab.experiments.benchmarks.cost_of_seeds
"""

import statistics
import tempfile

import torch

import rlab
from rlab.experiments.benchmarks.timing import in_turn, record

SEEDS = (1, 2, 5, 10, 20, 50)


def train(seeds: int) -> None:
    """CartPole with the shipped settings of `dqn`, cut to 6 000 env steps; almost nothing is judged."""
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "dqn",
            "CartPole-v1",
            out=folder,
            seeds=seeds,
            env_steps=6_000,
            eval_every=6_000,
            eval_episodes=1,
            final_eval_episodes=0,
        )


def main() -> None:
    """Time, print, record."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    train(1)  # imports and first calls
    seconds = in_turn({str(seeds): lambda s=seeds: train(s) for seeds in SEEDS})  # type: ignore[misc]
    one = statistics.median(seconds["1"])
    times = {seeds: statistics.median(values) / one for seeds, values in seconds.items()}
    for seeds, cost in times.items():
        print(f"{seeds:>3} seeds cost {cost:5.2f} times one seed: {cost / int(seeds):.2f} a seed")
    record(__file__, {"seconds": seconds, "times_one_seed": times})


if __name__ == "__main__":
    main()
