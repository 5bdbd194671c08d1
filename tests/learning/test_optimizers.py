"""Optimizers over a stack: equal to torch.optim on each member alone, clipped per member, never mixing members."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.learning.optimizer_settings import OPTIMIZERS, OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.parameter_groups import ParameterGroup
from rlab.learning.regrouping import regroup
from rlab.learning.schedules import Schedule
from rlab.types import Clock

PLAIN: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, **kwargs: torch.optim.SGD(parameters, momentum=0.9, **kwargs),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
}
MEMBERS = 3


def starting_weights() -> list[Tensor]:
    """A matrix and a vector per member, all different."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(MEMBERS, 4, 3, generator=generator), torch.randn(MEMBERS, 3, generator=generator)]


def loss_of(parameters: list[Tensor], targets: list[Tensor]) -> Tensor:
    """`[S]`: not quadratic, so that gradients change from step to step."""
    return torch.stack([(p - t).pow(4).flatten(1).sum(dim=1) for p, t in zip(parameters, targets, strict=True)]).sum(0)


def test_every_optimizer_is_tested_here() -> None:
    assert PLAIN.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_stack_steps_as_torch_steps_each_member_alone(name: str, weight_decay: float) -> None:
    eps = None if name in ("sgd", "momentum") else 1e-3
    stacked = [nn.Parameter(w) for w in starting_weights()]
    settings = OptimizerSettings(name, 0.01, weight_decay, eps=eps, max_grad_norm=2.0)
    stepper = StackedOptimizer(settings, stacked)
    alone = [[nn.Parameter(w[i].clone()) for w in starting_weights()] for i in range(MEMBERS)]
    kwargs = {"lr": 0.01, "weight_decay": weight_decay, **({} if eps is None else {"eps": eps})}
    plain = [PLAIN[name](parameters, **kwargs) for parameters in alone]
    targets = [torch.ones(MEMBERS, 4, 3), torch.zeros(MEMBERS, 3)]
    for _ in range(7):
        norm = stepper.step(loss_of(stacked, targets))
        for i in range(MEMBERS):
            plain[i].zero_grad()
            loss_of([p[None] for p in alone[i]], [t[i : i + 1] for t in targets]).sum().backward()
            assert norm[i].item() == pytest.approx(nn.utils.clip_grad_norm_(alone[i], 2.0).item(), rel=1e-5)
            plain[i].step()
    for i in range(MEMBERS):
        for mine, theirs in zip(stacked, alone[i], strict=True):
            torch.testing.assert_close(mine[i], theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(stacked[0], starting_weights()[0], atol=1e-3)


def test_eps_and_weight_decay_arrive_in_the_optimizer() -> None:
    settings = OptimizerSettings("adam", eps=1.5e-4, weight_decay=0.25)
    stepper = StackedOptimizer(settings, [nn.Parameter(torch.ones(1, 1))])
    (group,) = stepper.torch_optimizer.param_groups
    assert (group["eps"], group["weight_decay"], group["lr"]) == (1.5e-4, 0.25, 1e-3)
    (default,) = StackedOptimizer(
        OptimizerSettings("adam"), [nn.Parameter(torch.ones(1, 1))]
    ).torch_optimizer.param_groups
    assert default["eps"] == 1e-8  # torch's own


def test_weight_decay_is_decoupled_for_adamw_only() -> None:
    def after_one_step(name: str) -> float:
        weight = nn.Parameter(torch.tensor([[2.0]]))
        StackedOptimizer(OptimizerSettings(name, learning_rate=0.1, weight_decay=0.5), [weight]).step(
            weight.sum(dim=1) * 0.0
        )
        return float(weight.detach())

    assert after_one_step("adamw") == pytest.approx(1.9)  # 2 - 0.1 * 0.5 * 2, and no gradient
    assert after_one_step("sgd") == pytest.approx(1.9)  # the gradient is 0.5 * 2
    assert after_one_step("adam") == pytest.approx(1.9, abs=1e-6)  # the gradient 1 becomes a step of the whole rate
    plain = StackedOptimizer(OptimizerSettings("adamw"), [nn.Parameter(torch.ones(1, 1))])
    assert plain.torch_optimizer.defaults["weight_decay"] == 0.0  # torch's own default is 0.01


def test_parameters_that_the_loss_does_not_depend_on_have_a_gradient_of_zero() -> None:
    used, unused = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.full((2, 1), 3.0))
    norm = StackedOptimizer(OptimizerSettings("sgd", learning_rate=0.5), [used, unused]).step(4.0 * used.sum(dim=1))
    assert norm.tolist() == [4.0, 4.0]
    assert used.tolist() == [[-1.0], [-1.0]]  # 1 - 0.5 * 4
    assert unused.tolist() == [[3.0], [3.0]]


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_step_at_a_time_follows_the_schedule_of_the_settings(kind: Callable[[float], float | Tensor]) -> None:
    weight = nn.Parameter(torch.zeros(1, 1))
    optimizer = StackedOptimizer(OptimizerSettings("sgd", 1.0, schedule=Schedule("linear", 0.5)), [weight])
    middle, end = optimizer.scheduled(Clock(50, 100)), optimizer.scheduled(Clock(50, 100), progress=1.0)
    assert (middle, end) == ({"optimizer/learning_rate": 0.75}, {"optimizer/learning_rate": 0.5})
    for now, expected in ((middle, -0.75), (end, -1.25)):
        optimizer.step(weight.sum(dim=1), {name: kind(number) for name, number in now.items()})
        assert weight.item() == expected
    assert optimizer.settings.rate(0.0) == 1.0


def test_two_optimizers_of_one_agent_find_their_own_rates_by_name() -> None:
    actor, critic = (nn.Parameter(torch.zeros(1, 1)) for _ in range(2))
    first = StackedOptimizer(OptimizerSettings("sgd", 1.0), [actor], name="actor")
    second = StackedOptimizer(OptimizerSettings("sgd", 2.0), [critic], name="critic")
    now = first.scheduled(Clock(0, 100)) | second.scheduled(Clock(0, 100))
    assert now == {"actor/learning_rate": 1.0, "critic/learning_rate": 2.0}
    first.step(actor.sum(dim=1), now)
    second.step(critic.sum(dim=1), now)
    assert (actor.item(), critic.item()) == (-1.0, -2.0)


def test_optimizers_are_regrouped_each_with_its_own_parameters() -> None:
    body, head, other = (nn.Parameter(torch.ones(1, 1)) for _ in range(3))
    optimizers = {
        "policy": StackedOptimizer(OptimizerSettings("sgd", 1.0), [body, head]),
        "critic": StackedOptimizer(OptimizerSettings("sgd", 1.0), [other]),
    }
    groups = [
        ParameterGroup("body", (body,), begins_at=None),
        ParameterGroup("head", (head,)),
        ParameterGroup("c", (other,)),
    ]
    regroup(optimizers, groups)
    assert [g.name for g in optimizers["policy"].groups] == ["body", "head"]
    assert [g.name for g in optimizers["critic"].groups] == ["c"]
    optimizers["policy"].step((body + head).sum(dim=1))
    assert (body.item(), head.item()) == (1.0, 0.0)


def test_a_group_is_divided_among_the_optimizers_that_step_its_parameters() -> None:
    first, second, temperature = (nn.Parameter(torch.ones(1, 1)) for _ in range(3))
    settings = OptimizerSettings("sgd", 1.0)
    optimizers = {str(i): StackedOptimizer(settings, [p]) for i, p in enumerate((first, second, temperature))}
    regroup(optimizers, [ParameterGroup("critics", (first, second), begins_at=10)])  # and none holds the temperature
    assert [optimizer.groups[0].name for optimizer in optimizers.values()] == ["critics", "critics", "all"]
    for optimizer, parameter in zip(optimizers.values(), (first, second, temperature), strict=True):
        optimizer.at(Clock(5, 100))
        optimizer.step(parameter.sum(dim=1))
    assert (first.item(), second.item(), temperature.item()) == (1.0, 1.0, 0.0)


def test_regrouping_refuses_groups_of_which_none_ever_learns() -> None:
    weight = nn.Parameter(torch.ones(1, 1))
    optimizers = {"policy": StackedOptimizer(OptimizerSettings(), [weight])}
    with pytest.raises(UsageError, match=r"nothing would ever learn: policy\.0 are frozen\."):
        regroup(optimizers, [ParameterGroup("policy.0", (weight,), begins_at=None)])


def test_l1_adds_the_sign_of_each_weight_to_the_gradient() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, -3.0, 0.0]]))
    norm = StackedOptimizer(OptimizerSettings("sgd", learning_rate=0.1, l1=0.5), [weight]).step(
        (4.0 * weight).sum(dim=1)
    )
    # gradients 4 + 0.5, 4 - 0.5 and 4
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.55, -3.35, -0.4]]))
    assert norm.item() == pytest.approx(math.sqrt(4.5**2 + 3.5**2 + 4.0**2))
    assert not norm.requires_grad


def test_the_norm_is_that_of_each_member_s_whole_gradient_and_is_what_gets_limited() -> None:
    vector, matrix = nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(2, 1, 1))
    slopes = torch.tensor([[3.0], [1.0]]), torch.tensor([[[4.0]], [[0.0]]])
    loss = (vector * slopes[0]).sum(dim=1) + (matrix * slopes[1]).sum(dim=(1, 2))
    norm = StackedOptimizer(OptimizerSettings("sgd", learning_rate=1.0, max_grad_norm=2.5), [vector, matrix]).step(loss)
    assert norm.tolist() == [5.0, 1.0]
    # member 0 is halved, member 1 left alone
    torch.testing.assert_close(vector.detach(), torch.tensor([[-1.5], [-1.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix.detach(), torch.tensor([[[-2.0]], [[0.0]]]), atol=1e-5, rtol=0)


def test_parameters_keep_their_values_and_can_be_loaded_when_a_stepper_takes_them() -> None:
    network = nn.ParameterList(starting_weights())
    stepper = StackedOptimizer(OptimizerSettings("sgd", learning_rate=1.0), network)
    for mine, given in zip(network, starting_weights(), strict=True):
        assert torch.equal(mine, given)
    network.load_state_dict({name: torch.zeros_like(value) for name, value in network.state_dict().items()})
    stepper.step(sum(p.flatten(1).sum(dim=1) for p in network))  # type: ignore[arg-type]
    assert all((p == -1.0).all() for p in network)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_member_with_huge_gradients_does_not_move_the_others(name: str) -> None:
    def train(scale: float) -> Tensor:
        weight = nn.Parameter(starting_weights()[0])
        stepper = StackedOptimizer(OptimizerSettings(name, 0.01, max_grad_norm=1.0), [weight])
        for _ in range(4):
            stepper.step(weight.square().flatten(1).sum(dim=1) * torch.tensor([1.0, scale, 1.0]))
        return weight.detach()

    calm, wild = train(1.0), train(1e12)
    assert torch.equal(calm[0], wild[0])
    assert torch.equal(calm[2], wild[2])


def test_a_step_without_a_time_goes_on_at_the_rate_of_the_last_one() -> None:
    weight = nn.Parameter(torch.ones(1, 1))
    stepper = StackedOptimizer(OptimizerSettings("sgd", learning_rate=0.5), [weight])
    stepper.step(weight.sum(dim=1), {"optimizer/learning_rate": 0.25})
    stepper.step(weight.sum(dim=1), {"optimizer/learning_rate": torch.tensor(0.125)})  # which the host does not know
    stepper.step(weight.sum(dim=1))
    assert stepper.torch_optimizer.param_groups[0]["lr"] == 0.25
    assert weight.item() == 0.375  # 1 - 0.25 - 0.125 - 0.25


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_saved_stepper_goes_on_with_the_same_steps(name: str) -> None:
    def loss(weight: Tensor) -> Tensor:
        return (weight - 3.0).pow(4).sum(dim=1)

    one = nn.Parameter(torch.ones(2, 2))
    first = StackedOptimizer(OptimizerSettings(name, 0.01), [one])
    for _ in range(3):
        first.step(loss(one))
    other = nn.Parameter(one.detach().clone())
    second = StackedOptimizer(OptimizerSettings(name, 0.01), [other])
    second.load_state(copy.deepcopy(first.state()))  # torch's own state shares its tensors
    for _ in range(3):
        first.step(loss(one))
        second.step(loss(other))
    assert torch.equal(one, other)


def moments(stepper: StackedOptimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of every parameter, `[S, P]` each."""
    return {name: v for name, v in stepper.torch_optimizer.state[stepper.flat].items() if v.shape == stepper.flat.shape}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_members_who_stand_still_keep_every_bit_while_the_others_step_as_they_would(name: str, decay: float) -> None:
    def loss(weight: Tensor) -> Tensor:
        return (weight - 3.0).pow(4).flatten(1).sum(dim=1)

    settings = OptimizerSettings(name, 0.01, decay, l1=0.1, max_grad_norm=2.0)
    weights = [nn.Parameter(starting_weights()[0]) for _ in range(2)]
    some, everybody = (StackedOptimizer(settings, [weight]) for weight in weights)
    for going in ([True, False, True], [True, False, False], [True, False, False]):  # member 1 never began
        before, remembered = weights[0].detach().clone(), {k: v.clone() for k, v in moments(some).items()}
        norm = some.step(loss(weights[0]), members=torch.tensor(going))
        assert norm.shape == (MEMBERS,)  # also of those who stand still
        everybody.step(loss(weights[1]))
        for member in (i for i, goes in enumerate(going) if not goes):
            assert torch.equal(weights[0][member], before[member])
            for key, value in moments(some).items():
                assert torch.equal(value[member], remembered.get(key, torch.zeros_like(value))[member]), key
        for member in (i for i, goes in enumerate(going) if goes):
            assert not torch.equal(weights[0][member], before[member])
    assert torch.equal(weights[0][0], weights[1][0])  # member 0 always went
    assert all(torch.equal(value[0], moments(everybody)[key][0]) for key, value in moments(some).items())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_step_of_all_members_by_name_is_a_step_of_everybody(name: str) -> None:
    weights = [nn.Parameter(starting_weights()[0]) for _ in range(2)]
    named, plain = (StackedOptimizer(OptimizerSettings(name, 0.01), [weight]) for weight in weights)
    for _ in range(3):
        named.step(weights[0].square().flatten(1).sum(dim=1), members=torch.ones(MEMBERS, dtype=torch.bool))
        plain.step(weights[1].square().flatten(1).sum(dim=1))
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adadelta", "rmsprop"])  # no bias to correct
def test_a_member_that_begins_late_begins_as_it_would_have(name: str) -> None:
    weights = [nn.Parameter(starting_weights()[0]) for _ in range(2)]
    late, fresh = (StackedOptimizer(OptimizerSettings(name, 0.01), [weight]) for weight in weights)
    for _ in range(2):
        late.step(weights[0].square().flatten(1).sum(dim=1), members=torch.zeros(MEMBERS, dtype=torch.bool))
    for _ in range(3):
        for stepper, weight in zip((late, fresh), weights, strict=True):
            stepper.step(weight.square().flatten(1).sum(dim=1))
    assert torch.equal(*weights)


def test_a_member_that_broke_while_it_stood_still_is_as_it_was() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    stepper = StackedOptimizer(OptimizerSettings("adam", 0.01), [weight])
    for _ in range(2):
        norm = stepper.step(weight.sum(dim=1) * torch.tensor([1.0, math.nan]), members=torch.tensor([True, False]))
    assert norm[1].isnan()
    assert weight[1].tolist() == [1.0, 1.0, 1.0]
    assert all((value[1] == 0.0).all() for value in moments(stepper).values())
    assert weight.detach()[0].tolist() == pytest.approx([0.98] * 3)  # Adam's steps are of the whole rate


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "admw"}, "unknown optimizer 'admw'. Did you mean 'adamw'?"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be above 0 and finite."),
        ({"learning_rate": math.nan}, "learning_rate nan must be above 0 and finite."),
        ({"learning_rate": math.inf}, "learning_rate inf must be above 0 and finite."),
        ({"weight_decay": -1.0}, "weight_decay -1.0 must be 0 or more and finite."),
        ({"weight_decay": math.nan}, "weight_decay nan must be 0 or more and finite."),
        ({"l1": -0.1}, "l1 -0.1 must be 0 or more and finite."),
        ({"eps": -1e-8}, "optimizer eps -1e-08 must be 0 or more"),
        ({"max_grad_norm": 0.0}, "max_grad_norm 0.0 must be above 0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm nan must be above 0"),
    ],
)
def test_a_setting_out_of_range_gets_one_line(settings: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        OptimizerSettings(**settings)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
