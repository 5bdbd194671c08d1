"""The layer of implicit quantiles, by itself and in networks."""

import math
from typing import Any

import pytest
import torch

from rlab.errors import RlabError
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.describe import spec_of
from rlab.networks.heads import build_head
from rlab.networks.layers import StackedLinear
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import NetworkSpec, build
from rlab.networks.stacking import stack, unstack

SPACE = Box((4,), "float32", -1.0, 1.0)
SETTINGS = {"cosines": 6, "samples": 3, "points": 5}


def network_of(seeds: tuple[int, ...] = (0,), **more: Any) -> Any:
    body = BodySettings(more.pop("hidden", (8, 6)), layer_norm=more.pop("layer_norm", False))
    return build(q_network_spec(SPACE, 2, body, implicit=SETTINGS, **more), seeds, "q_network").eval()


def test_returns_are_those_of_features_times_an_embedding_of_cosines() -> None:
    network: Any = network_of(hidden=())
    layer = network[0]
    (embedding, _), (values,) = layer.embedding, layer.values
    x = torch.randn(1, 3, 4)
    head = build_head({"kind": "implicit_quantile", "points": 5}, Discrete(2))
    outputs = network(x)
    assert outputs.shape == (1, 3, head.width)
    for k in range(5):
        cosines = torch.tensor([math.cos(math.pi * i * (k + 0.5) / 5) for i in range(6)])
        embedded = (cosines @ embedding.weight[0] + embedding.bias[0]).relu()
        returns = (x[0] * embedded) @ values.weight[0] + values.bias[0]
        torch.testing.assert_close(head.returns(outputs)[0, :, :, k], returns)
    assert head.fractions(outputs)[0, 2].tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    torch.testing.assert_close(head.values(outputs), head.returns(outputs).mean(dim=-1))


def test_each_member_draws_fractions_of_its_own_in_training_and_none_in_evaluation() -> None:
    both, alone = network_of((4, 5)), network_of((5,))
    head = build_head({"kind": "implicit_quantile", "points": 5}, Discrete(2))
    x = torch.randn(2, 6, 4)
    assert torch.equal(both(x), both(x))
    torch.testing.assert_close(both(x)[1:], alone(x[1:]))
    both.train()
    alone.train()
    first, second = both(x), both(x)
    assert first.shape == (2, 6, SETTINGS["samples"] * 3)
    drawn = head.fractions(first)
    assert ((drawn >= 0.0) & (drawn < 1.0)).all()
    assert len(drawn.unique()) == drawn.numel()
    assert not torch.equal(drawn, head.fractions(second))
    torch.testing.assert_close(first[1:], alone(x[1:]))
    torch.testing.assert_close(second[1:], alone(x[1:]))


@pytest.mark.parametrize("dueling", [False, True])
def test_it_leaves_its_stack_comes_back_and_is_described(dueling: bool) -> None:
    network = network_of((1, 2), dueling=dueling, layer_norm=True)
    x = torch.randn(2, 7, 4)
    plain = [unstack(network, member) for member in (0, 1)]
    torch.testing.assert_close(torch.stack([each(x[i]) for i, each in enumerate(plain)]), network(x))
    torch.testing.assert_close(stack(plain)(x), network(x))
    spec = spec_of(network)
    assert NetworkSpec.from_json(spec.to_json()) == spec
    again = build(spec, (1, 2))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(x), network(x))


def test_a_stack_without_random_numbers_says_so_in_training() -> None:
    network = stack([unstack(network_of(), 0)])
    with pytest.raises(RlabError, match="quantiles in training need random numbers"):
        network.train()(torch.zeros(1, 2, 4))


def test_a_dueling_head_joins_each_atom_by_itself() -> None:
    spec = q_network_spec(SPACE, 2, BodySettings(()), dueling=True, per_action=3)
    network: Any = build(spec, [0])
    value, advantage = network[0].value[0], network[0].advantage[0]
    assert isinstance(value, StackedLinear)
    with torch.no_grad():
        for layer, bias in ((value, [10.0, 20.0, 30.0]), (advantage, [1.0, 2.0, 3.0, 3.0, 6.0, -1.0])):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))
    # the means over actions are 2, 4 and 1
    assert network(torch.zeros(1, 1, 4)).tolist() == [[[9.0, 18.0, 32.0, 11.0, 22.0, 28.0]]]
