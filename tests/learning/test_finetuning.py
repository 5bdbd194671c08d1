"""Strategies of fine-tuning: which layers learn, when and how fast, and that the rest keeps every bit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.learning.finetuning import (
    FinetuneConfig,
    layers_of,
    parameter_groups,
    refit,
    trainable_share,
    transfer,
)
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.heads import STOCHASTIC_HEADS
from rlab.networks.merging import merge_policy
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.types import Clock

VECTOR, WIDER = (Box((n,), "float32", -2.0, 2.0) for n in (4, 5))
IMAGE = Box((10, 10, 2), "bool", 0.0, 1.0)
NONE = {"scaling": "none", "scale": None}
Q = {"kind": "q", "epsilon": 0.05}
STRATEGIES = ("full", "head", "last-2", "gradual", "discriminative", "lora")


def q_source(space=VECTOR, dueling=False):
    """Three layers: 0 and 1, 3 and 4, 6 (with `dueling` two: 0 and 1, 3)."""
    network = q_network_spec(space, 2, BodySettings(hidden=(8, 6), layer_norm=True), dueling)
    return PolicySpec(space, Discrete(2), NONE, network, Q)


def gaussian_source():
    network = actor_network_spec(VECTOR, 4, BodySettings(hidden=(8,)), log_std=-0.5)
    return PolicySpec(VECTOR, Box((2,), "float32", -1.0, 1.0), NONE, network, {"kind": "gaussian"})


def prepared(source, space=None, actions=None, critic=False, **settings):
    """`(refit, config, policy, networks, groups)` for a run with two members."""
    config, action_space = FinetuneConfig(**settings), actions or source.action_space
    kinds = ("q",) if isinstance(action_space, Discrete) else STOCHASTIC_HEADS
    head = Q if isinstance(action_space, Discrete) else source.head
    found = refit(source, space or source.obs_space, action_space, head, kinds, config)
    policy = build_policy(found.spec, (0, 1))
    networks = {"q": policy.network}
    if critic:
        value = LayerSpec("linear", {"in_features": 4, "out_features": 1})
        networks["critic"] = build(NetworkSpec((value,)), (0, 1), "critic")
    return found, config, policy, networks, parameter_groups(networks, "q", found, config)


def plans(groups):
    return [(group.name, group.factor, group.begins_at) for group in groups]


def names_in(group, network):
    of = {id(parameter): name for name, parameter in network.named_parameters()}
    return [of[id(parameter)] for parameter in group.parameters]


def learning(groups, network):
    """The names of all parameters of the network that ever learn."""
    found = [name for group in groups if group.begins_at is not None for name in names_in(group, network)]
    return [name for name, _ in network.named_parameters() if name in found]


def test_layers_hold_what_belongs_together():
    assert layers_of(q_source().network) == [(0, 1), (3, 4), (6,)]
    assert layers_of(q_source(dueling=True).network) == [(0, 1), (3,)]
    assert layers_of(gaussian_source().network) == [(0,), (2, 3)]
    assert layers_of(q_source(IMAGE).network) == [(0,), (3, 4), (6, 7), (9,)]
    renormalised = q_network_spec(VECTOR, 3, BodySettings((4,), batch_renorm=True))  # first before the first layer
    assert layers_of(renormalised) == [(0, 1, 3), (4,)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("q", 1.0, 0)]),
        ({"strategy": "head"}, [("q.0,3", 1.0, None), ("q.6", 1.0, 0)]),
        ({"strategy": "last-1"}, [("q.0,3", 1.0, None), ("q.6", 1.0, 0)]),
        ({"strategy": "last-2"}, [("q.0", 1.0, None), ("q.3,6", 1.0, 0)]),
        ({"strategy": "last-3"}, [("q", 1.0, 0)]),
        ({"strategy": "gradual", "unfreeze_every": 70}, [("q.0", 1.0, 140), ("q.3", 1.0, 70), ("q.6", 1.0, 0)]),
        ({"strategy": "discriminative", "layer_decay": 0.5}, [("q.0", 0.25, 0), ("q.3", 0.5, 0), ("q.6", 1.0, 0)]),
        ({"strategy": "lora", "lora_rank": 2}, [("q.lora", 1.0, 0), ("q.base", 1.0, None)]),
    ],
)
def test_each_strategy_has_its_groups(settings, expected):
    _, _, policy, _, groups = prepared(q_source(), **settings)
    assert sorted(plans(groups), key=str) == sorted(expected, key=str)
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in policy.network.parameters())


def test_a_normalisation_and_the_log_standard_deviations_go_with_their_layer():
    _, _, policy, _, groups = prepared(q_source(), strategy="last-2")
    by_name = {group.name: names_in(group, policy.network) for group in groups}
    assert by_name["q.0"] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    _, _, policy, _, groups = prepared(gaussian_source(), strategy="head")
    assert names_in(groups[1], policy.network) == ["2.weight", "2.bias", "3.log_std"]


def test_dueling_is_one_head():
    _, _, policy, _, groups = prepared(q_source(dueling=True), strategy="head")
    assert plans(groups) == [("q.0", 1.0, None), ("q.3", 1.0, 0)]
    assert all(name.startswith("3.") for name in names_in(groups[1], policy.network))


def test_fresh_layers_learn_from_the_start_at_the_full_rate_whatever_the_strategy():
    first = {"space": WIDER}
    assert plans(prepared(q_source(), **first, strategy="head")[-1]) == [("q.0,6", 1.0, 0), ("q.3", 1.0, None)]
    gradual = prepared(q_source(), **first, strategy="gradual", unfreeze_every=10)[-1]
    assert plans(gradual) == [("q.0,6", 1.0, 0), ("q.3", 1.0, 10)]
    rates = prepared(q_source(), **first, strategy="discriminative", layer_decay=0.5)[-1]
    assert plans(rates) == [("q.0,6", 1.0, 0), ("q.3", 0.5, 0)]


def test_with_adapters_fresh_layers_stay_plain_and_learn_in_full():
    found, _, policy, _, groups = prepared(q_source(), space=WIDER, strategy="lora", lora_rank=2)
    assert [layer.kind for layer in found.spec.network.layers if "linear" in layer.kind] == [
        "linear",
        "lora_linear",
        "lora_linear",
    ]
    assert plans(groups) == [("q.0,lora", 1.0, 0), ("q.base", 1.0, None)]
    expected = ["0.weight", "0.bias", "1.weight", "1.bias", "3.down", "3.up", "6.down", "6.up"]
    assert learning(groups, policy.network) == expected
    _, _, policy, _, groups = prepared(gaussian_source(), strategy="lora", lora_rank=2)
    assert learning(groups, policy.network) == ["0.down", "0.up", "2.down", "2.up", "3.log_std"]
    _, _, policy, _, groups = prepared(q_source(dueling=True), actions=Discrete(3), strategy="lora", lora_rank=2)
    whole = [name for name in learning(groups, policy.network) if not name.endswith((".down", ".up"))]
    assert whole == [f"3.{stream}.3.{kind}" for stream in ("value", "advantage") for kind in ("weight", "bias")]


def test_other_networks_always_learn_and_can_learn_alone_for_a_while():
    _, _, _, networks, groups = prepared(q_source(), critic=True, strategy="head")
    assert plans(groups)[-1] == ("critic", 1.0, 0)
    assert list(groups[-1].parameters) == list(networks["critic"].parameters())
    settings = {"strategy": "gradual", "unfreeze_every": 70, "critic_warmup": 100}
    groups = prepared(q_source(), critic=True, **settings)[-1]
    assert plans(groups) == [("q.0", 1.0, 140), ("q.3", 1.0, 100), ("q.6", 1.0, 100), ("critic", 1.0, 0)]
    frozen = prepared(q_source(), critic=True, strategy="head", critic_warmup=100)[-1]
    assert plans(frozen) == [("q.0,3", 1.0, None), ("q.6", 1.0, 100), ("critic", 1.0, 0)]
    with pytest.raises(UsageError, match=r"^critic_warmup needs an agent with a critic beside its policy; leave"):
        prepared(q_source(), critic_warmup=1)


def test_the_trainable_share_on_numbers_worked_by_hand():
    """Per member: 4*8+8 = 40 and 16 of the norm; 8*6+6 = 54 and 12; 6*2+2 = 14. Together 136."""

    def share(**settings):
        _, _, policy, _, groups = prepared(q_source(), critic=True, **settings)
        return trainable_share(groups, policy.network)

    assert share() == 1.0
    assert share(strategy="head") == 14 / 136
    assert share(strategy="last-2") == (14 + 66) / 136
    assert share(strategy="gradual") == 1.0
    assert share(strategy="lora", lora_rank=2) == (2 * (4 + 8) + 2 * (8 + 6) + 2 * (6 + 2)) / 136


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strategy": "discriminativ"}, "unknown fine-tuning strategy 'discriminativ'. Did you mean 'discriminative'?"),
        ({"strategy": "last"}, "unknown fine-tuning strategy 'last'. Did you mean 'last-2'?"),
        ({"strategy": "last--1"}, "unknown fine-tuning strategy 'last--1'"),
        ({"strategy": "last-0"}, "strategy last-0 would train nothing; last-1, the head alone, is the least."),
        ({"layer_decay": 0.0}, "layer_decay 0.0 must be in (0, 1]"),
        ({"layer_decay": float("nan")}, "layer_decay nan must be in (0, 1]"),
        ({"unfreeze_every": 0}, "unfreeze_every 0 must be 1 or more."),
        ({"lora_rank": 0}, "lora_rank 0 must be 1 or more."),
        ({"lora_alpha": 0.0}, "lora_alpha 0.0 must be above 0."),
        ({"lora_alpha": float("inf")}, "lora_alpha inf must be above 0."),
        ({"critic_warmup": -1}, "critic_warmup -1 must be 0 or more."),
    ],
)
def test_a_setting_out_of_range_gets_one_line(settings, said):
    with pytest.raises(UsageError) as caught:
        FinetuneConfig(**settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_layers_or_rank_than_there_are_get_one_line():
    with pytest.raises(UsageError, match=r"^strategy last-4: the network has 3 layers; last-3 is all of them\.$"):
        prepared(q_source(), strategy="last-4")
    with pytest.raises(UsageError, match=r"^LoRA rank 7 does not fit: the layers' smaller sides are 4, 6, 2\.$"):
        prepared(q_source(), strategy="lora", lora_rank=7)


def regression(policy, obs, target) -> Tensor:
    """How far a policy's outputs are off, `[S]`."""
    return (policy.outputs(obs) - target).square().mean(dim=(1, 2))


def trained_source(spec, obs, target):
    """A policy of three members that has learned the target."""
    policy = build_policy(spec, (5, 6, 7))
    stepper = StackedOptimizer(OptimizerSettings("adam", 1e-2), policy.network.parameters())
    for _ in range(150):
        stepper.step(regression(policy, obs, target))
    return policy


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trained_policy_is_fine_tuned_from_end_to_end(strategy):
    """Members 7 and 5 of three go on with a related task. What a strategy freezes keeps every bit; the rest learns."""
    obs = torch.randn(3, 64, 4, generator=torch.Generator().manual_seed(0))
    old = torch.stack([obs[..., 0] * obs[..., 1], obs[..., 2].sin()], dim=-1)
    source = trained_source(q_source(), obs, old)
    found, _, policy, networks, groups = prepared(
        source.spec, strategy=strategy, unfreeze_every=40, lora_rank=2, layer_decay=0.5
    )
    transfer(source, policy, found, member_of=(2, 0))
    obs, task = obs[[2, 0]], 0.5 * old[[2, 0]] + 0.3
    # Sums in a stack of three and in one of two may be taken in another order.
    expected = source.outputs(torch.stack([obs[1], obs[1], obs[0]]))[[2, 0]]
    torch.testing.assert_close(policy.outputs(obs), expected, rtol=1e-5, atol=1e-5)
    stepper = StackedOptimizer(OptimizerSettings("adamw", 1e-2, weight_decay=0.1), groups)
    began = regression(policy, obs, task).detach()
    moved_at = {}
    before = {name: value.clone() for name, value in networks["q"].state_dict().items()}
    for env_steps in range(120):
        stepper.at(Clock(env_steps, 120))
        stepper.step(regression(policy, obs, task))
        for name, value in networks["q"].state_dict().items():
            if name not in moved_at and not torch.equal(value, before[name]):
                moved_at[name] = env_steps
    expected = {
        "full": dict.fromkeys("01346", 0),
        "head": {"6": 0},
        "last-2": dict.fromkeys("346", 0),
        "gradual": {"6": 0, "3": 40, "4": 40, "0": 80, "1": 80},
        "discriminative": dict.fromkeys("01346", 0),
        "lora": dict.fromkeys("036", 0),
    }[strategy]
    kinds = {name.partition(".")[2] for name in moved_at}
    assert kinds == ({"down", "up"} if strategy == "lora" else {"weight", "bias"})
    # `down` learns one step later: its gradient is zero as long as `up` is; weight decay moves it at once
    assert {name.partition(".")[0]: step for name, step in moved_at.items()} == expected
    assert (regression(policy, obs, task) < 0.3 * began).all()
    plain = merge_policy(policy)
    assert plain.spec == replace(source.spec, network=source.spec.network)
    torch.testing.assert_close(plain.outputs(obs), policy.outputs(obs), rtol=1e-5, atol=1e-5)


def test_a_member_fine_tunes_as_it_would_beside_any_others():
    obs = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0))

    def tuned(scale):
        _, _, policy, _, groups = prepared(q_source(), strategy="lora", lora_rank=2)
        stepper = StackedOptimizer(OptimizerSettings("adam", 1e-2, max_grad_norm=1.0), groups)
        for _ in range(5):
            stepper.step(regression(policy, obs, torch.ones(2, 16, 2)) * torch.tensor([1.0, scale]))
        return [parameter[0] for parameter in policy.network.parameters()]

    for calm, beside_a_wild_one in zip(tuned(1.0), tuned(1e12), strict=True):
        torch.testing.assert_close(calm, beside_a_wild_one, rtol=1e-5, atol=1e-6)
