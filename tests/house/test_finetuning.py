"""`rlab finetune`: what each strategy leaves alone keeps every bit, and a run begins with exactly what it was given."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import rlab
from rlab.jobs.session import Session
from rlab.networks.merging import merge_policy
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder
from rlab.runs.policies import load_policy

pytestmark = pytest.mark.usefixtures("quick_disk")

LAYERS = ("network.0", "network.2", "network.4")
# 4 envs x 16 vector steps make a rollout of 64 env steps and one update; there are four of them.
PPO: dict[str, Any] = {"env_steps": 256, "rollout_steps": 16, "epochs": 1, "minibatches": 1, "log_every": 4}
PPO |= {"lr_schedule": "constant", "num_envs": 4, "experiment": "none"}
# One update at every vector step of 4 env steps, from env step 32 on.
DQN: dict[str, Any] = {"env_steps": 128, "learning_starts": 32, "learn_every": 4, "updates_per_learn": 1}
DQN |= {"batch_size": 8, "num_envs": 4, "log_every": 4, "experiment": "none"}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The tensors that are not bit for bit what they were, in any member; a name that one side lacks counts too."""
    names = before.keys() | after.keys()
    return {n for n in names if n not in before or n not in after or not torch.equal(before[n].cpu(), after[n].cpu())}


def of(*layers: str) -> set[str]:
    return {f"{layer}.{name}" for layer in layers for name in ("weight", "bias")}


def at_start(road: SimpleNamespace, found: dict[str, Tensor]) -> Any:
    """A listener that puts the tensors of the policy into `found` as they are at the first save, at 0 env steps."""

    def save(session: Session, time: int) -> None:
        if time == 0:
            found.update(road.copied(session.agent.policy()))

    return road.Hearing(on_save=save)


def test_a_cloned_policy_goes_on_exactly_as_it_was(
    tmp_path: Path, road: SimpleNamespace, cloned_run: Path, obs: Tensor
) -> None:
    out, said = tmp_path / "run", []

    def save(session: Session, time: int) -> None:
        said.append((time, road.outputs(out, obs), road.weights(out / "start")))
        loop = load_checkpoint(RunFolder.open(out))[0]["loop"]
        road.check_same(loop["agent"]["policy"], road.weights(cloned_run if time == 0 else out))
        assert loop["env_steps"] == time

    request = road.asked("finetune", str(cloned_run), **PPO, **road.JUDGED)
    session, _, _ = road.begin(request, out, [road.Hearing(on_save=save)])
    assert [time for time, _, _ in said] == [0, 256, 256]  # at the end, before it is judged and after
    expected = road.outputs(cloned_run, obs)
    assert torch.equal(said[0][1], expected)
    assert not torch.equal(said[1][1], expected)
    for _, _, kept in said:
        road.check_same(kept, road.weights(cloned_run))
    policy = session.agent.policy()
    assert policy.network is session.agent.networks["actor"]
    road.check_same(road.weights(out), policy.state_dict())


STRATEGIES = [
    ("full", of(*LAYERS), 1.0),
    ("head", of("network.4"), (8 * 2 + 2) / 234),
    ("last-2", of("network.2", "network.4"), (16 * 8 + 8 + 8 * 2 + 2) / 234),
    ("last-3", of(*LAYERS), 1.0),
]  # the network has 4 * 16 + 16 + 16 * 8 + 8 + 8 * 2 + 2 = 234 parameters


@pytest.mark.parametrize(("strategy", "trained", "share"), STRATEGIES)
@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_what_a_strategy_freezes_keeps_every_bit(
    tmp_path: Path,
    road: SimpleNamespace,
    ppo_run: Path,
    dqn_run: Path,
    agent: str,
    strategy: str,
    trained: set[str],
    share: float,
) -> None:
    source, settings = (ppo_run, PPO) if agent == "ppo" else (dqn_run, DQN)
    out = tmp_path / "run"
    decay = {"optimizer": "adamw", "weight_decay": 0.1, "l1": 0.01}  # which would move what has no gradient
    run = rlab.finetune(source, strategy=strategy, out=out, **settings, **decay, **road.JUDGED)
    assert run.trainable == pytest.approx(share)
    before, after = road.weights(source), road.weights(out)
    assert changed(before, after) == trained
    for name in trained:  # in every member
        assert (before[name] != after[name]).flatten(1).any(dim=1).all(), name


def test_lora_begins_with_equal_outputs_keeps_its_base_and_can_be_merged(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, obs: Tensor
) -> None:
    out, early = tmp_path / "run", []

    def save(session: Session, time: int) -> None:
        early.append(road.outputs(out, obs))

    settings = {**PPO, "strategy": "lora", "lora_rank": 2, "learning_rate": 0.01}
    session, _, _ = road.begin(
        road.asked("finetune", str(ppo_run), **settings, **road.JUDGED), out, [road.Hearing(on_save=save)]
    )
    assert session.trainable == pytest.approx((2 * (4 + 16) + 2 * (16 + 8) + 2 * (8 + 2)) / 234)
    assert torch.equal(early[0], road.outputs(ppo_run, obs))
    before, after = road.weights(ppo_run), road.weights(out)
    adapters = {f"{layer}.{name}" for layer in LAYERS for name in ("down", "up")}
    assert changed(before, after) == adapters  # and nothing that was there
    final = load_policy(out).policy
    assert (final.outputs(obs) - road.outputs(ppo_run, obs)).abs().max() > 1e-3
    merged = merge_policy(final)
    assert merged.state_dict().keys() == before.keys()
    torch.testing.assert_close(merged.outputs(obs), final.outputs(obs), rtol=0, atol=1e-5)

    again = tmp_path / "again"  # a run that begins with it begins with what it does
    rlab.finetune(out, out=again, **PPO, **road.JUDGED)
    assert road.weights(again).keys() == before.keys()
    starts = load_policy(again / "start").policy
    torch.testing.assert_close(starts.outputs(obs), final.outputs(obs), rtol=0, atol=0)


def test_gradual_unfreezing_comes_at_the_exact_env_step(tmp_path: Path, road: SimpleNamespace, dqn_run: Path) -> None:
    seen: dict[int, tuple[dict[str, Tensor], tuple[str, ...]]] = {}

    def report(session: Session, time: int) -> None:
        seen[time] = (road.copied(session.agent.policy()), session.agent.optimizer.learning())

    settings = {**DQN, "strategy": "gradual", "unfreeze_every": 48}
    request = road.asked("finetune", str(dqn_run), **settings, **road.JUDGED)
    road.begin(request, tmp_path / "run", [road.Hearing(on_report=report)])
    assert list(seen) == list(range(4, 129, 4))
    start = road.weights(dqn_run)
    for time, (weights, learning) in seen.items():
        begun = LAYERS[2 - min(time // 48, 2) :] if time >= 32 else ()  # the head, one more at 48, the last at 96
        assert changed(start, weights) == of(*begun), time
        expected = ("q_network.0", "q_network.2", "q_network.4")[2 - min(time // 48, 2) :]
        assert time < 32 or learning == expected, time


def test_discriminative_rates_are_those_of_the_optimizer(tmp_path: Path, road: SimpleNamespace, ppo_run: Path) -> None:
    seen: dict[int, dict[str, float]] = {}

    def report(session: Session, time: int) -> None:
        groups = session.agent.optimizer.torch_optimizer.param_groups
        names = [group.name for group in session.agent.optimizer.groups]
        seen[time] = {name: group["lr"] for name, group in zip(names, groups, strict=True)}

    settings = {**PPO, "strategy": "discriminative", "layer_decay": 0.5, "learning_rate": 8e-3, "lr_schedule": "linear"}
    request = road.asked("finetune", str(ppo_run), **settings, **road.JUDGED)
    road.begin(request, tmp_path / "run", [road.Hearing(on_report=report)])
    for rollout in range(4):  # the rate of a rollout is that of when it began
        base = 8e-3 * (1 - rollout / 4)
        expected = {"actor.0": base / 4, "actor.2": base / 2, "actor.4": base, "critic": base}
        assert seen[64 * (rollout + 1)] == pytest.approx(expected)
    assert changed(road.weights(ppo_run), road.weights(tmp_path / "run")) == of(*LAYERS)


def test_a_critic_that_warms_up_learns_alone(tmp_path: Path, road: SimpleNamespace, ppo_run: Path) -> None:
    seen: dict[int, tuple[set[str], bool]] = {}
    critic = load_checkpoint(RunFolder.open(ppo_run))[0]["loop"]["agent"]["critic"]

    def report(session: Session, time: int) -> None:
        still = changed(road.weights(ppo_run), session.agent.policy().state_dict())
        seen[time] = (still, bool(changed(critic, session.agent.critic.state_dict())))

    settings = {**PPO, "critic_warmup": 100, "log_every": 64}
    request = road.asked("finetune", str(ppo_run), **settings, **road.JUDGED)
    road.begin(request, tmp_path / "run", [road.Hearing(on_report=report)])
    # rollouts end at 64, which is before 100, and at 128
    assert seen == {64: (set(), True), 128: (of(*LAYERS), True), 192: (of(*LAYERS), True), 256: (of(*LAYERS), True)}


ACROBOT = {"network.0": "6 inputs instead of 4", "network.4": "3 actions instead of 2"}


@pytest.mark.parametrize("strategy", ["full", "head", "lora"])
def test_another_env_names_what_it_replaces_and_keeps_the_rest(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start: dict[str, Tensor] = {}
    rank = {"lora_rank": 2} if strategy == "lora" else {}
    settings = {**PPO, "strategy": strategy, **rank, "max_episode_steps": 20}
    request = road.asked("finetune", str(ppo_run), "Acrobot-v1", **settings, **road.JUDGED)
    session, _, _ = road.begin(request, tmp_path / "run", [at_start(road, start)])
    named = ", ".join(f"{layer} ({why})" for layer, why in ACROBOT.items())
    assert f"begins from {ppo_run / 'policy'}: kept network.2; replaced {named}" in session.describe()
    assert f"strategy {strategy}: {session.trainable:.1%} of the policy learns" in session.describe()
    old, now, after = road.weights(ppo_run), start, road.weights(tmp_path / "run")
    kept = of("network.2")
    assert not changed({name: old[name] for name in kept}, {name: now[name] for name in kept})
    assert [now[f"{layer}.weight"].shape[1:] for layer in LAYERS] == [(6, 16), (16, 8), (8, 3)]
    fresh = of("network.0", "network.4")  # which learns whatever the strategy
    adapters = {"network.2.down", "network.2.up"} if strategy == "lora" else set()
    assert changed(now, after) == fresh | (kept if strategy == "full" else set()) | adapters
    env = load_policy(tmp_path / "run").extra["env"]
    assert (env["env_id"], env["max_episode_steps"]) == ("Acrobot-v1", 20)


def test_an_actor_becomes_a_q_network_and_a_q_network_an_actor(
    tmp_path: Path, road: SimpleNamespace, ppo_run: Path, dqn_run: Path
) -> None:
    pairs = [
        (ppo_run, "dqn", DQN, "head q instead of categorical"),
        (dqn_run, "ppo", PPO, "head categorical instead of q"),
        (dqn_run, "a2c", {**PPO, "epochs": None, "minibatches": None}, "head categorical instead of q"),
    ]
    for source, agent, budget, why in pairs:
        start: dict[str, Tensor] = {}
        settings = {name: value for name, value in budget.items() if value is not None}
        request = road.asked("finetune", str(source), agent=agent, **settings, **road.JUDGED)
        session, _, outcome = road.begin(request, tmp_path / agent, [at_start(road, start)])
        assert outcome.finished
        assert f"kept network.0, network.2; replaced network.4 ({why})" in session.describe()
        old, now = road.weights(source), start
        assert not changed({n: old[n] for n in of(*LAYERS[:2])}, {n: now[n] for n in of(*LAYERS[:2])})
        assert not torch.equal(old["network.4.weight"], now["network.4.weight"])
        assert load_policy(tmp_path / agent).policy.spec.head["kind"] == ("q" if agent == "dqn" else "categorical")
        critic = [line for line in session.describe().splitlines() if line.startswith("critic:")]
        assert critic == ([] if agent == "dqn" else ["critic: fresh, since the run has none"])


def test_the_target_network_begins_with_the_same_values(tmp_path: Path, road: SimpleNamespace, dqn_run: Path) -> None:
    found = {}

    def save(session: Session, time: int) -> None:
        if time == 0:
            agent = session.agent
            found["same"] = not changed(agent.q_network.state_dict(), agent.target_network.state_dict())
            found["old"] = not changed(road.weights(dqn_run), agent.policy().state_dict())

    request = road.asked("finetune", str(dqn_run), **DQN, **road.JUDGED)
    road.begin(request, tmp_path / "run", [road.Hearing(on_save=save)])
    assert found == {"same": True, "old": True}


def test_steps_are_made_smaller_once_however_often_a_run_is_fine_tuned(tmp_path: Path, ppo_run: Path) -> None:
    own = {name: value for name, value in PPO.items() if name != "experiment"}  # a run's settings are gone on with
    rates, source = [], ppo_run
    for name in ("once", "twice", "thrice"):
        rlab.finetune(source, out=tmp_path / name, **own)
        source = tmp_path / name
        rates.append(RunFolder.open(source).config["settings"]["learning_rate"])
    whole = RunFolder.open(ppo_run).config["settings"]["learning_rate"]
    assert rates == pytest.approx([0.3 * whole] * 3)
