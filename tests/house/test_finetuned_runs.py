"""Fine-tuned runs as runs: whose weights and settings they begin with, what they record, and how they go on."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rlab
from rlab import api
from rlab.cli.main import main
from rlab.errors import RlabError, UsageError
from rlab.jobs import running
from rlab.jobs.inputs import open_inputs
from rlab.jobs.request import Request
from rlab.jobs.session import Session
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.policies import load_policy, save_policy

pytestmark = pytest.mark.usefixtures("quick_disk")

BUDGET: dict[str, Any] = {"env_steps": 128, "num_envs": 4, "log_every": 32}
PPO: dict[str, Any] = {**BUDGET, "rollout_steps": 8, "epochs": 1, "minibatches": 1, "experiment": "none"}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint on standard error, which is one line."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rlab: ")
    return str(line)


def critic_of(run: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_checkpoint(RunFolder.open(run))[0]["loop"]["agent"]["critic"]
    return found


def test_every_seed_goes_on_with_its_own_weights_or_all_with_one_member_s(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path
) -> None:
    still = {**PPO, "learning_rate": 1e-15}  # which moves no bit
    source = road.weights(ppo_run)
    taken = {
        "own": ({}, (3, 4), (0, 1)),
        "one of them": ({"seed": 4, "seeds": 1}, (4,), (1,)),
        "a member": ({"member": 4}, (0,), (1,)),
        "a member for all": ({"member": 4, "seeds": 3, "seed": 7}, (7, 8, 9), (1, 1, 1)),
    }
    for name, (words, seeds, members) in taken.items():
        out = tmp_path / name
        run = rlab.finetune(ppo_run, out=out, **words, **still, **road.JUDGED)
        assert run.evaluation is not None
        assert load_policy(out).policy.seeds == seeds
        for tensor, value in road.weights(out).items():
            assert torch.equal(value, source[tensor][list(members)]), tensor
        assert load_policy(out / "start").policy.seeds == road.SEEDS  # whole
    for name in ("own", "a member for all"):  # and the critic is of the same member
        state, members = critic_of(tmp_path / name), list(taken[name][2])
        assert all(torch.equal(state[tensor], value[members]) for tensor, value in critic_of(ppo_run).items())
    # those who begin alike live in episodes of their own
    assert len(set(road.rows(tmp_path / "a member for all")[-1]["loss/value"])) == 3


def critic_line(road: SimpleNamespace, source: Path, *words: str, **settings: Any) -> str:
    """What a run says of its critic before it begins."""
    request = road.asked("finetune", str(source), *words, num_envs=4, rollout_steps=8, experiment="none", **settings)
    session = Session(request, open_inputs(request))
    session.env.close()
    (line,) = [line for line in session.describe().splitlines() if line.startswith("critic:")]
    return line


def test_a_critic_is_taken_over_or_fresh_for_a_reason_that_is_told(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, dqn_run: Path, cloned_run: Path
) -> None:
    adopted = "critic: from the run's checkpoint"
    assert critic_line(road, ppo_run) == adopted
    assert critic_line(road, ppo_run, strategy="lora", lora_rank=2) == adopted
    assert critic_line(road, cloned_run) == adopted
    assert critic_line(road, cloned_run, agent="a2c") == adopted
    scaled = critic_line(road, cloned_run, reward_scaling="running")
    assert scaled == "critic: fresh, since the existing one has learned from rewards of a different scale"
    other = critic_line(road, ppo_run, "Acrobot-v1", max_episode_steps=9)
    assert other == "critic: fresh, since the existing one has a different shape"
    assert critic_line(road, dqn_run, agent="ppo") == "critic: fresh, since the run has none"
    alone = "critic: fresh, since only a run's checkpoint holds one"
    assert critic_line(road, ppo_run / "best") == alone
    shutil.copytree(ppo_run / "policy", tmp_path / "policy")
    assert critic_line(road, tmp_path / "policy", agent="ppo") == alone


def test_an_adopted_critic_has_the_bits_and_the_reward_scale_of_the_old_one(
    tmp_path: Path, road: SimpleNamespace
) -> None:
    source, found = tmp_path / "source", []
    settings = {**PPO, "reward_scaling": "running", "seeds": 2}
    rlab.train("ppo", "CartPole-v1", out=source, hidden=(8,), max_episode_steps=20, **settings, **road.JUDGED)

    def save(session: Any, time: int) -> None:
        state = session.agent.state()
        rewards = {name: value.cpu().clone() for name, value in state["rewards"].items()}
        found.append([state["critic"]["0.weight"].cpu().clone(), rewards])

    request = road.asked("finetune", str(source), **settings, **road.JUDGED)
    road.begin(request, tmp_path / "run", [road.Hearing(on_save=save)])
    (critic, rewards), (later, _), _ = found  # at the beginning, and at the end before and after it is judged
    state = load_checkpoint(RunFolder.open(source))[0]["loop"]["agent"]
    assert torch.equal(critic, state["critic"]["0.weight"])
    assert all(torch.equal(rewards[name], value) for name, value in state["rewards"].items())
    assert not torch.equal(critic, later)


STRATEGIES = ["head", "gradual", "lora"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_goes_on_after_the_one_that_it_came_from_is_gone(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "run"
    shutil.copytree(ppo_run, source)
    before = road.weights(source)
    own = {"gradual": {"unfreeze_every": 80}, "lora": {"lora_rank": 2}}
    settings = {**PPO, "strategy": strategy, **own.get(strategy, {})}
    request = road.asked("finetune", str(source), **settings, **road.JUDGED)
    stopped, _, outcome = road.begin(request, out, [road.StopAt(64)])
    assert (outcome.finished, outcome.time) == (False, 64)
    middle = road.weights(out)
    shutil.rmtree(source)
    assert main(["resume", str(out)]) == 0
    after = road.weights(out)
    frozen = {"head": 4, "gradual": 2, "lora": 6}[strategy]  # tensors; at 128 gradual has come to the layer below
    assert len([name for name in before if name in after and torch.equal(before[name], after[name])]) == frozen
    assert sum(not torch.equal(middle[name], after[name]) for name in after) == len(after) - frozen
    steps = load_checkpoint(RunFolder.open(out))[0]["loop"]["agent"]["optimizer"]["state"]
    learned = {group.name: len(steps[i]) > 0 for i, group in enumerate(stopped.agent.optimizer.groups) if i in steps}
    assert learned  # the optimizer's moments are per group
    assert [row["env_steps"] for row in road.rows(out)] == [32, 64, 96, 128]
    assert [row["train/updates"] for row in road.rows(out)] == [1, 2, 3, 4]  # a rollout is 32 env steps
    capsys.readouterr()
    assert main(["resume", str(out)]) == 0
    assert f"{out}: finished, after 128 env steps" in capsys.readouterr().out


def test_a_run_that_was_stopped_before_its_first_report_goes_on_without_its_source(
    tmp_path: Path, road: SimpleNamespace, dqn_run: Path, obs: Tensor
) -> None:
    source, out = tmp_path / "source", tmp_path / "run"
    shutil.copytree(dqn_run, source)
    expected = road.outputs(source, obs)
    request = road.asked("finetune", str(source), **BUDGET, learning_starts=100, **road.JUDGED)

    def fail(session: Any, time: int) -> None:
        raise KeyboardInterrupt  # as by a second Ctrl+C, or a power cut

    with pytest.raises(KeyboardInterrupt):
        road.begin(request, out, [road.Hearing(on_save=fail)])
    assert torch.equal(road.outputs(out, obs), expected)  # what it began with is saved
    shutil.rmtree(source)
    assert api.resume(out).finished
    assert not torch.equal(road.outputs(out, obs), expected)


def test_the_config_says_all_and_repeats_the_run(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again, python = tmp_path / "run", tmp_path / "again", tmp_path / "python"
    settings = {**PPO, **road.JUDGED, "strategy": "last-2", "member": 4, "seeds": 2, "reward_scaling": "none"}
    assert main(["finetune", str(ppo_run), "--json", "--out", str(out), *road.flags(**settings)]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert (judged["agent"], len(judged["per_seed"])) == ("ppo", 2)
    config = json.loads((out / "config.json").read_text())
    start = config["start"]
    assert (start["run"], start["member"], start["strategy"]) == (str(ppo_run), 4, "last-2")
    assert (config["unit"], config["run"]["env_steps"], config["agent"]) == ("env_steps", 128, "ppo")
    assert config["env"]["max_episode_steps"] == road.LIMIT  # the env is the source's
    assert config["settings"]["hidden"] == [16, 8]  # and so is the network
    origins = config["origins"]
    assert (origins["strategy"], origins["rollout_steps"], origins["layer_decay"]) == (*["command line"] * 2, "default")
    assert (origins["hidden"], origins["gamma"]) == ("start", "start")

    rlab.finetune(ppo_run, out=python, **settings)
    running.start(Request.from_json(config, "config.json", trust=False), again, progress=False)
    for other in (again, python):
        road.check_same(road.weights(out), road.weights(other))
        assert (other / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()
    said = json.loads((python / "config.json").read_text())
    assert {**said, "command": "", "origins": {}} == {**config, "command": "", "origins": {}}
    assert {name: said["origins"][name] for name in origins if origins[name] != "command line"} == {
        name: origin for name, origin in origins.items() if origin != "command line"
    }
    begins = f"rlab.finetune({str(ppo_run)!r}, 'CartPole-v1', agent='ppo', member=4, env_steps=128"
    assert said["command"].startswith(begins)


def test_an_agent_that_goes_on_keeps_the_settings_of_its_run(
    tmp_path: Path, road: SimpleNamespace, dqn_run: Path
) -> None:
    rlab.finetune(dqn_run, out=tmp_path / "run", **BUDGET, **road.JUDGED)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    settings, origins = config["settings"], config["origins"]
    assert (settings["learning_starts"], settings["batch_size"], settings["n_step"]) == (64, 16, 1)  # no tuned ones
    assert (origins["learning_starts"], origins["n_step"]) == ("start", "start")
    # it explores as much as it did at the end
    assert (settings["epsilon_start"], settings["epsilon_end"]) == (0.05, 0.05)
    assert origins["epsilon_start"] == "fine-tuning"
    assert (config["run"]["seed"], config["run"]["seeds"]) == (3, 2)


def test_values_that_were_pretrained_are_held_to_their_demonstrations(
    tmp_path: Path, road: SimpleNamespace, dataset: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "run"
    settings = {"updates": 20, "demonstration_weight": 0.5, "gamma": 0.9}
    rlab.pretrain("bc", dataset, agent="dqn", out=source, **settings, **road.JUDGED)
    learning = {**BUDGET, "learning_starts": 32, "learn_every": 32, "batch_size": 16}
    shown = {"dataset": str(dataset), "demonstration_share": 0.25}
    assert rlab.finetune(source, out=out, **learning, **shown, **road.JUDGED).finished
    config = json.loads((out / "config.json").read_text())
    kept = {name: config["settings"][name] for name in ("demonstration_weight", "gamma")}
    assert (config["agent"], config["settings"]["demonstration_loss"]) == ("dqn", "conservative")
    assert kept == {"demonstration_weight": 0.5, "gamma": 0.9}
    assert np.isfinite([row["loss/conservative"] for row in road.rows(out)]).all()


@pytest.mark.parametrize("agent", ["bc", "iql", "encoder"])
def test_what_learns_from_a_dataset_can_go_on_too(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, dataset: Path, agent: str
) -> None:
    settings = {"agent": agent, "dataset": str(dataset), "updates": 10, "batch_size": 16, "strategy": "last-2"}
    run = rlab.finetune(ppo_run, out=tmp_path / "run", **settings, **road.JUDGED)
    assert (run.unit, run.time) == ("updates", 10)
    before, after = road.weights(ppo_run), road.weights(run.path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learned = {f"network.{layer}.{name}" for layer in (2, 4) for name in ("weight", "bias")}
    assert moved == (learned if agent != "encoder" else {"network.2.weight", "network.2.bias"})


AGENT = """
from rlab.agents.dqn import DQN

class Own(DQN):
    pass
"""


def test_code_of_others_that_a_policy_names_runs_only_where_it_is_trusted(
    tmp_path: Path,
    road: SimpleNamespace,
    dqn_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "agent_of_a_stranger.py").write_text(AGENT)
    monkeypatch.syspath_prepend(tmp_path)
    source, out = tmp_path / "policy", tmp_path / "run"
    saved = load_policy(dqn_run)
    save_policy(source, saved.policy, {**saved.extra, "agent": "agent_of_a_stranger:Own"})
    words = ["finetune", str(source), "--out", str(out), *road.flags(**BUDGET, **road.JUDGED)]
    assert main(words) == 1
    assert "names agent_of_a_stranger, which is code from outside rlab; add --trust" in one_line(capsys)
    with pytest.raises(RlabError, match="add --trust"):
        rlab.finetune(source, out=out, **BUDGET)
    assert not out.exists()
    assert main([*words, "--trust"]) == 0
    assert json.loads((out / "config.json").read_text())["agent"] == "agent_of_a_stranger:Own"


@pytest.mark.parametrize(
    ("strategy", "learn"), [("head", {7}), ("last-2", {4, 6, 7}), ("lora", set()), ("full", {0, 1, 3, 4, 6, 7})]
)
def test_batch_renormalisation_of_layers_that_never_learn_stays_to_the_bit(
    strategy: str, learn: set[int], tmp_path: Path, road: SimpleNamespace
) -> None:
    """Of CrossQ's policy: linear layers at 1, 4 and 7, each with the normalisation behind it, the first with both."""
    quick = {**road.TINY, "env_steps": 96, "learning_starts": 32, "batch_size": 8, "learn_every": 8, "log_every": 32}
    start = rlab.train("crossq", "Pendulum-v1", out=tmp_path / "start", **{**quick, "hidden": (8, 8)})
    quick = {name: value for name, value in quick.items() if name != "hidden"} | {"critic_warmup": 0}
    quick |= {"lora_rank": 1} if strategy == "lora" else {}
    tuned = rlab.finetune(start, out=tmp_path / "tuned", strategy=strategy, **quick)
    before, after = (load_policy(run.path).policy for run in (start, tuned))
    kinds = [layer.kind for layer in before.spec.network.layers]
    assert [i for i, kind in enumerate(kinds) if kind == "batch_renorm"] == [0, 3, 6]
    changed = {
        int(name.split(".")[1])
        for name, tensor in after.state_dict().items()
        if name.startswith("network.") and name in before.state_dict() and not tensor.equal(before.state_dict()[name])
    }
    assert changed == learn


def test_what_is_made_of_a_policy_goes_on_with_what_its_values_mean(
    tmp_path: Path, road: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {**road.TINY, "env_steps": 96, "learning_starts": 32, "batch_size": 8, "max_episode_steps": road.LIMIT}
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **quick, munchausen=True, gamma=0.97)
    made = rlab.compress(run.path, "distil:4", episodes=2, updates=4, min_return_ratio=0.0, out=tmp_path / "small")
    again = rlab.compress(made.path, "int8", episodes=2, min_return_ratio=0.0, out=tmp_path / "smaller")
    published = rlab.publish(again.path, "small", models=tmp_path / "models", episodes=2)
    quick = {name: value for name, value in quick.items() if name != "hidden"}
    for number, source in enumerate((again.path, published.path)):
        tuned = rlab.finetune(source, out=tmp_path / f"tuned-{number}", **quick)
        assert (tuned.config["settings"]["munchausen"], tuned.config["settings"]["gamma"]) == (True, 0.97)
    file = made.path / "policy.json"
    whole = json.loads(file.read_text())
    for wrong in ([], {"gamma": "high"}, {"learning_rate": 0.1}, {"munchausen": [True]}):
        file.write_text(json.dumps({**whole, "extra": {**whole["extra"], "trained_with": wrong}}))
        assert main(["finetune", str(made.path), "--out", str(tmp_path / "none")]) == 1
        assert "'trained_with' must be settings among gamma, " in one_line(capsys)


WRONG = [
    (2, "", "finetune needs a run first: rlab finetune RUN"),
    (2, "--env-steps 9", "finetune needs a run first"),
    (2, "{missing}", "is not a folder"),
    (1, "{folder}", "is neither a run folder (config.json, manifest.json) nor a policy folder"),
    (1, "{broken}", "policy.json"),
    (2, "{ppo} --strategy haed", "unknown fine-tuning strategy 'haed'. Did you mean 'head'?"),
    (2, "{ppo} --strategy last-9", "strategy last-9: the network has 3 layers; last-3 is all of them."),
    (2, "{ppo} --strategy last-0", "last-1, the head alone, is the least"),
    (2, "{ppo} --strategy lora --lora-rank 99", "LoRA rank 99 does not fit"),
    (2, "{dqn} --noisy --strategy lora", "strategy lora puts adapters in the place of noisy layers"),
    (2, "{dqn} --agent rainbow --strategy lora", "or with epsilon in place of the noise, --no-noisy."),
    (2, "{ppo} --strategy discriminative --layer-decay 0", "layer_decay 0.0 must be in (0, 1]"),
    (2, "{ppo} --hidden 8 8", "--hidden: the network is that of {ppo}. Leave it out, or train from scratch."),
    (2, "{ppo} --activation relu --no-layer-norm", "--activation, --layer-norm: the network is that of"),
    (2, "{dqn} --critic-warmup 64", "critic_warmup needs an agent with a critic beside its policy"),
    (2, "{ppo} --member 9", "the source has no member with training seed 9; it has 3, 4."),
    (2, "{ppo} --seed 9", "not all among the source's, 3, 4"),
    (2, "{ppo} --seeds 3", "not all among the source's, 3, 4"),
    (2, "{ppo} CartPol-v1", "Did you mean 'CartPole-v1'?"),
    (2, "{ppo} Pendulum-v1 --agent dqn", "dqn cannot choose the actions"),
    (2, "{ppo} --agent pppo", "unknown agent 'pppo'. Did you mean 'ppo'?"),
    (2, "{ppo} --agent bc", "bc learns from a dataset: name one with --dataset DIR"),
    (2, "{ppo} --experiment nowhere", "nowhere"),
    (2, "{ppo} --gama 0.9", "unknown setting --gama for ppo. Did you mean --gamma?"),
    (2, "{ppo} --teacher {missing}", "is not a folder"),
    (2, "{ppo} --out {ppo}", "exists and is not empty; nothing in it was touched"),
]


@pytest.mark.parametrize(("code", "words", "said"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path: Path, ppo_run: Path, dqn_run: Path, code: int, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    shutil.copytree(ppo_run, tmp_path / "broken")
    (tmp_path / "broken" / "policy" / "policy.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    places = {"ppo": ppo_run, "dqn": dqn_run, **{n: tmp_path / n for n in ("missing", "folder", "broken")}}
    argv = words.format(**places).split()
    out = ["--out", str(tmp_path / "run")] if argv and "--out" not in argv else []
    assert main(["finetune", *argv, *out]) == code
    assert said.format(**places) in one_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_python_refuses_the_same(tmp_path: Path, ppo_run: Path) -> None:
    for settings, said in (
        ({"hidden": (8,)}, "--hidden: the network is that of"),
        ({"strategie": "head"}, "rlab.finetune: unknown setting strategie"),
        ({"strategy": "haed"}, "Did you mean 'head'"),
        ({"member": 9}, "no member with training seed 9"),
    ):
        with pytest.raises(UsageError, match=said):
            rlab.finetune(ppo_run, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
