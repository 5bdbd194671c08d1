"""Policies with memory: a state in, a state out; unrolled over a sequence they say what they say step by step."""

import json

import pytest
import torch

from rlab.errors import RlabError, UsageError
from rlab.networks import memory
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.own import remembered
from rlab.networks.own_bodies import Own
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.sequences import LastGRU, StackedGRU
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.networks.stacking import stack, unstack

SEEDS, ROWS, TIME = (5, 6, 7), 4, 9
VECTOR = Box((3,), "float32", -1.0, 1.0)
LAYERS = q_network_spec(VECTOR, 2, BodySettings((6,), "tanh", memory=MemorySettings("gru", 5, 1)))


def recurrent_policy(seeds=SEEDS):
    """Weights five times as large as fresh ones, so that what is remembered moves the outputs."""
    policy = build_policy(PolicySpec(VECTOR, Discrete(2), {"scaling": "fixed", "scale": None}, LAYERS), seeds)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter *= 5.0
    return policy


def sequences(seed=0):
    """Observations `[S, B, T, 3]` and where their episodes begin, `[S, B, T]`, about every fourth step."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.rand(len(SEEDS), ROWS, TIME, 3, generator=generator) * 2 - 1
    return obs, torch.rand(len(SEEDS), ROWS, TIME, generator=generator) < 0.25


def step_by_step(policy, obs, state, begins):
    """What `unroll` gives, one step after another: `[..., T, width]` and the last state."""
    outputs = []
    for t in range(obs.shape[-2]):
        state = memory.reset(state, policy.initial_state(ROWS), begins[..., t])
        now, state = policy.step(obs[..., t, :], state)
        outputs.append(now)
    return torch.stack(outputs, dim=-2), state


def warm_state(policy):
    """A state that is not the initial one."""
    lead = () if policy.preprocess.members is None else (len(SEEDS),)
    obs = torch.full((*lead, ROWS, 3), 0.7)
    return policy.step(obs, policy.initial_state(ROWS))[1]


@pytest.mark.parametrize("stacked", [True, False])
def test_unrolling_equals_stepping_with_resets(stacked):
    policy, (obs, begins) = recurrent_policy(), sequences()
    if not stacked:
        policy, obs, begins = policy.member(6), obs[1], begins[1]
    before = warm_state(policy)
    unrolled, last = policy.unroll(obs, before, begins)
    stepped, expected = step_by_step(policy, obs, before, begins)
    torch.testing.assert_close(unrolled, stepped, atol=1e-5, rtol=0)
    torch.testing.assert_close(last["2.hidden"], expected["2.hidden"], atol=1e-5, rtol=0)
    without, _ = policy.unroll(obs, before, torch.zeros_like(begins))
    assert (without - unrolled).abs().max() > 1e-2  # the resets matter


def test_a_member_says_what_it_says_in_the_stack():
    policy, (obs, begins) = recurrent_policy(), sequences()
    together, last = policy.unroll(obs, policy.initial_state(ROWS), begins)
    for index, seed in enumerate(SEEDS):
        for alone, rows in ((policy.member(seed), index), (policy.only(seed), slice(index, index + 1))):
            outputs, state = alone.unroll(obs[rows], alone.initial_state(ROWS), begins[rows])
            torch.testing.assert_close(outputs, together[rows], atol=1e-5, rtol=0)
            torch.testing.assert_close(state["2.hidden"], last["2.hidden"][rows], atol=1e-5, rtol=0)
    assert type(policy.member().network[2]) is LastGRU
    again = stack([unstack(policy.network, i) for i in range(3)])
    assert type(again[2]) is StackedGRU
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_state_is_carried_where_no_episode_begins_and_forgotten_where_one_does():
    policy, (obs, _) = recurrent_policy(), sequences()
    begins = torch.zeros(3, ROWS, TIME, dtype=torch.bool)
    begins[:, :, 6] = True
    changed = obs.clone()
    changed[:, :, 4] = -changed[:, :, 4]
    here, there = (policy.unroll(each, policy.initial_state(ROWS), begins)[0] for each in (obs, changed))
    assert torch.equal(here[:, :, :4], there[:, :, :4])
    assert (here[:, :, 5] != there[:, :, 5]).any(dim=-1).all()
    assert torch.equal(here[:, :, 6:], there[:, :, 6:])


def test_gradients_reach_back_to_the_beginning_of_the_episode_and_no_further():
    policy, (obs, _) = recurrent_policy(), sequences()
    begins = torch.zeros(3, ROWS, TIME, dtype=torch.bool)
    begins[:, :, 3] = True
    obs.requires_grad_()
    policy.unroll(obs, policy.initial_state(ROWS), begins)[0][:, :, -1].sum().backward()
    assert (obs.grad[:, :, :3] == 0).all()
    assert (obs.grad[:, :, 3:] != 0).any(dim=-1).all()


def test_a_call_with_a_state_gives_the_next_state_beside_the_action():
    policy, (obs, _) = recurrent_policy(), sequences()
    state, member = policy.initial_state(ROWS), policy.member(6)
    alone, single = member.initial_state(ROWS), member.initial_state()
    for t in range(TIME):
        action, state = policy(obs[:, :, t].numpy(), state=state)
        of_member, alone = member(obs[1, :, t], state=alone)
        of_one, single = member(obs[1, 0, t].numpy(), state=single)
        assert action.shape == (3, ROWS)
        assert of_member.tolist() == action[1].tolist()
        assert of_one == action[1, 0]
        torch.testing.assert_close(single["2.hidden"], state["2.hidden"][1, 0], atol=1e-5, rtol=0)
    assert single["2.hidden"].shape == (5,)


def test_without_memory_the_state_is_empty_and_the_action_the_same(make_policy, random_obs):
    policy = make_policy()
    obs = random_obs(policy.spec.obs_space, 3, ROWS)
    assert policy.initial_state(ROWS) == {}
    action, state = policy(obs, state={})
    assert state == {}
    assert torch.equal(action, policy(obs))
    assert torch.equal(policy.step(obs, {})[0], policy.outputs(obs))
    sequence = random_obs(policy.spec.obs_space, 3, ROWS, TIME)
    outputs, state = policy.unroll(sequence, {}, torch.zeros(3, ROWS, TIME, dtype=torch.bool))
    assert state == {}
    torch.testing.assert_close(outputs[:, :, 2], policy.outputs(sequence[:, :, 2]))


def test_a_policy_with_memory_is_rebuilt_from_its_spec():
    policy, (obs, begins) = recurrent_policy(), sequences()
    again = build_policy(PolicySpec.from_json(json.loads(json.dumps(policy.spec.to_json()))), SEEDS)
    again.load_state_dict(policy.state_dict())
    expected, found = (each.unroll(obs, each.initial_state(ROWS), begins)[0] for each in (policy, again))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda policy: policy(torch.zeros(3, 4, 3)),
            "this policy has memory and needs its state: state = policy.initial_state(4) where an episode begins, "
            "then action, state = policy(obs, state=state) at every step.",
        ),
        (lambda policy: policy.member()(torch.zeros(3)), "state = policy.initial_state() where an episode begins"),
        (lambda policy: policy(torch.zeros(3, 4, 3), state={}), "a state of shapes {} does not fit"),
        (
            lambda policy: policy(torch.zeros(3, 4, 3), state=policy.initial_state(2)),
            "a state of shapes {'2.hidden': (3, 2, 5)} does not fit these observations; expected {'2.hidden': "
            "(3, 4, 5)}. An episode begins with state = policy.initial_state(4).",
        ),
        (
            lambda policy: policy.outputs(torch.zeros(3, 4, 3)),
            "uses policy.step(obs, state), or for sequences policy.unroll(",
        ),
        (lambda policy: policy.initial_state(), "needs a number of rows: policy.initial_state(rows)."),
    ],
)
def test_memory_used_without_a_state_that_fits_is_an_error_in_one_line(call, message):
    with pytest.raises(UsageError) as caught:
        call(recurrent_policy())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_for_a_policy_without_memory_is_an_error(make_policy):
    with pytest.raises(UsageError, match=r"does not fit these observations; expected \{\}"):
        make_policy()(torch.zeros(3, 4, 4), state={"2.hidden": torch.zeros(3, 4, 5)})


def test_a_layer_with_memory_inside_another_layer_is_refused():
    stream = (LayerSpec("gru", {"in_features": 3, "hidden": 2}),)
    network = NetworkSpec((LayerSpec("branches", {"branches": (stream, stream)}),))
    with pytest.raises(RlabError, match=r"'0.branches.0.0' \(StackedGRU\) is inside another layer"):
        memory.has_memory(build(network, (0,)))


def test_rows_of_a_state_are_taken_and_reset_by_member_and_row():
    state = {"a": torch.arange(6).reshape(2, 3), "b": torch.arange(12.0).reshape(2, 3, 2)}
    live = torch.tensor([True, False, True])
    assert memory.take(state, (slice(None), live))["a"].tolist() == [[0, 2], [3, 5]]
    begins = torch.tensor([[True, False, False], [False, False, True]])
    initial = {name: torch.full_like(tensor, -1) for name, tensor in state.items()}
    assert memory.reset(state, initial, begins)["a"].tolist() == [[-1, 1, 2], [3, 4, -1]]
    assert memory.reset(state, initial, begins)["b"][1].tolist() == [[6, 7], [8, 9], [-1, -1]]


def test_a_network_of_one_s_own_may_have_memory():
    layers = (
        LayerSpec("linear", {"in_features": 3, "out_features": 4}),
        LayerSpec("gru", {"in_features": 4, "hidden": 6}),
    )
    name = remembered(lambda shape: NetworkSpec(layers), None)
    network = q_network_spec(VECTOR, 2, BodySettings(own=Own(name, {})))
    assert network.layers[:2] == layers
    policy = build_policy(PolicySpec(VECTOR, Discrete(2), {"scaling": "none", "scale": None}, network), SEEDS)
    action, state = policy(torch.zeros(3, 4, 3), state=policy.initial_state(4))
    assert action.shape == (3, 4)
    assert state["1.hidden"].shape == (3, 4, 6)
