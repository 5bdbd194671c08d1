"""The benchmark of bare tensor envs, at a small size."""

from functools import partial

import pytest
import torch

from rlab.experiments.benchmarks import tensor_envs


def test_the_benchmark_measures_each_env_eager_compiled_and_in_gymnasium(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced, without ten seconds of g++
    measured = tensor_envs.measure(("rlab/ProbeConstant-v0",), members=2, num_envs=3, steps=4, rounds=1)
    rates = measured["env_steps_per_second"]
    names = ["rlab/ProbeConstant-v0, cpu, eager", "rlab/ProbeConstant-v0, cpu, compiled"]
    names += ["rlab/ProbeConstant-v0, one env of Gymnasium's", "CartPole-v1, Gymnasium's native env"]
    assert set(names) <= rates.keys()
    assert all(rate > 0 for rate in rates.values())
    assert measured["seconds_of_compiling"]["rlab/ProbeConstant-v0, cpu"] > 0


def test_its_steps_are_those_of_every_member_and_env():
    step, actions = tensor_envs.tensor_steps("Pendulum-v1", "cpu", 2, 3, 5)
    assert actions.shape == (5, 2, 3, 1)
    assert step(actions[0])[0].shape == (2, 3, 3)
    choices = tensor_envs.tensor_steps("CartPole-v1", "cpu", 2, 3, 5)[1]
    assert set(choices.unique().tolist()) == {0, 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_captured_steps_go_on_from_replay_to_replay():
    step, actions = tensor_envs.tensor_steps("CartPole-v1", "cuda", 2, 3, 4)
    kept = {}
    run = tensor_envs.captured(lambda action: kept.update(obs=step(action)[0]), actions)
    run()
    first = kept["obs"].clone()
    run()
    assert not torch.equal(kept["obs"], first)
