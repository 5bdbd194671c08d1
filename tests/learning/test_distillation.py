"""How far a student is from a teacher, on numbers worked by hand, and the teacher that guides less and less."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlab.errors import UsageError
from rlab.learning.distillation import LOSSES, Q_TEMPERATURE, TEACHERS, Teacher, distillation_loss
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.heads import HEADS, Head, build_head, head_class
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Discrete, Masked, MultiDiscrete, Space
from rlab.types import Clock

THREE_TO_ONE = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL of (3/4, 1/4) from (1/2, 1/2): 0.1308


def row(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def head(kind: str, space: Space | None = None, **settings: Any) -> Head:
    return build_head({"kind": kind, **settings}, space or Discrete(3))


GAUSSIAN = head("gaussian", Box((1,), "float32", -1.0, 1.0))


@pytest.mark.parametrize(
    ("student", "kind", "teacher", "teacher_kind", "options", "expected"),
    [
        ((0, 0), "categorical", (math.log(3), 0), "categorical", {}, THREE_TO_ONE),
        ((5, 5), "categorical", (2 * math.log(3), 0), "categorical", {"temperature": 2.0}, THREE_TO_ONE),
        ((0, 0), "categorical", (Q_TEMPERATURE * math.log(3), 0), "q", {}, THREE_TO_ONE),
        ((0, 0), "categorical", (math.log(3), 0), "q", {"temperature": 1.0}, THREE_TO_ONE),
        ((0, 0), "q", (Q_TEMPERATURE * math.log(3), 0), "q", {}, Q_TEMPERATURE * THREE_TO_ONE),
        ((0, 0), "q", (0.5 * math.log(3), 0), "q", {"temperature": 0.5}, 0.5 * THREE_TO_ONE),
        ((0, 0), "q", (math.log(3), 0), "categorical", {}, Q_TEMPERATURE * THREE_TO_ONE),
        # both softened: (ln 9, 0) / 2 against (0, ln 9) / 2, times the student's 2
        (
            (0, math.log(9)),
            "categorical",
            (math.log(9), 0),
            "categorical",
            {"temperature": 2.0, "student_temperature": 2.0},
            2 * (0.75 * math.log(3) - 0.25 * math.log(3)),
        ),
        ((0, 0), "categorical", (0.1, 0), "categorical", {"hard": True}, math.log(2)),
        ((math.log(3), 0), "categorical", (0, 0.1), "q", {"hard": True}, math.log(4)),
        # a choice of two that differs and one of three that does not
        (
            (0, 0, 1, 2, 3),
            "multi_categorical",
            (math.log(3), 0, 1, 2, 3),
            "multi_categorical",
            {"nvec": (2, 3)},
            THREE_TO_ONE,
        ),
        ((0, 2), "bernoulli", (math.log(3), 2), "bernoulli", {}, THREE_TO_ONE),
        ((0, math.log(3)), "bernoulli", (1, 1), "bernoulli", {"hard": True}, math.log(2) + math.log(4 / 3)),
        # N(1, 1) from N(0, 2): ln 2 + (1 + 1) / 8 - 1/2
        ((0, math.log(2)), "gaussian", (1, 0), "gaussian", {}, math.log(2) - 0.25),
        ((0, math.log(2)), "squashed_gaussian", (1, 0), "squashed_gaussian", {}, math.log(2) - 0.25),
        # the density of 1 under N(0, 1)
        ((0, 0), "gaussian", (1, -9), "gaussian", {"hard": True}, 0.5 + 0.5 * math.log(2 * math.pi)),
    ],
)
def test_each_kind_of_head_on_numbers_worked_by_hand(
    student: tuple[float, ...],
    kind: str,
    teacher: tuple[float, ...],
    teacher_kind: str,
    options: dict[str, Any],
    expected: float,
) -> None:
    loss = distillation_loss(row(*student), kind, row(*teacher), teacher_kind, **options)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-9)


numbers = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


@given(numbers, numbers, st.sampled_from(sorted(TEACHERS)))
def test_it_is_torch_s_divergence_never_negative_and_0_where_they_agree(
    student: list[float], teacher: list[float], kind: str
) -> None:
    s, t = row(*student), row(*teacher)
    loss = distillation_loss(s, kind, t, kind, nvec=(1, 3))
    normal, choice = torch.distributions.Normal, torch.distributions.Categorical
    bits = torch.distributions.Bernoulli
    pairs = {
        "q": ((choice(logits=t / Q_TEMPERATURE), choice(logits=s / Q_TEMPERATURE)),),
        "categorical": ((choice(logits=t), choice(logits=s)),),
        "multi_categorical": ((choice(logits=t[1:]), choice(logits=s[1:])),),
        "bernoulli": ((bits(logits=t), bits(logits=s)),),
        "deterministic": (),
        "gaussian": ((normal(t[:2], t[2:].exp()), normal(s[:2], s[2:].exp())),),
    }
    pairs["squashed_gaussian"] = pairs["gaussian"]
    expected = sum((torch.distributions.kl_divergence(*pair).sum() for pair in pairs[kind]), torch.zeros(()).double())
    expected += 0.5 * (s.tanh() - t.tanh()).square().sum() if kind == "deterministic" else 0.0
    scale = Q_TEMPERATURE if kind == "q" else 1.0
    torch.testing.assert_close(loss, scale * expected, rtol=1e-6, atol=1e-8)
    assert loss >= -1e-12
    assert distillation_loss(t, kind, t, kind, nvec=(1, 3)).item() == pytest.approx(0.0, abs=1e-12)


def test_a_forbidden_choice_counts_for_neither_and_gets_no_gradient() -> None:
    student = torch.tensor([[0.0, 0.0, 50.0]], dtype=torch.float64, requires_grad=True)
    for hard, expected in ((False, THREE_TO_ONE), (True, math.log(2))):
        teacher = row(math.log(3), 0, -math.inf).unsqueeze(0)
        loss = distillation_loss(student, "categorical", teacher, "categorical", hard=hard)
        assert loss.item() == pytest.approx(expected)
        (grad,) = torch.autograd.grad(loss.sum(), student)
        assert grad[0, 2] == 0
        assert grad.isfinite().all()
        assert grad[0, 0] < 0 < grad[0, 1]


def test_the_gradient_is_the_cross_entropy_s_and_of_q_values_within_1() -> None:
    student = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([math.log(3), 0.0], dtype=torch.float64, requires_grad=True)
    loss = distillation_loss(student, "categorical", teacher, "categorical")
    grad, of_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    torch.testing.assert_close(grad, student.softmax(0) - row(0.75, 0.25))
    assert of_teacher is None
    (grad,) = torch.autograd.grad(distillation_loss(student, "q", 100 * teacher, "q"), student)
    assert grad.tolist() == pytest.approx([0.0, 0.0])  # they agree: both take the first
    (grad,) = torch.autograd.grad(distillation_loss(student, "q", -100 * teacher, "q"), student)
    assert grad.tolist() == pytest.approx([1.0, -1.0])


@pytest.mark.parametrize("kind", sorted(TEACHERS))
def test_rows_and_members_do_not_touch_each_other(kind: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    whole = distillation_loss(student, kind, teacher, kind, nvec=(2, 2))
    assert whole.shape == (3, 5)
    alone = distillation_loss(student[1, 2], kind, teacher[1, 2], kind, nvec=(2, 2))
    torch.testing.assert_close(whole[1, 2], alone)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "said"),
    [
        ("categorical", "gaussian", {}, "a student with the policy head 'categorical' learns from 'q' or"),
        ("gaussian", "squashed_gaussian", {}, "a student with the policy head 'gaussian' learns from 'gaussian', not"),
        ("categoricl", "q", {}, "unknown policy head 'categoricl'. Did you mean 'categorical'?"),
        ("categorical", "q", {"temperature": 0.0}, "a temperature must be above 0, not 0.0."),
        ("categorical", "q", {"student_temperature": math.inf}, "a temperature must be above 0, not inf."),
        ("gaussian", "gaussian", {"temperature": 2.0}, "a temperature is for choices and bits; gaussian actions have"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    student: str, teacher: str, options: dict[str, float], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        distillation_loss(row(0, 0), student, row(0, 0), teacher, **options)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_shapes_that_differ_are_refused_where_they_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"student \(3, 1, 2\) and teacher \(3, 2\) must have one shape"):
        distillation_loss(torch.zeros(3, 1, 2), "q", torch.zeros(3, 2), "q")


def test_every_policy_head_distils_as_one_that_has_teachers_and_a_loss() -> None:
    assert {head_class(kind).distils_as for kind in HEADS} == set(TEACHERS) == set(LOSSES)


def test_heads_of_return_distributions_teach_and_learn_by_their_mean_values() -> None:
    outputs = torch.tensor([[[0.0, 4.0, 1.0, 1.0, -1.0, 0.0]]] * 2)  # two quantiles of three actions: 2, 1, -0.5
    student = head("quantile", quantiles=2)
    term = Teacher(policy(VECTOR, Discrete(3), 3, "q"), student, weight=1.0, fraction=1.0)
    said = term.prepare({"obs": torch.rand(2, 1, 2)})["teacher"]
    expected = distillation_loss(torch.tensor([[[2.0, 1.0, -0.5]]] * 2), "q", said, "q")
    torch.testing.assert_close(term.loss(outputs, {"teacher": said}), expected.mean(dim=1))


def test_deterministic_actions_are_taught_by_their_distance() -> None:
    loss = distillation_loss(row(math.atanh(0.5), 0.0), "deterministic", row(0.0, math.atanh(0.2)), "deterministic")
    assert loss.item() == pytest.approx(0.5 * (0.5**2 + 0.2**2))


def test_a_head_from_outside_that_distils_as_nothing_takes_no_teacher() -> None:
    class Mine(Head):
        pass

    with pytest.raises(UsageError, match="the policy head Mine cannot teach, nor learn from a teacher: its class does"):
        Teacher(policy(VECTOR, Discrete(3), 3, "q"), Mine({}, Discrete(3)), weight=1.0, fraction=1.0)


def policy(obs_space: Space, action_space: Space, width: int, head: str, seeds: tuple[int, ...] = (0, 1)) -> Policy:
    """A stack without hidden layers."""
    network = q_network_spec(obs_space, width, BodySettings(()))
    preprocess = Preprocess(obs_space, "none", None, None).to_json()
    return build_policy(PolicySpec(obs_space, action_space, preprocess, network, {"kind": head}), seeds)


VECTOR = Box((2,), "float32", -1.0, 1.0)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 2.0), (0.1, 1.5), (0.2, 1.0), (0.399, 0.005), (0.4, 0.0), (0.7, 0.0), (1.0, 0.0)]
)
def test_the_weight_falls_linearly_and_is_exactly_0_from_its_share_of_the_budget_on(
    progress: float, expected: float
) -> None:
    term = Teacher(policy(VECTOR, Discrete(3), 3, "q"), head("categorical"), weight=2.0, fraction=0.4)
    weight = term.weight(Clock(round(progress * 1000), 1000))
    assert weight == pytest.approx(expected)
    assert (weight == 0.0) == (progress >= 0.4)


def test_the_term_has_the_teacher_s_outputs_without_a_gradient_and_its_loss_is_the_mean_over_the_batch() -> None:
    teacher = policy(VECTOR, Discrete(3), 3, "q")
    term = Teacher(teacher, teacher.head, weight=1.0, fraction=1.0, temperature=0.5)
    obs = torch.rand(2, 7, 2)
    said = term.prepare({"obs": obs})["teacher"]
    assert not said.requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    torch.testing.assert_close(said, teacher.outputs(obs))
    student = torch.randn(2, 7, 3, requires_grad=True)
    loss = term.loss(student, {"teacher": said})
    torch.testing.assert_close(loss, distillation_loss(student, "q", said, "q", 0.5).mean(dim=1))
    assert loss.shape == (2,)
    rows = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1], [0.0] * 7])  # such as reset rows; of member 1 none counts
    loss = term.loss(student, {"teacher": said, "weight": rows})
    each = distillation_loss(student, "q", said, "q", 0.5)
    torch.testing.assert_close(loss, torch.stack([each[0, [0, 2, 3, 5, 6]].mean(), torch.zeros(())]))


def test_the_term_leaves_out_what_an_observation_forbids() -> None:
    space = Masked(VECTOR, 3)
    term = Teacher(policy(space, Discrete(3), 3, "categorical"), head("q"), weight=1.0, fraction=1.0)
    obs = torch.tensor([[[0.5, 0.5, 1, 0, 1], [0.5, 0.5, 0, 0, 0]]]).expand(2, 2, 5)
    said = term.prepare({"obs": obs})["teacher"]
    assert said.isneginf()[0].tolist() == [[False, True, False], [False, False, False]]  # at the end nothing is chosen
    student = torch.zeros(2, 2, 3)
    wild = student.clone()
    wild[..., 0, 1] = 1e6
    torch.testing.assert_close(term.loss(student, {"teacher": said}), term.loss(wild, {"teacher": said}))


def test_of_several_choices_each_part_is_masked_by_itself() -> None:
    space, actions = Masked(VECTOR, 5), MultiDiscrete((2, 3), (0, 0), (2,))
    teacher = policy(space, actions, 5, "multi_categorical")
    term = Teacher(teacher, teacher.head, weight=1.0, fraction=1.0)
    said = term.prepare({"obs": torch.tensor([[[0.5, 0.5, 0, 0, 0, 1, 1]]]).expand(2, 1, 7)})["teacher"]
    assert said.isneginf()[0, 0].tolist() == [False, False, True, False, False]
    assert term.loss(torch.randn(2, 1, 5), {"teacher": said}).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight": -1.0}, "the weight -1.0 of a teacher must be 0 or more."),
        ({"weight": math.nan}, "the weight nan of a teacher"),
        ({"fraction": 1.5}, "the share 1.5 of the budget that a teacher guides must be in [0, 1]."),
        ({"temperature": -2.0}, "a temperature must be above 0, not -2.0."),
        (
            {"student": head("gaussian", Box((1,), "float32", -1.0, 1.0))},
            "a student with the policy head 'gaussian' learns from 'gaussian', not 'q'.",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Teacher(
            policy(VECTOR, Discrete(3), 3, "q"), **{"student": head("q"), "weight": 1.0, "fraction": 0.5, **settings}
        )
    assert str(caught.value).startswith(said)
