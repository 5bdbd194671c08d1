"""Members never mix, and a seed decides everything: the same one twice gives the same bytes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rlab
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

FAMILY = ("dqn", "double_dqn")
# everything on that could mix members: shared norms, clipping, statistics, dropout draws
EVERYTHING = {
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


@pytest.mark.parametrize("env_id", ["CartPole-v1", "rlab/ProbeCredit-v0"])
@pytest.mark.parametrize("name", FAMILY)
def test_a_member_learns_beside_others_what_it_learns_alone(lab: SimpleNamespace, name: str, env_id: str) -> None:
    stack = lab.train_members(name, env_id, (5, 17, 2), 400, **EVERYTHING)
    together = stack.policy().state_dict()
    started = lab.train_members(name, env_id, (5, 17, 2), 4, **EVERYTHING).policy().state_dict()
    first = next(name for name in together if name.startswith("network"))
    assert not torch.allclose(together[first], started[first], atol=1e-3)
    for i, seed in enumerate((5, 17, 2)):
        alone = lab.train_members(name, env_id, (seed,), 400, **EVERYTHING).policy().state_dict()
        for tensor, value in alone.items():
            torch.testing.assert_close(together[tensor][i : i + 1], value, rtol=1e-3, atol=1e-4, msg=f"{seed} {tensor}")
    assert not torch.allclose(together[first][0], together[first][1], atol=1e-2)


def test_a_member_learns_the_same_where_many_updates_are_drawn_together(lab: SimpleNamespace) -> None:
    # How many batches are drawn in one go may depend on the size of the stack; what is drawn may not. CartPole has
    # reset rows, which are drawn again.
    settings = {"learning_starts": 64, "learn_every": 256, "updates_per_learn": 64, "batch_size": 128, "hidden": (8,)}
    stack = lab.train_members("dqn", "CartPole-v1", (5, 17, 2, 3), 520, **settings)
    for i, seed in enumerate((5, 17, 2, 3)):
        alone = lab.train_members("dqn", "CartPole-v1", (seed,), 520, **settings)
        for together, value in zip(stack.q_network.parameters(), alone.q_network.parameters(), strict=True):
            torch.testing.assert_close(together[i : i + 1], value, rtol=1e-3, atol=1e-4)


def run(out: Path, **settings: Any) -> Path:
    """A short run of two members with everything on; returns its folder."""
    defaults = {"seeds": 2, "env_steps": 480, "num_envs": 4, "eval_every": 160, "eval_episodes": 2, "log_every": 80}
    tuned = {**defaults, "final_eval_episodes": 2, "experiment": "none", **EVERYTHING, **settings}
    return rlab.train("double_dqn", "CartPole-v1", out=out, **tuned).path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {f"{seed} {k}": v for seed in (0, 1) for k, v in rlab.load(path, seed).state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_same_seed_twice_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    one, two, other = run(tmp_path / "1"), run(tmp_path / "2"), run(tmp_path / "3", seed=50)
    weight_files = [str(path.relative_to(one)) for path in sorted(one.glob("*/weights*.safetensors"))]
    assert len(weight_files) == 2
    compared = ["metrics.jsonl", "eval.jsonl", "policy/policy.json", "best/policy.json", *weight_files, "result.json"]
    for name in compared:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
        assert not (other / name).exists() or (one / name).read_bytes() != (other / name).read_bytes(), name


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_every": 10**6},
        {"eval_every": 8, "eval_episodes": 1},
        {"log_every": 4},
        {"log_every": 10**6},
        {"checkpoint_every": 100},
        {"final_eval_episodes": 0},
    ],
    ids=str,
)
def test_how_often_a_run_is_judged_logged_and_saved_does_not_change_what_it_learns(
    tmp_path: Path, plain_weights: dict[str, torch.Tensor], settings: dict[str, int]
) -> None:
    assert same(weights(run(tmp_path / "run", **settings)), plain_weights)


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights(run(tmp_path_factory.mktemp("plain") / "run"))


def test_a_member_of_a_run_is_the_member_of_another_run_that_has_its_seed(tmp_path: Path) -> None:
    both, second = run(tmp_path / "both"), run(tmp_path / "second", seed=1, seeds=1)
    for (name, a), b in zip(
        rlab.load(both, 1).state_dict().items(), rlab.load(second).state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


def test_a_checkpoint_holds_every_stream_that_training_draws_from(tmp_path: Path) -> None:
    state, _ = load_checkpoint(RunFolder.open(run(tmp_path / "run")))
    loop = state["loop"]
    assert len(loop["streams"]) == len(loop["agent"]["exploration"]["streams"]) == 2
    dropout = loop["agent"]["dropout"]
    assert len(dropout) % 2 == 0
    assert len(dropout) > 0
    assert len({tuple(stream.tolist()) for stream in dropout}) == len(dropout)  # no two alike


def test_running_statistics_are_saved_with_the_policy(tmp_path: Path) -> None:
    path = run(tmp_path / "run")
    policy = rlab.load(path, 1)
    state, _ = load_checkpoint(RunFolder.open(path))
    saved = state["loop"]["agent"]["policy"]["preprocess.mean"][1, 0]
    assert torch.equal(policy.preprocess.get_buffer("mean"), saved)
    assert saved.abs().min() > 0


def test_a_reset_row_costs_a_step_of_the_clock_and_is_no_transition(tmp_path: Path) -> None:
    path = run(tmp_path / "run", epsilon_fraction=1.0)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()[1:]]
    assert [row["env_steps"] for row in rows] == [80, 160, 240, 320, 400, 480]
    for row in rows:
        for transitions, episodes in zip(row["train/transitions"], row["train/episodes"], strict=True):
            # each episode that ended was followed by one reset row, except where the last step of an env was its end
            assert episodes - 4 <= row["env_steps"] - transitions <= episodes
    assert min(rows[-1]["train/episodes"]) > 4
