"""What several processes that `torchrun` starts train together: `torchrun split_runs.py FOLDER`. The tests of
`test_data_parallel.py` train the same in one process, and read what each process wrote down."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import rlab
from rlab.errors import RlabError, told_elsewhere
from rlab.jobs.data_parallel import WeightCheck
from rlab.randomness import env_seed
from rlab.ranks import Ranks, average_, batch_sums, joined

COMMON: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "compile": "off", "device": "cpu"}
COMMON |= {"eval_episodes": 1, "final_eval_episodes": 2, "env_steps": 512, "eval_every": 256, "log_every": 64}
COMMON |= {"optimizer": "sgd", "max_episode_steps": 30, "log_episodes": True, "checkpoint_every": 128}
PPO: dict[str, Any] = {"rollout_steps": 16, "epochs": 2, "minibatches": 2, "learning_rate": 0.05, "target_kl": 0.02}
PPO |= {"obs_scaling": "running", "reward_scaling": "running", "entropy_weight": 0.01, "vector": "native"}
DQN: dict[str, Any] = {"learning_starts": 64, "batch_size": 16, "learning_rate": 0.01, "replay_capacity": 300}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {**COMMON, **PPO, "seeds": 2}),  # the envs give reset rows, so that shares have different weights
    "memory": ("ppo", {**COMMON, **PPO, "memory": "gru", "sequence_length": 8}),
    "dqn": ("dqn", {**COMMON, **DQN, "obs_scaling": "running", "replay": "prioritised", "n_step": 3, "noisy": True}),
    "double_dqn": ("double_dqn", {**COMMON, **DQN, "vector": "sync"}),
}
LAST_ENV = 3  # of the 4, the second one of the second process
FRAIL: dict[str, Any] = {**COMMON, **DQN, "eval_every": 0, "seed": 0}


class Frail(gym.Env):
    """Observes nothing. Its last one in training does something unusual at step 60.

    Args:
        how: `raises`, `is interrupted` or `dies`.
    """

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, how: str = "") -> None:
        self.how, self.steps, self.last = how, 0, False

    def reset(self, *, seed=None, options=None):
        self.last |= seed == env_seed(0, LAST_ENV)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.last and self.steps == 60:
            if self.how == "raises":
                raise ValueError("it broke")
            if self.how == "is interrupted":
                signal.raise_signal(signal.SIGINT)
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(1, np.float32), 1.0, self.steps % 7 == 0, False, {}


class StopAt(rlab.Listener):
    """Stops a run at its first save behind so many env steps."""

    def __init__(self, env_steps: int) -> None:
        self.env_steps = env_steps

    def on_save(self, env_steps: int) -> bool:
        return env_steps < self.env_steps


def train(name: str, out: Path, **others: Any) -> rlab.Run:
    """Train one of `RUNS`."""
    agent, settings = RUNS[name]
    return rlab.train(agent, "CartPole-v1", out=out, **{**settings, **others})


def failure(call: Any) -> dict[str, Any]:
    """What a call raises, as data."""
    try:
        call()
    except (RlabError, KeyboardInterrupt) as error:
        return {"type": type(error).__name__, "text": str(error), "told elsewhere": told_elsewhere(error)}
    return {"type": None}


def messages(ranks: Ranks) -> dict[str, Any]:
    """What the processes tell each other."""

    def first_fails() -> None:
        raise RlabError("the first one failed")

    rank = ranks.rank
    # A batch of six rows, three in each process; the loss is their mean with the weights 1, 0, 1 and 1, 1, 1.
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])[rank]
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[rank].requires_grad_()
    scale = torch.ones((), requires_grad=True)
    with ranks.sharing():
        total, count = batch_sums((scale * values * weight).sum(), weight.sum())
        mean = total / count
        (grad,) = average_([torch.autograd.grad(mean, scale)[0]])
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.weight, rank)
    drifted = failure(lambda: WeightCheck({"q": network}, ranks).on_save(64))
    return {
        "gathered": ranks.gathered(np.array([rank, 10])).tolist(),
        "exchanged": ranks.exchanged({"rank": rank}),
        "any": [ranks.any(rank == 1), ranks.any(False)],
        "of first": ranks.of_first(lambda: "rank 0"),
        "failed": failure(lambda: ranks.of_first(first_fails)),
        "mean": mean.item(),
        "gradient": grad.item(),
        "averaged": ranks.averaged({"loss": torch.tensor([float(rank)])})["loss"].tolist(),
        "drifted": drifted,
    }


def main(out: Path) -> None:
    """All of it, in every process; what each saw goes into `FOLDER/RANK.json`."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends all processes when one has died
    with joined() as ranks:
        seen, rank = {"messages": messages(ranks)}, ranks.rank
    for name in RUNS:
        seen[name] = {"time": train(name, out / name).time}
    run = train("double_dqn", out / "stopped", listeners=[StopAt(256)])
    seen["stopped"] = {"status": run.status, "time": run.time}
    run = rlab.resume(out / "stopped")
    seen["resumed"] = {"status": run.status, "time": run.time, "returns": run.evaluation.returns.tolist()}
    for how in ("is interrupted", "raises", "dies"):

        def begin(how: str = how) -> None:
            rlab.train("dqn", "split_runs:Frail", env_kwargs={"how": how}, out=out / how, **FRAIL)

        seen[how] = failure(begin)
        (out / f"{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
