"""Students of Q values get back what a softmax does not see, and decide as before."""

import copy

import pytest
import torch

from rlab.compression.distil import DistilSettings
from rlab.compression.rounding_correction import DAMPING
from rlab.compression.sequences import Visits
from rlab.compression.steps import compress
from rlab.compression.student_values import give_values
from rlab.envs import EnvSpec, make_episodes
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.describe import with_network
from rlab.networks.memory_bodies import KINDS, MemorySettings
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete

CARTPOLE = Box((4,), "float32", float("-inf"), float("inf"))
TINY = DistilSettings(rounds=1, rows=40, updates=8, batch_size=8)


def make_envs(n):
    return make_episodes(EnvSpec("CartPole-v1", max_episode_steps=30), n)


def q_policy(hidden=(16, 8), offset=0.0, memory=None):
    network = q_network_spec(CARTPOLE, 2, BodySettings(hidden, memory=memory), dueling=False)
    spec = PolicySpec(CARTPOLE, Discrete(2), {"scaling": "none", "scale": None}, network, {"kind": "q", "epsilon": 0.0})
    policy = build_policy(spec, (3, 4)).eval()
    with torch.no_grad():
        policy.network[-1].bias.add_(offset)
    return policy


def test_a_constant_that_all_actions_have_in_common_comes_back_exactly():
    teacher, student = q_policy(offset=50.0), q_policy()
    obs = torch.randn(2, 300, 4)
    decided = student(obs.numpy())
    give_values(student, teacher, Visits(obs, torch.ones(obs.shape[:2], dtype=torch.bool)))
    with torch.no_grad():
        assert torch.allclose(student.outputs(obs), teacher.outputs(obs), atol=1e-3)
    assert (student(obs.numpy()) == decided).all()


def test_what_a_state_is_worth_is_fitted_by_the_last_layer_and_decisions_stay():
    teacher, student = q_policy((32, 32)), q_policy((16, 16))
    with torch.no_grad():
        teacher.network[-1].weight.mul_(20.0)
        obs = torch.randn(2, 2000, 4)
        fresh = torch.randn(2, 500, 4)
        decided, before = student(fresh.numpy()), (teacher.outputs(fresh) - student.outputs(fresh)).mean(-1)
        give_values(student, teacher, Visits(obs, torch.ones(obs.shape[:2], dtype=torch.bool)))
        after = (teacher.outputs(fresh) - student.outputs(fresh)).mean(-1)
    assert after.square().mean() < 0.5 * before.square().mean()
    assert (student(fresh.numpy()) == decided).mean() > 0.999  # but for ties


@pytest.mark.parametrize("steps", ["distil:6x6", "distil:6x6,int8", "distil:6x6,sparse:0.5"])
def test_a_student_of_q_values_has_values_of_its_teacher_s_size(steps):
    teacher = q_policy(offset=50.0)
    student = compress(teacher, steps, make_envs, TINY)
    obs = torch.zeros(2, 1, 4)
    with torch.no_grad():
        assert (student.outputs(obs).mean() - teacher.outputs(obs).mean()).abs() < 1.0


def test_other_heads_are_left_alone():
    teacher = q_policy()
    kept = with_network(teacher, teacher.network)
    give_values(kept, teacher, Visits(torch.randn(2, 50, 4), torch.ones(2, 50, dtype=torch.bool)))
    for ours, theirs in zip(kept.network.parameters(), teacher.network.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def entered_last(policy, obs, begins):
    """What the last layer is given in each state `[S, R, H]`, one member's episode after the other."""
    found = []
    handle = policy.network[-1].register_forward_pre_hook(lambda _, x: found.append(x[0]))
    first = begins.nonzero().flatten().tolist()
    for start, end in zip(first, [*first[1:], len(begins)], strict=True):
        policy.unroll(obs[:, None, start:end], policy.initial_state(1), begins[start:end].expand(len(obs), 1, -1))
    handle.remove()
    return torch.cat(found, dim=1)


# Equal ones, which are cut into parts; and others, which are laid side by side in lanes that hold some states twice.
@pytest.mark.parametrize("lengths", [[100] * 4, [7, 120, 3, 60, 1, 90, 33]])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_states_in_order_are_worth_is_given_to_each_of_them(kind, lengths):
    student = q_policy((8,), memory=MemorySettings(kind, 8, 6))
    teacher = copy.deepcopy(student)
    begins = torch.zeros(sum(lengths), dtype=torch.bool)
    begins[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    obs = torch.randn(2, len(begins), 4)
    features = entered_last(student, obs, begins)
    centred = features - features.mean(dim=1, keepdim=True)
    largest = torch.linalg.svd(centred, full_matrices=False)[2][:, 0]  # [S, H], the direction of most variance
    teacher.network[-1].weight.add_(5.0 * largest.unsqueeze(-1))
    teacher.network[-1].bias.add_(50.0)
    give_values(student, teacher, Visits(obs, begins.expand(2, -1)))
    # In the direction of most variance damping leaves DAMPING of what was to be given at most.
    lacking = DAMPING * (5.0 * centred @ largest.unsqueeze(-1)).abs().max().item()
    rounding = 1e-4  # of values near 50 in float32
    torch.testing.assert_close(
        features @ student.network[-1].weight + student.network[-1].bias.unsqueeze(1),
        features @ teacher.network[-1].weight + teacher.network[-1].bias.unsqueeze(1),
        rtol=0.0,
        atol=lacking + rounding,
    )
