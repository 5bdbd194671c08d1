"""rlab's PPO against Stable-Baselines3's at identical settings in CartPole-v1, one torch thread each, in turn.

4 envs, rollouts of 128 vector steps, 4 epochs of 4 minibatches of 128 rows, two separate nets 64-64: 100 rollouts and
1 600 updates. Compared: one seed with one seed, and ten seeds in one process with ten runs one after another (one SB3
run is timed in every round and counted ten times). Needs the extra `bench`.

Only training is timed. Inside the clock: from the first action to the last update, that is acting, env steps, updates
and the counting of episodes, which both do (SB3's envs come from its own `make_vec_env`); for rlab also a row of
metrics every 1 000 env steps for TensorBoard and JSONL, for SB3 also the first reset of its envs. Outside: imports,
making envs and networks, evaluation, and the save at the end of an rlab run. SB3 logs to nowhere and saves nothing.

CleanRL is not run: no release of it on PyPI runs unchanged beside this Gymnasium (the newest, 1.2.0, needs `gym` 0.23.1
and Python 3.10 or older).

    python -m rlab.experiments.benchmarks.ppo_speed
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env

import rlab
from rlab.experiments.benchmarks.timing import ROUNDS, ratio, record, seconds_of_training

NUM_ENVS = 4
ROLLOUT_STEPS = 128
ENV_STEPS = 100 * NUM_ENVS * ROLLOUT_STEPS


def train_rlab(seeds: int, compile: str = "off", env_steps: int = ENV_STEPS) -> float:
    """The settings in rlab's words; seconds of training, by the run's own clock."""
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "ppo",
            "CartPole-v1",
            experiment="none",
            out=folder,
            seeds=seeds,
            env_steps=env_steps,
            num_envs=NUM_ENVS,
            device="cpu",
            compile=compile,
            eval_every=env_steps,
            eval_episodes=1,
            final_eval_episodes=0,
            checkpoint_every=env_steps,
            rollout_steps=ROLLOUT_STEPS,
            epochs=4,
            minibatches=4,
            learning_rate=2.5e-4,
            lr_schedule="linear",
            lr_final=0.0,
            gamma=0.99,
            gae_lambda=0.95,
            clip=0.2,
            normalize_advantage=True,
            entropy_weight=0.01,
            value_weight=0.5,
            max_grad_norm=0.5,
            hidden=(64, 64),
            activation="tanh",
            init="orthogonal",
            shared_body=False,
            optimizer="adam",
            optimizer_eps=1e-5,
        )
        return seconds_of_training(Path(folder))


def train_sb3() -> float:
    """The settings in SB3's words; seconds of training. Tanh, orthogonal weights and normalised advantages are its
    defaults."""
    model = stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", NUM_ENVS, seed=0),
        n_steps=ROLLOUT_STEPS,
        batch_size=128,
        n_epochs=4,
        learning_rate=lambda left: 2.5e-4 * left,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.01,
        vf_coef=0.25,  # of the squared error; rlab's 0.5 is of half of it
        max_grad_norm=0.5,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "optimizer_kwargs": {"eps": 1e-5}},
        device="cpu",
        seed=0,
    )
    began = time.perf_counter()
    model.learn(ENV_STEPS)
    return time.perf_counter() - began


def main() -> None:
    """Time, print, record."""
    torch.set_flush_denormal(True)  # for both
    torch.set_num_threads(1)
    things: dict[str, Callable[[], float]] = {
        "sb3": train_sb3,
        "rlab_1": lambda: train_rlab(1),
        "rlab_10": lambda: train_rlab(10),
        # The difference of a run and one of twice the length is what one takes once it is compiled.
        "rlab_10_compiled": lambda: train_rlab(10, "on", 2 * ENV_STEPS) - train_rlab(10, "on"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(ROUNDS):  # in turn
        for name, train in things.items():
            seconds[name].append(train())
    one = ratio(seconds["sb3"], seconds["rlab_1"])
    ten = ratio([10 * s for s in seconds["sb3"]], seconds["rlab_10"])
    compiled = ratio([10 * s for s in seconds["sb3"]], seconds["rlab_10_compiled"])
    print(f"one seed {one['median']:.2f}x, ten seeds {ten['median']:.1f}x, once compiled {compiled['median']:.1f}x")
    times = {"seconds": seconds, "one_seed_times_faster": one, "ten_seeds_times_faster": ten}
    times["ten_seeds_times_faster_once_compiled"] = compiled
    record(__file__, {"sb3": stable_baselines3.__version__, "env_steps": ENV_STEPS, **times})


if __name__ == "__main__":
    main()
