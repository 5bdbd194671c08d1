"""Students of a teacher that balances CartPole by a rule: theta + theta' / 2 + x / 10 + x' / 5 above 0 pushes right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlab.compression.agreement import agreement
from rlab.compression.distil import DistilSettings, _Lessons, distil, retrain, student_spec
from rlab.compression.fake_quantize import convert, prepare_qat
from rlab.compression.neuron_pruning import prune_neurons
from rlab.compression.quantize import weight_only
from rlab.compression.sequences import Visits
from rlab.compression.visits import END_OF_VISIT_SEEDS, FIRST_VISIT_SEED, visited
from rlab.compression.weight_pruning import prune_weights
from rlab.envs import EnvSpec, make_episodes
from rlab.errors import RlabError, UsageError
from rlab.evaluation.evaluate import evaluate
from rlab.learning.sparsity import MaskedTraining, sparsity
from rlab.networks.bodies import BodySettings, actor_network_spec, q_network_spec
from rlab.networks.describe import with_network
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete, Masked, MultiDiscrete
from rlab.networks.spec import LayerSpec, NetworkSpec
from rlab.networks.stacking import stack, unstack
from rlab.runs.policies import load_policy, save_policy

CARTPOLE = Box((4,), "float32", float("-inf"), float("inf"))
QUICK = DistilSettings(rounds=2, rows=500, updates=300)
TINY = DistilSettings(rounds=2, rows=40, updates=6, batch_size=8)


def make_envs(n):
    return make_episodes(EnvSpec("CartPole-v1"), n)


def cartpole_teacher(seeds=(0, 1), kind="categorical", scaling="none"):
    """The rule, through a tanh; each member's a little different."""
    layers = [
        ("linear", {"in_features": 4, "out_features": 1}),
        ("tanh", {}),
        ("linear", {"in_features": 1, "out_features": 2}),
    ]
    network = NetworkSpec(tuple(LayerSpec(name, args) for name, args in layers))
    spec = PolicySpec(CARTPOLE, Discrete(2), {"scaling": scaling, "scale": None}, network, {"kind": kind})
    teacher = build_policy(spec, seeds)
    with torch.no_grad():
        for layer in (teacher.network[0], teacher.network[2]):
            layer.bias.zero_()
        for member, seed in enumerate(seeds):
            teacher.network[0].weight[member, :, 0] = torch.tensor([0.1, 0.2, 1.0, 0.5 + 0.02 * seed])
            teacher.network[2].weight[member] = torch.tensor([[-5.0, 5.0]])
    return teacher


def agreed(teacher, student, rows=300):
    obs = torch.from_numpy(visited(teacher, make_envs, rows, first_seed=400_000))
    with torch.no_grad():
        return agreement(teacher.outputs(obs), student.outputs(obs), teacher.head).value


class RecordingSeeds:
    """CartPole, and every seed that an episode was started from."""

    def __init__(self):
        self.seeds = []

    def __call__(self, n):
        envs = make_envs(n)
        reset = envs.reset

        def noted(seeds):
            self.seeds += seeds
            return reset(seeds)

        envs.reset = noted
        return envs


@pytest.mark.parametrize(
    ("kind", "hard"), [("categorical", False), ("q", True), pytest.param("q", False, marks=pytest.mark.prove)]
)
def test_a_small_student_balances_as_its_teacher_does(kind, hard):
    teacher = cartpole_teacher(kind=kind)
    student = distil(teacher, (8, 8), make_envs, replace(QUICK, hard=hard))
    assert (agreed(teacher, student) > (0.9 if hard else 0.95)).all()
    assert (evaluate(student, make_envs, 10, 100_000).per_seed_mean >= 475).all()


def test_a_student_never_sees_evaluation_seeds():
    makes = RecordingSeeds()
    distil(cartpole_teacher(), (4,), makes, DistilSettings(rounds=3, rows=40, updates=6, batch_size=8, starts=2))
    assert len(set(makes.seeds)) > 3 * 10  # every round plays episodes of its own
    assert min(makes.seeds) == FIRST_VISIT_SEED
    assert max(makes.seeds) < END_OF_VISIT_SEEDS


def test_states_are_the_teachers_and_then_the_students_own_and_the_teacher_labels_all_of_them():
    teacher, student = cartpole_teacher(), cartpole_teacher(seeds=(1, 9))
    student.network[2].weight.data.neg_()  # falls over at once
    lessons = _Lessons(student, teacher, make_envs, TINY)
    for round_, policy in enumerate((teacher, student)):
        found, labels = lessons.visit(round_)
        want = visited(policy, make_envs, 40, FIRST_VISIT_SEED + 40 * round_, sampled=0.5)
        assert (found.obs.numpy() == want).all()
        assert torch.equal(labels, teacher.outputs(found.obs))
    drawn = torch.cat([batch.obs.squeeze(2) for batch in lessons.batches(1, 50)], dim=1)  # [S, 50 * 8, 4] of 80 states
    assert [len(member.unique(dim=0)) for member in drawn] == [80, 80]


def test_a_student_takes_over_input_head_and_activation_and_loads_like_any_other(tmp_path):
    teacher = cartpole_teacher(seeds=(3, 5), kind="q", scaling="running")
    teacher.preprocess.observe(np.random.default_rng(0).normal(3.0, 2.0, (2, 50, 4)), np.ones((2, 50), bool))
    student = distil(teacher, (6, 4), make_envs, TINY)
    assert [layer.kind for layer in student.spec.network.layers] == ["linear", "tanh", "linear", "tanh", "linear"]
    assert (student.seeds, student.spec.head) == ((3, 5), {"kind": "q"})
    for name, value in teacher.preprocess.state_dict().items():
        assert torch.equal(student.preprocess.get_buffer(name), value)
    save_policy(tmp_path / "student", student, {})
    again = load_policy(tmp_path / "student").policy
    obs = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.outputs(obs), student.outputs(obs))


def test_a_member_learns_what_it_learns_alone():
    settings = DistilSettings(rounds=2, rows=40, updates=10, batch_size=8, starts=2)
    together = distil(cartpole_teacher(seeds=(3, 4, 5)), (6,), make_envs, settings)
    alone = distil(cartpole_teacher(seeds=(4,)), (6,), make_envs, settings)
    for ours, theirs in zip(together.only(4).parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_teacher_stays_as_it_was():
    teacher = cartpole_teacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distil(teacher, (4,), make_envs, TINY)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_of_several_starts_the_best_is_kept():
    teacher = cartpole_teacher(seeds=(7,))
    settings = DistilSettings(rounds=1, rows=60, updates=3, batch_size=8, starts=4, learning_rate=1e-4)
    kept = distil(teacher, (4,), make_envs, settings)
    obs = torch.from_numpy(visited(teacher, make_envs, 300, first_seed=450_000))
    lessons = _Lessons(kept, teacher, make_envs, settings)

    def loss(policy):
        with torch.no_grad():
            return lessons.loss(policy.outputs(obs), teacher.outputs(obs)).mean().item()

    # Each start alone is the first start of a stack with fewer; the first of them all is one of the four.
    first = distil(teacher, (4,), make_envs, replace(settings, starts=1))
    assert not torch.equal(first.network[0].weight, kept.network[0].weight)
    assert loss(kept) < loss(first)


def test_a_pruned_student_is_retrained_in_place():
    teacher = cartpole_teacher()
    big = distil(teacher, (32,), make_envs, QUICK)
    pruned = with_network(big, stack([prune_neurons(unstack(big.network, i), 0.9) for i in range(2)]))
    before = agreed(teacher, pruned)
    assert retrain(pruned, teacher, make_envs, QUICK) is pruned
    after = agreed(teacher, pruned)
    assert (before < after).all()
    assert (after > 0.95).all()
    assert not pruned.network.training


def test_zeros_stay_zero_while_a_sparse_student_is_retrained():
    teacher = cartpole_teacher()
    big = distil(teacher, (16, 16), make_envs, QUICK)
    sparse = with_network(big, stack([prune_weights(unstack(big.network, i), 0.7) for i in range(2)]))
    zeros = sparsity(sparse.network)
    retrain(sparse, teacher, make_envs, QUICK, MaskedTraining(sparse.network).after_update)
    assert torch.equal(sparsity(sparse.network), zeros)
    assert (agreed(teacher, sparse) > 0.95).all()


def test_a_student_prepared_for_quantization_learns_beside_the_rounding():
    teacher = cartpole_teacher()
    student = distil(teacher, (8,), make_envs, QUICK)
    prepared = Policy(student.spec, student.preprocess, prepare_qat(student.network, bits=4), student.seeds)
    retrain(prepared, teacher, make_envs, QUICK)
    rounded = with_network(student, convert(prepared.network))
    at_once = with_network(student, weight_only(student.network, bits=4))
    assert agreed(teacher, rounded).mean() > max(0.95, float(agreed(teacher, at_once).mean()))


def test_the_loss_of_q_values_knows_no_units():
    teacher, student = cartpole_teacher(kind="q"), cartpole_teacher(seeds=(4, 9), kind="q")
    losses = []
    for unit in (1.0, 1000.0):
        for policy in (teacher, student):
            policy.network[2].weight.data *= unit
        lessons = _Lessons(student, teacher, make_envs, TINY)
        found, labels = lessons.visit(0)
        losses.append(lessons.loss(student.outputs(found.obs), labels))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-3)
    assert losses[0].max() > 0


def test_labels_leave_out_what_a_mask_forbids():
    space, actions = Masked(CARTPOLE, 5), MultiDiscrete((2, 3), (0, 0), (2,))
    network = actor_network_spec(space, 5, BodySettings((4,)))
    policy = build_policy(
        PolicySpec(space, actions, {"scaling": "none", "scale": None}, network, {"kind": "multi_categorical"}), (0,)
    )
    lessons = _Lessons(policy, policy, make_envs, TINY)
    obs = torch.zeros(1, 1, 9)
    obs[..., 4:] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    labels = lessons._label(Visits(obs, torch.ones(1, 1, dtype=torch.bool)))
    assert labels.isneginf().tolist() == [[[False, True, True, False, False]]]
    assert lessons.loss(policy.outputs(obs), labels).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("space", "actions", "head", "network", "kinds"),
    [
        (
            CARTPOLE,
            Box((2,), "float32", -1.0, 1.0),
            "gaussian",
            actor_network_spec(CARTPOLE, 4, BodySettings((9,), "elu", layer_norm=True), log_std=-1.0),
            ["linear", "elu", "linear", "elu", "linear", "log_std"],
        ),
        (
            CARTPOLE,
            Discrete(3),
            "q",
            q_network_spec(CARTPOLE, 3, BodySettings((9,), "silu"), True),
            ["linear", "silu", "linear", "silu", "linear"],
        ),
        (
            Box((10, 10, 2), "bool", 0.0, 1.0),
            Discrete(3),
            "q",
            q_network_spec(Box((10, 10, 2), "bool", 0.0, 1.0), 3, BodySettings((9,), "gelu")),
            ["conv2d", "gelu", "flatten", "linear", "gelu", "linear", "gelu", "linear"],
        ),
    ],
    ids=["gaussian", "dueling", "image"],
)
def test_hidden_widths_make_a_student_that_fits_the_teacher(space, actions, head, network, kinds):
    teacher = PolicySpec(space, actions, {"scaling": "none", "scale": None}, network, {"kind": head})
    student = student_spec(teacher, (6, 5))
    assert [layer.kind for layer in student.network.layers] == kinds
    assert build_policy(student, (0,)).head.width == build_policy(teacher, (0,)).head.width


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds 0 must be 1 or more"),
        ({"updates": 0}, "updates 0 must be 1 or more"),
        ({"starts": 9, "rows": 8}, "too few for 9 starts"),
        ({"rounds": 100, "rows": 2_000}, "more episode seeds than there are"),
        ({"optimizer": "adm"}, "Did you mean 'adam'"),
        ({"lr_schedule": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DistilSettings(**options)


def test_what_does_not_fit_the_teacher_is_refused_in_one_line():
    teacher = cartpole_teacher()
    with pytest.raises(UsageError, match="3 students do not fit 2 teachers"):
        retrain(cartpole_teacher(seeds=(0, 1, 2)), teacher, make_envs, TINY)
    with pytest.raises(UsageError, match="temperature must be above 0"):
        distil(teacher, (4,), make_envs, DistilSettings(temperature=-1.0))
    with pytest.raises(UsageError, match="widths"):
        distil(teacher, (0,), make_envs, TINY)
    wrong = NetworkSpec((LayerSpec("linear", {"in_features": 4, "out_features": 3}),))
    with pytest.raises(RlabError, match="reads 2 outputs"):
        distil(teacher, wrong, make_envs, TINY)


def test_weights_that_are_not_finite_stop_it_and_name_the_member():
    student = cartpole_teacher(seeds=(4, 9))
    student.network[0].weight.data[1] = torch.nan
    with pytest.raises(RlabError, match="student of seed 9 is not finite"):
        retrain(student, cartpole_teacher(), make_envs, TINY)
