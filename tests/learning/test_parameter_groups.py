"""An optimizer with groups: what does not learn keeps every bit, what begins late begins on time, and rates differ."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rlab.learning.optimizer_settings import OPTIMIZERS, OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.parameter_groups import ParameterGroup
from rlab.learning.regrouping import regroup
from rlab.runs.encoding import decode, encode
from rlab.types import Clock

MEMBERS = 3
EVERY_OPTIMIZER = pytest.mark.parametrize("name", sorted(OPTIMIZERS))


def weights(seed: int = 1) -> list[nn.Parameter]:
    """Two matrices and a vector per member, all different."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (MEMBERS, 4, 3), (MEMBERS, 3, 2), (MEMBERS, 5)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def loss_of(parameters: list[nn.Parameter]) -> Tensor:
    """`[S]`: the gradient of each parameter depends on all the others, and changes from step to step."""
    return torch.stack([(p - 1.0).square().flatten(1).sum(dim=1) for p in parameters]).prod(dim=0).sqrt()


def harsh(name: str) -> OptimizerSettings:
    """Everything that could move a weight whose gradient is zero."""
    return OptimizerSettings(name, 0.01, weight_decay=0.1, l1=0.05, max_grad_norm=2.0)


def moments(stepper: StackedOptimizer, group: int) -> dict[str, Tensor]:
    """All that the optimizer remembers of one group, its count of steps too."""
    (flat,) = stepper.torch_optimizer.param_groups[group]["params"]
    return {k: v.clone() for k, v in stepper.torch_optimizer.state.get(flat, {}).items() if isinstance(v, Tensor)}


def values(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@EVERY_OPTIMIZER
def test_one_group_is_to_the_bit_what_torch_does_with_one_flat_parameter(name: str) -> None:
    mine, reference = weights(), weights()
    stepper = StackedOptimizer(harsh(name), [ParameterGroup("all", tuple(mine))])
    flat = nn.Parameter(torch.cat([p.detach().flatten(1) for p in reference], dim=1))
    optimizer = OPTIMIZERS[name]([flat], lr=0.01, weight_decay=0.1)
    for step in range(6):
        norm = stepper.step(loss_of(mine), {"optimizer/learning_rate": 0.01 * (1.0 - 0.1 * step)})
        parts = [
            nn.Parameter(part.view(p.shape))
            for part, p in zip(
                flat.detach().clone().split([p[0].numel() for p in reference], dim=1), reference, strict=True
            )
        ]
        grads = torch.autograd.grad(loss_of(parts).sum(), parts)
        flat.grad = torch.cat([grad.flatten(1) for grad in grads], dim=1) + 0.05 * flat.detach().sign()
        expected = torch.linalg.vector_norm(flat.grad, dim=1)
        flat.grad = flat.grad * (2.0 / (expected + 1e-6)).clamp(max=1.0).unsqueeze(1)
        optimizer.param_groups[0]["lr"] = 0.01 * (1.0 - 0.1 * step)
        optimizer.step()
        assert torch.equal(norm, expected)
    assert torch.equal(torch.cat([p.detach().flatten(1) for p in mine], dim=1), flat.detach())


@EVERY_OPTIMIZER
def test_what_never_learns_keeps_every_bit_and_remembers_nothing(name: str) -> None:
    body, head, bias = weights()
    before = values([body, head, bias])
    frozen = ParameterGroup("body", (body,), begins_at=None)
    stepper = StackedOptimizer(harsh(name), [frozen, ParameterGroup("head", (head, bias))])
    for step in range(5):
        stepper.at(Clock(step * 1_000_000, 10**7))
        stepper.step(loss_of([body, head, bias]))
    assert torch.equal(body, before[0])
    assert all((value == 0.0).all() for value in moments(stepper, 0).values())  # Adagrad's zeros are there from birth
    assert not torch.equal(head, before[1])
    assert not torch.equal(bias, before[2])


@EVERY_OPTIMIZER
def test_what_has_learned_and_stands_still_keeps_its_moments_to_the_bit(name: str) -> None:
    body, head, bias = weights()
    groups = [ParameterGroup("late", (body,), begins_at=100), ParameterGroup("head", (head, bias))]
    stepper = StackedOptimizer(harsh(name), groups)
    stepper.at(Clock(100, 10**7))
    for _ in range(3):
        stepper.step(loss_of([body, head, bias]))
    before, remembered = values([body]), moments(stepper, 0)
    stepper.at(Clock(50, 10**7))  # back in time, as after loading an earlier state
    for _ in range(3):
        stepper.step(loss_of([body, head, bias]))
    assert equal(before, values([body]))
    again = moments(stepper, 0)
    assert again.keys() == remembered.keys()
    assert all(torch.equal(again[key], remembered[key]) for key in remembered)


def test_a_group_begins_at_its_very_env_step() -> None:
    body, head, bias = weights()
    late = ParameterGroup("body", (body,), begins_at=100)
    stepper = StackedOptimizer(OptimizerSettings("adam", 0.01), [late, ParameterGroup("head", (head, bias))])
    before = values([body])
    for env_steps in (0, 98, 99):
        stepper.at(Clock(env_steps, 10**7))
        assert stepper.learning() == ("head",)
        stepper.step(loss_of([body, head, bias]))
    assert equal(before, values([body]))
    stepper.at(Clock(100, 10**7))
    assert stepper.learning() == ("body", "head")
    stepper.step(loss_of([body, head, bias]))
    # Adam's first step is one whole rate in each direction: the count of steps begins with the group
    torch.testing.assert_close((body - before[0]).abs(), torch.full_like(body, 0.01), rtol=1e-3, atol=0)


def test_each_group_has_its_own_share_of_the_rate_times_the_schedule_s_factor() -> None:
    body, head, bias = weights()
    groups = [ParameterGroup("body", (body,), factor=0.25), ParameterGroup("head", (head, bias))]
    stepper = StackedOptimizer(OptimizerSettings("sgd", 0.1), groups)
    assert stepper.rates() == {"body": 0.025, "head": 0.1}
    for rate in (0.05, torch.tensor(0.05)):
        before = values([body, head])
        loss = sum(p.flatten(1).sum(dim=1) for p in (body, head, bias))
        stepper.step(loss, {"optimizer/learning_rate": rate})  # type: ignore[arg-type]
        assert stepper.rates() == {"body": 0.0125, "head": 0.05}
        torch.testing.assert_close(before[0] - body, torch.full_like(body, 0.0125))  # the gradient is 1 everywhere
        torch.testing.assert_close(before[1] - head, torch.full_like(head, 0.05))
    stepper.step(loss_of([body, head, bias]), {"optimizer/learning_rate": 0.01})  # itself, not a share of the last one
    assert stepper.rates()["head"] == pytest.approx(0.01)


@EVERY_OPTIMIZER
def test_groups_with_equal_settings_learn_as_one_group_does(name: str) -> None:
    one, several = weights(), weights()
    whole = StackedOptimizer(harsh(name), one)
    parts = StackedOptimizer(harsh(name), [ParameterGroup(str(i), (p,)) for i, p in enumerate(several)])
    for _ in range(5):
        norms = whole.step(loss_of(one)), parts.step(loss_of(several))
        torch.testing.assert_close(*norms, rtol=1e-5, atol=0)
    for a, b in zip(one, several, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_norm_is_over_all_groups_that_learn_and_is_what_gets_limited() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 1)) for _ in "abc"]
    a, b, c = parameters
    groups = [ParameterGroup(*each) for each in (("a", (a,)), ("b", (b,)), ("c", (c,), 1.0, None))]
    stepper = StackedOptimizer(OptimizerSettings("sgd", learning_rate=1.0, max_grad_norm=2.5), groups)
    slopes = torch.tensor([[3.0, 4.0, 100.0], [1.0, 0.0, 100.0]])
    norm = stepper.step((torch.cat(parameters, dim=1) * slopes).sum(dim=1))
    assert norm.tolist() == [5.0, 1.0]  # 3, 4 and 5; the 100 is of no group that learns
    torch.testing.assert_close(a.detach(), torch.tensor([[-1.5], [-1.0]]), atol=1e-5, rtol=0)  # halved; left alone
    torch.testing.assert_close(b.detach(), torch.tensor([[-2.0], [0.0]]), atol=1e-5, rtol=0)
    assert c.tolist() == [[0.0], [0.0]]


@EVERY_OPTIMIZER
def test_members_who_stand_still_do_so_in_every_group(name: str) -> None:
    some, everybody = weights(), weights()
    steppers = [StackedOptimizer(harsh(name), [ParameterGroup("a", (p[0],)), ParameterGroup("b", tuple(p[1:]))])
                for p in (some, everybody)]  # fmt: skip
    before = values(some)
    for _ in range(3):
        steppers[0].step(loss_of(some), members=torch.tensor([True, False, True]))
        steppers[1].step(loss_of(everybody))
    for mine, start, theirs in zip(some, before, everybody, strict=True):
        assert torch.equal(mine[1], start[1])
        assert torch.equal(mine[[0, 2]], theirs[[0, 2]])
    for group in (0, 1):
        remembered = [v for v in moments(steppers[0], group).values() if v.ndim == 2]
        assert all((value[1] == 0.0).all() for value in remembered)


@EVERY_OPTIMIZER
def test_a_member_with_huge_gradients_does_not_move_the_others(name: str) -> None:
    def train(scale: float) -> list[Tensor]:
        parameters = weights()
        stepper = StackedOptimizer(harsh(name), [ParameterGroup(str(i), (p,)) for i, p in enumerate(parameters)])
        for _ in range(3):
            stepper.step(loss_of(parameters) * torch.tensor([1.0, scale, 1.0]))
        return [p[[0, 2]] for p in values(parameters)]

    assert equal(train(1.0), train(1e12))


def test_no_gradient_is_computed_for_what_does_not_learn() -> None:
    body, head, bias = weights()
    computed = []
    for name, parameter in (("body", body), ("head", head), ("bias", bias)):
        parameter.register_hook(lambda grad, name=name: computed.append(name))
    groups = [ParameterGroup("body", (body,), begins_at=9), ParameterGroup("head", (head, bias))]
    stepper = StackedOptimizer(OptimizerSettings("sgd"), groups)
    stepper.step(loss_of([body, head, bias]))
    assert sorted(computed) == ["bias", "head"]
    stepper.at(Clock(9, 10**7))
    stepper.step(loss_of([body, head, bias]))
    assert sorted(computed) == ["bias", "bias", "body", "head", "head"]


@EVERY_OPTIMIZER
def test_a_saved_stepper_goes_on_with_the_same_steps_in_every_group(name: str) -> None:
    def groups(parameters: list[nn.Parameter]) -> list[ParameterGroup]:
        body, head, bias = parameters
        late, never = ParameterGroup("late", (body,), 0.5, 20), ParameterGroup("never", (bias,), begins_at=None)
        return [late, ParameterGroup("head", (head,)), never]

    one = weights()
    first = StackedOptimizer(harsh(name), groups(one))
    for env_steps in (0, 10, 20):
        first.at(Clock(env_steps, 100))
        first.step(loss_of(one), {"optimizer/learning_rate": 0.005})
    other = copy.deepcopy(one)
    second = StackedOptimizer(harsh(name), groups(other))
    value, tensors = encode(copy.deepcopy(first.state()))  # as a checkpoint keeps it, sharing no memory
    second.load_state(decode(json.loads(json.dumps(value)), tensors))
    assert second.learning() == ("late", "head")
    assert second.rates() == first.rates()
    for stepper, parameters in ((first, one), (second, other)):
        for _ in range(3):
            stepper.step(loss_of(parameters))
    assert equal(values(one), values(other))


@EVERY_OPTIMIZER
def test_a_plain_module_is_a_stack_of_one_without_the_axis(name: str) -> None:
    torch.manual_seed(0)
    mine = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    reference = copy.deepcopy(mine)
    x = torch.randn(8, 4)
    settings = OptimizerSettings(name, 0.01, weight_decay=0.1, max_grad_norm=1.0)
    stepper = StackedOptimizer(settings, mine.parameters(), members=1)
    optimizer = OPTIMIZERS[name](list(reference.parameters()), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        norm = stepper.step(mine(x).square().mean().reshape(1))
        optimizer.zero_grad()
        reference(x).square().mean().backward()
        expected = nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        assert norm.shape == (1,)
        assert norm.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@given(st.lists(st.one_of(st.none(), st.integers(0, 10)), min_size=1, max_size=5), st.integers(0, 12))
def test_exactly_the_groups_whose_time_has_come_move(begins: list[int | None], env_steps: int) -> None:
    parameters = [nn.Parameter(torch.ones(2, 2)) for _ in begins]
    groups = [ParameterGroup(str(i), (p,), 1.0, b) for i, (p, b) in enumerate(zip(parameters, begins, strict=True))]
    stepper = StackedOptimizer(OptimizerSettings("adamw", weight_decay=0.1), groups)
    stepper.at(Clock(env_steps, 10**7))
    expected = [b is not None and b <= env_steps for b in begins]
    loss = sum(p.square().sum(dim=1) for p in parameters)
    norm = stepper.step(loss)  # type: ignore[arg-type]
    assert norm.any() == any(expected)
    assert [bool((p != 1.0).all()) for p in parameters] == expected
    assert stepper.learning() == tuple(g.name for g, learns in zip(groups, expected, strict=True) if learns)


def test_groups_that_make_no_sense_are_refused() -> None:
    a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, 2))
    for groups, said in (
        ([], "every group needs a parameter"),
        ([ParameterGroup("a", (a,)), ParameterGroup("b", ())], "every group needs a parameter"),
        ([ParameterGroup("a", (a,)), ParameterGroup("a", (b,))], "two groups have one name"),
        ([ParameterGroup("a", (a,)), ParameterGroup("b", (a,))], "a parameter is in two groups"),
        ([ParameterGroup("a", (a,)), ParameterGroup("b", (b,))], "2 members lead every parameter"),
    ):
        with pytest.raises(ValueError, match=said):
            StackedOptimizer(OptimizerSettings(), groups)


def test_what_no_group_holds_stays_in_the_groups_that_its_optimizer_has() -> None:
    body, head, temperature = weights()
    both, alone = (StackedOptimizer(harsh("adam"), parameters) for parameters in ([body, temperature], [head]))
    regroup(
        {"both": both, "alone": alone},
        [ParameterGroup("body", (body,), begins_at=None), ParameterGroup("head", (head,))],
    )
    assert [(group.name, group.parameters) for group in both.groups] == [("body", (body,)), ("all", (temperature,))]
    assert [group.name for group in alone.groups] == ["head"]
    before, moved = body.detach().clone(), temperature.detach().clone()
    both.at(Clock(1, 10))
    both.step(loss_of([body, temperature]))
    assert torch.equal(body, before)
    assert not torch.equal(temperature, moved)
