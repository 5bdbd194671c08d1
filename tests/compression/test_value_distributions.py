"""Policies that predict distributions over returns are compressed as those of plain Q values are."""

import numpy as np
import pytest
import torch

from rlab.compression.agreement import agreement, outputs_of
from rlab.compression.distil import DistilSettings
from rlab.compression.neuron_pruning import neuron_masks
from rlab.compression.sequences import Visits
from rlab.compression.steps import compress, parse_steps
from rlab.compression.visits import visits
from rlab.envs import EnvSpec, make_episodes
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.heads import build_head
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.stacking import unstack

CARTPOLE = Box((4,), "float32", float("-inf"), float("inf"))
TINY = DistilSettings(rounds=1, rows=40, updates=8, batch_size=8)
HEADS = {
    "c51": {"kind": "categorical_value", "atoms": 3, "low": 0.0, "high": 2.0},
    "qr": {"kind": "quantile", "quantiles": 3},
    "iqn": {"kind": "implicit_quantile", "points": 4},
}


def make_envs(n: int):
    return make_episodes(EnvSpec("CartPole-v1", max_episode_steps=30), n)


def parent_with(head: str, dueling: bool = False) -> Policy:
    json = HEADS[head]
    implicit = {"cosines": 5, "samples": 2, "points": 4} if head == "iqn" else None
    per_action = build_head(json, Discrete(2)).per_action
    network = q_network_spec(CARTPOLE, 2, BodySettings((16, 8), "tanh"), dueling, per_action, implicit)
    return build_policy(PolicySpec(CARTPOLE, Discrete(2), {"scaling": "none", "scale": None}, network, json), (3, 4))


def observations(rows: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, rows, 4)).astype(np.float32))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("steps", ["int8", "prune:0.5,int8", "sparse:0.5", "lowrank:2", "qat4"])
def test_a_step_gives_a_policy_of_the_same_head_that_acts(head, steps):
    parent = parent_with(head, dueling=steps == "prune:0.5,int8")
    small = compress(parent, parse_steps(steps), make_envs, TINY)
    assert small.spec.head == parent.spec.head
    assert outputs_of(small, Visits(observations(), torch.ones(2, 30, dtype=torch.bool))).shape == (2, 30, 2)
    assert torch.equal(small.outputs(observations()), small.outputs(observations()))  # nothing is drawn
    assert small(observations().numpy()).shape == (2, 30)


@pytest.mark.parametrize("head", HEADS)
def test_a_student_has_q_values_like_its_teacher_s_means(head):
    parent = parent_with(head)
    settings = DistilSettings(rounds=1, rows=200, updates=300, batch_size=32, learning_rate=1e-2)
    student = compress(parent, parse_steps("distil:8"), make_envs, settings)
    assert student.spec.head["kind"] == "q"
    states = visits(parent, make_envs, 100)
    ours, theirs = outputs_of(parent, states), outputs_of(student, states)
    assert (agreement(ours, theirs, student.head).value > 0.8).all()
    # the values too are near, where a softmax would leave what both have in common anywhere
    assert (ours - theirs).mean(dim=(1, 2)).abs().max() < 0.2 * ours.abs().max()


def test_agreement_is_that_of_mean_values():
    head = build_head(HEADS["qr"], Discrete(2))
    ours, theirs = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[1.5, 2.0], [4.0, 3.0]])
    found = agreement(ours, theirs, head)
    assert found.value.item() == 0.5
    assert found.worst_output_error.item() == 4.0


@pytest.mark.parametrize("by", ["norm", "activation", "gradient"])
def test_neurons_before_an_embedding_stay_and_those_behind_it_go(by):
    network = unstack(parent_with("iqn").network, 0).eval()
    masks = neuron_masks(network, 0.5, by, torch.randn(20, 4))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"2.values.0": 4}
