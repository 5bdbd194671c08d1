"""Agents that train sparse policies: the share that was asked for, in every layer of every member, and nowhere else."""

import itertools
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rlab
from rlab.compression.distil import DistilSettings
from rlab.compression.quantized_layers import CompressedLayer, full_precision
from rlab.compression.steps import compress
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import UsageError
from rlab.jobs.request import train_request
from rlab.jobs.session import Session
from rlab.learning.sparsity import prunable, sparsity
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.config import RunConfig
from rlab.runs.folder import RunFolder
from rlab.runs.policies import load_policy
from rlab.types import Clock

SMALL = {"hidden": (16, 8), "sparsity": 0.8}
OFF_POLICY = {**SMALL, "learning_starts": 64, "batch_size": 16, "target_every": 40}
ON_POLICY = {**SMALL, "rollout_steps": 10}
QUICK = DistilSettings(rounds=1, rows=40, updates=8, batch_size=8)
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("dqn", "CartPole-v1", OFF_POLICY),
    ("double_dqn", "CartPole-v1", {**OFF_POLICY, "dueling": True, "l1": 1e-5, "target_tau": 0.1}),
    ("ppo", "CartPole-v1", {**ON_POLICY, "epochs": 2}),
    ("ppo", "CartPole-v1", {**ON_POLICY, "epochs": 2, "shared_body": True}),
    ("ppo", "Pendulum-v1", {**ON_POLICY, "epochs": 2, "target_kl": 2e-3, "weight_decay": 1e-3}),
    ("a2c", "CartPole-v1", ON_POLICY),
    ("reinforce", "CartPole-v1", ON_POLICY),
]


def zeros_by_layer(network: nn.Module) -> dict[str, list[int]]:
    """How many weights of each layer are 0, for each member."""
    return {name: (weight == 0).flatten(1).sum(dim=1).tolist() for name, weight in prunable(network)[0].items()}


# The others share their learning with these.
SHARED = [CASES[0], CASES[2], *CASES[-2:]]


@pytest.mark.parametrize(
    ("name", "env_id", "settings"),
    [pytest.param(*case, marks=pytest.mark.prove if case in SHARED else ()) for case in CASES],
)
def test_every_layer_of_every_member_ends_with_the_share_that_was_asked_for(
    lab: SimpleNamespace, name: str, env_id: str, settings: dict[str, Any]
) -> None:
    agent = lab.train_members(name, env_id, (5, 17, 2), 800, **settings)
    network = agent.policy().network
    weights, members = prunable(network)
    assert members == 3
    for layer, found in zeros_by_layer(network).items():
        assert found == [round(0.8 * weights[layer][0].numel())] * 3, layer
    for rest_name, rest in list(agent.networks.items())[1:]:  # a critic
        assert sparsity(rest).max() < 0.01, rest_name
    masks = [weight != 0 for weight in weights.values()]
    assert any(not torch.equal(mask[0], mask[1]) for mask in masks)  # members choose for themselves


@pytest.mark.parametrize("name", ["dqn", pytest.param("ppo", marks=pytest.mark.prove)])
def test_a_member_is_pruned_beside_others_as_it_is_alone(lab: SimpleNamespace, name: str) -> None:
    settings = OFF_POLICY if name == "dqn" else ON_POLICY
    together = lab.train_members(name, "CartPole-v1", (5, 17, 2), 400, **settings).policy().network
    for i, seed in enumerate((5, 17, 2)):
        alone = lab.train_members(name, "CartPole-v1", (seed,), 400, **settings).policy().network
        for one, other in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one[i : i + 1], other, rtol=1e-3, atol=1e-4)


class Told:
    """A listener that keeps the share of zeros that is reported."""

    def __init__(self) -> None:
        self.zeros: dict[int, np.ndarray | None] = {}

    def on_metrics(self, env_steps: int, metrics: dict[str, np.ndarray]) -> None:
        self.zeros[env_steps] = metrics.get("sparsity/zeros")

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None: ...

    def on_save(self, env_steps: int) -> None: ...


@pytest.mark.parametrize("name", ["ppo", pytest.param("dqn", marks=pytest.mark.prove)])
def test_the_share_of_zeros_is_reported_where_it_was_asked_for(lab: SimpleNamespace, name: str) -> None:
    settings = OFF_POLICY if name == "dqn" else ON_POLICY
    told, silent = Told(), Told()
    agent = lab.train_members(name, "CartPole-v1", (5, 17), 800, listeners=[told], log_every=80, **settings)
    lab.train_members(
        name, "CartPole-v1", (5, 17), 160, listeners=[silent], log_every=80, **{**settings, "sparsity": 0.0}
    )
    assert set(silent.zeros.values()) == {None}
    shares = [found for found in told.zeros.values() if found is not None]
    assert shares[0].tolist() == [0.0, 0.0]
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(shares))
    assert shares[-1] == pytest.approx(sparsity(agent.policy().network).numpy())


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_a_run_that_goes_on_from_a_checkpoint_prunes_the_same_weights_and_learns_the_same_bits(
    tmp_path: Path, name: str
) -> None:
    run = {"seeds": 2, "env_steps": 1600, "final_eval_episodes": 0, "log_every": 80, "eval_every": 10**6}
    learning = OFF_POLICY if name == "dqn" else {**ON_POLICY, "rollout_steps": 20}
    request = train_request(name, "CartPole-v1", (), (), "none", {**run, **learning})
    folder = RunFolder.create(tmp_path / "run", request.to_json())
    session, fresh = Session(request), Session(request)
    fresh.env.close()
    assert not session.train(folder, [StopAt(880)]).finished  # in mid-rollout of 8 envs x 20 vector steps
    kept, again = session.agent, fresh.agent
    kept.load_state(kept.state())  # what a checkpoint does not hold is let go
    again.load_state(load_checkpoint(folder)[0]["loop"]["agent"])
    share = sparsity(kept.policy().network)
    assert (share > 0.5).all()
    rows = session.loop.sampler.sample(64)
    batches = [agent.prepare(rows) for agent in (kept, again)]
    for time in (880, 887, 888, 900, 1200, 1280, 1600):  # in the same percent, in later ones, and at the end
        clock = Clock(time, 1600)
        kept.optimizer.at(clock)
        again.optimizer.at(clock)
        told = [
            agent.update(batch, agent.scheduled(clock)).metrics
            for agent, batch in zip((kept, again), batches, strict=True)
        ]
        assert all(torch.equal(value, told[1][tag]) for tag, value in told[0].items())
        for one, other in zip(kept.policy().parameters(), again.policy().parameters(), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(kept.optimizer.flat, again.optimizer.flat)
    assert (sparsity(kept.policy().network) > share).all()


class StopAt(Told):
    """A listener that presses Ctrl+C at the first report from `env_steps` on."""

    def __init__(self, env_steps: int) -> None:
        super().__init__()
        self.env_steps = env_steps

    def on_metrics(self, env_steps: int, metrics: dict[str, np.ndarray]) -> None:
        if env_steps >= self.env_steps:
            signal.raise_signal(signal.SIGINT)


def test_a_sparse_run_is_compressed_as_any_other(tmp_path: Path) -> None:
    settings = {**OFF_POLICY, "seeds": 2, "env_steps": 400, "final_eval_episodes": 0, "experiment": "none"}
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **settings).path
    policy = load_policy(run).policy
    assert sparsity(policy.network).tolist() == [pytest.approx(0.8, abs=0.01)] * 2
    child = compress(policy, "int8", lambda n: make_episodes(EnvSpec("CartPole-v1", max_episode_steps=30), n), QUICK)
    rounded = full_precision(child.network)
    assert (sparsity(rounded) > 0.5).all()  # corrections of the rounding may give a weight back
    assert any(isinstance(layer, CompressedLayer) for layer in child.network.modules())


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=rf"sparsity {share} must be in \[0, 1\)"):
        RunConfig(sparsity=share)
