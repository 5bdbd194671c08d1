"""Embeddings and gated recurrent units with a seed axis: what torch's own say, member by member."""

import json
import math

import pytest
import torch
from torch import nn

from rlab.errors import RlabError
from rlab.networks.sequences import LastGRU, StackedEmbedding, StackedGRU, StackedLSTM
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.networks.stacking import stack, unstack

SEEDS = (0, 1, 2)


def reader(sequence=False, padding_index=0, unit="gru"):
    return NetworkSpec(
        (
            LayerSpec("embedding", {"num_embeddings": 9, "features": 4, "padding_index": padding_index}),
            LayerSpec(unit, {"in_features": 4, "hidden": 5, "sequence": sequence}),
            *([] if sequence else [LayerSpec("linear", {"in_features": 5, "out_features": 2})]),
        )
    )


def tokens(members=3, rows=4, length=7):
    return torch.randint(9, (members, rows, length), generator=torch.Generator().manual_seed(0))


UNITS = {"gru": nn.GRU, "lstm": nn.LSTM}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("padding_index", [None, 0, 8])
def test_members_leave_the_stack_as_torch_s_own_layers_with_equal_outputs(sequence, padding_index, unit):
    network, x = build(reader(sequence, padding_index, unit), SEEDS), tokens()
    expected = network(x)
    assert expected.shape == ((3, 4, 7, 5) if sequence else (3, 4, 2))
    members = [unstack(network, i) for i in range(3)]
    for i, member in enumerate(members):
        assert type(member[0]) is nn.Embedding
        assert type(member[1].unit) is UNITS[unit]
        torch.testing.assert_close(member(x[i]), expected[i], atol=1e-6, rtol=0)
    again = stack(members)
    assert torch.equal(again(x), expected)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("sequence", [False, True])
def test_gradients_equal_those_of_torch_s_own_layers(sequence, unit):
    network, x = build(reader(sequence, unit=unit), SEEDS), tokens()
    network(x).square().sum().backward()
    for i in range(3):
        member = unstack(network, i)
        member(x[i]).square().sum().backward()
        embedding, torch_s = member[0], member[1].unit
        pairs = [
            (network[0].weight, embedding.weight.grad),
            (network[1].weight_ih, torch_s.weight_ih_l0.grad.T),
            (network[1].weight_hh, torch_s.weight_hh_l0.grad.T),
            (network[1].bias_ih, torch_s.bias_ih_l0.grad.unsqueeze(0)),
            (network[1].bias_hh, torch_s.bias_hh_l0.grad.unsqueeze(0)),
        ]
        for parameter, expected in pairs:
            torch.testing.assert_close(parameter.grad[i], expected, atol=1e-5, rtol=1e-4)


def test_one_step_of_the_lstm_on_numbers_worked_by_hand():
    lstm = StackedLSTM(1, 1, 1)
    with torch.no_grad():
        lstm.weight_ih.copy_(torch.tensor([[[0.0, 0.0, 1.0, 0.0]]]))  # the new part alone reads the input
        lstm.weight_hh.zero_()
        lstm.bias_ih.copy_(torch.tensor([[[0.0, float("inf"), 0.0, 0.0]]]))  # i = o = 1/2, f = 1
        lstm.bias_hh.zero_()
    state = {"hidden": torch.zeros(1, 1, 1), "cell": torch.full((1, 1, 1), 2.0)}
    y, after = lstm.step(torch.tensor([[[0.5]]]), state)
    cell = 2.0 + math.tanh(0.5) / 2
    assert after["cell"].item() == pytest.approx(cell, abs=1e-6)
    assert y.item() == after["hidden"].item() == pytest.approx(math.tanh(cell) / 2, abs=1e-6)


def test_one_step_of_the_gru_on_numbers_worked_by_hand():
    gru = StackedGRU(1, 1, 1)
    with torch.no_grad():
        gru.weight_ih.copy_(torch.tensor([[[0.0, 0.0, 1.0]]]))
        gru.weight_hh.zero_()
        gru.bias_ih.copy_(torch.tensor([[[0.0, float("-inf"), 0.0]]]))  # z = 0: the state is the new one
        gru.bias_hh.copy_(torch.tensor([[[0.0, 0.0, 2.0]]]))  # r = 1/2, so r * 2 = 1
    assert gru(torch.tensor([[[[0.5]]]])).item() == pytest.approx(torch.tanh(torch.tensor(1.5)).item())
    with torch.no_grad():
        gru.bias_ih[..., 1] = float("inf")  # z = 1: the state stays at zero
    assert gru(torch.tensor([[[[0.5], [3.0]]]])).item() == 0.0


def test_the_order_of_tokens_reaches_the_answer():
    network = build(reader(), SEEDS)
    x = tokens()
    assert (network(x) - network(x.flip(-1))).abs().amax(dim=(1, 2)).min() > 1e-3


def test_the_padding_token_is_zero_and_stays_so():
    layer = build(NetworkSpec(reader().layers[:1]), SEEDS)[0]
    assert layer.weight[:, 0].abs().sum() == 0
    x = torch.zeros(3, 2, 4, dtype=torch.int64)
    x[:, 0, 0] = 3
    (layer(x).sum() + layer(x).square().sum()).backward()
    assert layer.weight.grad[:, 0].abs().sum() == 0
    assert (layer.weight.grad[:, 3] != 0).all()


@pytest.mark.parametrize("token", [9, -1])
def test_an_unknown_token_is_an_error_and_not_a_word_of_the_next_member(token):
    network, x = build(reader(), SEEDS), tokens()
    x[0, 0, 0] = token
    with pytest.raises(RuntimeError, match="out of bounds"):
        network(x)


def test_fresh_weights_are_those_of_torch_and_depend_on_the_member_s_seed_alone():
    spec = NetworkSpec(
        (
            LayerSpec("embedding", {"num_embeddings": 200, "features": 50}),
            LayerSpec("gru", {"in_features": 50, "hidden": 64}),
        )
    )
    network, alone = build(spec, SEEDS), build(spec, [1])
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor[0], network.state_dict()[name][1]), name
        assert not torch.equal(network.state_dict()[name][0], network.state_dict()[name][1]), name
    assert network[0].weight.std().item() == pytest.approx(1.0, abs=0.02)
    for tensor in network[1].state_dict().values():
        assert tensor.abs().max() <= 1 / 8
        assert tensor.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.1)


def test_a_wild_neighbour_changes_nothing():
    network, x = build(reader(), SEEDS), tokens()
    expected = network(x)[1:].detach()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[0] *= 1e3
    torch.testing.assert_close(network(x)[1:], expected)


def test_the_layers_are_plain_data():
    spec = reader()
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StackedEmbedding(1, 3, 2, padding_index=3), "padding_index 3 must be one of the 3 tokens, from 0."),
        (lambda: stack([nn.Sequential(nn.Embedding(3, 2, max_norm=1.0))]), "it has settings that a stack lacks."),
        (lambda: stack([LastGRU(2, 3), LastGRU(2, 3, sequence=True)]), "only networks alike can be stacked"),
    ],
)
def test_what_a_stack_cannot_hold_is_refused_in_one_line(call, message):
    with pytest.raises(RlabError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gru_with_settings_that_a_stack_lacks_is_refused():
    layer = LastGRU(2, 3)
    layer.unit = nn.GRU(2, 3, num_layers=2, batch_first=True)
    with pytest.raises(RlabError, match="it has settings that a stack lacks"):
        stack([layer])
