"""Exported policies with memory: the state goes in and comes out; a file plays the episodes that its member plays."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rlab.compression.export.member_file import export
from rlab.compression.export.member_step import answers, states_before
from rlab.compression.export.runtimes import SUFFIXES, check_runtime, open_exported
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import UsageError
from rlab.evaluation.evaluate import evaluate
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory_bodies import KINDS, MemorySettings
from rlab.networks.policy import MemberPolicy, PolicySpec, build_policy
from rlab.networks.stacking import stack

CARTPOLE = EnvSpec("CartPole-v1", max_episode_steps=30)
FORMATS = [format for format in SUFFIXES if format != "torch-export"]  # that takes seconds, and is tried once


def member_of(kind: str) -> MemberPolicy:
    """An untrained member that remembers; its weights are large, so that memory decides."""
    envs = make_episodes(CARTPOLE, 1)
    obs_space, action_space = envs.obs_space, envs.action_space
    envs.close()
    network = q_network_spec(obs_space, 2, BodySettings((8,), "tanh", memory=MemorySettings(kind, 8, 4)))
    policy = build_policy(PolicySpec(obs_space, action_space, {"scaling": "none", "scale": None}, network), (3,))
    for parameter in policy.network.parameters():
        parameter.data *= 2.0
    return policy.member()


def exported(member: MemberPolicy, format: str, folder: Path) -> Path:
    try:
        check_runtime(format)
    except UsageError as missing:
        pytest.skip(str(missing))
    obs = np.random.default_rng(0).normal(size=(1_000, 4)).astype(np.float32)
    path = folder / f"policy{SUFFIXES[format]}"
    export(member, obs, format, path)
    return path


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_memory_says_what_its_member_says_step_by_step(kind: str, format: str, tmp_path: Path) -> None:
    member = member_of(kind)
    runner = open_exported(exported(member, format, tmp_path), trust=True)
    state, own = runner.initial_state(), member.initial_state()
    for obs in np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32):
        outputs = runner.outputs(obs, state)
        action, state = runner(obs, state=state)
        expected, own = member(obs, state=own)
        assert action == expected
        assert np.isfinite(outputs).all()
    np.testing.assert_allclose(state["state"], np.concatenate([value.flatten() for value in own.values()]), atol=1e-4)
    with pytest.raises(UsageError, match=r"has memory and needs its state: state = policy.initial_state\(\)"):
        runner(obs)


@pytest.mark.parametrize("format", ["numpy", "onnx"])
def test_a_file_with_memory_is_judged_as_its_member_is_also_within_limits(format: str, tmp_path: Path) -> None:
    member = member_of("gru")
    runner = open_exported(exported(member, format, tmp_path), trust=False)
    assert runner.metadata["state"] == {"2.hidden": [8]}
    assert runner.metadata["inputs"]["state"] == runner.metadata["outputs"]["next_state"]
    policy = build_policy(member.spec, (3,))
    policy.network.load_state_dict(stack([member.network]).state_dict())
    file, whole = (evaluate(each, partial(make_episodes, CARTPOLE), 5, 100_000) for each in (runner, policy))
    assert file.returns.tolist() == whole.returns.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_torch_export_holds_every_kind_of_memory(kind: str, tmp_path: Path) -> None:
    member = member_of(kind)
    runner = open_exported(exported(member, "torch-export", tmp_path), trust=True)
    obs = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    state = np.zeros((5, runner.state_size), np.float32)
    for found, expected in zip(runner.run(obs, state), answers(member, obs, 5, state), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_states_of_a_check_are_those_of_short_episodes_in_a_row() -> None:
    member = member_of("gru")
    obs = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    states = states_before(member, obs)
    assert states is not None
    assert not states[[0, 16, 32]].any()
    following = answers(member, obs, 40, states)[2]
    inside = [row for row in range(39) if row % 16 != 15]
    np.testing.assert_allclose(states[1:][inside], following[inside], atol=1e-6)
