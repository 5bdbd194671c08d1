"""Weights set to zero while a network learns: which, how many, when, and that they stay zero while the others learn."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.learning.adapters import with_lora
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.sparsity import (
    BEGIN,
    END,
    GradualPruning,
    MaskedTraining,
    apply_masks,
    gradual_sparsity,
    sparsity,
    weight_masks,
)
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.spaces import Box
from rlab.networks.spec import StackedNetwork, build
from rlab.types import Clock

VECTOR = Box((5,), "float32", float("-inf"), float("inf"))
SPEC = q_network_spec(VECTOR, 3, BodySettings((12, 8), "tanh", layer_norm=True))
SIZES = {"0.weight": 60, "3.weight": 96, "6.weight": 24}  # of one member
BUDGET = 200


def pruned(share: float) -> StackedNetwork:
    """Two members, of whose weights a share is 0."""
    network = build(SPEC, [3, 4])
    apply_masks(network, weight_masks(network, share))
    return network


def loss_of(network: nn.Module, generator: torch.Generator) -> Tensor:
    """How far it is from random targets, `[S]`."""
    x, y = torch.randn(2, 8, 5, generator=generator), torch.randn(2, 8, 3, generator=generator)
    loss: Tensor = (network(x) - y).square().mean(dim=(1, 2))
    return loss


def train(network: nn.Module, steps: int, after_update: Callable[[int], None] = lambda update: None) -> None:
    """A few steps of Adam."""
    stepper = StackedOptimizer(OptimizerSettings("adam", 1e-2), network.parameters())
    generator = torch.Generator().manual_seed(0)
    for update in range(1, steps + 1):
        stepper.step(loss_of(network, generator))
        after_update(update)


def zeros(network: nn.Module) -> dict[str, Tensor]:
    """Which weights are 0."""
    return {name: (network.get_parameter(name) == 0).clone() for name in SIZES}


@given(share=st.floats(0.0, 0.999), scope=st.sampled_from(["layer", "global"]), seed=st.integers(0, 50))
def test_every_member_loses_as_many_weights_and_none_larger_than_one_that_stays(
    share: float, scope: str, seed: int
) -> None:
    network = build(SPEC, [seed, seed + 1])
    masks = weight_masks(network, share, scope)
    assert set(masks) == set(SIZES)
    groups = [list(masks)] if scope == "global" else [[name] for name in masks]
    for names in groups:
        for member in range(2):
            keep = torch.cat([masks[name][member].flatten() for name in names])
            size = torch.cat([network.get_parameter(name)[member].abs().flatten() for name in names])
            assert int((~keep).sum()) == round(share * len(keep))
            if 0 < keep.sum() < len(keep):
                assert size[~keep].max() <= size[keep].min()


def test_the_schedule_on_numbers_worked_by_hand() -> None:
    # from 0 to 0.8 over updates 100 to 300: at the middle 0.8 - 0.8 / 8
    found = [gradual_sparsity(update, 100, 300, 0.8) for update in (0, 100, 200, 300, 10**6)]
    assert found == pytest.approx([0.0, 0.0, 0.7, 0.8, 0.8])
    assert gradual_sparsity(150, 100, 300, 0.8, initial=0.4) == pytest.approx(0.8 - 0.4 * 27 / 64)


@given(final=st.floats(0.0, 0.99), updates=st.lists(st.integers(0, 400), min_size=2))
def test_the_schedule_never_falls(final: float, updates: list[int]) -> None:
    shares = [gradual_sparsity(update, 50, 350, final) for update in sorted(updates)]
    assert shares == sorted(shares)
    assert 0.0 <= shares[0] <= shares[-1] <= final


def test_what_is_zero_stays_zero_while_the_others_learn() -> None:
    network = pruned(0.5)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    train(network, 5, MaskedTraining(network).after_update)
    for name in SIZES:
        now = network.get_parameter(name)
        assert torch.equal(now == 0, before[name] == 0)
        assert (now != before[name])[before[name] != 0].all()
    free = pruned(0.5)
    train(free, 5)
    assert sparsity(free).max() < 0.05  # without masks Adam fills the zeros again


def test_gradual_pruning_follows_the_schedule_and_ends_at_the_share() -> None:
    network = build(SPEC, [3, 4])
    masked = MaskedTraining(network, 0.7, begin=5, end=25, every=10)
    seen = {}

    def after_update(update: int) -> None:
        masked.after_update(update)
        seen[update] = sparsity(network)

    train(network, 30, after_update)
    for update, share in seen.items():
        due = 25 if update >= 25 else 15 if update >= 15 else 5
        want = sum(round(gradual_sparsity(due, 5, 25, 0.7) * size) for size in SIZES.values()) / 180
        torch.testing.assert_close(share, torch.full((2,), want))


def learn(
    network: StackedNetwork,
    share: float,
    after_update: Callable[[int, dict[str, Tensor]], None],
    clocks: range = range(1, BUDGET + 1),
    fresh_at: int | None = None,
) -> None:
    """As an agent learns; `fresh_at`: the time from which another object does the pruning."""
    optimizer = StackedOptimizer(OptimizerSettings("adam", 1e-2), network.parameters())
    optimizer.hooks.append(GradualPruning(share, network))
    generator = torch.Generator().manual_seed(0)
    for time in clocks:
        if time == fresh_at:
            optimizer.hooks[:] = [GradualPruning(share, network)]
        optimizer.at(Clock(time, BUDGET))
        norm = optimizer.step(loss_of(network, generator))
        after_update(time, {"grad/norm": norm, **optimizer.hooks[0].metrics()})


def test_an_agent_s_network_loses_its_smallest_weights_in_every_percent_and_keeps_the_zeros_in_between() -> None:
    network, seen = build(SPEC, [3, 4]), set()
    before: dict[str, Tensor] = {}

    def check(time: int, metrics: dict[str, Tensor]) -> None:
        percent = min(max(100 * time // BUDGET, BEGIN), END)
        share, now = gradual_sparsity(percent, BEGIN, END, 0.8), zeros(network)
        for name, size in SIZES.items():
            assert now[name].flatten(1).sum(dim=1).tolist() == [round(share * size)] * 2
            assert now[name][before.get(name, ~now[name] & now[name])].all()  # what was 0 is 0
        before.update(now)
        torch.testing.assert_close(metrics["sparsity/zeros"], sparsity(network))
        seen.add(round(share, 6))

    learn(network, 0.8, check)
    assert len(seen) == END - BEGIN + 1
    assert [int(before[name][0].sum()) for name in SIZES] == [48, 77, 19]
    assert not torch.equal(before["0.weight"][0], before["0.weight"][1])  # members choose for themselves


def test_the_weights_that_are_left_learn() -> None:
    network = build(SPEC, [3, 4])
    last: dict[str, Tensor] = {}

    def check(time: int, metrics: dict[str, Tensor]) -> None:
        for name in SIZES:
            weight = network.get_parameter(name).detach()
            if time > 1:
                assert (weight != last[name])[weight != 0].float().mean() > 0.95
            last[name] = weight.clone()

    learn(network, 0.8, check)


def test_zeros_stay_where_several_optimizers_train_parts_of_the_network() -> None:
    network = build(SPEC, [3, 4])
    parts = [list(layer.parameters()) for layer in network if list(layer.parameters())]
    optimizers = {str(i): StackedOptimizer(OptimizerSettings("adam", 1e-2), part) for i, part in enumerate(parts)}
    optimizers["other"] = StackedOptimizer(OptimizerSettings(), build(SPEC, [3, 4]).parameters())
    agent: Any = SimpleNamespace(policy=lambda: SimpleNamespace(network=network), optimizers=optimizers)
    GradualPruning.of_policy(0.8, agent)
    assert [len(optimizer.hooks) for optimizer in optimizers.values()] == [1] * len(parts) + [0]
    generator = torch.Generator().manual_seed(0)
    for time in range(50, BUDGET + 1, 50):
        for name in map(str, range(len(parts))):
            optimizers[name].at(Clock(time, BUDGET))
            optimizers[name].step(loss_of(network, generator))
    assert [int(found[1].sum()) for found in zeros(network).values()] == [48, 77, 19]


def test_a_clock_that_jumps_over_the_end_prunes_all_at_once() -> None:
    network = build(SPEC, [3, 4])
    learn(network, 0.8, lambda time, metrics: None, clocks=range(10, BUDGET + 1, 95))  # 5 %, 52.5 % and 100 %
    assert [int(found[1].sum()) for found in zeros(network).values()] == [48, 77, 19]


@pytest.mark.parametrize("fresh_at", [20, 77, 100, 101, 190])
def test_who_goes_on_needs_to_know_nothing_but_the_weights(fresh_at: int) -> None:
    whole, broken = build(SPEC, [3, 4]), build(SPEC, [3, 4])
    told: list[Tensor] = []
    learn(whole, 0.8, lambda time, metrics: told.append(metrics["sparsity/zeros"]))
    learn(broken, 0.8, lambda time, metrics: assert_equal(metrics["sparsity/zeros"], told[time - 1]), fresh_at=fresh_at)
    for one, other in zip(whole.parameters(), broken.parameters(), strict=True):
        assert_equal(one, other)


def assert_equal(one: Tensor, other: Tensor) -> None:
    assert torch.equal(one, other)


def test_the_zeros_of_a_sparse_network_are_kept_from_the_start() -> None:
    network = pruned(0.5)
    before = zeros(network)
    learn(network, 0.8, lambda time, metrics: None, clocks=range(1, 20))
    assert all(torch.equal(found, before[name]) for name, found in zeros(network).items())
    learn(network, 0.3, lambda time, metrics: None)  # a smaller share brings none back
    assert all(torch.equal(found, before[name]) for name, found in zeros(network).items())


def test_members_that_stand_still_lose_weights_like_the_others_and_nothing_else() -> None:
    network = build(SPEC, [3, 4])
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = StackedOptimizer(OptimizerSettings("adam", 1e-2), network.parameters())
    optimizer.hooks.append(GradualPruning(0.8, network))
    only_first = torch.tensor([True, False])
    optimizer.at(Clock(BUDGET, BUDGET))
    optimizer.step(loss_of(network, torch.Generator().manual_seed(0)), members=only_first)
    for parameter, old in zip(network.parameters(), before, strict=True):
        left = parameter[1] != 0
        assert torch.equal(parameter[1][left], old[1][left])
    torch.testing.assert_close(sparsity(network), torch.full((2,), 144 / 180))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weight_masks(build(SPEC, [3]), 1.0), r"in \[0, 1\), not 1.0"),
        (lambda: weight_masks(build(SPEC, [3]), 0.5, "layers"), "Did you mean 'layer'"),
        (lambda: MaskedTraining(build(SPEC, [3]), 0.5, begin=7, end=7), "from update 7 to 7"),
        (lambda: MaskedTraining(build(SPEC, [3]), -0.1), r"in \[0, 1\), not -0.1"),
        (lambda: GradualPruning(float("nan"), build(SPEC, [3])), r"in \[0, 1\), not nan"),
        (lambda: GradualPruning(0.5, nn.ReLU()), "no weights in float"),
        (lambda: GradualPruning(0.5, build(with_lora(SPEC, 2, 4.0), [3])), "take another layer or strategy"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
