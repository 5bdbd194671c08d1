"""How much faster many settings are tried as one stack: 32 learning rates x 4 seeds of DQN on CartPole in one process,
against one run after another.

python -m rlab.experiments.benchmarks.vectorised_search [--device cuda]

What runs one after another is timed for some of the learning rates in turn, and counted for all: how long a run takes
does not depend on its rate. Two ways are compared: a run for each seed, as most libraries have it, and a run of all
seeds for each rate, which rlab does anyway. Judging and saving are left out.
"""

import argparse
import shutil
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab.experiments.benchmarks.timing import ROUNDS, in_turn, ratio, record

RATES, SEEDS, ENV_STEPS = 32, 4, 20_000


def train(folder: Path, device: str, env_steps: int, seeds: int, rates: list[float]) -> None:
    """Train a stack of all seeds for each of these rates, with the settings tuned for CartPole."""
    quiet: dict[str, Any] = {"eval_every": 0, "final_eval_episodes": 0, "checkpoint_every": 10**9, "log_every": 10**6}
    vary = {"learning_rate": rates} if len(rates) > 1 else {}
    own: dict[str, Any] = {} if vary else {"learning_rate": rates[0]}
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    rlab.train(
        "dqn", "CartPole-v1", out=out, vary=vary, seeds=seeds, env_steps=env_steps, device=device, **quiet, **own
    )


def measure(
    rates: int = RATES, seeds: int = SEEDS, env_steps: int = ENV_STEPS, rounds: int = ROUNDS, device: str = "cpu"
) -> dict[str, Any]:
    """Seconds for all members in each way, and the ratios."""
    values = np.geomspace(1e-5, 1e-2, rates).tolist()
    middle = [values[rates // 2]]
    folder = Path(tempfile.mkdtemp())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a run this short may say that nothing was judged
            timed = in_turn(
                {
                    "one stack": partial(train, folder, device, env_steps, seeds, values),
                    "a run of all seeds": partial(train, folder, device, env_steps, seeds, middle),
                    "a run of one seed": partial(train, folder, device, env_steps, 1, middle),
                },
                rounds,
            )
    finally:
        shutil.rmtree(folder)
    seconds = {
        "one stack": timed["one stack"],
        "one run after another": [rates * seeds * each for each in timed["a run of one seed"]],
        "one stack of seeds after another": [rates * each for each in timed["a run of all seeds"]],
    }
    return {
        "rates": rates,
        "seeds": seeds,
        "env_steps": env_steps,
        "device": device,
        "seconds": seconds,
        "times_as_fast": ratio(seconds["one run after another"], seconds["one stack"]),
        "times_as_fast_as_stacks_of_seeds": ratio(seconds["one stack of seeds after another"], seconds["one stack"]),
    }


def main() -> None:
    """Time in turn, print, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--env-steps", type=int, default=ENV_STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    result = measure(env_steps=options.env_steps, rounds=options.rounds, device=options.device)
    print({name: f"{np.median(each):.1f} s" for name, each in result["seconds"].items()})
    print(result["times_as_fast"], result["times_as_fast_as_stacks_of_seeds"])
    record(__file__, result, "gpu" if options.device != "cpu" else "")


if __name__ == "__main__":
    main()
