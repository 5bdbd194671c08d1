"""The three kinds of memory: unrolled they say what they say step by step; what they see and what they forget."""

import math

import pytest
import torch

from rlab.errors import UsageError
from rlab.networks import memory
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.describe import spec_of
from rlab.networks.memory_bodies import KINDS, MemorySettings
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.networks.stacking import stack, unstack

SEEDS, ROWS, TIME, WINDOW = (5, 6, 7), 4, 9, 4
VECTOR = Box((3,), "float32", -1.0, 1.0)
EXACT = {"atol": 1e-10, "rtol": 0.0}  # in float64, of numbers near 1 after some thousands of roundings of 1e-16


def network_of(kind, dueling=False):
    """In float64, weights twice as large as fresh ones, so that what is remembered moves the outputs."""
    body = BodySettings((6,), "tanh", memory=MemorySettings(kind, 8, WINDOW))
    network = build(q_network_spec(VECTOR, 2, body, dueling), SEEDS).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 2.0
    return network


def sequences(seed=0):
    """Observations `[S, B, T, 3]` and where their episodes begin, `[S, B, T]`, about every fourth step."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(len(SEEDS), ROWS, TIME, 3, generator=generator, dtype=torch.float64) * 2 - 1
    return x, torch.rand(len(SEEDS), ROWS, TIME, generator=generator) < 0.25


def unrolled(network, x, state, begins):
    """`[S, B, T, 2]` and the last state."""
    axis = begins.ndim - 2
    y, last = memory.unroll(network, x.flatten(axis, axis + 1), state, begins)
    return y.unflatten(axis, begins.shape[-2:]), last


def stepped(network, x, state, begins):
    outputs, initial = [], memory.initial_state(network, ROWS)
    for t in range(begins.shape[-1]):
        state = memory.reset(state, initial, begins[..., t])
        y, state = memory.step(network, x[..., t, :], state)
        outputs.append(y)
    return torch.stack(outputs, dim=-2), state


def warm(network, steps=2):
    """A state in the middle of an episode: for the transformer its window is not full yet."""
    state = memory.initial_state(network, ROWS)
    for x in sequences(1)[0].unbind(2)[:steps]:
        _, state = memory.step(network, x, state)
    return state


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [0, 2, 6])
def test_unrolling_equals_stepping_from_any_state_with_resets_in_the_middle(kind, before, dueling):
    network, (x, begins) = network_of(kind, dueling), sequences()
    y, last = unrolled(network, x, warm(network, before), begins)
    expected, expected_last = stepped(network, x, warm(network, before), begins)
    torch.testing.assert_close(y, expected, **EXACT)
    assert last.keys() == expected_last.keys()
    for name, value in expected_last.items():
        torch.testing.assert_close(last[name], value, **EXACT)
    without, _ = unrolled(network, x, warm(network, before), torch.zeros_like(begins))
    assert (without - y).abs().max() > 1e-3  # the resets matter


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_says_what_it_says_in_the_stack_and_comes_back(kind):
    network, (x, begins) = network_of(kind), sequences()
    state = warm(network)
    y, last = unrolled(network, x, state, begins)
    members = [unstack(network, i) for i in range(len(SEEDS))]
    for i, member in enumerate(members):
        alone, alone_last = unrolled(member, x[i], memory.take(state, i), begins[i])
        torch.testing.assert_close(alone, y[i], **EXACT)
        assert alone_last.keys() == memory.initial_state(member, ROWS).keys() == last.keys()
        for name, value in alone_last.items():
            torch.testing.assert_close(value, last[name][i], **EXACT)
    again = stack(members)
    assert torch.equal(unrolled(again, x, state, begins)[0], y)
    assert spec_of(again) == spec_of(network) == NetworkSpec.from_json(spec_of(network).to_json())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_reset_in_the_middle_says_what_it_says_alone(kind):
    network, (x, _) = network_of(kind), sequences()
    begins = torch.zeros(3, ROWS, TIME, dtype=torch.bool)
    begins[:, 1, 5] = True  # the second row alone begins anew
    y, _ = unrolled(network, x, warm(network), begins)
    fresh = memory.initial_state(network, 1)
    alone, _ = unrolled(network, x[:, 1:2, 5:], fresh, begins[:, 1:2, 5:])
    torch.testing.assert_close(y[:, 1:2, 5:], alone, **EXACT)
    others, _ = unrolled(network, x, warm(network), torch.zeros_like(begins))
    assert torch.equal(y[:, [0, 2, 3]], others[:, [0, 2, 3]])


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_of_an_unroll_are_those_of_finite_differences(kind):
    body = BodySettings((2,), "tanh", memory=MemorySettings(kind, 4, 3))
    network = build(q_network_spec(VECTOR, 2, body), (0, 1)).double()
    x = torch.rand(2, 2 * 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state, (names, parameters) = memory.initial_state(network, 2), zip(*network.named_parameters(), strict=True)
    begins = torch.tensor([[False, False, False, True], [False, True, False, False]]).expand(2, 2, 4)

    def loss(*weights):
        named = {f"network.{name}": each for name, each in zip(names, weights, strict=True)}
        return torch.func.functional_call(Unrolled(network), named, (x, state, begins))

    weights = [p.detach().clone().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(loss, weights, eps=1e-6, atol=1e-7, fast_mode=True)


class Unrolled(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, state, begins):
        return memory.unroll(self.network, x, state, begins)[0].square().sum()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_to_remember_the_first_observation(kind):
    # The target of every step is the sign of the first observation; all other observations are zeros. A network
    # without memory cannot do better than an error of 1 from the second step on.
    body = BodySettings((6,), "tanh", memory=MemorySettings(kind, 8, 6))
    network = build(q_network_spec(VECTOR, 2, body), SEEDS)
    first = torch.tensor([1.0, -1.0, 1.0, -1.0])
    x, begins = torch.zeros(3, ROWS, 6, 3), torch.zeros(3, ROWS, 6, dtype=torch.bool)
    x[:, :, 0] = first[:, None]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(80):
        y, _ = unrolled(network, x, memory.initial_state(network, ROWS), begins)
        error = (y[..., 0] - first[:, None]).square().mean(dim=(1, 2))  # [S]
        optimizer.zero_grad()
        error.sum().backward()
        optimizer.step()
    assert error.max() < 0.05


def test_a_transformer_sees_as_many_steps_as_its_window_has_and_none_further_back():
    network, (x, _) = network_of("transformer"), sequences()
    begins = torch.zeros(3, ROWS, TIME, dtype=torch.bool)
    changed = x.clone()
    changed[:, :, 2] *= -1
    here, there = (unrolled(network, each, warm(network), begins)[0] for each in (x, changed))
    differs = (here != there).any(dim=-1).all(dim=1).all(dim=0)  # [T]
    assert differs.tolist() == [False, False, *[True] * WINDOW, False, False, False]


def test_attention_on_numbers_worked_by_hand():
    # One number per step, two steps in the window, no norm; query, key and value are what goes in, and no place counts.
    plain = LayerSpec("linear", {"in_features": 1, "out_features": 1})
    streams = dict.fromkeys(("norm", "query", "key", "value", "place", "output"), (plain,))
    settings = {"features": 1, "window": 2, "heads": 1}
    network = build(NetworkSpec((LayerSpec("attention", {**streams, **settings}),)), (0,)).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(1.0 if name.endswith("weight") and "place" not in name else 0.0)
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)[None]  # [S, T, 1], one row
    begins = torch.zeros(1, 1, 3, dtype=torch.bool)
    y, last = memory.unroll(network, x, memory.initial_state(network, 1), begins)
    # The first step sees itself: 1 + 1. The second: scores 2 * 1 and 2 * 2, so 2 + (1 e^2 + 2 e^4) / (e^2 + e^4).
    second = 2 + (math.exp(2) + 2 * math.exp(4)) / (math.exp(2) + math.exp(4))
    third = 3 + (2 * math.exp(6) + 3 * math.exp(9)) / (math.exp(6) + math.exp(9))
    assert y.flatten().tolist() == pytest.approx([2.0, second, third], abs=1e-12)
    assert last["0.inputs"].flatten().tolist() == [3.0]
    assert last["0.seen"].flatten().tolist() == [1.0]
    again, _ = memory.unroll(network, x, memory.initial_state(network, 1), torch.tensor([[[False, False, True]]]))
    assert again.flatten().tolist()[-1] == 6.0  # the third begins an episode: 3 + 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_rebuilt_from_the_spec_of_its_policy(kind):
    body = BodySettings((6,), memory=MemorySettings(kind, 8, WINDOW))
    spec = PolicySpec(VECTOR, Discrete(2), {"scaling": "none", "scale": None}, q_network_spec(VECTOR, 2, body))
    policy = build_policy(spec, SEEDS)
    again = build_policy(PolicySpec.from_json(spec.to_json()), SEEDS)
    again.load_state_dict(policy.state_dict())
    x, begins = sequences()
    expected, found = (p.unroll(x.float(), p.initial_state(ROWS), begins)[0] for p in (policy, again))
    assert torch.equal(found, expected)
    member, alone = policy.member(6), policy.only(6)
    torch.testing.assert_close(
        member.unroll(x[1].float(), member.initial_state(ROWS), begins[1])[0],
        alone.unroll(x[1:2].float(), alone.initial_state(ROWS), begins[1:2])[0][0],
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (MemorySettings("grus", 8, 4), "unknown memory 'grus'"),
        (MemorySettings("gru", 0, 4), "memory_size 0 must be 1 or more"),
        (MemorySettings("transformer", 6, 4), "memory_size 6 of a transformer must be a multiple of its 4 heads"),
        (MemorySettings("transformer", 8, 1), "memory_window 1 must be 2 or more"),
    ],
)
def test_a_memory_that_cannot_be_built_is_one_clear_line(settings, message):
    with pytest.raises(UsageError, match=message):
        q_network_spec(VECTOR, 2, BodySettings((6,), memory=settings))
