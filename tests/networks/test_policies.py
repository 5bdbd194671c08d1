"""A policy: any batch in, legal actions out, the same from the stack, from one member and from the saved spec."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.heads import build_head, stochastic_head_json
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Tuple, pack, space_from_json

SMALL = Box((10, 10, 3), "bool", 0.0, 1.0)
PIXELS = Box((36, 36, 2), "uint8", 0.0, 255.0)
VARIANTS = {
    "plain": {},
    "running": {"scaling": "running"},
    "fixed": {"scaling": "fixed", "scale": [1.0, 2.0, 3.0, 4.0]},
    "dueling": {"dueling": True},
    "shifted actions": {"actions": Discrete(3, start=-1)},
    "bits": {"space": SMALL},
    "pixels": {"space": PIXELS},
    "dropout": {"body": BodySettings(hidden=(8,), dropout=0.5)},
}


def generators(members, seed=0):
    return [torch.Generator().manual_seed(10 * seed + i) for i in range(members)]


def observing(policy, random_obs):
    """Give a policy with running statistics something to normalise by, different for every member."""
    obs = random_obs(policy.spec.obs_space, len(policy.seeds), 20)
    policy.preprocess.observe(obs, torch.ones(obs.shape[:2], dtype=torch.bool))
    return policy


@pytest.fixture(params=list(VARIANTS))
def policy(request, make_policy, random_obs):
    return observing(make_policy(**VARIANTS[request.param]), random_obs)


def test_stack_and_member_give_equal_actions_for_arrays_and_tensors(policy, random_obs):
    obs = random_obs(policy.spec.obs_space, 3, 16)
    actions = policy(obs)
    assert isinstance(actions, torch.Tensor)
    assert actions.shape == (3, 16)
    as_arrays = policy(obs.numpy())
    assert isinstance(as_arrays, np.ndarray)
    assert (as_arrays == actions.numpy()).all()
    for i, seed in enumerate(policy.seeds):
        member = policy.member(seed)
        torch.testing.assert_close(member.outputs(obs[i]), policy.outputs(obs)[i])
        assert torch.equal(member(obs[i]), actions[i])
        assert (member(obs[i].numpy()) == actions[i].numpy()).all()
        single = member(obs[i, 0])
        assert single.shape == ()
        assert single == actions[i, 0]
        assert isinstance(member(obs[i, 0].numpy()), (np.ndarray, np.integer))
        assert member(obs[i, 0].numpy()) == actions[i, 0].item()


def test_greedy_actions_are_the_largest_outputs_counted_from_the_spaces_start(policy, random_obs):
    obs = random_obs(policy.spec.obs_space, 3, 16)
    start = policy.spec.action_space.start
    assert torch.equal(policy(obs), policy.outputs(obs).argmax(dim=-1) + start)


def test_a_rebuilt_policy_gives_equal_outputs(policy, random_obs):
    spec = PolicySpec.from_json(json.loads(json.dumps(policy.spec.to_json(), allow_nan=False)))
    assert spec == policy.spec
    again = build_policy(spec, (5, 6, 7))
    again.load_state_dict(policy.state_dict())
    obs = random_obs(spec.obs_space, 3, 9)
    assert torch.equal(again.outputs(obs), policy.outputs(obs))
    assert not again.training


def test_only_keeps_one_member_with_its_seed(policy, random_obs):
    alone = policy.only(6)
    assert alone.seeds == (6,)
    obs = random_obs(policy.spec.obs_space, 3, 9)
    torch.testing.assert_close(alone.outputs(obs[1:2])[0], policy.outputs(obs)[1])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    assert any(parameter.abs().sum() > 0 for parameter in alone.parameters())  # a copy


def test_members_are_named_by_their_training_seed(make_policy):
    policy = make_policy((5, 6, 7))
    assert policy.member().seed == 5
    assert policy.member(7).seed == 7
    for ask in (policy.member, policy.only):
        with pytest.raises(UsageError, match=r"^no .* seed 8; this policy has training seeds 5, 6, 7\.$"):
            ask(8)


def test_an_empty_batch_gives_no_actions(make_policy):
    policy = make_policy()
    assert policy(torch.zeros(3, 0, 4)).shape == (3, 0)
    assert policy.member()(np.zeros((0, 4), np.float32)).shape == (0,)


def test_read_only_and_backward_arrays_are_taken(make_policy):
    policy = make_policy().member()
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    expected = policy(obs)
    assert (policy(obs[::-1]) == expected[::-1]).all()
    frozen = obs.copy()
    frozen.flags.writeable = False
    assert (policy(frozen) == expected).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 2, 5), "expected [3, B, *obs], *obs = (4,)."),
        ((2, 2, 4), "expected [3, B, *obs], *obs = (4,)."),
        ((3, 4), "expected [3, B, *obs], *obs = (4,)."),
        ((4,), "expected [3, B, *obs], *obs = (4,)."),
        ((), "expected [3, B, *obs], *obs = (4,)."),
    ],
)
def test_a_stack_refuses_a_wrong_shape_in_one_line(make_policy, shape, expected):
    with pytest.raises(UsageError) as caught:
        make_policy()(np.zeros(shape, np.float32))
    assert str(caught.value) == f"an observation of shape {shape} does not fit; {expected}"


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 2, 4), ()])
def test_a_member_refuses_a_wrong_shape_in_one_line(make_policy, shape):
    with pytest.raises(UsageError) as caught:
        make_policy().member()(np.zeros(shape, np.float32))
    message = "does not fit; expected [*obs] or [B, *obs], *obs = (4,)."
    assert str(caught.value) == f"an observation of shape {shape} {message}"


@given(st.integers(0, 100), st.booleans(), st.sampled_from(["bool", "int8"]))
def test_an_illegal_action_is_never_taken(make_policy, seed, greedy, dtype):
    policy = make_policy(actions=Discrete(5, start=10), epsilon=0.7)
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(3, 20, 4)).astype(np.float32)
    mask = rng.random((3, 20, 5)) < 0.4
    mask[..., 0] |= ~mask.any(axis=-1)
    actions = policy(obs, mask=mask.astype(dtype), greedy=greedy, generators=generators(3, seed))
    assert np.take_along_axis(mask, (actions - 10)[..., None], axis=-1).all()
    if greedy:
        q = policy.outputs(torch.from_numpy(obs)).detach().numpy()
        assert (actions - 10 == np.where(mask, q, -np.inf).argmax(axis=-1)).all()
    alone = policy.member(6)(obs[1, 0], mask=mask[1, 0], greedy=greedy, generators=generators(1, seed))
    assert mask[1, 0, alone - 10]


def test_a_mask_that_allows_all_changes_nothing(make_policy, random_obs):
    policy = make_policy()
    obs = random_obs(policy.spec.obs_space, 3, 30)
    everything = torch.ones(3, 30, 3, dtype=torch.bool)
    assert torch.equal(policy(obs, mask=everything), policy(obs))
    free = policy(obs, greedy=False, generators=generators(3))
    assert torch.equal(policy(obs, mask=everything, greedy=False, generators=generators(3)), free)


def test_a_mask_that_does_not_fit_or_allows_nothing_is_refused(make_policy):
    policy, obs = make_policy(), np.zeros((3, 2, 4), np.float32)
    with pytest.raises(UsageError, match=r"a mask of shape \(3, 3, 2\) does not fit; expected \(3, 2, 3\)\."):
        policy(obs, mask=np.ones((3, 3, 2), bool))
    mask = np.ones((3, 2, 3), bool)
    mask[2, 1] = False
    with pytest.raises(UsageError, match=r"a mask allows no action of Discrete\(3\), .*; every row needs one"):
        policy(obs, mask=mask)


def test_the_recorded_epsilon_is_the_share_of_uniform_actions(make_policy, random_obs):
    policy = make_policy(actions=Discrete(4), epsilon=0.4)
    obs = random_obs(policy.spec.obs_space, 3, 1).expand(3, 20_000, 4)
    greedy, sampled = policy(obs), policy(obs, greedy=False, generators=generators(3))
    for i in range(3):
        shares = torch.bincount(sampled[i], minlength=4) / 20_000
        # 0.1 each by chance, and 0.6 more for the greedy one; standard deviations are below 0.0036
        expected = torch.full((4,), 0.1) + 0.6 * torch.nn.functional.one_hot(greedy[i, 0], 4)
        torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


@pytest.mark.parametrize(("epsilon", "same"), [(0.0, True), (1.0, False)])
def test_epsilon_zero_is_greedy_and_one_is_not(make_policy, random_obs, epsilon, same):
    policy = make_policy(epsilon=epsilon)
    obs = random_obs(policy.spec.obs_space, 3, 200)
    assert torch.equal(policy(obs, greedy=False, generators=generators(3)), policy(obs)) is same


def test_a_head_that_records_no_epsilon_does_not_explore(make_policy, random_obs):
    spec = make_policy().spec
    policy = build_policy(PolicySpec(spec.obs_space, spec.action_space, spec.preprocess, spec.network), (0,))
    obs = random_obs(spec.obs_space, 1, 50)
    assert torch.equal(policy(obs, greedy=False, generators=generators(1)), policy(obs))


def test_members_explore_on_streams_of_their_own(make_policy, random_obs):
    policy = make_policy(epsilon=0.5)
    obs = random_obs(policy.spec.obs_space, 1, 50).expand(3, 50, 4)
    first = policy(obs, greedy=False, generators=generators(3))
    changed = generators(3)
    changed[0].manual_seed(99)
    second = policy(obs, greedy=False, generators=changed)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1:], second[1:])
    for i, seed in enumerate(policy.seeds):
        alone = policy.member(seed)(obs[i], greedy=False, generators=generators(3)[i : i + 1])
        assert torch.equal(alone, first[i])


@pytest.mark.parametrize("found", [0, 1, 2, 4])
def test_generators_of_ones_own_are_one_per_member(make_policy, found):
    with pytest.raises(UsageError, match=rf"one torch\.Generator per member: 3, not {found}\."):
        make_policy()(np.zeros((3, 2, 4), np.float32), greedy=False, generators=generators(found))


def test_acting_uses_no_random_stream_and_keeps_no_graph(make_policy):
    policy, obs = make_policy(), torch.zeros(3, 2, 4, requires_grad=True)
    before, gradients = torch.get_rng_state(), []
    policy.network.register_forward_hook(lambda *_: gradients.append(torch.is_grad_enabled()))
    policy(obs)
    assert gradients == [False]
    assert policy.outputs(obs).requires_grad  # on which distilling and explaining work
    assert torch.equal(torch.get_rng_state(), before)


def test_a_member_taken_out_in_the_middle_of_an_update_acts_without_dropout(make_policy, random_obs):
    policy = make_policy(body=BodySettings(hidden=(8,), dropout=0.5)).train()
    obs = random_obs(policy.spec.obs_space, 3, 20)
    for taken, rows in ((policy.member(6), obs[1]), (policy.only(6), obs[1:2])):
        assert not any(module.training for module in taken.modules())
        assert torch.equal(taken.outputs(rows).flatten(), taken.outputs(rows).flatten())
    torch.testing.assert_close(policy.member(6).outputs(obs[1]), policy.eval().outputs(obs)[1])


ACTIONS = {
    "categorical": (Discrete(3, start=-1), False),
    "multi_categorical": (MultiDiscrete((2, 3), (0, 5), (2,)), False),
    "bernoulli": (MultiBinary((2, 2)), False),
    "gaussian": (Box((2,), "float32", (-2.0, 0.0), (2.0, 1.0)), False),
    "squashed_gaussian": (Box((2,), "float32", (-2.0, 0.0), (2.0, 1.0)), True),
}
VECTOR = Box((4,), "float32", -math.inf, math.inf)


def stochastic_policy(kind, space=VECTOR, log_std=None, seeds=(5, 6, 7)):
    actions, squash = ACTIONS[kind]
    head = stochastic_head_json(actions, squash)
    body = BodySettings(hidden=(8,), activation="tanh")
    network = actor_network_spec(space, build_head(head, actions).width, body, output_gain=2.0, log_std=log_std)
    return build_policy(PolicySpec(space, actions, {"scaling": "none", "scale": None}, network, head), seeds)


@pytest.fixture(params=[*ACTIONS, "gaussian with a free deviation", "squashed_gaussian with a free deviation"])
def stochastic(request):
    kind, _, free = request.param.partition(" with ")
    return stochastic_policy(kind, log_std=-0.5 if free else None)


def test_stack_and_member_of_every_head_choose_alike(stochastic, random_obs):
    obs, actions = random_obs(VECTOR, 3, 40), stochastic.spec.action_space
    greedy, sampled = stochastic(obs), stochastic(obs, greedy=False, generators=generators(3))
    assert greedy.shape == sampled.shape == (3, 40, *actions.shape)
    assert not torch.equal(greedy, sampled)
    assert str(stochastic(obs.numpy()).dtype) == actions.dtype
    for i, seed in enumerate(stochastic.seeds):
        member, own = stochastic.member(seed), generators(3)[i : i + 1]
        torch.testing.assert_close(member.outputs(obs[i]), stochastic.outputs(obs)[i])
        torch.testing.assert_close(member(obs[i]), greedy[i])
        torch.testing.assert_close(member(obs[i], greedy=False, generators=own), sampled[i])
        torch.testing.assert_close(stochastic.only(seed)(obs[i : i + 1])[0], greedy[i])
        single = member(obs[i, 0].numpy())
        assert np.shape(single) == actions.shape
        np.testing.assert_allclose(single, greedy[i, 0].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["q", *ACTIONS])
def test_the_same_sample_seed_gives_the_same_actions_of_every_head_and_call(make_policy, random_obs, kind):
    policy = make_policy(actions=Discrete(7, start=3), epsilon=0.5) if kind == "q" else stochastic_policy(kind)
    obs = random_obs(VECTOR, 3, 20)
    first = [policy(obs, greedy=False) for _ in range(3)]
    assert not torch.equal(first[0], first[1])  # a stream goes on from call to call
    copied = copy.deepcopy(policy)
    policy.reseed(0)
    assert all(torch.equal(policy(obs, greedy=False), each) for each in first)
    assert torch.equal(policy(obs, greedy=False), copied(obs, greedy=False))  # the fourth call of each
    policy.reseed(7)
    seventh = policy(obs, greedy=False)
    assert not torch.equal(seventh, first[0])
    alone = policy.member(6)  # the second training seed: the same draws beside others and alone
    alone.reseed(7)
    torch.testing.assert_close(alone(obs[1], greedy=False), seventh[1])


def test_q_values_sample_with_the_epsilon_that_is_given_recorded_or_asked_for(make_policy, random_obs):
    policy = make_policy(actions=Discrete(4), epsilon=0.0)
    obs = random_obs(policy.spec.obs_space, 3, 1).expand(3, 4_000, 4)
    with pytest.raises(UsageError, match=r"say how often an action is random: .*epsilon=0\.05"):
        policy(obs, greedy=False)
    other = (policy(obs, greedy=False, epsilon=0.4) != policy(obs)).float().mean()
    assert other == pytest.approx(0.3, abs=0.02)  # 0.4 x 3 of 4 actions; the deviation of 12 000 coins is 0.0042
    assert torch.equal(policy(obs, greedy=False, epsilon=0.0), policy(obs))
    with pytest.raises(UsageError, match=r"epsilon 1\.5 is not a probability"):
        policy(obs, greedy=False, epsilon=1.5)
    with pytest.raises(UsageError, match="samples from its own distribution"):
        stochastic_policy("categorical")(obs, greedy=False, epsilon=0.1)


def test_every_head_is_rebuilt_from_json(stochastic, random_obs):
    spec = PolicySpec.from_json(json.loads(json.dumps(stochastic.spec.to_json(), allow_nan=False)))
    assert spec == stochastic.spec
    again = build_policy(spec, (5, 6, 7))
    again.load_state_dict(stochastic.state_dict())
    obs = random_obs(VECTOR, 3, 9)
    assert torch.equal(again(obs), stochastic(obs))
    assert not any(name.startswith("head") for name in stochastic.state_dict())  # constants follow from the spec


def test_the_actions_of_every_head_are_in_their_space(stochastic, random_obs):
    actions = stochastic(5.0 * random_obs(VECTOR, 3, 200), greedy=False, generators=generators(3)).flatten(0, 1)
    space = stochastic.spec.action_space
    if isinstance(space, Discrete | MultiDiscrete):
        n, start = (space.n if isinstance(space, Discrete) else torch.tensor(space.nvec)), torch.tensor(space.start)
        assert ((actions - start >= 0) & (actions - start < n)).all()
        assert (actions.amin(0) == start).all()
        assert (actions.amax(0) == start + n - 1).all()
    elif isinstance(space, MultiBinary):
        assert actions.unique().tolist() == [0, 1]
    else:
        assert ((actions >= torch.tensor(space.low)) & (actions <= torch.tensor(space.high))).all()


PLACES = Dict((("at", Discrete(4, start=2)), ("speed", Box((2,), "float32", -1.0, 1.0))))
PAIR = Tuple((Discrete(3), MultiBinary((2,))))


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (Discrete(4, start=2), 3),
        (Discrete(4, start=2), np.int64(5)),
        (MultiDiscrete((2, 3), (0, 0), (2,)), [1, 2]),
        (VECTOR, [0.1, -0.2, 0.3, 0.4]),
        (PLACES, {"at": 3, "speed": np.array([0.5, -0.5], np.float32)}),
        (PAIR, (2, np.array([0, 1], np.int8))),
    ],
    ids=str,
)
def test_a_member_takes_what_the_env_gives(space, obs):
    member = stochastic_policy("multi_categorical", space).member(6)
    action = member(obs)
    assert isinstance(action, np.ndarray)
    assert action.shape == (2,)
    array = pack(space, obs)
    assert (member(array) == action).all()
    assert (member(array[None])[0] == action).all()
    assert torch.equal(member(torch.from_numpy(array)), torch.from_numpy(action))


def test_a_stack_takes_dicts_whose_parts_lead_with_members_and_rows():
    policy = stochastic_policy("multi_categorical", PLACES)
    obs = {"at": np.full((3, 5), 4), "speed": np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)}
    assert (policy(obs) == policy(pack(PLACES, obs))).all()
    with pytest.raises(UsageError, match=r"an observation of shape \(5, 3\) does not fit; expected \[3, B, \*obs\]"):
        policy({"at": obs["at"][0], "speed": obs["speed"][0]})
    with pytest.raises(UsageError, match="needs a part 'speed'"):
        policy({"at": obs["at"]})


@given(st.integers(0, 200), st.booleans(), st.sampled_from(["categorical", "multi_categorical"]))
def test_a_mask_in_observations_beside_them_or_packed_is_one_and_the_same(seed, greedy, kind):
    size = {"categorical": 3, "multi_categorical": 5}[kind]
    space = Masked(VECTOR, size)
    policy, rng = stochastic_policy(kind, space), np.random.default_rng(seed)
    obs = rng.normal(size=(3, 6, 4)).astype(np.float32)
    mask = rng.random((3, 6, size)) < 0.5
    mask[..., [0, 2][: 1 + (size == 5)]] = True
    beside = policy(obs, mask=mask.astype(np.int8), greedy=greedy, generators=generators(3, seed))
    packed = policy(pack(space, obs, mask), greedy=greedy, generators=generators(3, seed))
    tensors = torch.from_numpy(obs), torch.from_numpy(mask)
    as_tensors = policy(tensors[0], mask=tensors[1], greedy=greedy, generators=generators(3, seed))
    assert (beside == packed).all()
    assert torch.equal(as_tensors, torch.from_numpy(beside))
    alone = policy.member(6)(obs[1], mask=mask[1], greedy=greedy, generators=generators(3, seed)[1:2])
    assert (alone == beside[1]).all()
    chosen = beside[..., None] + 1 if kind == "categorical" else beside - [0, 5] + [0, 2]
    assert np.take_along_axis(mask, chosen, axis=-1).all()


def test_a_dict_of_the_env_may_hold_the_mask():
    space = Masked(PLACES, 3)
    member = stochastic_policy("categorical", space).member()
    obs = {"at": 3, "speed": np.zeros(2, np.float32)}
    for only in range(3):
        mask = np.arange(3) == only
        assert member({**obs, "action_mask": mask}) == only - 1
        assert member(obs, mask=mask) == only - 1
    assert member(obs) == member({**obs, "action_mask": np.ones(3, np.int8)})
    ended = {**obs, "action_mask": np.zeros(3, np.int8)}
    assert member(obs) == member(ended)  # the world ended: all the same


def test_observations_of_a_masked_space_come_without_a_mask_too():
    space = Masked(VECTOR, 3)
    policy = stochastic_policy("categorical", space)
    obs = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    assert (policy(obs) == policy(obs, mask=np.ones((3, 5, 3), bool))).all()
    with pytest.raises(UsageError, match=r"an observation of shape \(3, 5, 6\) does not fit Box"):
        policy(np.zeros((3, 5, 6), np.float32))
    with pytest.raises(UsageError, match=r"an observation of shape \(3, 5, 7\) does not fit Box"):  # two masks
        policy(np.zeros((3, 5, 7), np.float32), mask=np.ones((3, 5, 3), bool))


def test_masks_for_another_number_of_actions_are_refused_when_the_policy_is_built():
    message = r"^observations with a mask of 4 do not fit Discrete\(n=3, start=-1\)\.$"
    with pytest.raises(UsageError, match=message):
        stochastic_policy("categorical", Masked(VECTOR, 4))
    with pytest.raises(UsageError, match=r"a mask of 4 do not fit Box\(\(2,\), float32\)\.$"):
        stochastic_policy("gaussian", Masked(VECTOR, 4))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "squashed_gaussian"])
def test_a_mask_for_actions_that_take_none_is_refused(kind):
    with pytest.raises(UsageError, match=r"^actions .* take no mask; Discrete and MultiDiscrete do\.$"):
        stochastic_policy(kind)(np.zeros((3, 2, 4), np.float32), mask=np.ones((3, 2, 4), bool))


def test_a_mask_beside_unmasked_observations_covers_every_choice():
    policy = stochastic_policy("multi_categorical")
    obs, mask = np.zeros((3, 1, 4), np.float32), np.array([False, True, False, False, True])
    assert policy(obs, mask=np.tile(mask, (3, 1, 1))).tolist() == [[[1, 7]]] * 3
    with pytest.raises(UsageError, match=r"a mask of shape \(3, 1, 2\) does not fit; expected \(3, 1, 5\)\."):
        policy(obs, mask=np.ones((3, 1, 2), bool))


def boxes(shape):
    """Boxes with one bound for all elements, or one for each."""
    number, count = st.floats(allow_nan=False), math.prod(shape)
    bounds = number | st.lists(number, min_size=count, max_size=count).map(tuple)
    return st.builds(Box, st.just(tuple(shape)), st.sampled_from(["float32", "uint8", "bool"]), bounds, bounds)


SPACES = st.builds(Discrete, st.integers(1, 99), st.integers(-9, 9)) | st.lists(st.integers(1, 3), max_size=3).flatmap(
    boxes
)


@given(SPACES)
def test_any_space_survives_json(space):
    assert space_from_json(json.loads(json.dumps(space.to_json(), allow_nan=False))) == space


def test_an_unknown_kind_of_space_says_what_is_known():
    with pytest.raises(RlabError, match=r"unknown kind of space 'graph'; known: box, discrete, .*\. Is a newer"):
        space_from_json({"kind": "graph"})


def broken(data, what):
    layers = data["network"]["layers"]
    if what == "layers that do not fit each other":
        layers[0]["out_features"] = 9
    elif what == "another observation":
        layers[0]["in_features"] = 5
    elif what == "another number of actions":
        data["action_space"]["n"] = 4
    elif what == "continuous actions":
        data["action_space"] = {"kind": "box", "shape": [3], "dtype": "float32", "low": -1.0, "high": 1.0}
    elif what == "an argument too few":
        del layers[0]["in_features"]
    elif what == "a width below zero":
        layers[0]["out_features"] = -3
    elif what == "no scaling":
        del data["preprocess"]["scaling"]
    elif what == "an unknown head":
        data["head"] = {"kind": "qq"}
    elif what == "a head without a kind":
        data["head"] = {"epsilon": 0.1}
    elif what == "an epsilon in words":
        data["head"]["epsilon"] = "much"
    elif what == "a dtype that NumPy does not know":
        data["obs_space"]["dtype"] = "float33"
    return data


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("layers that do not fit each other", "the policy's spec cannot be built: "),
        ("another observation", "the policy's spec cannot be built: "),
        ("another number of actions", "'q' reads 4 outputs for actions Discrete(n=4, start=0); the network has 3."),
        ("continuous actions", "the policy head 'q' is for Discrete actions, not Box((3,), float32)."),
        ("an argument too few", "argument: 'in_features'. Was it written by a newer rlab?"),
        ("a width below zero", "the policy's spec cannot be built: "),
        ("no scaling", "the policy's spec cannot be built: 'scaling'"),
        ("an unknown head", "unknown policy head 'qq'."),
        ("a head without a kind", "the policy's spec cannot be built: 'kind'"),
        ("an epsilon in words", "the policy's spec cannot be built: could not convert string to float: 'much'"),
        ("a dtype that NumPy does not know", "dtype of a space must be one of numbers, not 'float33'"),
    ],
)
def test_a_spec_whose_parts_do_not_fit_is_refused_in_one_line(make_policy, what, message):
    data = broken(json.loads(json.dumps(make_policy().spec.to_json())), what)
    with pytest.raises(RlabError) as caught:
        build_policy(PolicySpec.from_json(data), (0,))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_infinite_bounds_survive_json(make_policy):
    data = json.loads(json.dumps(make_policy().spec.to_json(), allow_nan=False))
    assert PolicySpec.from_json(data).obs_space == Box((4,), "float32", -math.inf, math.inf)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_head_acts_alike_on_a_gpu(stochastic, random_obs):
    obs = random_obs(VECTOR, 3, 16)
    expected = stochastic(obs, greedy=False, generators=generators(3))
    stochastic.cuda()
    on_gpu = stochastic(obs.cuda(), greedy=False, generators=generators(3))
    torch.testing.assert_close(on_gpu.cpu(), expected, rtol=1e-4, atol=1e-5)
    alone = stochastic.member(6)(obs[1].cuda(), greedy=False, generators=generators(3)[1:2])
    torch.testing.assert_close(alone.cpu(), expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_policy_on_a_gpu_acts_alike(policy, random_obs):
    obs = random_obs(policy.spec.obs_space, 3, 16)
    expected, explored = policy(obs), policy(obs, greedy=False, generators=generators(3))
    alone = policy.only(6)
    policy.cuda()
    assert (policy(obs.numpy()) == expected.numpy()).all()
    assert policy(obs.cuda()).is_cuda
    assert torch.equal(policy(obs.cuda(), greedy=False, generators=generators(3)).cpu(), explored)
    assert torch.equal(policy.member(6)(obs[1].cuda()).cpu(), expected[1])
    assert policy.only(6)(obs[1:2].cuda()).is_cuda
    assert torch.equal(policy.only(6)(obs[1:2].cuda()).cpu(), alone(obs[1:2]))
