"""A network spec is plain data that JSON can hold, and naming other people's code needs trust."""

import json
import sys
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.errors import RlabError, UsageError
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.initialization import INITIALISERS
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.spaces import Box
from rlab.networks.spec import (
    LayerSpec,
    NetworkSpec,
    build,
    copy_parameters,
    draw_states,
    load_draw_states,
)
from rlab.networks.stacking import unstack

SPACES = st.one_of(
    st.builds(lambda n: Box((n,), "float32", -1.0, 1.0), st.integers(1, 5)),
    st.builds(lambda *shape: Box(shape, "bool", 0.0, 1.0), st.integers(3, 9), st.integers(3, 9), st.integers(1, 2)),
)
SETTINGS = st.builds(
    BodySettings,
    hidden=st.lists(st.integers(1, 7), max_size=3).map(tuple),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    layer_norm=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
    init=st.sampled_from(sorted(INITIALISERS)),
)


@given(SPACES, st.integers(1, 4), SETTINGS, st.booleans())
def test_any_body_survives_json_and_builds_the_same_network(space, num_actions, settings, dueling):
    spec = q_network_spec(space, num_actions, settings, dueling)
    again = NetworkSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
    assert again == spec
    a, b = build(spec, [0, 1]), build(again, [0, 1])
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    rows = 2, 3, *((space.shape[2], *space.shape[:2]) if space.is_image else space.shape)
    assert a.eval()(torch.ones(rows)).shape == (2, 3, num_actions)


def test_the_json_of_a_spec_is_what_a_person_would_write():
    spec = q_network_spec(Box((4,), "float32", -1.0, 1.0), 2, BodySettings(hidden=(8,), layer_norm=True))
    assert spec.to_json() == {
        "layers": [
            {"kind": "linear", "in_features": 4, "out_features": 8, "init": "pytorch"},
            {"kind": "layer_norm", "features": 8},
            {"kind": "relu"},
            {"kind": "linear", "in_features": 8, "out_features": 2, "init": "pytorch"},
        ]
    }


def test_an_unknown_kind_of_layer_is_answered_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"^unknown kind of layer 'linaer'\. Did you mean 'linear'\?$"):
        build(NetworkSpec((LayerSpec("linaer", {"in_features": 1, "out_features": 1}),)), [0])


class Doubling(nn.Module):
    """Somebody else's layer: one factor per member, drawn from the streams that `build` hands over."""

    def __init__(self, members, width):
        super().__init__()
        self.factor = nn.Parameter(torch.full((members, 1, width), torch.nan))

    def forward(self, x):
        return x * self.factor

    @torch.no_grad()
    def initialise(self, generators):
        for factor, generator in zip(self.factor, generators, strict=True):
            factor.normal_(generator=generator)

    def unstack(self, member):
        plain = Doubling(1, self.factor.shape[-1])
        plain.factor = nn.Parameter(self.factor[member].clone())
        return plain


@pytest.fixture
def foreign(monkeypatch):
    """A layer kind of another package."""
    module = types.ModuleType("somebody_elses_layers")
    module.Doubling = Doubling
    monkeypatch.setitem(sys.modules, "somebody_elses_layers", module)
    return LayerSpec("somebody_elses_layers:Doubling", {"width": 4})


def test_a_foreign_layer_needs_trust_and_then_works(foreign):
    spec = NetworkSpec((foreign, LayerSpec("linear", {"in_features": 4, "out_features": 2})))
    with pytest.raises(RlabError, match=r"layer 'somebody_elses_layers:Doubling' runs code from outside rlab; add"):
        build(spec, [0, 1])
    spec = NetworkSpec.from_json(json.loads(json.dumps(spec.to_json())))
    network, alone = build(spec, [0, 1], trust=True), build(spec, [1], trust=True)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(network(x)[1], alone(x[1:])[0])
    torch.testing.assert_close(unstack(network, 1)(x[1]), network(x)[1])


def test_trust_reaches_the_layers_inside_a_layer(foreign):
    stream = (foreign, LayerSpec("linear", {"in_features": 4, "out_features": 1}))
    spec = NetworkSpec((LayerSpec("dueling", {"value": stream, "advantage": stream}),))
    with pytest.raises(RlabError, match="runs code from outside rlab"):
        build(spec, [0])
    assert build(spec, [0], trust=True)(torch.ones(1, 3, 4)).shape == (1, 3, 1)


def test_nothing_is_imported_without_trust():
    with pytest.raises(RlabError, match="runs code from outside rlab"):
        build(NetworkSpec((LayerSpec("antigravity:fly"),)), [0])
    assert "antigravity" not in sys.modules


def dropout_network(seeds, use="network"):
    return build(NetworkSpec((LayerSpec("dropout", {"p": 0.5}), LayerSpec("dropout", {"p": 0.5}))), seeds, use)


def test_dropout_streams_belong_to_seed_use_and_place():
    x = torch.ones(2, 1, 200)
    network = dropout_network([3, 4])
    first, second = network[0](x), network[1](x)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])
    assert torch.equal(dropout_network([4])[0](x[:1])[0], first[1])
    assert not torch.equal(dropout_network([4], "critic")[0](x[:1])[0], first[1])


def test_draw_states_put_dropout_back_to_the_bit():
    network, x = dropout_network([3, 4]), torch.ones(2, 5, 20)
    network(x)
    states = draw_states(network)
    expected = [network(x) for _ in range(3)]
    again = dropout_network([3, 4])
    load_draw_states(again, states)
    assert all(torch.equal(again(x), y) for y in expected)


def test_copy_parameters_copies_values_and_shares_no_memory():
    spec = q_network_spec(Box((4,), "float32", -1.0, 1.0), 2, BodySettings(hidden=(8,)))
    source, target = build(spec, [0, 1]), build(spec, [2, 3]).requires_grad_(False)
    copy_parameters(source, target)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with torch.no_grad():
        source[0].weight.add_(1.0)
    assert not torch.equal(source[0].weight, target[0].weight)
