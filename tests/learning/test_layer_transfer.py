"""An old policy in new spaces: what fits is kept, what does not is fresh, and both are named."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.learning.adapters import with_lora
from rlab.learning.finetuning import FinetuneConfig, kept_tensors, members_of, refit, transfer
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.heads import STOCHASTIC_HEADS, build_head
from rlab.networks.merging import merge_policy
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete
from rlab.networks.spec import LayerSpec, NetworkSpec

VECTOR, WIDER = (Box((n,), "float32", -2.0, 2.0) for n in (4, 5))
SMALL, LARGER, COLOURED = (Box(shape, "uint8", 0.0, 255.0) for shape in ((10, 10, 1), (12, 10, 1), (10, 10, 3)))
Q = {"kind": "q", "epsilon": 0.05}
NONE = {"scaling": "none", "scale": None}
FULL = FinetuneConfig()
HIDDEN = BodySettings(hidden=(8, 6), layer_norm=True)


def q_policy(space=VECTOR, actions=2, body=HIDDEN, dueling=False, preprocess=NONE):
    network = q_network_spec(space, actions, body, dueling)
    return PolicySpec(space, Discrete(actions), preprocess, network, {"kind": "q", "epsilon": 0.3})


def gaussian_policy(space=VECTOR, actions=1, log_std=-0.5):
    action_space = Box((actions,), "float32", -1.0, 1.0)
    network = actor_network_spec(space, 2 * actions, HIDDEN, log_std=log_std)
    return PolicySpec(space, action_space, NONE, network, {"kind": "gaussian"})


def to_q(source, space=VECTOR, actions=2, config=FULL):
    return refit(source, space, Discrete(actions), Q, ("q",), config)


def to_actor(source, actions, space=VECTOR, squash=False, **more):
    kinds = {Discrete: "categorical", MultiDiscrete: "multi_categorical", MultiBinary: "bernoulli"}
    head = {"kind": kinds.get(type(actions), "squashed_gaussian" if squash else "gaussian")}
    return refit(source, space, actions, head, STOCHASTIC_HEADS, FULL, **more)


def randomised(spec, seeds):
    """A policy whose every tensor is different."""
    policy = build_policy(spec, seeds)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in policy.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return policy


def test_the_same_spaces_keep_everything_but_the_epsilon():
    source = q_policy()
    found = to_q(source)
    assert found.spec == replace(source, head=Q)
    assert found.kept == tuple(f"network.{i}" for i in (0, 1, 3, 4, 6))
    assert found.replaced == ()
    assert (to_actor(gaussian_policy(), Box((1,), "float32", -1.0, 1.0), squash=True)).spec == gaussian_policy()


def test_another_number_of_features_replaces_the_first_layer_and_its_normalisation():
    found = to_q(q_policy(), space=WIDER)
    assert found.replaced == ("network.0 (5 inputs instead of 4)", "network.1 (after network.0)")
    assert found.kept == ("network.3", "network.4", "network.6")
    assert found.spec.network.layers[0].args["in_features"] == 5


def test_another_number_of_actions_replaces_the_last_layer():
    found = to_q(q_policy(), actions=3)
    assert found.replaced == ("network.6 (3 actions instead of 2)",)
    assert found.spec.network.layers[6].args["out_features"] == 3


def test_another_head_replaces_the_last_layer():
    found = to_actor(q_policy(), Discrete(2), output_gain=0.01)
    assert found.replaced == ("network.6 (head categorical instead of q)",)
    assert found.spec.head == {"kind": "categorical"}
    assert found.spec.network.layers[6].args["gain"] == 0.01
    back = to_q(replace(found.spec, head={"kind": "categorical"}))
    assert back.replaced == ("network.6 (head q instead of categorical)",)
    assert back.spec.head == Q


def test_another_number_of_quantiles_replaces_the_last_layer():
    network = q_network_spec(VECTOR, 2 * 5, HIDDEN)
    source = PolicySpec(VECTOR, Discrete(2), NONE, network, {"kind": "quantile", "quantiles": 5})
    for quantiles, why in ((5, ()), (3, ("network.6 (6 outputs of the policy head instead of 10)",))):
        head = {"kind": "quantile", "quantiles": quantiles, "epsilon": 0.1}
        found = refit(source, VECTOR, Discrete(2), head, ("quantile",), FULL)
        assert (found.replaced, found.spec.head) == (why, head)
        assert found.spec.network.layers[6].args["out_features"] == 2 * quantiles


VALUE_HEADS = ("q", "categorical_value", "quantile", "implicit_quantile")


def iqn_policy(dueling=False, body=HIDDEN):
    network = q_network_spec(VECTOR, 2, body, dueling, implicit={"cosines": 5, "samples": 2, "points": 4})
    return PolicySpec(VECTOR, Discrete(2), NONE, network, {"kind": "implicit_quantile", "points": 4, "epsilon": 0.3})


@pytest.mark.parametrize("dueling", [False, True])
def test_implicit_quantiles_of_other_actions_keep_their_embedding(dueling):
    source = iqn_policy(dueling)
    assert refit(source, VECTOR, Discrete(2), Q, VALUE_HEADS, FULL).spec == replace(
        source, head={**source.head, "epsilon": 0.05}
    )
    head = {"kind": "implicit_quantile", "points": 6, "epsilon": 0.1}
    found = refit(source, VECTOR, Discrete(3), head, VALUE_HEADS, FULL)
    assert "network.3.embedding.0" in found.kept
    ends = [".0.value.3", ".0.advantage.3"] if dueling else [".3"]
    assert list(found.fresh) == [f"network.3.values{end}" for end in ends]
    policy = build_policy(found.spec, (0,))
    assert policy.outputs(torch.zeros(1, 2, 4)).shape == (1, 2, policy.head.width)
    assert policy.head.num_actions == 3


@pytest.mark.parametrize(
    ("source", "head"), [(iqn_policy(), Q), (q_policy(), {"kind": "implicit_quantile", "points": 4})]
)
def test_a_layer_of_implicit_quantiles_is_neither_replaced_nor_put_in(source, head):
    with pytest.raises(UsageError, match="start from a run with the same value_head") as caught:
        refit(source, VECTOR, Discrete(3), head, VALUE_HEADS, FULL)
    assert "\n" not in str(caught.value)


def test_the_value_stream_of_a_dueling_network_is_as_wide_as_one_action():
    head = {"kind": "quantile", "quantiles": 5, "epsilon": 0.1}
    found = refit(q_policy(dueling=True), VECTOR, Discrete(3), head, ("quantile",), FULL)
    dueling = found.spec.network.layers[3].args
    assert [dueling[stream][3].args["out_features"] for stream in ("value", "advantage")] == [5, 15]


def test_a_network_of_one_layer_says_both_reasons():
    found = to_q(q_policy(body=BodySettings(hidden=())), space=WIDER, actions=3)
    assert found.replaced == ("network.0 (5 inputs instead of 4 and 3 actions instead of 2)",)
    assert found.kept == ()


def test_the_streams_of_dueling_are_each_made_anew_at_their_end():
    found = to_q(q_policy(dueling=True), actions=4)
    why = "4 actions instead of 2"
    assert found.replaced == (f"network.3.value.3 ({why})", f"network.3.advantage.3 ({why})")
    dueling = found.spec.network.layers[3].args
    assert [dueling[stream][3].args["out_features"] for stream in ("value", "advantage")] == [1, 4]
    # without a trunk both streams read the features
    found = to_q(q_policy(dueling=True, body=BodySettings(hidden=(8,))), space=WIDER)
    assert list(found.fresh) == ["network.0.value.0", "network.0.advantage.0"]


def test_log_standard_deviations_are_fresh_with_the_outputs_that_they_belong_to():
    two = Box((2,), "float32", -1.0, 1.0)
    found = to_actor(gaussian_policy(), two)
    why = "actions Box((2,), float32) instead of Box((1,), float32)"
    assert found.replaced == (f"network.6 ({why})", f"network.7 ({why})")
    assert found.spec.network.layers[6].args["out_features"] == 2
    assert found.spec.network.layers[7] == LayerSpec("log_std", {"features": 2, "initial": -0.5})
    assert to_actor(gaussian_policy(), two, log_std=0.1).spec.network.layers[7].args["initial"] == 0.1
    assert to_actor(q_policy(), two, log_std=0.1).spec.network.layers[7].args["initial"] == 0.1
    assert to_actor(q_policy(), two).spec.network.layers[6].args["out_features"] == 4  # means and deviations
    assert [layer.kind for layer in to_q(gaussian_policy()).spec.network.layers][6:] == ["linear"]
    assert len(to_actor(gaussian_policy(), Discrete(3), log_std=0.1).spec.network.layers) == 7


def test_actions_that_mean_the_same_keep_their_layer():
    assert to_actor(gaussian_policy(), Box((1,), "float32", -3.0, 3.0)).replaced == ()
    found = refit(q_policy(), VECTOR, Discrete(2, start=1), Q, ("q",), FULL)
    assert (found.replaced, found.spec.action_space) == ((), Discrete(2, start=1))
    choices = MultiDiscrete((2, 4), (0, 0), (2,))
    source = to_actor(q_policy(), choices).spec
    swapped = to_actor(source, MultiDiscrete((4, 2), (0, 0), (2,)))  # six logits as well, but others
    assert list(swapped.fresh) == ["network.6"]


def test_an_image_of_another_size_replaces_the_linear_layer_behind_the_convolutions():
    found = to_q(q_policy(SMALL), space=LARGER)
    # a 3x3 convolution: 16 x 8 x 8 = 1024 features became 16 x 10 x 8 = 1280
    assert found.replaced == ("network.3 (1280 inputs instead of 1024)", "network.4 (after network.3)")
    assert "network.0" in found.kept


def test_other_channels_replace_the_first_convolution_alone():
    found = to_q(q_policy(SMALL), space=COLOURED)
    assert found.replaced == ("network.0 (3 input channels instead of 1)",)


@pytest.mark.parametrize(
    ("refitting", "said"),
    [
        (
            lambda: to_q(q_policy(), space=SMALL),
            "the source sees a vector, Box((4,), float32), and the new observations are an image, Box((10, 10, 1)",
        ),
        (lambda: to_q(q_policy(SMALL), space=VECTOR), "the source sees an image"),
        (
            lambda: to_q(q_policy(SMALL), space=Box((2, 9, 1), "uint8", 0.0, 255.0)),
            "network.0, a 3x3 convolution, does not fit an image of 2x9.",
        ),
        (
            lambda: refit(q_policy(), VECTOR, VECTOR, Q, ("q",), FULL),
            "the policy head 'q' is for Discrete actions, not Box((4,), float32).",
        ),
        (
            lambda: to_q(foreign(0), space=WIDER),
            "network.0 is a theirs:Layer: rlab cannot fit that to features of another shape, (5,).",
        ),
        (
            lambda: to_q(foreign(7), actions=3),
            "network.7, the output layer, is a theirs:Layer; rlab can replace a linear layer only.",
        ),
    ],
)
def test_what_cannot_fit_gets_one_line(refitting, said):
    with pytest.raises(UsageError) as caught:
        refitting()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def foreign(place):
    """A policy with somebody else's layer at this place."""
    source = q_policy()
    layers = list(source.network.layers)
    layers.insert(place, LayerSpec("theirs:Layer", {"width": 4}))
    return replace(source, network=NetworkSpec(tuple(layers)))


def test_somebody_else_s_layer_stays_where_nothing_changes_before_it():
    found = to_q(foreign(3), actions=3)
    assert "network.3" in found.kept
    assert list(found.fresh) == ["network.7"]


@pytest.mark.parametrize(
    ("scaling", "space", "expected", "why"),
    [
        ("running", VECTOR, {"scaling": "running", "scale": None}, None),
        ("running", WIDER, {"scaling": "running", "scale": None}, "running statistics from nothing: the observation"),
        ("running", Box((4,), "float32", -9.0, 9.0), {"scaling": "running", "scale": None}, "running statistics"),
        ("fixed", VECTOR, {"scaling": "fixed", "scale": [1.0, 2.0, 3.0, 4.0]}, None),
        ("fixed", WIDER, {"scaling": "fixed", "scale": None}, "fixed scaling by the new space's bounds"),
        ("running", MultiBinary((4,)), NONE, "no running scaling: the new observations hold no numbers"),
        ("running", Masked(MultiBinary((4,)), 2), NONE, "no running scaling"),
        ("fixed", Dict((("a", Discrete(4)),)), NONE, "no fixed scaling"),
    ],
)
def test_scaling_stays_where_the_observation_space_does_and_else_falls_back_by_name(scaling, space, expected, why):
    scale = [1.0, 2.0, 3.0, 4.0] if scaling == "fixed" else None
    found = to_q(q_policy(preprocess={"scaling": scaling, "scale": scale}), space=space)
    assert found.spec.preprocess == expected
    assert ("preprocess" in found.fresh) == (why is not None)
    assert why is None or why in found.fresh["preprocess"]
    build_policy(found.spec, [0])


@pytest.mark.parametrize("scaling", ["none", "fixed", "running"])
@pytest.mark.parametrize(("space", "actions"), [(VECTOR, 2), (WIDER, 2), (VECTOR, 3), (WIDER, 3)])
def test_kept_tensors_arrive_bit_for_bit_from_the_member_that_was_asked_for(scaling, space, actions):
    source = randomised(q_policy(preprocess={"scaling": scaling, "scale": None}, dueling=True), (5, 6, 7))
    found = to_q(source.spec, space, actions)
    target, untouched = build_policy(found.spec, (1, 2)), build_policy(found.spec, (1, 2))
    transfer(source, target, found, member_of=(2, 0))
    old, fresh = source.state_dict(), untouched.state_dict()
    kept = 0
    for name, tensor in target.state_dict().items():
        layer = name.rpartition(".")[0]
        if layer in found.kept or (layer == "preprocess" and space == VECTOR):
            assert torch.equal(tensor, old[name][[2, 0]]), name
            kept += 1
        else:
            assert layer in found.fresh, name
            assert torch.equal(tensor, fresh[name]), name
    assert kept == len(kept_tensors(source, found, (2, 0)))


def test_layers_are_told_apart_by_their_whole_name():
    source = randomised(q_policy(body=BodySettings(hidden=(4, 4, 4, 4), layer_norm=True)), (5,))
    found = to_actor(source.spec, Discrete(2))
    assert list(found.fresh) == ["network.12"]
    assert "network.1" in found.kept
    assert not [name for name in kept_tensors(source, found, (0,)) if name.startswith("network.12.")]


def test_a_source_with_adapters_is_merged_first():
    plain = q_policy()
    source = randomised(replace(plain, network=with_lora(plain.network, 2, 4.0)), (5, 6))
    found = to_q(source.spec)
    assert found.spec.network == plain.network
    target = build_policy(found.spec, (0, 1))
    transfer(source, target, found, (0, 1))
    obs = torch.randn(2, 3, 4)
    torch.testing.assert_close(target.outputs(obs), source.outputs(obs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dueling", [False, True])
def test_a_policy_with_new_adapters_begins_with_the_source_s_answers_to_the_bit(dueling):
    source = randomised(q_policy(dueling=dueling, actions=3), (5, 6))
    found = to_q(source.spec, actions=3, config=FinetuneConfig(strategy="lora", lora_rank=2))
    target = build_policy(found.spec, (0, 1))
    transfer(source, target, found, (0, 1))
    obs = torch.randn(2, 3, 4)
    assert torch.equal(target.outputs(obs), source.outputs(obs))
    assert merge_policy(target).spec.network == source.spec.network


def test_members_come_by_choice_by_seed_or_from_the_only_one():
    assert members_of((5, 6, 7), (7, 5)) == [2, 0]
    assert members_of((5, 6, 7), (5, 6, 7)) == [0, 1, 2]
    assert members_of((5,), (0, 1, 2)) == [0, 0, 0]
    assert members_of((5, 6, 7), (0, 6), chosen=7) == [2, 2]
    assert members_of((5, 6, 7), (6, 7), chosen=5) == [0, 0]
    with pytest.raises(UsageError, match=r"^the run's training seeds 5, 8 are not all among the source"):
        members_of((5, 6, 7), (5, 8))
    with pytest.raises(UsageError, match=r"^the source has no member with training seed 9; it has 5, 6, 7\.$"):
        members_of((5, 6, 7), (5,), chosen=9)


ACTIONS = st.one_of(
    st.builds(Discrete, st.integers(2, 4)),
    st.builds(lambda n: Box((n,), "float32", -1.0, 1.0), st.integers(1, 3)),
    st.builds(lambda n: MultiBinary((n,)), st.integers(1, 3)),
    st.builds(lambda n: MultiDiscrete((2, n), (0, 0), (2,)), st.integers(2, 3)),
)
VECTORS = st.builds(lambda n: Box((n,), "float32", -2.0, 2.0), st.integers(1, 5))
IMAGES = st.builds(lambda *shape: Box(shape, "bool", 0, 1), st.integers(5, 8), st.integers(5, 8), st.integers(1, 2))


@given(
    st.one_of(st.tuples(VECTORS, VECTORS), st.tuples(IMAGES, IMAGES)),
    ACTIONS,
    ACTIONS,
    st.sampled_from([{}, {"layer_norm": True}, {"batch_renorm": True}]),
    st.booleans(),
)
def test_a_refitted_policy_always_builds_and_takes_over_all_that_it_says_it_keeps(
    spaces, old_actions, new_actions, norm, lora
):
    body = BodySettings(hidden=(4, 4), **norm)
    kind = to_actor(q_policy(), old_actions).spec.head
    width = build_head(kind, old_actions).width
    log_std = 0.0 if isinstance(old_actions, Box) else None
    network = actor_network_spec(spaces[0], width, body, log_std=log_std)
    source = randomised(PolicySpec(spaces[0], old_actions, NONE, network, kind), (0,))
    found = to_actor(source.spec, new_actions, space=spaces[1], log_std=0.0)
    if lora and "network.2" in found.kept:
        found = replace(found, spec=replace(found.spec, network=with_lora(found.spec.network, 1, 1.0, found.fresh)))
    target = build_policy(found.spec, (0, 1))
    transfer(source, target, found, (0, 0))
    assert set(found.kept) | set(found.fresh) >= {name.rpartition(".")[0] for name in target.state_dict()}
    if spaces[0].shape == spaces[1].shape and type(old_actions) is type(new_actions) and old_actions == new_actions:
        assert found.fresh == {}


def test_a_batch_renormalisation_behind_a_fresh_layer_is_fresh_and_others_keep_their_statistics():
    network = actor_network_spec(Box((3,), "float32", -1.0, 1.0), 2, BodySettings((4, 4), batch_renorm=True))
    source = PolicySpec(Box((3,), "float32", -1.0, 1.0), Discrete(2), NONE, network, {"kind": "categorical"})
    found = to_actor(source, Discrete(2), space=Box((5,), "float32", -1.0, 1.0))
    assert sorted(found.fresh) == ["network.0", "network.1", "network.3"]
    assert {"network.4", "network.6", "network.7"} <= set(found.kept)
