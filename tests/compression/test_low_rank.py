"""Two narrow layers in the place of a wide one, and how far they are from it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.compression.low_rank import factorise, find_ranks
from rlab.errors import UsageError
from rlab.learning.adapters import with_lora
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.describe import spec_of, with_network
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import build
from rlab.networks.stacking import stack, unstack
from rlab.runs.policies import load_policy, save_policy

VECTOR = Box((12,), "float32", float("-inf"), float("inf"))


def mlp(seed=0, hidden=(32, 24), dueling=False):
    return unstack(build(q_network_spec(VECTOR, 3, BodySettings(hidden, "tanh"), dueling), [seed]), 0).eval()


def features(rows=50, seed=1):
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_matrix_of_rank_one_needs_rank_one_on_numbers_worked_by_hand():
    # [[3, 6, ...], [4, 8, ...]] = [3, 4] [1, 2, 2, 4]: singular value 5 x 5, shared as 5 and 5 between the two layers
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0, 2.0, 4.0])))
        layer.bias.copy_(torch.tensor([7.0, -1.0]))
    wide = nn.Sequential(layer)
    (narrow,) = factorise([wide], rank=1)
    assert [(one.in_features, one.out_features) for one in narrow] == [(4, 1), (1, 2)]
    assert narrow[0].weight.norm().item() == pytest.approx(5.0)
    assert narrow[1].weight.norm().item() == pytest.approx(5.0)
    assert narrow[0].bias.tolist() == [0.0]
    assert narrow[1].bias.tolist() == [7.0, -1.0]
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, -1.0, 2.0]])
    torch.testing.assert_close(narrow(x), wide(x))


@given(rank=st.integers(1, 9), seed=st.integers(0, 50))
def test_no_output_moves_by_more_than_the_largest_dropped_singular_value_allows(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    wide = nn.Sequential(nn.Linear(20, 30))
    with torch.no_grad():
        wide[0].weight.normal_(generator=generator)
    (narrow,) = factorise([wide], rank=rank)
    dropped = torch.linalg.svdvals(wide[0].weight.detach())[rank:]
    x = torch.randn(40, 20, generator=generator)
    moved = (narrow(x) - wide(x)).norm(dim=1)
    assert (moved <= dropped[0] * x.norm(dim=1) * (1 + 1e-4)).all()
    lost = narrow[1].weight @ narrow[0].weight - wide[0].weight
    assert lost.square().sum().item() == pytest.approx(dropped.square().sum().item(), rel=1e-4)
    assert torch.linalg.matrix_norm(lost, 2).item() == pytest.approx(dropped[0].item(), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 8, 13, 100])
@pytest.mark.parametrize("dueling", [False, True], ids=["one stream", "dueling"])
def test_a_layer_is_replaced_only_where_that_saves_parameters(rank, dueling):
    network = mlp(dueling=dueling)
    (narrow,) = factorise([network], rank=rank)
    ranks = find_ranks([network], rank=rank)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear):
            saved = layer.in_features * layer.out_features - rank * (layer.in_features + layer.out_features + 1)
            assert (name in ranks) == (saved > 0)
    assert parameters(narrow) < parameters(network) if ranks else parameters(narrow) == parameters(network)
    if not ranks:
        assert torch.equal(narrow(features()), network(features()))


def test_the_bias_of_the_first_layer_counts():
    # 3 x 8 = 24 weights; at rank 2 there would be 2 x (3 + 8) = 22 weights and 2 zeros of a bias
    assert find_ranks([nn.Sequential(nn.Linear(3, 8))], rank=2) == {}
    assert find_ranks([nn.Sequential(nn.Linear(3, 9))], rank=2) == {"0": 2}


def test_energy_chooses_the_smallest_rank_that_keeps_it():
    wide = nn.Sequential(nn.Linear(20, 20))
    with torch.no_grad():  # squared singular values 16, 9, 4, 1 and nothing: shares 16/30, 25/30, 29/30, 1
        wide[0].weight.copy_(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0, *[0.0] * 16])))
    ranks = [find_ranks([wide], energy=share)["0"] for share in (0.01, 0.53, 0.54, 0.83, 0.84, 0.96, 0.97)]
    assert ranks == [1, 1, 2, 2, 3, 3, 4]
    torch.testing.assert_close(factorise([wide], energy=1.0)[0](torch.eye(20)), wide(torch.eye(20)))


def test_a_population_gets_one_shape_and_every_member_keeps_its_energy():
    networks = [mlp(seed) for seed in (3, 4, 5)]
    narrow = factorise(networks, energy=0.6)
    ranks = find_ranks(networks, energy=0.6)
    assert ranks["2"] == max(find_ranks([network], energy=0.6)["2"] for network in networks)
    stacked = stack(narrow)
    for i, network in enumerate(narrow):
        torch.testing.assert_close(stacked(features().expand(3, -1, -1))[i], network(features()))


def test_a_factorised_policy_is_made_of_linear_layers_and_loads_like_any_other(tmp_path):
    box = Box((12,), "float32", -1.0, 1.0)
    actions = Box((2,), "float32", -1.0, 1.0)
    network = actor_network_spec(box, 4, BodySettings((32, 32), "relu", layer_norm=True), log_std=-1.0)
    spec = PolicySpec(box, actions, {"scaling": "none", "scale": None}, network, {"kind": "gaussian"})
    policy = build_policy(spec, (8, 9))
    narrow = with_network(policy, stack(factorise([unstack(policy.network, i) for i in range(2)], rank=6)))
    kinds = [layer.kind for layer in narrow.spec.network.layers]
    assert kinds == [
        "linear",
        "linear",
        "layer_norm",
        "relu",
        "linear",
        "linear",
        "layer_norm",
        "relu",
        "linear",
        "log_std",
    ]
    save_policy(tmp_path / "narrow", narrow, {})
    again = load_policy(tmp_path / "narrow").policy
    obs = features(5).expand(2, -1, -1)
    assert torch.equal(again.outputs(obs), narrow.outputs(obs))


def test_adapters_are_merged_before_and_the_network_that_was_given_stays_as_it_was():
    spec = with_lora(q_network_spec(VECTOR, 3, BodySettings((32, 24), "tanh")), rank=2, alpha=2.0)
    stacked = build(spec, [0])
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    network = unstack(stacked, 0).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    (whole,) = factorise([network], energy=1.0)
    torch.testing.assert_close(whole(features()), network(features()), atol=1e-5, rtol=1e-5)
    assert {layer.kind for layer in spec_of(whole).layers} == {"linear", "tanh"}
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of the two"),
        ({"rank": 2, "energy": 0.5}, "give one of the two"),
        ({"rank": 0}, "rank 0 must be 1 or more"),
        ({"energy": 0.0}, r"in \(0, 1\], not 0.0"),
        ({"energy": 1.1}, r"in \(0, 1\], not 1.1"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        factorise([mlp()], **options)


def test_actions_hardly_change_where_little_energy_is_dropped():
    policy = build_policy(
        PolicySpec(
            VECTOR, Discrete(3), {"scaling": "none", "scale": None}, q_network_spec(VECTOR, 3, BodySettings((32, 32)))
        ),
        (1,),
    )
    (narrow,) = factorise([policy.member().network], energy=0.999)
    same = narrow(features(200)).argmax(dim=1) == policy.member().network(features(200)).argmax(dim=1)
    assert same.float().mean() > 0.95
