"""Lists of steps: how they are written, which orders make sense, and what each does to a policy of two members."""

import numpy as np
import pytest
import torch
from torch import nn

from rlab.compression.distil import DistilSettings
from rlab.compression.sparsity import sparsity
from rlab.compression.steps import STEPS, Job, Step, check_order, compress, parse_steps
from rlab.compression.visits import visited
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import UsageError
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.lora import with_lora
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.quantized import CompressedLayer, full_precision
from rlab.networks.spaces import Box, Discrete
from rlab.runs.policies import load_policy, save_policy

CARTPOLE = Box((4,), "float32", float("-inf"), float("inf"))
TINY = DistilSettings(rounds=1, rows=40, updates=8, batch_size=8)


def make_envs(n):
    return make_episodes(EnvSpec("CartPole-v1", max_episode_steps=30), n)


def make_parent(seeds=(3, 4), network=None):
    network = network or actor_network_spec(CARTPOLE, 2, BodySettings((16, 8), "tanh"), output_gain=1.0)
    spec = PolicySpec(CARTPOLE, Discrete(2), {"scaling": "none", "scale": None}, network, {"kind": "categorical"})
    return build_policy(spec, seeds)


def outputs(policy, rows=20):
    obs = np.random.default_rng(0).normal(size=(len(policy.seeds), rows, 4)).astype(np.float32)
    with torch.no_grad():
        return policy.outputs(torch.from_numpy(obs))


def shapes(policy):
    """Inputs and outputs of each linear layer of the first member."""
    layers = full_precision(policy.member().network).modules()
    return [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("int8", (Step("int8"),)),
        ("distil:12x12,int8", (Step("distil", (12, 12)), Step("int8"))),
        (" distil:64 , prune:0.5, qat4", (Step("distil", (64,)), Step("prune", 0.5), Step("qat4"))),
        ("lowrank:8,sparse:0.8", (Step("lowrank", 8), Step("sparse", 0.8))),
        ("lowrank:0.95", (Step("lowrank", 0.95),)),
    ],
)
def test_steps_are_read_and_written_alike(text, steps):
    assert parse_steps(text) == steps
    assert parse_steps(",".join(map(str, steps))) == steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9", "unknown step 'int9'. Did you mean 'int8'?"),
        ("destil:8", "unknown step 'destil'. Did you mean 'distil'?"),
        ("", "no steps; name some of distil, prune, "),
        ("int8,", "--steps 'int8,' has an empty step; write them like distil:64x64,prune:0.5,int8."),
        ("int8:3", "step 'int8:3': int8 takes no value; write int8."),
        ("distil", "step 'distil': distil needs the widths of the student's hidden layers, such as distil:64x64."),
        ("distil:64x0", "step 'distil:64x0': distil needs the widths"),
        ("distil:a", "step 'distil:a': distil needs the widths"),
        ("prune:1.5", "step 'prune:1.5': prune needs the share of neurons that go, above 0 and below 1"),
        ("prune:nan", "prune needs the share"),
        ("sparse:0", "sparse needs the share of weights"),
        ("lowrank:0", "lowrank needs a rank of 1 or more"),
        ("int8,prune:0.5", "step prune:0.5 cannot stand behind int8: it trains, and rounded weights do not"),
        ("int8,prune:0.5", "rounded weights do not; put int8 last."),
        ("qat4,int8", "step int8 cannot stand behind qat4: the weights are rounded already; choose one of the two."),
        ("prune:0.5,distil:8", "step distil:8 cannot stand behind prune:0.5: its student begins with fresh weights"),
        ("sparse:0.5,lowrank:4", "step lowrank:4 cannot stand behind sparse:0.5: its factors have no zeros"),
    ],
)
def test_a_wrong_list_says_what_is_wrong_and_what_is_allowed(text, message):
    with pytest.raises(UsageError) as caught:
        parse_steps(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_steps_at_all_are_refused():
    with pytest.raises(UsageError, match="no steps"):
        check_order(())


WORDS = {"distil": "distil:6", "prune": "prune:0.5", "sparse": "sparse:0.5", "lowrank": "lowrank:2"}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_step_makes_a_policy_that_loads_like_any_other(name, tmp_path):
    parent = make_parent()
    before = outputs(parent)
    child = compress(parent, WORDS.get(name, name), make_envs, TINY)
    assert torch.equal(outputs(parent), before)  # the parent is as it was
    assert child.seeds == (3, 4)
    assert not child.training
    save_policy(tmp_path / "policy", child, {})
    again = load_policy(tmp_path / "policy").policy
    assert torch.equal(outputs(again), outputs(child))
    rounded = any(isinstance(layer, CompressedLayer) for layer in child.network.modules())
    assert rounded == STEPS[name].final


def test_steps_change_what_they_say_they_change():
    parent = make_parent()
    assert shapes(parent) == [(4, 16), (16, 8), (8, 2)]
    assert shapes(compress(parent, "distil:6x5,int8", make_envs, TINY)) == [(4, 6), (6, 5), (5, 2)]
    assert shapes(compress(parent, "prune:0.5,int4", make_envs, TINY)) == [(4, 8), (8, 4), (4, 2)]
    # 2 (16 + 8 + 1) < 16 * 8, but 2 (4 + 16 + 1) < 64 too, and 2 (8 + 2 + 1) is more than 16
    assert shapes(compress(parent, "lowrank:2", make_envs, TINY)) == [(4, 2), (2, 16), (16, 2), (2, 8), (8, 2)]


@pytest.mark.parametrize("steps", ["sparse:0.75", "sparse:0.75,int8", "sparse:0.75,static8", "sparse:0.75,qat8"])
def test_zeros_stay_zeros_through_what_comes_behind(steps):
    child = compress(make_parent(), steps, make_envs, TINY)
    assert (sparsity(full_precision(child.network)) >= 0.75).all()


def test_zeros_stay_zeros_where_neurons_are_cut_out_behind():
    child = compress(make_parent(), "sparse:0.9,prune:0.25", make_envs, TINY)
    assert (sparsity(child.network) > 0.5).all()  # those that were cut out had zeros too


def test_rounding_to_8_bits_hardly_moves_an_output_and_to_2_bits_it_does():
    parent = make_parent()
    before = outputs(parent)
    errors = [(outputs(compress(parent, word, make_envs, TINY)) - before).abs().max() for word in ("int8", "int2")]
    assert errors[0] < 0.02 < errors[1]


def test_members_are_compressed_as_if_each_were_alone():
    parent = make_parent()
    for steps in ("int4", "prune:0.5"):
        both = compress(parent, steps, make_envs, TINY)
        alone = compress(parent.only(4), steps, make_envs, TINY)
        torch.testing.assert_close(outputs(both)[1], both.member(4).outputs(torch.as_tensor(_second_obs())))
        torch.testing.assert_close(alone.member(4).outputs(_second_obs()), both.member(4).outputs(_second_obs()))


def _second_obs():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 20, 4)).astype(np.float32))[1]


def test_adapters_are_merged_before_anything_else():
    plain = actor_network_spec(CARTPOLE, 2, BodySettings((16, 8), "tanh"), output_gain=1.0)
    parent = make_parent(network=with_lora(plain, rank=2, alpha=4.0))
    with torch.no_grad():
        for name, parameter in parent.network.named_parameters():
            if name.endswith("up"):
                parameter += 0.3
    assert (outputs(compress(parent, "fp16", make_envs, TINY)) - outputs(parent)).abs().max() < 0.01
    for steps in ("fp16", "sparse:0.5", "prune:0.5", "qat4"):
        child = compress(parent, steps, make_envs, TINY)
        assert not any("lora" in layer.kind for layer in child.spec.network.layers)


def test_labels_come_from_the_policy_that_came_first():
    parent, learning = make_parent(), DistilSettings(rounds=2, rows=300, updates=400, batch_size=64)
    states = torch.from_numpy(visited(parent, make_envs, 300, first_seed=450_000))

    def right(policy):
        with torch.no_grad():
            same = policy.outputs(states).argmax(dim=-1) == parent.outputs(states).argmax(dim=-1)
        return same.float().mean().item()

    damaged = compress(parent, "prune:0.7", make_envs, TINY)
    assert right(damaged) < 0.85
    child = STEPS["sparse"].function(Job(parent, damaged, make_envs, learning), 0.05)
    assert right(child) > 0.95  # one that learned from the damaged policy would be as bad


def test_a_rounded_policy_can_only_be_distilled():
    rounded = compress(make_parent(), "int8", make_envs, TINY)
    with pytest.raises(UsageError, match="the weights of this policy are rounded already, so int4 cannot be done"):
        compress(rounded, "int4", make_envs, TINY)
    assert shapes(compress(rounded, "distil:5,int8", make_envs, TINY)) == [(4, 5), (5, 2)]


def test_a_rank_that_saves_nothing_is_refused():
    with pytest.raises(UsageError, match="lowrank:30 saves nothing"):
        compress(make_parent(), "lowrank:30", make_envs, TINY)


def test_each_step_is_told_when_it_is_done():
    told = []
    compress(make_parent(), "prune:0.5,int8", make_envs, TINY, told.append)
    assert told == [Step("prune", 0.5), Step("int8")]
