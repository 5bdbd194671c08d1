"""Runs on a GPU; where there is none, on the stand-in of `conftest`, which fails as a GPU would over mixed devices."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.agents import AGENTS, load_agent
from rlab.errors import UsageError
from rlab.runs.checkpoint import load_checkpoint
from rlab.runs.folder import RunFolder

SMALL = {"seeds": 2, "num_envs": 4, "eval_every": 32, "eval_episodes": 1, "final_eval_episodes": 2, "log_every": 20}
SMALL |= {"experiment": "none", "hidden": (8,), "compile": "off"}
REPLAY = {"n_step": 3, "dropout": 0.1, "obs_scaling": "running", "dueling": True}
REPLAY |= {"learning_starts": 16, "batch_size": 8}
NUMBERS = {"learning_starts": 16, "batch_size": 8, "obs_scaling": "running", "n_step": 3}
ROLLOUT = {"reward_scaling": "running", "obs_scaling": "running", "rollout_steps": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "dqn": REPLAY,
    "double_dqn": REPLAY,
    "sac": {**NUMBERS, "policy_delay": 2},
    "a2c": ROLLOUT,
    "reinforce": ROLLOUT,
    "ppo": {**ROLLOUT, "epochs": 2, "target_kl": 1e-3},
}
OFFLINE = sorted(name for name in AGENTS if load_agent(name).data == "dataset")

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def cuda(gpu: Any) -> Iterator[str]:
    """The name of a device, `cuda`."""
    if torch.cuda.is_available():
        yield "cuda"
        return
    with gpu:
        yield "cuda"


def test_the_stand_in_fails_as_a_gpu_would(gpu: Any) -> None:
    with gpu:
        layer = torch.nn.Linear(3, 2).to(gpu.device)
        x = torch.arange(6.0, device="cuda").view(2, 3)
        with gpu.program():
            loss = layer(2.0 * x).square().mean()
            gradients = torch.autograd.grad(loss, list(layer.parameters()))
        assert {tensor.device for tensor in (x, loss, *gradients)} == {gpu.device}
        assert x.cpu().device == torch.device("cpu")
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            layer(torch.ones(2, 3))
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            x.numpy()
        for reads in (bool, float, torch.nonzero, torch.Tensor.tolist, torch.Tensor.cpu, lambda tensor: x[tensor > 1]):
            with gpu.program(), pytest.raises(RuntimeError, match="crosses between the devices"):
                reads(loss.detach())
    assert torch.ones(3).device == torch.device("cpu")


EVERY_DAY = [("dqn", "tensor"), ("sac", "tensor"), ("ppo", "sync")]
OTHERS = [each for each in itertools.product(SETTINGS, ("tensor", "sync")) if each not in EVERY_DAY]


@pytest.mark.parametrize(
    ("agent", "vector"), [*EVERY_DAY, *(pytest.param(*each, marks=pytest.mark.prove) for each in OTHERS)]
)
def test_a_population_trains_saves_and_resumes_on_a_gpu(agent: str, vector: str, cuda: str, tmp_path: Path) -> None:
    settings = {**SMALL, **SETTINGS[agent], "vector": vector, "sparsity": 0.5}
    run = rlab.train(agent, "CartPole-v1", out=tmp_path / "run", device=cuda, env_steps=64, **settings)
    assert run.evaluation is not None
    assert run.evaluation.returns.shape == (2, 2)
    assert rlab.load(run.path)(np.zeros(4, np.float32)) in (0, 1)  # on the CPU
    before = rlab.load(run.path).state_dict()
    again = rlab.resume(run, env_steps=96)
    assert again.time == 96
    after = rlab.load(again.path).state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())


def test_a_run_on_a_gpu_has_a_teacher_and_demonstrations_and_is_fine_tuned(
    cuda: str, data: Path, tmp_path: Path
) -> None:
    settings = {**SMALL, **SETTINGS["dqn"], "device": cuda, "env_steps": 40}
    rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **settings)
    more = {"teacher": tmp_path / "run", "dataset": data, "demonstration_share": 0.25}
    rlab.train("dqn", "CartPole-v1", out=tmp_path / "taught", **settings, **more, demonstration_loss="margin")
    tuned = {**settings, "batch_size": 8, "strategy": "gradual"}
    for name in ("hidden", "n_step", "dropout", "obs_scaling", "dueling"):
        del tuned[name]
    assert rlab.finetune(tmp_path / "taught", out=tmp_path / "tuned", **tuned).finished


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few episodes of CartPole."""
    folder = tmp_path_factory.mktemp("recorded")
    rlab.train("dqn", "CartPole-v1", out=folder / "run", **{**SMALL, "env_steps": 8, "device": "cpu"})
    rlab.collect(folder / "run", folder / "data", episodes=6)
    return folder / "data"


@pytest.mark.parametrize(
    "agent", [pytest.param(name, marks=() if name in ("bc", "cql") else pytest.mark.prove) for name in OFFLINE]
)
def test_an_agent_learns_from_a_dataset_on_a_gpu_and_goes_on(agent: str, cuda: str, data: Path, tmp_path: Path) -> None:
    learning = {"batch_size": 8, "obs_scaling": "running", "dropout": 0.1, "updates": 20, "hidden": (8,)}
    learning |= {"device": cuda, "compile": "off", "out": tmp_path / "run", "eval_every": 10, "final_eval_episodes": 2}
    if agent in ("bc", "encoder"):
        run = rlab.pretrain(agent, data, validation_fraction=0.3, patience=5, **learning)
    else:
        run = rlab.train(agent, "CartPole-v1", dataset=data, experiment="none", seeds=2, **learning)
    assert rlab.resume(run, updates=40).time > 20


def test_the_first_weights_are_the_same_on_both_devices(cuda: str, tmp_path: Path) -> None:
    settings = {**SMALL, "env_steps": 8, "learning_starts": 1_000}
    weights = []
    for device in ("cpu", cuda):
        run = rlab.train("dqn", "CartPole-v1", out=tmp_path / device, device=device, **settings)
        weights.append([p.detach() for p in rlab.load(run.path).parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(
    "agent",
    [
        "dqn",
        "sac",
        "ppo",
        *(pytest.param(name, marks=pytest.mark.prove) for name in ("double_dqn", "a2c", "reinforce")),
    ],
)
def test_members_learn_on_a_gpu_what_they_learn_on_a_cpu(agent: str, cuda: str, tmp_path: Path) -> None:
    # An optimizer divides by the size of a gradient: with this in its denominator a rounding of one moves nothing much.
    settings = {**SMALL, **SETTINGS[agent], "env_steps": 64, "optimizer_eps": 1e-2, "eval_every": 0}
    weights = []
    for device in ("cpu", cuda):
        run = rlab.train(agent, "CartPole-v1", out=tmp_path / device, device=device, vector="sync", **settings)
        weights.append(rlab.load(run.path).state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("agent", "first", "then"),
    [
        *(("dqn", "cpu", "cuda"), ("ppo", "cuda", "cpu")),
        pytest.param("dqn", "cuda", "cpu", marks=pytest.mark.prove),
        pytest.param("ppo", "cpu", "cuda", marks=pytest.mark.prove),
    ],
)
def test_a_run_goes_on_on_the_other_kind_of_device_where_that_is_allowed(
    agent: str, first: str, then: str, cuda: str, tmp_path: Path
) -> None:
    settings = {**SMALL, **SETTINGS[agent], "vector": "tensor", "env_steps": 64}
    run = rlab.train(agent, "CartPole-v1", out=tmp_path / "run", device=first, **settings)
    before = load_checkpoint(RunFolder.open(run.path))[0]
    with pytest.raises(UsageError, match=r"was computed with device .*--allow-version-change"):
        rlab.resume(run, env_steps=96, device=then)
    again = rlab.resume(run, env_steps=96, device=then, allow_version_change=True)
    assert again.config["engine"]["device"] == then
    after = load_checkpoint(RunFolder.open(run.path))[0]
    assert (before["loop"]["env_steps"], after["loop"]["env_steps"]) == (64, 96)
    assert after["resumed_at"] == [64]  # it is another run from there on
    assert (after["loop"]["collector"]["transitions"] == before["loop"]["collector"]["transitions"] + 32).all()
