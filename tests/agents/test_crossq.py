"""CrossQ's rules on small numbers: one batch of both ends, running statistics, no targets, Adam's first moment."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor

import rlab
from rlab.agents import load_agent
from rlab.agents.crossq import CrossQ, CrossQConfig
from rlab.errors import UsageError
from rlab.networks.batch_renorm import BatchRenorm, StackedBatchRenorm
from rlab.networks.spaces import Box
from rlab.runs.policies import load_policy
from rlab.types import Clock

CPU = torch.device("cpu")
OBS, ACTIONS = Box((2,), "float32", -1.0, 1.0), Box((1,), "float32", -1.0, 1.0)


def crossq(seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    return CrossQ(CrossQConfig(**{"hidden": (), "learning_starts": 0, **settings}), OBS, ACTIONS, seeds, CPU)


def batch_of(members: int, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    batch = {name: torch.rand(members, rows, 2, generator=draws) for name in ("obs", "next_obs")}
    batch["action"] = torch.rand(members, rows, 1, generator=draws) * 2.0 - 1.0
    return {**batch, "reward": torch.rand(members, rows, generator=draws), "discount": torch.full((members, rows), 0.9)}


def now(agent: Any) -> dict[str, float]:
    return dict(agent.scheduled(Clock(1, 10_000)))


def renormalising(network: torch.nn.Module) -> list[BatchRenorm]:
    return [layer for layer in network.modules() if isinstance(layer, BatchRenorm)]


@torch.no_grad()
def test_the_critics_normalise_both_ends_of_a_transition_by_their_common_statistics() -> None:
    agent = crossq(temperature=1e-9)
    agent.actor[-1].weight.zero_()
    agent.actor[-1].bias.copy_(tensor([math.atanh(-0.5), -20.0]))  # the next action is -0.5, almost surely
    linear = agent.critics.network.top[-1]
    linear.weight.copy_(tensor([[0.0], [0.0], [1.0]]))  # Q is the renormalised action
    linear.bias.zero_()
    rows = {"obs": torch.zeros(1, 1, 2), "next_obs": torch.zeros(1, 1, 2), "action": tensor([[[0.5]]])}
    rows |= {"reward": tensor([[1.0]]), "discount": tensor([[0.9]])}
    with torch.enable_grad():
        metrics = agent.update(rows, now(agent)).metrics
    q = 0.5 / math.sqrt(0.25 + 1e-3)  # mean 0 and variance 0.25 of 0.5 and -0.5; the next value is -q
    goal = 1.0 - 0.9 * q
    assert metrics["q/mean"].item() == pytest.approx(q, rel=1e-3)
    assert metrics["loss/critics"].item() == pytest.approx(2 * 0.5 * (goal - q) ** 2, rel=1e-3)


def test_each_update_moves_the_statistics_of_the_critics_and_every_third_those_of_the_policy() -> None:
    agent = crossq((0, 1), hidden=(4,))
    moved = []
    for update in range(6):
        before = [p.clone() for p in agent.actor.parameters()]
        agent.update(batch_of(2, 8, update), now(agent))
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, agent.actor.parameters(), strict=True)))
    assert moved == [False, False, True] * 2
    assert {tuple(layer.batches.tolist()) for layer in renormalising(agent.critics)} == {(6, 6, 6, 6)}
    assert {tuple(layer.batches.tolist()) for layer in renormalising(agent.actor)} == {(2, 2)}


def test_acting_and_what_is_judged_go_by_running_statistics_alone() -> None:
    agent = crossq((0,), hidden=(4,))
    obs = torch.randn(1, 8, 2)
    together = agent.policy().outputs(obs)
    torch.testing.assert_close(together[:, :1], agent.policy().outputs(obs[:, :1]))
    agent.act(obs, {**now(agent), "explore/uniform": 0.0}, {})
    assert all(layer.batches.item() == 0 for layer in renormalising(agent.actor))


def test_a_policy_that_stands_still_keeps_its_statistics_too() -> None:
    agent = crossq((0,), hidden=(4,), policy_delay=1)
    agent.optimizers["actor"].learning = lambda: ()
    agent.update(batch_of(1, 8), now(agent))
    assert all(layer.batches.item() == 0 for layer in renormalising(agent.actor))


def test_there_is_no_target_network_and_each_linear_layer_has_its_renormalisation() -> None:
    agent = crossq((0,), hidden=(4, 4), critic_hidden=(8,))
    assert agent.targets == {}
    assert not any("target" in name for name in agent.state())
    kinds = [type(layer).__name__ for layer in agent.critics.network.top]
    assert kinds == ["StackedBatchRenorm", "StackedLinear", "ReLU", "StackedBatchRenorm", "StackedLinear"]
    assert sum(isinstance(layer, StackedBatchRenorm) for layer in agent.actor) == 3
    assert agent.critics.network.top[1].weight.shape == (2, 3, 8)


def test_adam_forgets_gradients_faster_but_for_the_temperature() -> None:
    betas = {
        name: {group["betas"] for group in optimizer.torch_optimizer.param_groups}
        for name, optimizer in crossq().optimizers.items()
    }
    assert betas == {"actor": {(0.5, 0.999)}, "critics": {(0.5, 0.999)}, "temperature": {(0.9, 0.999)}}
    with pytest.raises(UsageError, match=r"beta1 1\.0 must be 0 or more and below 1"):
        CrossQConfig(beta1=1.0)


def test_a_member_beside_others_learns_what_it_learns_alone() -> None:
    settings: dict[str, Any] = {"hidden": (8,), "optimizer_eps": 1e-2}
    together, alone = crossq((3, 5), **settings), crossq((5,), **settings)
    for update in range(9):
        batch = batch_of(2, 16, update)
        both = together.update(batch, now(together))
        one = alone.update({name: value[1:] for name, value in batch.items()}, now(alone))
        for name, value in one.metrics.items():
            torch.testing.assert_close(both.metrics[name][1:], value, rtol=1e-4, atol=1e-4)
    for network in ("actor", "critics"):
        found = alone.networks[network].state_dict()
        for name, value in together.networks[network].state_dict().items():
            torch.testing.assert_close(value[1:], found[name], rtol=1e-4, atol=1e-4)


def test_a_policy_that_another_agent_has_made_goes_on_as_it_is_and_a_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny: dict[str, Any] = {"env_steps": 16, "learning_starts": 4, "batch_size": 4, "final_eval_episodes": 0}
    for agent in ("sac", "crossq"):
        own = {"experiment": "none", "num_envs": 1, "hidden": (4,)}
        run = rlab.train(agent, "Pendulum-v1", out=tmp_path / agent, **own, **tiny)
        capsys.readouterr()
        rlab.finetune(run.path, agent="crossq", out=tmp_path / f"{agent}-on", progress=True, **tiny)
        said = "the policy has no batch renormalisation, as those of CrossQ have, and goes on without"
        assert (said in capsys.readouterr().out.splitlines()) == (agent == "sac")
        went_on = load_policy(tmp_path / f"{agent}-on").policy
        assert bool(renormalising(went_on.network)) == (agent == "crossq")


def test_it_is_registered_and_what_belongs_to_target_networks_is_not_read() -> None:
    assert load_agent("crossq") is CrossQ
    assert {"target_tau", "entropy_share"} <= CrossQConfig().unread(ACTIONS).keys()
    assert "beta1" in CrossQConfig(optimizer="sgd").unread(ACTIONS)
