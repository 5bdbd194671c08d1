"""Whole runs of the policy-gradient agents: their curves, and the command line from training to a film."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlab
from rlab.cli.main import main
from rlab.networks.policy import MemberPolicy
from rlab.runs.logs import read_json_lines

# 4 envs x 16 vector steps make a rollout of 64 env steps; a run has 8 of them.
TINY: dict[str, Any] = {"env_steps": 512, "num_envs": 4, "rollout_steps": 16, "hidden": (16,), "log_every": 64}
TINY |= {"eval_every": 256, "eval_episodes": 1, "final_eval_episodes": 2}

SHARED = ("loss/policy", "loss/value", "policy/entropy", "value/explained_variance", "grad/norm")
PER_MEMBER = {"a2c": SHARED, "ppo": (*SHARED, "policy/kl", "policy/clip_fraction"), "reinforce": SHARED}


def curves(folder: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    """`{tag: [(step, value), ...]}` of one sub-run, as TensorBoard itself reads it."""
    accumulator = EventAccumulator(str(folder / name))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


@pytest.mark.parametrize("agent", PER_MEMBER)
def test_every_number_of_learning_is_a_curve_per_seed_and_one_of_the_population(tmp_path: Path, agent: str) -> None:
    run = rlab.train(agent, "CartPole-v1", experiment="none", out=tmp_path / "run", seed=7, seeds=2, **TINY)
    _, rows = read_json_lines(run.path / "metrics.jsonl")
    at = [64 * n for n in range(1, 9)]
    assert [row["env_steps"] for row in rows] == at
    seven, eight, population = (curves(run.path, name) for name in ("seed-7", "seed-8", "."))
    for tag in PER_MEMBER[agent]:
        written = np.array([row[tag] for row in rows])  # [rows, S]
        assert np.isfinite(written).all(), tag
        for member, curve in enumerate((seven[tag], eight[tag])):
            np.testing.assert_allclose([value for _, value in curve], written[:, member], rtol=1e-6, err_msg=tag)
        assert [step for step, _ in population[tag]] == at
        np.testing.assert_allclose([v for _, v in population[tag]], written.mean(axis=1), rtol=1e-5, atol=1e-7)
    # what is the same for all members is written once
    rate = [value for _, value in population["optimizer/learning_rate"]]
    base = rows[0]["optimizer/learning_rate"]
    assert rate == pytest.approx([base * (1 - n / 8) for n in range(8)])  # falls linearly, rollout by rollout
    assert "optimizer/learning_rate" not in seven
    assert ("policy/clip_range" in population) == (agent == "ppo")


def test_the_curves_of_ppo_say_what_they_are_called(tmp_path: Path) -> None:
    run = rlab.train("ppo", "CartPole-v1", experiment="none", out=tmp_path / "run", learning_rate=3e-3, **TINY)
    rows = read_json_lines(run.path / "metrics.jsonl")[1]
    entropy, kl, clipped, explained = (
        np.array([row[tag][0] for row in rows])
        for tag in ("policy/entropy", "policy/kl", "policy/clip_fraction", "value/explained_variance")
    )
    assert entropy[0] == pytest.approx(np.log(2), abs=0.01)  # nats; near uniform at first
    assert (entropy <= np.log(2) + 1e-6).all()
    assert (kl > 0).all()
    assert ((clipped >= 0) & (clipped <= 1)).all()
    assert clipped.max() > 0
    assert (explained <= 1).all()
    assert (np.array([row["grad/norm"][0] for row in rows]) > 0).all()


MINIGRID = ("MiniGrid-Empty-5x5-v0", "--wrapper", "ImgObsWrapper", "FlattenObservation")
ENVS = [("Pendulum-v1",), ("FrozenLake-v1",), ("Taxi-v4",), MINIGRID]


def raw_env(words: tuple[str, ...]) -> gym.Env[Any, Any]:
    """The env as Gymnasium itself gives it."""
    if words != MINIGRID:
        return gym.make(words[0])
    from minigrid.wrappers import ImgObsWrapper

    return gym.wrappers.FlattenObservation(ImgObsWrapper(gym.make(words[0])))


def check_acts(policy: MemberPolicy, env: gym.Env[Any, Any]) -> None:
    """Thirty steps on raw observations, one at a time."""
    obs, info = env.reset(seed=0)
    for _ in range(30):
        mask = info.get("action_mask")
        action = policy(obs, mask=mask)
        assert env.action_space.contains(action), action
        assert mask is None or mask[action]
        obs, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            obs, info = env.reset()
    env.close()


@pytest.mark.parametrize("words", ENVS, ids=lambda words: words[0])
def test_the_command_line_trains_judges_and_films_and_python_acts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    if words == MINIGRID:
        pytest.importorskip("minigrid")
    out, film = str(tmp_path / "run"), tmp_path / "film.gif"
    flags = [f"--{name.replace('_', '-')}" for name in TINY]
    values = [map(str, value) if isinstance(value, tuple) else [str(value)] for value in TINY.values()]
    tiny = [word for flag, value in zip(flags, values, strict=True) for word in (flag, *value)]
    train = ["train", "ppo", *words, *tiny, "--epochs", "2", "--max-episode-steps", "20", "--experiment", "none"]
    assert main([*train, "--out", out]) == 0
    assert f"run: {out}" in capsys.readouterr().out

    assert main(["eval", out, "--episodes", "2", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["per_seed"] == json.loads((tmp_path / "run" / "result.json").read_text())["per_seed"]
    assert judged["env_id"] == words[0]

    assert main(["play", out, "--video", str(film)]) == 0
    (seen,) = judged["per_seed"]
    assert f"episode seed 100000: return {seen['returns'][0]:.1f} in " in capsys.readouterr().out
    assert film.stat().st_size > 0
    check_acts(rlab.load(out), raw_env(words))


IMPOSSIBLE = [
    (
        ["dqn", "Pendulum-v1"],
        "agents that can: a2c, crossq, ddpg, droq, ppo, reinforce, sac, td3; from a dataset: bc, encoder, iql.",
    ),
    (["ppo", "Pendulum-v1", "--optimiser", "sgd"], "unknown setting --optimiser for ppo. Did you mean --optimizer?"),
    (["a2c", "CartPole-v1", "--epochs", "4"], "unknown setting --epochs for a2c"),
    (["ppo", "FrozenLake-v1", "--obs-scaling", "running"], "obs_scaling 'running' is for vectors"),
    (["ppo", "CartPole-v1", "--rollout-steps", "2", "--minibatches", "17"], "minibatches 17 is more than the 16 rows"),
    (["ppo", "CartPole-v1", "--target-kl", "0"], "target_kl 0.0 must be above 0."),
    (["reinforce", "CartPole-v1", "--gae-lambda", "0.9"], "a2c takes n-step ones"),
    (["reinforce", "Taxi-v4", "--no-baseline"], "Taxi-v4 cuts them after 200 env steps. That is for --no-baseline"),
    (["ppo", "CartPole-v1", "--rollout-steps", "1000000000"], "--rollout-steps"),
]


@pytest.mark.parametrize(
    ("words", "said"), IMPOSSIBLE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_cannot_be_is_one_line_exit_code_2_and_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "run").exists()
