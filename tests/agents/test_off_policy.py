"""What SAC, TD3 and DDPG have in common: acting, bounds, replay, and the life of their policies."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.cli.main import main
from rlab.errors import UsageError
from rlab.learning.contract import updates_due
from rlab.networks.heads import StochasticHead
from rlab.networks.spaces import Box, Discrete, Masked, Space
from rlab.runs.encoding import decode, encode
from rlab.runs.logs import read_json_lines
from rlab.runs.policies import load_policy
from rlab.types import Clock

AGENTS = ("crossq", "ddpg", "droq", "sac", "td3")
EACH = pytest.mark.parametrize("agent", AGENTS)
CPU = torch.device("cpu")
PROBE = "rlab/ProbeContinuous-v0"
SMALL = {"hidden": (16,), "batch_size": 32, "learning_starts": 50, "gamma": 0.9, "learning_rate": 5e-3}
JUDGED = ("--eval-every", "0", "--final-eval-episodes", "1")
SHORT = ("--max-episode-steps", "20")

pytestmark = pytest.mark.usefixtures("few_visits", "quick_disk")


def daily_and(daily: list[str], proofs: list[str]) -> Any:
    """Those of `make test` and those that `make prove` adds."""
    return [*daily, *(pytest.param(each, marks=pytest.mark.prove) for each in proofs)]


@pytest.fixture(scope="module", params=daily_and(["crossq", "sac"], ["ddpg", "droq", "td3"]))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of two members, by the command line."""
    out = tmp_path_factory.mktemp("off_policy") / "run"
    words = ["--env-steps", "160", "--seeds", "2", "--hidden", "8", "8", "--batch-size", "8", "--learning-starts", "16"]
    words += ["--utd" if request.param == "droq" else "--updates-per-learn", "3"]
    words += ["--experiment", "none", "--sparsity", "0.25"]
    assert main(["train", request.param, "Pendulum-v1", *words, *JUDGED, *SHORT, "--out", str(out)]) == 0
    return out


def test_what_is_not_reported_at_every_update_is_logged(run: Path) -> None:
    _, (*_, rows) = read_json_lines(run / "metrics.jsonl")
    assert {"loss/critics", "loss/actor", "sparsity/zeros"} <= rows.keys()  # TD3 moves its actor every other update
    assert rows["train/updates"] == 3 * 145


def test_its_policy_is_judged_watched_and_recorded(run: Path, tmp_path: Path) -> None:
    assert main(["eval", str(run), "--episodes", "1", "--stochastic"]) == 0
    assert main(["play", str(run), "--video", str(tmp_path / "film.gif")]) == 0
    assert (tmp_path / "film.gif").stat().st_size > 0
    assert main(["collect", str(run), "--episodes", "1", "--out", str(tmp_path / "data")]) == 0
    demonstrations = ["--dataset", str(tmp_path / "data"), "--demonstration-share", "0.5", "--env-steps", "40"]
    demonstrations += ["--cloning-weight", "0.5"]
    small = ["--batch-size", "8", "--learning-starts", "16", *JUDGED, "--out", str(tmp_path / "run")]
    assert main(["train", agent_of(run), "Pendulum-v1", *SHORT, *demonstrations, *small]) == 0


def agent_of(run: Path) -> str:
    return str(json.loads((run / "config.json").read_text())["agent"])


def test_its_run_is_listed_and_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert main(["list", "runs", "--root", str(tmp_path)]) == 0
    assert agent_of(run) in capsys.readouterr().out
    assert main(["resume", str(again), "--env-steps", "200"]) == 0
    assert json.loads((again / "result.json").read_text())["resumed_at"] == []  # exactly
    assert rlab.resume(again, env_steps=240).evaluation is not None


@EACH
def test_its_state_is_all_that_training_needs_to_go_on(agent: str) -> None:
    agent_class: Any = load_agent(agent)
    box = Box((3,), "float32", -1.0, 1.0), Box((2,), "float32", -2.0, 2.0)
    config = agent_class.Config(hidden=(8,), learning_starts=0, obs_scaling="running", lr_schedule="linear")
    one, other = (agent_class(config, *box, (3, 5), torch.device("cpu")) for _ in range(2))
    draws = torch.Generator().manual_seed(1)

    def learn(each: Any, times: int, first: int) -> list[np.ndarray]:
        """What it does and reports over some updates, from the same rows whoever learns."""
        seen = []
        for update in range(first, first + times):
            draws.manual_seed(update)
            obs, next_obs = (torch.rand(2, 8, 3, generator=draws) for _ in range(2))
            batch = {"obs": obs, "next_obs": next_obs, "action": torch.rand(2, 8, 2, generator=draws)}
            batch |= {"reward": torch.rand(2, 8, 1, generator=draws), "steps": torch.ones(2, 8, dtype=torch.long)}
            batch |= {"terminated": torch.zeros(2, 8, dtype=torch.bool)}
            now = each.scheduled(Clock(update, 100))
            each.preprocess.observe(obs, torch.ones(2, 8, dtype=torch.bool))
            seen += [value.numpy() for value in each.update(each.prepare(batch), now).metrics.values()]
            seen.append(each.act(obs[:, :4], now, {}).action.numpy())
        return seen

    learn(one, 3, first=0)  # an odd number: TD3 is between two steps of its actor
    learn(other, 2, first=50)
    other.load_state(decode(*copy.deepcopy(encode(one.state()))))
    expected, found = learn(one, 4, first=3), learn(other, 4, first=3)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("strategy", daily_and(["last-1", "lora"], ["full", "gradual", "discriminative"]))
def test_it_is_fine_tuned_by_every_strategy_and_keeps_its_critic(
    run: Path, strategy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(run), "--strategy", strategy, "--env-steps", "40", "--out", str(tmp_path / "run"), *JUDGED]
    words += ["--sparsity", "0", "--lora-rank", "1"] if strategy == "lora" else []
    assert main(words) == 0
    assert "critic: from the run's checkpoint" in capsys.readouterr().out


def test_its_actor_stands_still_while_its_critic_learns_alone(run: Path, tmp_path: Path) -> None:
    budget = {"env_steps": 40, "critic_warmup": 39, "eval_every": 0, "final_eval_episodes": 0, "num_envs": 1}
    rlab.finetune(run, out=tmp_path / "run", sparsity=0.0, **budget)
    before, after = (load_policy(each / "policy").policy.named_parameters() for each in (run, tmp_path / "run"))
    moved = max((new - old).abs().max().item() for (_, old), (_, new) in zip(before, after, strict=True))
    # 6 updates at the last two of 40 env steps, each by at most about 0.3 times the learning rate; 69 came before
    rate = load_agent(agent_of(run)).Config().learning_rate  # type: ignore[attr-defined]
    assert 0.0 < moved < 6.5 * rate


def test_it_learns_from_a_teacher(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--teacher", str(run), "--seeds", "2", "--env-steps", "40", "--learning-starts", "16", "--batch-size", "8"]
    out = tmp_path / "run"
    assert main(["train", agent_of(run), "Pendulum-v1", *words, *JUDGED, *SHORT, "--out", str(out)]) == 0
    assert "loss/teacher" in (out / "metrics.jsonl").read_text()


@pytest.mark.parametrize("steps", daily_and(["prune:0.5,int8"], ["distil:4x4,sparse:0.5", "lowrank:1,qat8", "int4"]))
def test_it_is_compressed(run: Path, steps: str, tmp_path: Path) -> None:
    words = ["--steps", steps, "--episodes", "1", "--updates", "3", "--min-return-ratio", "0"]
    assert main(["compress", str(run), *words, "--out", str(tmp_path / "small")]) == 0
    assert main(["eval", str(tmp_path / "small"), "--episodes", "1"]) == 0


@pytest.mark.parametrize("ending", daily_and(["npz", "h"], ["onnx", "pt2"]))
def test_it_is_exported(run: Path, ending: str, tmp_path: Path) -> None:
    form = {"npz": "numpy", "h": "c", "onnx": "onnx", "pt2": "torch-export"}[ending]
    file = tmp_path / f"policy.{ending}"
    assert main(["export", str(run), "--format", form, "--out", str(file)]) == 0
    assert main(["eval", str(file), "--episodes", "1", "--trust"]) == 0


WIDE = Box((2,), "float32", (-1.0, 0.0), (3.0, 10.0))  # neither bound is the other's negative
OBS = Box((3,), "float32", -1.0, 1.0)


def agent_for(agent: str, actions: Space = WIDE, start: Any = None, **settings: Any) -> Any:
    kind: Any = load_agent(agent)
    return kind(kind.Config(**{"hidden": (8,), **settings}), OBS, actions, (3, 5), CPU, start)


def actions_at(agent: Any, env_steps: int, envs: int = 2_000) -> torch.Tensor:
    found: torch.Tensor = agent.act(torch.zeros(2, envs, 3), agent.scheduled(Clock(env_steps, 100_000)), {}).action
    return found


@EACH
def test_actions_are_uniform_over_the_whole_space_until_learning_starts(agent: str) -> None:
    one = agent_for(agent, learning_starts=500)
    uniform = actions_at(one, 499)
    for column, (low, high) in enumerate(((-1.0, 3.0), (0.0, 10.0))):
        values = (uniform[..., column].flatten() - low) / (high - low)
        shares = torch.histc(values, 8, 0.0, 1.0) / values.numel()
        # 4 000 numbers in 8 parts: a share of 0.125 has a deviation of 0.0052
        assert (shares - 0.125).abs().max().item() < 0.026
    assert abs(torch.corrcoef(uniform.flatten(0, 1).T)[0, 1].item()) < 0.08
    learned = actions_at(one, 500)
    assert ((learned >= torch.tensor([-1.0, 0.0])) & (learned <= torch.tensor([3.0, 10.0]))).all()
    if agent in ("ddpg", "td3"):  # the policy of the others begins wide
        assert (learned.std(dim=1) < 0.5 * uniform.std(dim=1)).all()


@EACH
def test_who_begins_with_a_policy_explores_with_it_at_once(agent: str) -> None:
    spec = agent_for(agent).policy().spec
    assert agent_for(agent, start=spec).scheduled(Clock(0, 100))["explore/uniform"] == 0.0
    assert agent_for(agent).scheduled(Clock(0, 100))["explore/uniform"] == 1.0


def test_uniform_choices_are_among_those_that_a_mask_allows() -> None:
    kind: Any = load_agent("sac")
    agent = kind(kind.Config(hidden=(8,)), Masked(OBS, 4), Discrete(4), (3, 5), CPU)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0]).expand(2, 3_000, 4)
    obs = torch.cat([torch.zeros(2, 3_000, 3), mask], dim=-1)
    found = agent.act(obs, agent.scheduled(Clock(0, 100)), {}).action
    shares = torch.bincount(found.flatten(), minlength=4) / found.numel()
    assert shares[1] == 0.0
    assert (shares[[0, 2, 3]] - 1 / 3).abs().max().item() < 0.025  # 6 000 draws: a deviation of 0.0061


@EACH
@pytest.mark.parametrize("bound", [float("inf"), 3.4028234663852886e38])
def test_actions_without_bounds_are_refused_in_one_line(agent: str, bound: float) -> None:
    limits = ", the limits of float numbers, which stand for no bound" if bound < float("inf") else ""
    has = rf"number 1 of .* has -{bound:g} to {bound:g}{limits}: use ppo or a2c".replace("+", r"\+")
    with pytest.raises(UsageError, match=rf"needs two finite bounds for each number of an action, and {has}"):
        agent_for(agent, Box((2,), "float32", (-1.0, -bound), (1.0, bound)))


@EACH
def test_what_is_stored_is_the_env_s_action_and_what_critics_see_is_in_half_ranges(agent: str) -> None:
    one = agent_for(agent, learning_starts=0)
    action = torch.tensor([[[3.0, 0.0], [1.0, 5.0], [-1.0, 10.0]]]).expand(2, 3, 2)
    obs, ended = torch.zeros(2, 3, 3), torch.tensor([[True, False, False]]).expand(2, 3)
    batch = {"obs": obs, "next_obs": obs, "action": action, "reward": torch.ones(2, 3, 2), "terminated": ended}
    rows = one.prepare({**batch, "steps": torch.tensor([[1, 2, 2]]).expand(2, 3), "truncated": ~ended})
    assert rows["action"][0].tolist() == [[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]]
    # an ending is followed by nothing, a time limit by what would have come: gamma to the number of steps
    assert rows["discount"][0].tolist() == pytest.approx([0.0, 0.99**2, 0.99**2])
    assert rows["reward"][0].tolist() == pytest.approx([1.99] * 3)


def test_updates_per_env_step_are_one_setting_or_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind: Any = load_agent("sac")
    config = kind.Config(utd=3, learn_every=4)
    assert updates_due(config, 1_003, 1_004) == 12
    assert sum(updates_due(config, t, t + 1) for t in range(1_000, 1_100)) == 300
    assert updates_due(dataclasses.replace(config, learn_every=2), 1_001, 1_002) == 6
    assert updates_due(dataclasses.replace(config, utd=None), 1_003, 1_004) == 1  # as if utd had never been given
    words = ["train", "sac", "Pendulum-v1", "--utd", "2", "--updates-per-learn", "3", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "utd 2 says how many updates there are" in capsys.readouterr().err


def test_utd_is_recorded_and_a_run_goes_on_with_it(tmp_path: Path) -> None:
    small = {"hidden": (8,), "batch_size": 8, "learning_starts": 16, "eval_every": 0, "final_eval_episodes": 1}
    run = rlab.train("td3", "Pendulum-v1", out=tmp_path / "run", env_steps=32, utd=2, experiment="none", **small)
    _, (*_, rows) = read_json_lines(run.path / "metrics.jsonl")
    assert rows["train/updates"] == 2 * 17
    assert run.config["settings"]["updates_per_learn"] is None
    rlab.resume(run, env_steps=40)
    _, (*_, rows) = read_json_lines(run.path / "metrics.jsonl")
    assert rows["train/updates"] == 2 * 25


def test_a_policy_that_was_cloned_for_it_is_fine_tuned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = agent_of(run)
    assert main(["collect", str(run), "--episodes", "1", "--out", str(tmp_path / "data")]) == 0
    words = ["pretrain", "bc", str(tmp_path / "data"), "--agent", agent, "--hidden", "8", "--updates", "4", *JUDGED]
    assert main([*words, "--batch-size", "8", "--out", str(tmp_path / "cloned")]) == 0
    words = ["finetune", str(tmp_path / "cloned"), "--agent", agent, "--env-steps", "40", "--learning-starts", "16"]
    assert main([*words, "--batch-size", "8", *JUDGED, "--out", str(tmp_path / "tuned")]) == 0
    cloned, tuned = (load_policy(tmp_path / name).policy for name in ("cloned", "tuned"))
    assert cloned.spec.head["kind"] == "squashed_gaussian"
    assert tuned.spec.head["kind"] == ("deterministic" if agent == "td3" else "squashed_gaussian")
    # all of it is kept: 25 updates move a weight by no more than so many times the rate
    for name, tensor in tuned.network.state_dict().items():
        before = cloned.network.state_dict()[name]
        assert 0.0 < (tensor - before[:1]).abs().max().item() < 0.05


def test_a_deterministic_agent_begins_with_fresh_outputs_where_a_policy_s_are_of_another_kind(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "sac" if agent_of(run) == "td3" else "td3"
    words = ["finetune", str(run), "--agent", other, "--env-steps", "24", "--learning-starts", "16"]
    words += ["--batch-size", "8", "--sparsity", "0", *JUDGED, "--out", str(tmp_path / "tuned")]
    assert main(words) == 0
    assert load_policy(tmp_path / "tuned").policy.spec.head["kind"] != load_policy(run).policy.spec.head["kind"]


@EACH
def test_demonstrated_rows_alone_are_cloned(agent: str) -> None:
    one = agent_for(agent, cloning_weight=2.0)
    (term,) = one.terms
    actions = torch.tensor([[[2.0, 5.0], [1.0, 5.0]]]).expand(2, 2, 2)
    batch = {"obs": torch.zeros(2, 2, 3), "action": actions, "demonstration": torch.tensor([[True, False]] * 2)}
    outputs = torch.zeros(2, 2, one.head.width)
    loss = term.loss(outputs, term.prepare(batch))
    if isinstance(one.head, StochasticHead):
        expected = -one.head.log_prob(outputs, actions)[:, 0] / 2.0  # of two rows the second counts 0
    else:
        expected = torch.full((2,), 0.5 * 0.5**2 / 2.0)  # 2 is half a half range from the middle, 1; 5 is the middle
    torch.testing.assert_close(loss, expected)
    assert one.scheduled(Clock(1, 10))["weight of cloning"] == 2.0
    assert term.loss(outputs, {}) is None


def test_without_demonstrations_the_weight_of_cloning_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "sac", "Pendulum-v1", "--cloning-weight", "1", "--out", str(tmp_path / "run")]) == 2
    assert "there are no demonstrations: --dataset DIR" in capsys.readouterr().err
