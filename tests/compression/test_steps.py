"""Lists of steps: how they are written, which orders make sense, and what each does to a policy of two members."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rlab.compression.distil import DistilSettings
from rlab.compression.fake_quantize import convert, prepare_qat
from rlab.compression.neuron_pruning import prune_neurons
from rlab.compression.quantize import weight_only
from rlab.compression.quantized_layers import CompressedLayer, QuantizedLinear, full_precision
from rlab.compression.sparse_layers import SparseQuantizedLinear
from rlab.compression.steps import QAT_RATES, STEPS, Job, Step, check_order, compress, parse_steps
from rlab.compression.visits import visited
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import UsageError
from rlab.learning.adapters import with_lora
from rlab.learning.sparsity import sparsity
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.describe import with_network
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete
from rlab.networks.stacking import stack, unstack
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
        ("", "no steps; name some of distil, distil-hard, prune, "),
        ("int8,", "--steps 'int8,' has an empty step; write them like distil:64x64,prune:0.5,int8."),
        ("int8:3", "step 'int8:3': int8 takes no value; write int8."),
        ("distil", "step 'distil': distil needs the widths of the student's hidden layers, such as distil:64x64."),
        ("distil:64x0", "step 'distil:64x0': distil needs the widths"),
        ("distil:a", "step 'distil:a': distil needs the widths"),
        ("prune:1.5", "step 'prune:1.5': prune needs the share of neurons that go, above 0 and below 1"),
        ("prune:nan", "prune needs the share"),
        ("sparse:0", "sparse needs the share of weights"),
        ("lowrank:0", "lowrank needs a rank of 1 or more"),
        ("int8,prune:0.5", "step prune:0.5 cannot follow int8: it trains, and rounded weights do not"),
        ("int8,prune:0.5", "rounded weights do not; put int8 last."),
        ("qat4,int8", "step int8 cannot follow qat4: the weights are rounded already; choose one of the two."),
        ("prune:0.5,distil:8", "step distil:8 cannot follow prune:0.5: its student begins with fresh weights"),
        ("sparse:0.5,lowrank:4", "step lowrank:4 cannot follow sparse:0.5: its factors have no zeros"),
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


WORDS = {"sparse": "sparse:0.5", "lowrank": "lowrank:2"}
WORDS |= {name: f"{name}:6" for name in ("distil", "distil-hard")}
WORDS |= {name: f"{name}:0.5" for name in ("prune", "prune-norm", "prune-gradient")}


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
    compressed = any(isinstance(layer, CompressedLayer) for layer in child.network.modules())
    assert compressed == (STEPS[name].final or name == "sparse")  # all others leave plain layers in float


def test_steps_of_one_family_differ_in_what_they_go_by():
    def weights(steps):
        return torch.cat([p.flatten() for p in compress(make_parent(), steps, make_envs, TINY).network.parameters()])

    assert not torch.equal(weights("distil:6"), weights("distil-hard:6"))
    pruned = [weights(steps) for steps in ("prune:0.5", "prune-norm:0.5", "prune-gradient:0.5")]
    assert all(not torch.equal(a, b) for a, b in zip(pruned, (*pruned[1:], pruned[0]), strict=True))


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


def test_a_sparse_policy_can_be_rounded_and_keeps_its_zeros_stored_or_not():
    stored = compress(make_parent(), "sparse:0.75", make_envs, TINY)
    trained_for = with_network(stored, full_precision(stored.network))  # as training with sparsity leaves a policy
    for parent in (stored, trained_for):
        child = compress(parent, "int8", make_envs, TINY)
        assert (sparsity(full_precision(child.network)) >= 0.75).all()
        assert any(isinstance(layer, SparseQuantizedLinear) for layer in child.network.modules())


def test_zeros_stay_zeros_where_neurons_are_cut_out_behind():
    child = compress(make_parent(), "sparse:0.9,prune:0.25", make_envs, TINY)
    assert (sparsity(child.network) > 0.5).all()  # those that were cut out had zeros too


def test_rounding_to_8_bits_hardly_moves_an_output_and_to_2_bits_it_does():
    parent = make_parent()
    before = outputs(parent)
    errors = [(outputs(compress(parent, word, make_envs, TINY)) - before).abs().max() for word in ("int8", "int2")]
    assert errors[0] < 0.02 < errors[1]


@pytest.mark.parametrize("step", ["int2", "qat2"])
def test_what_is_left_after_the_rounding_learns_to_make_up_for_it(step):
    parent = make_parent()
    states = torch.from_numpy(visited(parent, make_envs, 300, first_seed=450_000))

    def error(updates):
        child = compress(parent, step, make_envs, replace(TINY, rows=300, updates=updates, batch_size=64))
        with torch.no_grad():
            return (child.outputs(states).softmax(-1) - parent.outputs(states).softmax(-1)).square().mean()

    assert error(200) < 0.3 * error(2)


def test_training_beside_the_rounding_goes_on_behind_it():
    parent = make_parent()
    job = Job(parent, parent, make_envs, replace(TINY, rows=300, updates=200, batch_size=64))
    rounded = weight_only(parent.network, 2, job.features())
    student = job.stand_in(prepare_qat(parent.network, 2, rounded=rounded))
    beside = convert(job.retrained(student, settings=job.fine(QAT_RATES[2][0], 0.5)).network)
    behind = STEPS["qat2"].function(job, None).network
    states = torch.from_numpy(visited(parent, make_envs, 300, first_seed=450_000))
    with torch.no_grad():
        wanted, *errors = (network(states).softmax(-1) for network in (parent.network, beside, behind))
        errors = [(output - wanted).square().mean() for output in errors]
    assert errors[1] < errors[0]
    for before, after in zip(beside, behind, strict=True):
        if isinstance(after, QuantizedLinear):
            assert torch.equal(before.integers(), after.integers())
            assert not torch.equal(before.scale, after.scale)


def test_rounded_networks_learn_on_more_states_as_far_as_memory_and_seeds_go():
    parent = make_parent()
    fine = Job(parent, parent, make_envs, DistilSettings()).fine(1e-3, 0.25)
    assert (fine.rows, fine.updates, fine.learning_rate) == (8_000, 500, 1e-3)
    late = DistilSettings(first_seed=380_003)  # 19 997 seeds are left for 5 visits, and each takes tens of them
    assert Job(parent, parent, make_envs, late).fine(1e-3, 1.0).rows == 3_990
    for pixels, rows in ((84, 2_377), (120, 2_000)):  # of 4 bytes each: 64 MiB, but never fewer than asked for
        space = Box((pixels, pixels, 4), "uint8", 0.0, 255.0)
        images = Policy(replace(parent.spec, obs_space=space), parent.preprocess, parent.network, parent.seeds)
        assert Job(images, images, make_envs, DistilSettings()).fine(1e-3, 1.0).rows == rows


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

    cuts = [prune_neurons(unstack(parent.network, i), 0.9) for i in range(2)]  # and nothing put right behind it
    damaged = with_network(parent, stack(cuts))
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
