"""Members never mix, and a seed decides everything: the same one twice gives the same bytes."""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.agents.ppo import PPO
from rlab.envs import EnvSpec, make_episodes
from rlab.evaluation.evaluate import evaluate
from rlab.learning.contract import Batch, Now, Updated
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

FAMILY = ("dqn", "double_dqn")
ON_POLICY = ("a2c", "ppo", "reinforce")
# everything on that could mix members: shared norms, clipping, statistics, dropout draws
OFF_POLICY_EVERYTHING = {
    "hidden": (16,),
    "dropout": 0.2,
    "obs_scaling": "running",
    "max_grad_norm": 0.5,
    "dueling": True,
    "n_step": 3,
    "l1": 1e-5,
    "learning_starts": 64,
    "learn_every": 8,
    "updates_per_learn": 2,
    "target_every": 50,
    "batch_size": 16,
}
ON_POLICY_EVERYTHING = {
    "hidden": (16,),
    "layer_norm": True,
    "obs_scaling": "running",
    "reward_scaling": "running",
    "max_grad_norm": 0.1,  # below what the gradients have, so that it clips
    "entropy_weight": 0.01,
    "entropy_final": 0.5,
    "normalize_advantage": True,
    "l1": 1e-5,
    "learning_rate": 5e-3,
    "rollout_steps": 10,
}
# so small a target_kl that members leave their rollouts early, each at a time of its own
PPO_EVERYTHING = {"epochs": 3, "minibatches": 3, "target_kl": 2e-3, "clip_value": 0.2, "clip_final": 0.5}
NUMBERS_EVERYTHING = {
    "hidden": (16,),
    "layer_norm": True,
    "obs_scaling": "running",
    "max_grad_norm": 0.5,
    "n_step": 3,
    "l1": 1e-5,
    "learning_starts": 64,
    "learn_every": 8,
    "batch_size": 16,
    "exploration_noise": "pink",
    "policy_delay": 2,
    "learning_rate": 3e-3,
}
EVERYTHING: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("ddpg", "sac", "td3"), NUMBERS_EVERYTHING),
    **dict.fromkeys(FAMILY, OFF_POLICY_EVERYTHING),
    **dict.fromkeys(ON_POLICY, ON_POLICY_EVERYTHING),
    "ppo": {**ON_POLICY_EVERYTHING, **PPO_EVERYTHING},
}
# CartPole has reset rows, which are no transitions; Pendulum continuous actions and a time limit at 200 vector steps.
BESIDE_OTHERS = [
    *(("double_dqn", "CartPole-v1", 400), ("sac", "rlab/ProbeMasked-v0", 400), ("ppo", "CartPole-v1", 400)),
    *((name, "Pendulum-v1", 880) for name in ("reinforce", "td3")),
]
OF_OTHERS_TOO = [("dqn", "CartPole-v1", 400), *((name, "rlab/ProbeCredit-v0", 400) for name in FAMILY)]
OF_OTHERS_TOO += [(name, "CartPole-v1", 400) for name in ("a2c", "reinforce")]
OF_OTHERS_TOO += [(name, "Pendulum-v1", 880) for name in ("a2c", "ppo", "sac")]


@pytest.mark.parametrize(
    ("name", "env_id", "env_steps"),
    [*BESIDE_OTHERS, *(pytest.param(*each, marks=pytest.mark.prove) for each in OF_OTHERS_TOO)],
)
def test_a_member_learns_beside_others_what_it_learns_alone(
    lab: SimpleNamespace, name: str, env_id: str, env_steps: int
) -> None:
    settings = EVERYTHING[name]
    stack = lab.train_members(name, env_id, (5, 17, 2), env_steps, **settings)
    together = learned(stack)
    started = learned(lab.train_members(name, env_id, (5, 17, 2), 4, **settings))
    first = next(name for name in together if name.startswith("network"))
    assert not torch.allclose(together[first], started[first], atol=1e-3)
    for i, seed in ((0, 5), (2, 2)):
        alone = learned(lab.train_members(name, env_id, (seed,), env_steps, **settings))
        for tensor, value in alone.items():
            torch.testing.assert_close(together[tensor][i : i + 1], value, rtol=1e-3, atol=1e-4, msg=f"{seed} {tensor}")
    assert not torch.allclose(together[first][0], together[first][1], atol=1e-2)


def learned(agent: Any) -> dict[str, torch.Tensor]:
    """All that a member has learned: its policy, its statistics and, where there is one, its value."""
    critic = next((getattr(agent, name).state_dict() for name in ("critic", "critics") if hasattr(agent, name)), {})
    return {**agent.policy().state_dict(), **{f"critic.{name}": value for name, value in critic.items()}}


class WatchedPPO(PPO):
    """Notes which members took each step, and how long their gradients were before they were clipped."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.went: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []

    def _still_going(self, kl: torch.Tensor) -> torch.Tensor | None:
        members = super()._still_going(kl)
        assert members is not None
        self.went.append(members.clone())
        return members

    def update(self, batch: Batch, now: Now) -> Updated:
        updated = super().update(batch, now)
        self.norms.append(updated.metrics["grad/norm"])
        return updated


@pytest.mark.parametrize(("env_id", "env_steps"), [("CartPole-v1", 400), ("Pendulum-v1", 880)])
def test_with_these_settings_members_of_ppo_part_ways(lab: SimpleNamespace, env_id: str, env_steps: int) -> None:
    # or the tests here would show less than they seem to
    agent = lab.train_members(WatchedPPO, env_id, (5, 17, 2), env_steps, **EVERYTHING["ppo"])
    went, norms = torch.stack(agent.went), torch.stack(agent.norms)  # [updates, S]
    assert len(went) == env_steps // 40 * 9
    assert went[::9].all()  # the first minibatch of a rollout is everybody's
    assert (went.any(dim=1) & ~went.all(dim=1)).float().mean() > 0.1  # one learns while another stands still
    assert (norms > agent.config.max_grad_norm).float().mean() > 0.5


def test_a_member_learns_the_same_where_many_updates_are_drawn_together(lab: SimpleNamespace) -> None:
    # How many batches are drawn in one go may depend on the size of the stack; what is drawn may not. CartPole has
    # reset rows, which are drawn again.
    settings = {"learning_starts": 64, "learn_every": 256, "updates_per_learn": 64, "batch_size": 128, "hidden": (8,)}
    stack = lab.train_members("dqn", "CartPole-v1", (5, 17, 2, 3), 520, **settings)
    for i, seed in enumerate((5, 17, 2, 3)):
        alone = lab.train_members("dqn", "CartPole-v1", (seed,), 520, **settings)
        for together, value in zip(stack.q_network.parameters(), alone.q_network.parameters(), strict=True):
            torch.testing.assert_close(together[i : i + 1], value, rtol=1e-3, atol=1e-4)


def run(out: Path, agent: str = "double_dqn", env_id: str = "CartPole-v1", **settings: Any) -> Path:
    """A short run of two members with everything on; returns its folder."""
    defaults = {"seeds": 2, "env_steps": 480, "num_envs": 4, "eval_every": 160, "eval_episodes": 2, "log_every": 80}
    tuned = {**defaults, "final_eval_episodes": 2, "experiment": "none", **EVERYTHING[agent], **settings}
    return rlab.train(agent, env_id, out=out, **tuned).path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {f"{seed} {k}": v for seed in (0, 1) for k, v in rlab.load(path, seed).state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def training_state(path: Path) -> dict[str, Any]:
    """What a run goes on from: weights, moments, statistics, streams and counters."""
    loop: dict[str, Any] = load_checkpoint(RunFolder.open(path))[0]["loop"]
    return loop


def check_same(one: Any, other: Any, where: str = "state") -> None:
    """Two states, bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict | list):
        assert len(one) == len(other), where
        for key in one if isinstance(one, dict) else range(len(one)):
            check_same(one[key], other[key], f"{where} {key}")
    else:
        assert np.array_equal(one, other), where


# dqn's Q values, and policies of every kind: choices, numbers
RUNS = [("double_dqn", "CartPole-v1"), *((name, "CartPole-v1") for name in ON_POLICY), ("ppo", "Pendulum-v1")]
PlainRun = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> PlainRun:
    """The run of an agent in an env, which is made once; nobody changes it."""
    return cache(lambda agent, env_id: run(tmp_path_factory.mktemp("plain") / "run", agent, env_id))


@pytest.mark.parametrize(("agent", "env_id"), [RUNS[0], RUNS[-1]])  # of the others: house/test_determinism.py
def test_the_same_seed_twice_gives_the_same_bytes_and_another_seed_does_not(
    tmp_path: Path, plain_run: PlainRun, agent: str, env_id: str
) -> None:
    one, two = plain_run(agent, env_id), run(tmp_path / "2", agent, env_id)
    other = run(tmp_path / "3", agent, env_id, seed=50)
    weight_files = [str(path.relative_to(one)) for path in sorted(one.glob("*/weights*.safetensors"))]
    assert len(weight_files) == 2
    compared = ["metrics.jsonl", "eval.jsonl", "policy/policy.json", "best/policy.json", *weight_files, "result.json"]
    for name in compared:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
        assert not (other / name).exists() or (one / name).read_bytes() != (other / name).read_bytes(), name


# One by one, and for the others, house/test_determinism.py has them.
OFTEN = {"eval_every": 24, "eval_episodes": 1, "log_every": 4, "checkpoint_every": 100, "final_eval_episodes": 0}


@pytest.mark.parametrize(("agent", "env_id"), [RUNS[0], RUNS[-1]])
def test_how_often_a_run_is_judged_logged_and_saved_does_not_change_what_it_learns(
    tmp_path: Path, plain_run: PlainRun, agent: str, env_id: str
) -> None:
    often = run(tmp_path / "run", agent, env_id, **OFTEN)
    assert same(weights(often), weights(plain_run(agent, env_id)))
    check_same(training_state(often), training_state(plain_run(agent, env_id)))


# In sync envs the successors of ended rows are hidden, and members have different numbers of them in a rollout.
@pytest.mark.parametrize(
    ("agent", "vector"),
    [
        *(("double_dqn", "auto"), ("ppo", "sync")),
        *(pytest.param(agent, "sync", marks=pytest.mark.prove) for agent in ("a2c", "reinforce")),
    ],
)
def test_a_member_of_a_run_is_the_member_of_another_run_that_has_its_seed(
    tmp_path: Path, agent: str, vector: str
) -> None:
    both = run(tmp_path / "both", agent, vector=vector)
    second = run(tmp_path / "second", agent, vector=vector, seed=1, seeds=1)
    for (name, a), b in zip(
        rlab.load(both, 1).state_dict().items(), rlab.load(second).state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


def test_a_checkpoint_holds_every_stream_that_training_draws_from(plain_run: PlainRun) -> None:
    loop = training_state(plain_run(*RUNS[0]))
    # updates drew four batches each, of which one served them all; acting drew once in every vector step
    assert loop["sampler"]["draws"]["draw"] > 0
    assert loop["agent"]["exploration"]["draw"] == 480 // 4
    dropout = loop["agent"]["dropout"]
    assert len(dropout) > 0
    assert [layer["draw"] for layer in dropout] == [loop["updates"]] * len(dropout)


@pytest.mark.parametrize(("agent", "env_id"), RUNS[1:])
def test_a_checkpoint_of_a_policy_gradient_agent_holds_streams_moments_and_statistics(
    plain_run: PlainRun, agent: str, env_id: str
) -> None:
    loop = training_state(plain_run(agent, env_id))
    state = loop["agent"]
    orders = 480 // 40 * 3 if agent == "ppo" else 0  # of minibatches, one for each epoch of a rollout
    assert (loop["sampler"]["draws"]["draw"], state["noise"]["draw"]) == (orders, 480 // 4)
    moments = state["optimizer"]["state"][0]
    assert moments["step"] == loop["updates"]
    assert moments["exp_avg"].shape[0] == 2
    assert (moments["exp_avg_sq"] > 0).any(dim=1).all()
    assert state["rewards"]["count"].tolist() == loop["collector"]["transitions"].tolist()
    assert (state["rewards"]["variance"] != 1.0).all()


@pytest.mark.parametrize(("agent", "env_id"), RUNS)
def test_running_statistics_are_saved_with_the_policy(plain_run: PlainRun, agent: str, env_id: str) -> None:
    path = plain_run(agent, env_id)
    policy = rlab.load(path, 1)
    state = training_state(path)
    saved = state["agent"]["policy"]["preprocess.mean"][1, 0]
    assert torch.equal(policy.preprocess.get_buffer("mean"), saved)
    assert saved.abs().min() > 0
    # over every transition and nothing else, neither reset rows nor what was seen while the run was judged
    counted = state["agent"]["policy"]["preprocess.count"]
    assert counted.tolist() == state["collector"]["transitions"].tolist()


@pytest.mark.parametrize("name", [*FAMILY, *ON_POLICY])
def test_being_judged_and_acting_leave_an_agent_as_it_was(lab: SimpleNamespace, name: str) -> None:
    agent = lab.train_members(name, "CartPole-v1", (0, 1), 200, **EVERYTHING[name])
    before = copy.deepcopy(agent.state())
    evaluate(agent.policy(), lambda n: make_episodes(EnvSpec("CartPole-v1"), n), 3, 100_000)
    agent.policy()(np.full((2, 7, 4), 1e3, np.float32))  # what no statistic would leave unnoticed
    check_same(before, agent.state())


def test_a_reset_row_costs_a_step_of_the_clock_and_is_no_transition(tmp_path: Path) -> None:
    path = run(tmp_path / "run", epsilon_fraction=1.0)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()[1:]]
    assert [row["env_steps"] for row in rows] == [80, 160, 240, 320, 400, 480]
    for row in rows:
        for transitions, episodes in zip(row["train/transitions"], row["train/episodes"], strict=True):
            # each episode that ended was followed by one reset row, except where the last step of an env was its end
            assert episodes - 4 <= row["env_steps"] - transitions <= episodes
    assert min(rows[-1]["train/episodes"]) > 4
