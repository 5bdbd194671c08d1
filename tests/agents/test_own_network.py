"""`--network module:function` and `network=function`: trained, judged, resumed, fine-tuned, compressed and exported."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import rlab
from rlab.cli.main import main
from rlab.compression.report import count_multiply_adds, weight_bytes
from rlab.compression.steps import check_parent, parse_steps
from rlab.errors import RlabError, UsageError
from rlab.runs.policies import load_policy

HERE = Path(__file__).parent
SHORT = {"env_steps": 512, "num_envs": 4, "final_eval_episodes": 2, "experiment": "none"}


@pytest.fixture(autouse=True)
def found(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def forgotten(monkeypatch):
    """As in another process: no function was handed over here."""
    monkeypatch.setattr("rlab.networks.own._of_this_process", {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """PPO with the network of the example, from the command line."""
    path = tmp_path_factory.mktemp("own") / "run"
    sys.path.insert(0, str(HERE))
    try:
        words = ["--network", "own_network:residual", "--seeds", "2", "--env-steps", "512", "--num-envs", "4"]
        words += ["--rollout-steps", "32", "--final-eval-episodes", "2", "--experiment", "none", "--out", str(path)]
        assert main(["train", "ppo", "CartPole-v1", *words]) == 0
    finally:
        sys.path.remove(str(HERE))
    return path


def test_its_beginning_says_how_it_runs(run, tmp_path, capsys):
    rlab.train("dqn", "CartPole-v1", network="own_network:layers", out=tmp_path / "a", progress=True, **SHORT)
    rlab.train(
        "dqn", "CartPole-v1", network="own_network:residual", seeds=2, out=tmp_path / "b", progress=True, **SHORT
    )
    told = capsys.readouterr().out
    assert "network own_network:layers: stacked layers" in told
    assert "network own_network:residual: Residual, members run under torch.vmap; an nn.Sequential of" in told


def test_loading_it_needs_trust_unless_its_layers_are_known(run, tmp_path, monkeypatch):
    forgotten(monkeypatch)
    with pytest.raises(RlabError, match="layer 'own_network:residual' runs code from outside rlab; add --trust"):
        rlab.load(run)
    policy = rlab.load(run, trust=True)
    assert type(policy.network[0]).__name__ == "Residual"
    assert policy.network[1].in_features == 32
    assert rlab.evaluate(run, episodes=1, trust=True).returns.shape == (2, 1)
    known = rlab.train("a2c", "CartPole-v1", network="own_network:layers", out=tmp_path / "known", **SHORT)
    assert [type(layer).__name__ for layer in rlab.load(known.path).network[:3]] == ["Linear", "LayerNorm", "Tanh"]


@pytest.mark.parametrize("agent", ["double_dqn", "a2c", "reinforce"])
def test_every_agent_that_learns_in_an_env_takes_one(agent, tmp_path):
    import own_network

    done = rlab.train(agent, "CartPole-v1", network=own_network.residual, seeds=2, out=tmp_path / "run", **SHORT)
    assert done.finished
    assert done.policy(1)(torch.zeros(4)).shape == ()  # handed over in this process, so no trust is needed


def test_a_stopped_run_goes_on_and_equal_runs_are_equal(tmp_path, monkeypatch):
    class StopsOnce(rlab.Listener):
        def on_save(self, env_steps):
            return False

    def body(shape):
        return own_network.residual(shape)

    import own_network

    settings = {**SHORT, "network": body, "seeds": 2, "checkpoint_every": 256, "final_eval_episodes": 0}
    one, other = (rlab.train("dqn", "CartPole-v1", out=tmp_path / name, **settings) for name in "ab")
    for first, second in zip(one.policy().parameters(), other.policy().parameters(), strict=True):
        assert torch.equal(first, second)
    stopped = rlab.train("dqn", "CartPole-v1", out=tmp_path / "c", listeners=[StopsOnce()], **settings)
    assert not stopped.finished
    forgotten(monkeypatch)
    with pytest.raises(RlabError, match=r"goes on from Python alone, with what made it: rlab.resume\(.*network=...\)$"):
        rlab.resume(stopped.path)
    assert rlab.resume(stopped.path, network=body).finished


def test_fine_tuning_goes_on_with_a_trusted_layer(run, tmp_path):
    for agent, out in (("ppo", "same"), ("dqn", "other")):
        done = rlab.finetune(run, agent=agent, trust=True, strategy="head", out=tmp_path / out, **SHORT)
        assert done.finished
        assert type(rlab.load(done.path, trust=True).network[0]).__name__ == "Residual"


def test_a_function_of_this_process_alone_is_said_and_given_again(tmp_path, monkeypatch, capsys):
    def body(shape):
        return Wide(shape[0])

    class Wide(nn.Module):
        def __init__(self, inputs):
            super().__init__()
            self.layer = nn.Linear(inputs, 16)

        def forward(self, x):
            return torch.relu(self.layer(x))

    done = rlab.train("dqn", "CartPole-v1", network=body, out=tmp_path / "run", progress=True, **SHORT)
    assert (
        "only this process can load and resume it by itself; later, give the function again" in capsys.readouterr().out
    )
    forgotten(monkeypatch)
    with pytest.raises(RlabError, match=r"made by the function 'body' of another process: give it again"):
        rlab.load(done.path)
    assert main(["eval", str(done.path)]) == 1
    assert type(rlab.load(done.path, network=body).network[0]) is Wide
    assert rlab.evaluate(done.path, episodes=1, network=body).returns.shape == (1, 1)
    assert rlab.finetune(done.path, network=body, out=tmp_path / "more", **SHORT).finished


def test_compressing_distils_it_and_says_so_of_the_rest(run, tmp_path):
    for step in ("int8", "prune:0.5", "lowrank:4", "sparse:0.5"):
        with pytest.raises(
            UsageError, match=r"the body is the module Residual of own_network:residual.*distil step first"
        ):
            rlab.compress(run, step, out=tmp_path / "no", trust=True, episodes=2)
    check_parent(load_policy(run, trust=True).policy, parse_steps("distil:8,int8"))  # a fresh student has known layers


def test_layers_that_share_weights_or_compute_them_are_saved_and_measured_once(tmp_path):
    class Shared(nn.Module):
        def __init__(self, inputs):
            super().__init__()
            self.first = nn.utils.parametrizations.weight_norm(nn.Linear(inputs, inputs))
            self.second = self.first

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    done = rlab.train("dqn", "CartPole-v1", network=lambda shape: Shared(shape[0]), out=tmp_path / "run", **SHORT)
    member = done.policy()
    assert type(member.network[0]).__name__ == "Shared"
    assert count_multiply_adds(member.network, torch.zeros(1, 4)) == 2 * 16 + 8  # twice 4x4, and 4x2 of the head
    floats = 16 + 4 + 4 + 8 + 2  # directions, lengths and biases once, then the head
    assert 4 * floats < weight_bytes(member) < 4 * floats + 1000


def test_torch_export_takes_it_and_formats_of_rlabs_own_layers_say_why_not(run, tmp_path):
    with pytest.raises(UsageError, match=r"format numpy cannot express the layer Residual; onnx \(through torch"):
        rlab.export(run, format="numpy", out=tmp_path / "p.npz", trust=True)
    rlab.export(run, format="torch-export", out=tmp_path / "p.pt2", trust=True)


def test_what_is_given_wrongly_is_one_line(tmp_path):
    with pytest.raises(
        UsageError, match=r"network is one Linear, and each member needs its own: network=lambda shape: L"
    ):
        rlab.train("dqn", "CartPole-v1", network=nn.Linear(4, 8), **SHORT)
    with pytest.raises(UsageError, match="network 'own_network:missing' cannot be loaded: AttributeError"):
        rlab.train("dqn", "CartPole-v1", network="own_network:missing", **SHORT)
    with pytest.raises(UsageError, match="network 'missing' must be named module:function"):
        rlab.train("dqn", "CartPole-v1", network="missing", **SHORT)
    with pytest.raises(UsageError, match="--sparsity cannot be done: the body is the module Residual"):
        rlab.train("dqn", "CartPole-v1", network="own_network:residual", sparsity=0.5, **SHORT)
    with pytest.raises(UsageError, match="PPO learns without dropout; leave it out of the network"):
        rlab.train("ppo", "CartPole-v1", network=lambda s: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1)), **SHORT)
