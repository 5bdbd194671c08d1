"""rlab's DQN against Stable-Baselines3's at identical settings, one torch thread each, in turn.

The settings are the RL Zoo's for CartPole-v1 with net 64-64 and 256-256: 12 000 env steps, 5 504 updates of 64
transitions, one env. Compared: one seed with one seed, and ten seeds in one process with ten runs one after another
(one SB3 run is timed and counted ten times). Needs the extra `bench`.

    python -m rlab.experiments.benchmarks.speed_against_sb3
"""

import tempfile

import gymnasium
import stable_baselines3
import torch

import rlab
from rlab.experiments.benchmarks.timing import in_turn, ratio, record

ENV_STEPS = 12_000


def train_rlab(hidden: tuple[int, ...], seeds: int) -> None:
    """The zoo's settings in rlab's words; judged once, by one episode, since SB3's run judges nothing."""
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(
            "dqn",
            "CartPole-v1",
            experiment="none",
            out=folder,
            seeds=seeds,
            env_steps=ENV_STEPS,
            num_envs=1,
            eval_every=ENV_STEPS,
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
    record(__file__, {"sb3": stable_baselines3.__version__, "nets": nets})


if __name__ == "__main__":
    main()
