"""What agents learn with, as part of a program: the same results as when it is called as it is."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlab.draws import programs_ran
from rlab.learning.capture import CapturedCycle
from rlab.learning.compiler import why_not_compile
from rlab.learning.distillation import Teacher
from rlab.learning.exploration import NOISE, ActionNoise, EpsilonGreedy
from rlab.learning.means import Means
from rlab.learning.optimizer_settings import OPTIMIZERS, OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.parameter_groups import ParameterGroup
from rlab.learning.program import Program
from rlab.learning.reward_scaling import RewardScaler
from rlab.learning.sparsity import GradualPruning, sparsity
from rlab.learning.targets import follow
from rlab.learning.tracing import trace
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Dict, Discrete
from rlab.networks.spec import build, draw_states
from rlab.types import Clock

MEMBERS, STEPS = 3, 20
VECTOR = Box((4,), "float32", -1.0, 1.0)


def as_graph(fn: Callable[..., Any], *arguments: Tensor) -> Callable[..., list[Tensor]]:
    """The function as a graph, run operator by operator: what a program does, without the compiler's time."""

    def flat(*arguments: Tensor) -> list[Tensor]:
        found = fn(*arguments)
        return [found] if isinstance(found, Tensor) else list(found)

    traced = trace(flat, arguments, fn)

    def run(*arguments: Tensor) -> list[Tensor]:
        with torch.no_grad():
            found = list(traced.graph(*traced.state, *arguments))
        programs_ran()
        return found

    return run


class Learner:
    """Three weights in two groups that learn at different rates; how far each is off is a factor of the loss."""

    def __init__(self, name: str, stands_still: bool, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(1)
        shapes = (MEMBERS, 4, 3), (MEMBERS, 3, 2), (MEMBERS, 5)
        self.weights = [nn.Parameter(torch.randn(shape, generator=generator).to(device)) for shape in shapes]
        first, *others = self.weights
        groups = [ParameterGroup("first", (first,), factor=0.25), ParameterGroup("others", tuple(others))]
        settings = OptimizerSettings(name, 0.01, weight_decay=0.1, l1=0.05, max_grad_norm=2.0)
        self.optimizer, self.stands_still = StackedOptimizer(settings, groups), stands_still

    def step(self, scale: Tensor, rate: float | Tensor, going: Tensor) -> Tensor:
        """One step; the loss is scaled by `scale [S]`, and only members of `going [S]` take it, if some stand still."""
        first, second, third = ((weight - 1.0).square().flatten(1).sum(dim=1) for weight in self.weights)
        now = {"optimizer/learning_rate": rate}
        loss = (first * second * third).sqrt() * scale
        return self.optimizer.step(loss, now, members=going if self.stands_still else None)


def times() -> Iterator[tuple[Tensor, float, Tensor]]:
    """The arguments of each step: a loss of changing size, a rate that falls, members that stand still at times."""
    for i in range(STEPS):
        going = torch.tensor([True, i % 3 != 0, i > 4])
        yield torch.tensor([1.0, 2.0, 0.5]) * (1 + i % 3), 0.01 * (1.0 - 0.04 * i), going


def assert_learned_alike(one: Learner, other: Learner) -> None:
    # Each step rounds a number a few times by half a unit in the last place, 6e-8 of it.
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=STEPS * 5 * 6e-8, atol=1e-6)
    mine, theirs = (learner.optimizer.torch_optimizer.state_dict() for learner in (one, other))
    for moments, expected in zip(mine["state"].values(), theirs["state"].values(), strict=True):
        for name in expected:
            torch.testing.assert_close(moments[name].cpu(), expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stands_still", [False, True])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_steps_in_a_graph_as_it_does_outside(name: str, stands_still: bool) -> None:
    inside, outside = Learner(name, stands_still), Learner(name, stands_still)
    scale, rate, going = next(times())
    run = as_graph(inside.step, scale, torch.tensor(rate), going)
    assert_learned_alike(inside, outside)  # tracing moves nothing
    for scale, rate, going in times():
        (norm,) = run(scale, torch.tensor(rate), going)
        torch.testing.assert_close(norm, outside.step(scale, rate, going), rtol=1e-4, atol=1e-6)
    assert_learned_alike(inside, outside)
    assert not torch.allclose(inside.weights[0], Learner(name, stands_still).weights[0], atol=1e-4)


@pytest.mark.prove
@pytest.mark.skipif(why_not_compile(torch.device("cpu")) is not None, reason="needs a C++ compiler, such as g++")
def test_a_compiled_program_steps_as_it_is_stepped_outside() -> None:
    inside, outside = (Learner("adam", stands_still=True) for _ in range(2))
    program = Program(inside.step, "step")
    for scale, rate, going in times():
        norm = program(scale, torch.tensor(rate), going)
        torch.testing.assert_close(norm, outside.step(scale, rate, going), rtol=1e-4, atol=1e-6)
    assert_learned_alike(inside, outside)


@pytest.mark.parametrize("stands_still", [False, True])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_a_step_in_a_captured_cycle_is_made_at_the_rate_of_the_moment(
    device: str, name: str, stands_still: bool
) -> None:
    inside, outside = Learner(name, stands_still, device), Learner(name, stands_still)
    scale, rate, going = torch.empty(3, device=device), torch.empty((), device=device), torch.ones(3, device=device) > 0
    cycle = CapturedCycle(lambda: inside.step(scale, rate, going), torch.device(device))
    for now in times():
        scale.copy_(now[0])
        rate.fill_(now[1])
        going.copy_(now[2])
        norm = cycle()
        torch.testing.assert_close(norm.cpu(), outside.step(*now), rtol=1e-4, atol=1e-6)
    assert_learned_alike(inside, outside)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_what_an_optimizer_learned_in_a_graph_is_saved_and_goes_on_outside(name: str) -> None:
    inside, outside, later = (Learner(name, stands_still=False) for _ in range(3))
    scale, rate, going = next(times())
    run = as_graph(inside.step, scale, torch.tensor(rate), going)
    for scale, rate, going in times():
        run(scale, torch.tensor(rate), going)
        outside.step(scale, rate, going)
    with torch.no_grad():
        for mine, theirs in zip(later.weights, inside.weights, strict=True):
            mine.copy_(theirs)
    later.optimizer.load_state(copy.deepcopy(inside.optimizer.state()))
    for scale, rate, going in times():
        later.step(scale, rate, going)
        outside.step(scale, rate, going)
    assert_learned_alike(later, outside)


def test_a_group_that_begins_in_a_graph_has_moments_to_begin_with() -> None:
    inside, outside = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    steppers = [
        StackedOptimizer(OptimizerSettings("adam", 0.01), [ParameterGroup("late", (weight,), begins_at=10)])
        for weight in (inside, outside)
    ]
    for stepper in steppers:
        stepper.at(Clock(10, 100))
    run = as_graph(
        lambda rate: steppers[0].step(inside.square().sum(dim=1), {"optimizer/learning_rate": rate}), torch.tensor(0.01)
    )
    for rate in (0.01, 0.02, 0.03):
        run(torch.tensor(rate))
        steppers[1].step(outside.square().sum(dim=1), {"optimizer/learning_rate": rate})
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=0)


def test_zeros_stay_in_a_graph_and_more_come_between_its_runs() -> None:
    spec = q_network_spec(VECTOR, 3, BodySettings((12, 8), "tanh"))
    inside, outside = build(spec, [3, 4]), build(spec, [3, 4])
    steppers = [
        StackedOptimizer(OptimizerSettings("adam", 1e-2), network.parameters()) for network in (inside, outside)
    ]
    for stepper, network in zip(steppers, (inside, outside), strict=True):
        stepper.hooks.append(GradualPruning(0.8, network))

    def step(i: int, x: Tensor, rate: float | Tensor) -> Tensor:
        return steppers[i].step((inside, outside)[i](x).square().mean(dim=(1, 2)), {"optimizer/learning_rate": rate})

    x = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    run = as_graph(lambda x, rate: step(0, x, rate), x, torch.tensor(1e-2))
    for time in (20, 40, 60, 100):
        for stepper in steppers:
            stepper.at(Clock(time, 100))
        for _ in range(3):
            run(x, torch.tensor(1e-2))
            step(1, x, 1e-2)
        torch.testing.assert_close(sparsity(inside), sparsity(outside), rtol=0, atol=0)
        for mine, theirs in zip(inside.parameters(), outside.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    # 48, 96 and 24 weights, of which as many whole ones go
    assert sparsity(inside).tolist() == pytest.approx([(round(0.8 * 48) + round(0.8 * 96) + round(0.8 * 24)) / 168] * 2)


@pytest.mark.parametrize(("share", "every_bit"), [(0.0, True), (0.25, False), (1.0, True)])
def test_a_target_network_follows_in_a_graph_by_a_share_of_the_moment(share: float, every_bit: bool) -> None:
    spec = q_network_spec(VECTOR, 2, BodySettings((5,)))
    online, inside = build(spec, (1, 2)), build(spec, (3, 4)).requires_grad_(False)
    outside = copy.deepcopy(inside)
    run = as_graph(lambda share: [follow(inside, online, share) or share], torch.tensor(0.5))
    run(torch.tensor(share))
    follow(outside, online, share)
    for mine, theirs in zip(inside.parameters(), outside.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0 if every_bit else 1e-6, atol=0.0 if every_bit else 1e-7)


def test_means_of_metrics_are_those_of_a_graph_s_runs() -> None:
    inside, outside = Means(), Means()
    values = [{"loss/a": torch.tensor([i, 1.0]), "grad/norm": torch.tensor([2.0, i])} for i in range(5)]
    inside.add(values[0])  # the set of names has to be known

    def add(a: Tensor, norm: Tensor) -> Tensor:
        inside.add({"loss/a": a, "grad/norm": norm})
        return a + norm

    run = as_graph(add, *values[0].values())
    for each in values:
        outside.add(each)
    for each in values[1:]:
        run(*each.values())
    assert {name: mean.tolist() for name, mean in inside.take().items()} == {"loss/a": [2, 1], "grad/norm": [2, 2]}
    run(torch.tensor([torch.nan, 0.0]), torch.zeros(2))
    assert not inside.finite()


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_noise_in_a_graph_is_the_noise_outside(kind: str) -> None:
    inside, outside = ActionNoise(kind, 2, (3, 4)), ActionNoise(kind, 2, (3, 4))
    run = as_graph(lambda: inside.next(5))
    for _ in range(3):
        torch.testing.assert_close(run()[0], outside.next(5), rtol=1e-6, atol=1e-6)


def test_dropout_in_a_graph_drops_anew_in_every_run_what_it_drops_outside() -> None:
    inside, outside = (build(q_network_spec(VECTOR, 2, BodySettings((64,), dropout=0.5)), (3, 4)) for _ in range(2))
    x = torch.ones(2, 3, 4)
    run = as_graph(inside, x)
    found = [run(x)[0] for _ in range(3)]
    for each in found:
        torch.testing.assert_close(each, outside(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], found[1])
    assert draw_states(inside) == draw_states(outside) == [{"draw": 3}]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("exponent", [None, 1.5])
def test_exploration_in_a_graph_takes_the_epsilon_of_the_moment_and_the_same_coins(
    exponent: float | None, masked: bool
) -> None:
    inside, outside = (EpsilonGreedy(5, (3, 4), exponent) for _ in range(2))
    greedy = torch.arange(6).remainder(5).repeat(2, 1)
    allowed = [torch.rand((2, 6, 5), generator=torch.Generator().manual_seed(i)) < 0.7 for i in range(12)]
    for mask in allowed:
        mask[..., 0] = True
    for explore in (inside, outside):  # what is held has its memory from then on
        explore.choose(greedy, 0.9, allowed[0] if masked else None)
    run = as_graph(
        lambda epsilon, mask: inside.choose(greedy, epsilon, mask if masked else None), torch.tensor(0.5), allowed[0]
    )
    for step, mask in enumerate(allowed):
        epsilon = 0.9 - 0.07 * step
        chosen = outside.choose(greedy, epsilon, mask if masked else None)
        assert torch.equal(run(torch.tensor(epsilon), mask)[0], chosen)


def test_rewards_are_scaled_in_a_graph_as_outside_also_by_one_that_was_loaded() -> None:
    outside, saved = RewardScaler(2, 0.9, torch.device("cpu")), RewardScaler(2, 0.9, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)

    def rollout() -> tuple[Tensor, Tensor, Tensor]:
        lanes = (2, 3, 8)
        ended = torch.rand(lanes, generator=generator) < 0.2
        return torch.randn(lanes, generator=generator), ended, torch.rand(lanes, generator=generator) < 0.9

    first = rollout()
    outside.scale(*first)
    saved.scale(*first)
    inside = RewardScaler(2, 0.9, torch.device("cpu"))
    inside.load_state(saved.state())
    outside.load_state(outside.state())  # fresh episodes, too
    run = as_graph(inside.scale, *first)
    for _ in range(3):
        given = rollout()
        torch.testing.assert_close(run(*given)[0], outside.scale(*given), rtol=1e-5, atol=1e-6)
    for name, value in outside.state().items():
        torch.testing.assert_close(inside.state()[name], value, rtol=1e-9, atol=0)


def test_statistics_of_observations_follow_in_a_graph_and_leave_alone_what_is_not_scaled() -> None:
    space = Dict((("a", Box((2,), "float32", -9.0, 9.0)), ("b", Discrete(3))))
    inside, outside = (Preprocess(space, "running", None, 2) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    obs = [torch.randn(2, 5, 3, generator=generator) * 3 + 1 for _ in range(4)]
    for each in obs:
        each[..., 2] = each[..., 2].round().abs() % 3
    valid = torch.tensor([[True, True, False, True, True]] * 2)

    def observe(obs: Tensor, valid: Tensor) -> Tensor:
        inside.observe(obs, valid)
        return inside(obs)

    run = as_graph(observe, obs[0], valid)
    for each in obs:
        (seen,) = run(each, valid)
        outside.observe(each, valid)
        torch.testing.assert_close(seen, outside(each), rtol=1e-5, atol=1e-6)
    assert inside.count.tolist() == [16, 16]
    assert inside.mean[:, 0, 2:].tolist() == [[0.0] * 3] * 2


def test_a_teacher_s_loss_counts_by_the_weight_of_the_moment() -> None:
    preprocess = {"scaling": "none", "scale": None}
    spec = PolicySpec(VECTOR, Discrete(3), preprocess, q_network_spec(VECTOR, 3, BodySettings(())), {"kind": "q"})
    teacher = build_policy(spec, (0, 1))
    term = Teacher(teacher, teacher.head, weight=2.0, fraction=1.0)
    obs, student = torch.rand(2, 7, 4), torch.randn(2, 7, 3)
    run = as_graph(
        lambda obs, student, weight: weight * term.loss(student, term.prepare({"obs": obs})),
        *(obs, student, torch.tensor(0.5)),
    )
    for progress in (0, 25, 75):
        weight = term.weight(Clock(progress, 100))
        expected = weight * term.loss(student, term.prepare({"obs": obs}))
        torch.testing.assert_close(run(obs, student, torch.tensor(weight))[0], expected, rtol=1e-5, atol=1e-7)
