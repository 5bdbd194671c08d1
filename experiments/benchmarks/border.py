"""What it costs to check and copy everything that crosses the border to an env: its share of a training run.

Two runs of `dqn` with its shipped settings for CartPole-v1, 8 envs, one seed: native, and through `--vector sync`,
where each env is Python. The whole is the seconds of training by the run's own clock, per vector step: acting, env
steps, storing and updates. The checks are timed by themselves, on what such a vector step hands over:

- once for the batch: `BatchCheck.step` (shapes, dtypes, numbers that float32 holds, copies of all arrays), the copy of
  the actions and the collector's two copies of the observations;
- with sync for each of the 8 envs: `SubEnv.step` around an env that does nothing, less that env's own step. A part of
  it is not checking: SubEnv also names who failed.

    python -m rlab.experiments.benchmarks.border
"""

import statistics
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import rlab
from rlab.envs import SubEnv
from rlab.envs.batch_checks import BatchCheck
from rlab.envs.gym_spaces import array_space_from_gym
from rlab.envs.sub_env import InterfaceCheck
from rlab.experiments.benchmarks.timing import ROUNDS, record, seconds_of_training

NUM_ENVS = 8
ENV_STEPS = 40_000
CALLS = 20_000  # of what is timed by itself
SPACE = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)  # CartPole's, but for its bounds


class Idle(gym.Env):
    """Does nothing, so that all of a step's time is that of what is around it."""

    observation_space, action_space = SPACE, gym.spaces.Discrete(2)
    result: tuple[Any, ...] = (np.zeros(4, np.float32), 1.0, False, False, {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.result[0], {}

    def step(self, action: Any) -> Any:
        return self.result


class IdleWithDoubles(Idle):
    """Gives float64 for float32, as many an env does."""

    result: tuple[Any, ...] = (np.zeros(4), 1.0, False, False, {})


def vector_step(vector: str) -> float:
    """Microseconds of a whole vector step of training."""
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "dqn",
            "CartPole-v1",
            out=folder,
            env_steps=ENV_STEPS,
            num_envs=NUM_ENVS,
            vector=vector,
            device="cpu",
            eval_every=ENV_STEPS,
            eval_episodes=1,
            final_eval_episodes=0,
        )
        return 1e6 * seconds_of_training(Path(folder)) / (ENV_STEPS / NUM_ENVS)


def per_call(thing: Callable[[], Any]) -> float:
    """Microseconds of one call."""
    return 1e6 * timeit.timeit(thing, number=CALLS) / CALLS


def batch_checks() -> float:
    """Microseconds of all that is done once for a vector step."""
    check = BatchCheck(NUM_ENVS, array_space_from_gym(SPACE, "CartPole"), looks_inside=True)
    obs, ended = np.zeros((NUM_ENVS, 4), np.float32), np.zeros(NUM_ENVS, bool)
    result: tuple[Any, ...] = (obs, np.ones(NUM_ENVS, np.float32), ended, ended, {})
    action = np.zeros(NUM_ENVS, np.int64)
    return per_call(lambda: check.step(result)) + per_call(action.copy) + 2 * per_call(obs.copy)


def single_checks(env: gym.Env) -> float:
    """Microseconds of what is done for one env of Python in each of its steps."""
    guarded = SubEnv(InterfaceCheck(env))
    guarded.reset(seed=0)
    return per_call(lambda: guarded.step(0)) - per_call(lambda: env.step(0))


def main() -> None:
    """Time in turn, print, record."""
    torch.set_num_threads(1)
    vector_step("native")  # imports and first calls
    rows: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        measured = {
            "native vector step": vector_step("native"),
            "sync vector step": vector_step("sync"),
            "checks of a batch": batch_checks(),
            "checks of one env": single_checks(Idle()),
            "checks of one env that gives float64": single_checks(IdleWithDoubles()),
        }
        for name, value in measured.items():
            rows.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in rows.items()}
    batch = medians["checks of a batch"]
    shares = {
        "native": batch / medians["native vector step"],
        "sync": (batch + NUM_ENVS * medians["checks of one env"]) / medians["sync vector step"],
        "sync, float64": (batch + NUM_ENVS * medians["checks of one env that gives float64"])
        / medians["sync vector step"],
    }
    for name, value in medians.items():
        print(f"{value:8.2f} us  {name}")
    for name, share in shares.items():
        print(f"{share:8.2%}  of a run, {name}")
    record(__file__, {"microseconds": rows, "medians": medians, "shares_of_a_run": shares})


if __name__ == "__main__":
    main()
