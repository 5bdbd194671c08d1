"""The arithmetic of policy gradients: against slow sums over each episode, finite differences and paper."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from rlab.learning.policy_gradient import (
    clipped_surrogate,
    completed,
    explained_variance,
    gae,
    kl_estimate,
    mean,
    normalised,
    returns_to_go,
    value_loss,
)

# Against the slow reference. float32, in which agents compute, is judged by the size of the numbers that it sums.
FLOAT64_ERROR, FLOAT32_ERROR = 1e-10, 1e-5


@dataclass(frozen=True)
class Rollout:
    """Lanes `[lanes, T]` of any endings: `.` goes on, `T`erminates, is `C`ut, `B`oth at once."""

    flags: list[str]
    gamma: float
    gae_lambda: float
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.flags), len(self.flags[0])

    def numbers(self) -> list[np.ndarray]:
        """Rewards, values, and values of successors, each of its own: a successor is not always the next row."""
        return list(np.random.default_rng(self.seed).normal(size=(3, *self.shape)))

    def endings(self) -> tuple[np.ndarray, np.ndarray]:
        """`terminated` and `truncated`."""
        letters = np.array([list(lane) for lane in self.flags])
        return np.isin(letters, ("T", "B")), np.isin(letters, ("C", "B"))


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    steps = draw(st.integers(1, 24))
    lane = st.text(st.sampled_from("......TCB"), min_size=steps, max_size=steps)
    share = st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0)
    return Rollout(draw(st.lists(lane, min_size=1, max_size=3)), draw(share), draw(share), draw(st.integers(0, 2**32)))


def episodes(terminated: np.ndarray, truncated: np.ndarray) -> list[range]:
    """The stretches of one lane `[T]` that belong to one episode each."""
    last = [t for t in range(len(terminated)) if terminated[t] or truncated[t] or t == len(terminated) - 1]
    return [range(begin, end + 1) for begin, end in zip([0, *(t + 1 for t in last)], last, strict=False)]


def slow_gae(
    reward: np.ndarray,
    value: np.ndarray,
    next_value: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Equation 16 for one lane `[T]`: every row sums (gamma lambda)^k times the TD errors of its own episode."""
    advantage = np.zeros(len(reward))
    for episode in episodes(terminated, truncated):
        for t, u in itertools.product(episode, episode):
            if u >= t:
                bootstrap = 0.0 if terminated[u] else gamma * next_value[u]
                advantage[t] += (gamma * gae_lambda) ** (u - t) * (reward[u] + bootstrap - value[u])
    return advantage


def slow_returns_to_go(
    reward: np.ndarray, next_value: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, gamma: float
) -> np.ndarray:
    """For one lane `[T]`: every row sums gamma^k times the rewards of its own episode, and what follows its end."""
    returns = np.zeros(len(reward))
    for episode in episodes(terminated, truncated):
        last = episode[-1]
        for t in episode:
            returns[t] = sum(gamma ** (u - t) * reward[u] for u in episode if u >= t)
            returns[t] += 0.0 if terminated[last] else gamma ** (last + 1 - t) * next_value[last]
    return returns


def check_against_the_slow_reference(case: Rollout) -> None:
    (reward, value, next_value), (terminated, truncated) = case.numbers(), case.endings()
    gamma, gae_lambda = case.gamma, case.gae_lambda
    lanes = range(case.shape[0])
    advantages = [
        slow_gae(reward[i], value[i], next_value[i], terminated[i], truncated[i], gamma, gae_lambda) for i in lanes
    ]
    returns = [slow_returns_to_go(reward[i], next_value[i], terminated[i], truncated[i], gamma) for i in lanes]
    flags = tensor(terminated), tensor(truncated)
    for dtype, allowed in ((torch.float64, FLOAT64_ERROR), (torch.float32, FLOAT32_ERROR)):
        r, v, v_next = (tensor(x, dtype=dtype) for x in (reward, value, next_value))
        for quick, slow in (
            (gae(r, v, v_next, *flags, gamma, gae_lambda), np.array(advantages)),
            (returns_to_go(r, v_next, *flags, gamma), np.array(returns)),
        ):
            assert quick.dtype == dtype
            error = np.abs(quick.double().numpy() - slow).max()
            assert error < allowed * (1.0 if dtype == torch.float64 else 1.0 + np.abs(slow).max())


@given(rollouts())
def test_gae_and_returns_to_go_equal_sums_over_each_episode(case: Rollout) -> None:
    check_against_the_slow_reference(case)


@pytest.mark.prove
@settings(max_examples=10_000)
@given(rollouts())
def test_gae_and_returns_to_go_equal_sums_over_each_episode_ten_thousand_times(case: Rollout) -> None:
    check_against_the_slow_reference(case)


@given(rollouts())
def test_completed_marks_the_rows_whose_episode_terminates(case: Rollout) -> None:
    terminated, truncated = case.endings()
    expected = [
        [bool(terminated[i, episode[-1]]) for episode in episodes(terminated[i], truncated[i]) for _ in episode]
        for i in range(case.shape[0])
    ]
    assert completed(tensor(terminated), tensor(truncated)).tolist() == expected


def row(*values: float) -> Tensor:
    return tensor(values, dtype=torch.float64)


def flags(letters: str) -> tuple[Tensor, Tensor]:
    """`terminated` and `truncated` of one lane."""
    terminated, truncated = Rollout([letters], 0.0, 0.0, 0).endings()
    return tensor(terminated[0]), tensor(truncated[0])


def test_lambda_zero_keeps_the_terminal_reward() -> None:
    advantage = gae(row(0, 5), row(1, 2), row(2, 9), *flags(".T"), gamma=0.5, gae_lambda=0.0)
    assert advantage.tolist() == [0.0, 3.0]  # 0 + 0.5*2 - 1 ;  5 - 2, whatever is said to follow


def test_the_last_row_bootstraps_from_what_it_led_to() -> None:
    advantage = gae(row(1, 1), row(2, 3), row(3, 8), *flags(".."), gamma=0.5, gae_lambda=0.5)
    # delta: 1 + 0.5*3 - 2 = 0.5 ;  1 + 0.5*8 - 3 = 2. The first adds 0.25 of the second
    assert advantage.tolist() == [1.0, 2.0]
    assert returns_to_go(row(1, 1), row(3, 8), *flags(".."), gamma=0.5).tolist() == [3.5, 5.0]  # 1 + 0.5*5 ;  1 + 0.5*8


def test_a_time_limit_neither_leaks_nor_zeroes() -> None:
    reward, value, next_value = row(1, 1, 100), row(2, 2, 2), row(2, 10, 4)
    advantage = gae(reward, value, next_value, *flags(".C."), gamma=0.5, gae_lambda=1.0)
    # 1 + 0.5*10 - 2 = 4: zeroed it would be -1, and leaking 4 + 0.5*100. Before it 1 + 0.5*2 - 2 + 0.5*4
    assert advantage.tolist() == [2.0, 4.0, 100.0]
    returns = returns_to_go(reward, next_value, *flags(".C."), gamma=0.5)
    assert returns.tolist() == [4.0, 6.0, 102.0]  # 1 + 0.5*6 ;  1 + 0.5*10 ;  100 + 0.5*4


def test_both_flags_at_once_are_a_termination() -> None:
    both, ended = flags("B"), flags("T")
    numbers = row(1), row(2), row(50)
    assert gae(*numbers, *both, 0.5, 0.9).tolist() == gae(*numbers, *ended, 0.5, 0.9).tolist() == [-1.0]  # 1 - 2
    assert returns_to_go(row(1), row(50), *both, 0.5).tolist() == [1.0]
    assert completed(*both).tolist() == [True]


def test_an_episode_that_was_cut_is_not_completed() -> None:
    assert completed(*flags("..T.C.B..")).tolist() == [*[True] * 3, *[False] * 2, *[True] * 2, *[False] * 2]


def test_whatever_a_reset_row_holds_reaches_no_other_row() -> None:
    # An env that spends a row on the reset: that row, the third, follows an end and has no flag of its own.
    terminated, truncated = flags(".T...")
    gaes, returns = [], []
    for junk in (0.0, 1e6):
        reward, value, next_value = row(1, 2, junk, 3, 4), row(5, 6, junk, 7, 8), row(6, 9, junk, 8, 1)
        gaes.append(gae(reward, value, next_value, terminated, truncated, 0.9, 0.8))
        returns.append(returns_to_go(reward, next_value, terminated, truncated, 0.9))
    for calm, wild in (gaes, returns):
        others = [0, 1, 3, 4]
        assert calm[others].tolist() == wild[others].tolist()


@given(rollouts())
def test_lambda_one_is_the_return_less_the_value(case: Rollout) -> None:
    (reward, value, next_value), (terminated, truncated) = case.numbers(), case.endings()
    goes_on = ~(terminated | truncated)[:, :-1]
    next_value[:, :-1][goes_on] = value[:, 1:][goes_on]  # one value function: the sum telescopes
    r, v, v_next, ended, cut = (tensor(x) for x in (reward, value, next_value, terminated, truncated))
    returns = returns_to_go(r, v_next, ended, cut, case.gamma)
    torch.testing.assert_close(gae(r, v, v_next, ended, cut, case.gamma, 1.0), returns - v, rtol=0, atol=1e-10)


@pytest.mark.parametrize("which", range(5))
def test_a_column_that_would_broadcast_is_refused(which: int) -> None:
    rollout = [torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3) > 0, torch.zeros(2, 3) > 0]
    rollout[which] = rollout[which].unsqueeze(-1)
    with pytest.raises(ValueError, match=r"shapes must be equal: reward .*\(2, 3, 1\)"):
        gae(*rollout, 0.9, 0.9)
    if which != 1:
        del rollout[1]
        with pytest.raises(ValueError, match=r"shapes must be equal: reward .*\(2, 3, 1\)"):
            returns_to_go(*rollout, 0.9)


def test_losses_and_means_refuse_a_column_too() -> None:
    rows, column = torch.zeros(2, 3), torch.zeros(2, 3, 1)
    with pytest.raises(ValueError, match=r"ratio \(2, 3, 1\), advantage \(2, 3\)"):
        clipped_surrogate(column, rows, 0.2)
    with pytest.raises(ValueError, match=r"value \(2, 3, 1\), target \(2, 3\)"):
        value_loss(column, rows)
    with pytest.raises(ValueError, match=r"value \(2, 3\), old_value \(2, 3, 1\)"):
        value_loss(rows, rows, column, 0.2)
    with pytest.raises(ValueError, match=r"value \(2, 3, 1\), weight \(2, 3\)"):
        mean(column, rows)


CLIP = 0.2


def slope(log_ratio: float, advantage: float) -> float:
    """The derivative of PPO's loss by the log ratio."""
    at = row(log_ratio).requires_grad_()
    clipped_surrogate(at.exp(), row(advantage), CLIP).sum().backward()
    assert at.grad is not None
    return at.grad.item()


@pytest.mark.parametrize("seed", range(5))
def test_the_surrogate_s_gradient_equals_finite_differences(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_ratio, advantage = torch.randn(2, 2, 40, generator=generator, dtype=torch.float64)
    kink = torch.minimum((log_ratio.exp() - 1.0 - CLIP).abs(), (log_ratio.exp() - 1.0 + CLIP).abs())
    log_ratio = torch.where(kink > 1e-3, log_ratio, 0.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_surrogate(x.exp(), advantage, CLIP), log_ratio)


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_the_value_loss_s_gradient_equals_finite_differences(seed: int, clip: float | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    value, target, old = torch.randn(3, 2, 40, generator=generator, dtype=torch.float64)
    moved = value - old
    held = old + moved.clamp(-0.3, 0.3)
    # away from where the value is just held, and where both losses just meet: held + value = 2 * target
    kink = torch.minimum((moved.abs() - 0.3).abs(), torch.where(moved.abs() > 0.3, held + value - 2 * target, 1).abs())
    value = torch.where(kink > 1e-3, value, old).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value_loss(x, target, old, clip), value)


def test_a_ratio_of_one_gives_minus_the_advantage_and_that_as_its_gradient() -> None:
    assert clipped_surrogate(row(1, 1, 1), row(-2, 0, 3), CLIP).tolist() == [2, 0, -3]
    assert [slope(0.0, advantage) for advantage in (-2.0, 0.0, 3.0)] == [2.0, 0.0, -3.0]


def test_the_clipped_branch_has_exactly_no_gradient_and_the_pessimistic_one_all_of_it() -> None:
    up, down = math.log(1.5), math.log(0.5)
    losses = clipped_surrogate(row(1.5, 0.5, 1.5, 0.5), row(2, -2, -2, 2), CLIP)
    # clipped at 1.2 and 0.8: -2 * 1.2, 2 * 0.8. Where moving on would cost, nothing is clipped: 2 * 1.5, -2 * 0.5
    assert losses.tolist() == pytest.approx([-2.4, 1.6, 3.0, -1.0])
    assert slope(up, 2.0) == 0.0
    assert slope(down, -2.0) == 0.0
    assert slope(up, -2.0) == pytest.approx(3.0)  # -advantage * ratio
    assert slope(down, 2.0) == pytest.approx(-1.0)


def test_the_value_loss_on_numbers_worked_by_hand() -> None:
    assert value_loss(row(1, 5), row(2, 2)).tolist() == [0.5, 4.5]
    # From 0 a value may move by 1. Held at 1, 3 is 1 above the target 0 and pays 0.5, but 4.5 is more; held at 1, the
    # target 3 is missed by 2: 2 instead of 0; within the limit nothing is held.
    clipped = value_loss(row(3, 3, 0.5), row(0, 3, 2), row(0, 0, 0), clip=1.0)
    assert clipped.tolist() == [4.5, 2.0, 1.125]
    assert value_loss(row(3), row(0), row(0)).tolist() == [4.5]  # without a clip the old value says nothing


def test_a_value_that_is_held_has_exactly_no_gradient() -> None:
    value = row(3, 0.5).requires_grad_()
    value_loss(value, row(3, 2), row(0, 0), clip=1.0).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0.0, -1.5]  # held ;  0.5 - 2


def test_means_count_only_the_rows_that_have_weight() -> None:
    value, weight = tensor([[1.0, 5.0, 9.0], [4.0, 4.0, 4.0]]), tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert mean(value, weight).tolist() == [3.0, 0.0]  # (1 + 5) / 2 ;  nothing to average


def test_normalised_on_numbers_worked_by_hand() -> None:
    value, weight = tensor([[1.0, 3.0, 99.0]]), tensor([[1.0, 1.0, 0.0]])
    assert normalised(value, weight)[0, :2].tolist() == pytest.approx([-1.0, 1.0])  # mean 2, deviation 1
    ten = normalised(10.0 * value, weight)[0, :2]
    assert ten.tolist() == pytest.approx([-1.0, 1.0])


def test_one_row_normalised_by_itself_is_zero() -> None:
    assert normalised(tensor([[7.3]]), tensor([[1.0]])).tolist() == [[0.0]]
    assert normalised(tensor([[7.3, 5.0]]), tensor([[1.0, 0.0]]))[0, 0].item() == 0.0
    assert normalised(tensor([[7.3]]), tensor([[0.0]])).isfinite().all()


@pytest.mark.parametrize("rows", [2, 7, 64, 1000])
@pytest.mark.parametrize("value", [0.1, 1e-6, 1000.1])
def test_rows_that_are_all_alike_are_zero_and_no_rounding_error_is_blown_up(value: float, rows: int) -> None:
    # 0.1 times 7, added up and divided by 7, is not 0.1 in float32
    assert normalised(torch.full((1, rows), value), torch.ones(1, rows)).abs().max() == 0.0


def test_members_are_normalised_each_by_itself() -> None:
    value = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * tensor([[1.0], [100.0], [0.01]]) + 5.0
    together = normalised(value, torch.ones(3, 50))
    for i in range(3):
        assert torch.equal(together[i : i + 1], normalised(value[i : i + 1], torch.ones(1, 50)))
    torch.testing.assert_close(together.mean(dim=1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.var(dim=1, unbiased=False), torch.ones(3), rtol=0, atol=1e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(-(2.0**99), 2.0**99, width=32), st.integers(0, 2**9))
def test_a_row_without_weight_never_changes_anything(counts: list[bool], junk: float, seed: int) -> None:
    rng, kept = np.random.default_rng(seed), tensor(counts)
    value, target = (tensor(x, dtype=torch.float32)[None] for x in rng.normal(size=(2, len(counts))))
    weight = kept.float()[None]
    spoiled_value, spoiled_target = (torch.where(kept, x, junk) for x in (value, target))
    assert torch.equal(mean(value, weight), mean(spoiled_value, weight))
    assert torch.equal(normalised(value, weight)[:, kept], normalised(spoiled_value, weight)[:, kept])
    explained = explained_variance(value, target, weight)
    assert torch.equal(explained, explained_variance(spoiled_value, spoiled_target, weight))
    if kept.any():  # and it is as if the row were not there
        ones = torch.ones(1, int(kept.sum()))
        torch.testing.assert_close(mean(value, weight), mean(value[:, kept], ones), rtol=1e-5, atol=1e-6)
        without = normalised(value[:, kept], ones)
        torch.testing.assert_close(normalised(value, weight)[:, kept], without, rtol=1e-4, atol=1e-5)
        without = explained_variance(value[:, kept], target[:, kept], ones)
        torch.testing.assert_close(explained, without, rtol=1e-4, atol=1e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(-3.0, 3.0), st.integers(0, 2**32))
def test_a_row_without_weight_takes_no_part_in_the_gradient(counts: list[bool], junk: float, seed: int) -> None:
    def gradient(spoiled: bool) -> Tensor:
        log_ratio, advantage = (tensor(x)[None] for x in np.random.default_rng(seed).normal(size=(2, len(counts))))
        if spoiled:
            log_ratio, advantage = (torch.where(kept, x, junk) for x in (log_ratio, advantage))
        log_ratio = log_ratio.requires_grad_()
        loss = clipped_surrogate(log_ratio.exp(), normalised(advantage, weight), CLIP)
        (found,) = torch.autograd.grad(mean(loss, weight).sum(), log_ratio)
        return found

    kept, weight = tensor(counts), tensor([counts]).double()
    plain, spoiled = gradient(False), gradient(True)
    assert torch.equal(plain[:, kept], spoiled[:, kept])
    assert (spoiled[:, ~kept] == 0.0).all()


def test_explained_variance_is_one_for_the_target_itself_and_zero_for_a_constant() -> None:
    target, ones = tensor([[1.0, 2.0, 6.0]]), torch.ones(1, 3)
    assert explained_variance(target, target, ones).tolist() == [1.0]
    assert explained_variance(target + 50.0, target, ones).tolist() == [1.0]  # an offset varies nothing
    assert explained_variance(torch.full((1, 3), 3.0), target, ones).item() == pytest.approx(0.0, abs=1e-6)
    # targets 1, 2, 6 less 2, 4, 12 are -1, -2, -6: as much is left as there was
    assert explained_variance(2 * target, target, ones).item() == pytest.approx(0.0, abs=1e-6)
    assert explained_variance(-target, target, ones).item() == pytest.approx(-3.0)  # 1 - 2^2


@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 1000.1, 1e6])
def test_targets_that_do_not_vary_are_explained_by_zero_also_where_they_are_rounded(size: float) -> None:
    value, ones = torch.randn(1, 100, generator=torch.Generator().manual_seed(0)), torch.ones(1, 100)
    target = torch.full((1, 100), size)
    assert explained_variance(value, target, ones).tolist() == [0.0]
    target[0, ::2] *= 1.0 + 1e-6
    assert explained_variance(value, target, ones).tolist() == [0.0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_explained_variance_does_not_depend_on_the_unit_of_rewards(scale: float) -> None:
    value, target = torch.randn(2, 1, 100, generator=torch.Generator().manual_seed(0))
    explained = explained_variance(scale * value, scale * target, torch.ones(1, 100)).item()
    assert explained == pytest.approx(1.0 - ((target - value).var() / target.var()).item(), rel=1e-4)


@given(st.floats(-80.0, 80.0, width=32))
def test_the_kl_estimate_is_never_negative(log_ratio: float) -> None:
    assert kl_estimate(tensor(log_ratio)).item() >= 0.0


@pytest.mark.parametrize("log_ratio", [-1e-2, -1e-4, 3e-5, 1e-3])
def test_the_kl_estimate_keeps_its_digits_where_a_policy_has_hardly_moved(log_ratio: float) -> None:
    half_square = log_ratio**2 / 2 * (1 + log_ratio / 3)  # the first terms of the series
    assert kl_estimate(tensor(log_ratio)).item() == pytest.approx(half_square, rel=0.05)


def test_the_kl_estimate_averages_to_the_divergence_of_the_old_policy_from_the_new_one() -> None:
    old, new = row(0.2, 0.3, 0.5), row(0.6, 0.3, 0.1)
    estimate = (old * kl_estimate((new / old).log())).sum()
    assert estimate.item() == pytest.approx((old * (old / new).log()).sum().item())


def expected_gradient(theta: Tensor, baseline: tuple[float, float], how: str) -> tuple[Tensor, Tensor]:
    """The exact mean and the mean square of the policy gradient, over every course of a two-armed bandit pulled twice.

    The second pull pays 3 more after arm 1. `baseline` is what the two states, before each pull, are said to be worth.
    """
    gamma, terminated, truncated = 0.5, *flags(".T")
    total, square = torch.zeros_like(theta), torch.zeros_like(theta)
    for arms in itertools.product((0, 1), repeat=2):
        log_prob = torch.stack([theta[t].log_softmax(dim=-1)[arm] for t, arm in enumerate(arms)])
        reward, value = row(1.0 + arms[0], 2.0 * arms[1] + 3.0 * arms[0]), row(*baseline)
        next_value = row(baseline[1], 1e6)  # nothing follows the second
        if how == "gae":
            advantage = gae(reward, value, next_value, terminated, truncated, gamma, 1.0)
        else:
            advantage = returns_to_go(reward, next_value, terminated, truncated, gamma) - value
        discount = row(1.0, gamma)  # of the states, so that this is the gradient of the discounted return
        (gradient,) = torch.autograd.grad((discount * advantage * log_prob).sum(), theta)
        probability = log_prob.sum().exp().detach()
        total, square = total + probability * gradient, square + probability * gradient.square()
    return total, square


@pytest.mark.parametrize("how", ["gae", "returns_to_go"])
def test_a_baseline_leaves_the_expected_policy_gradient_unchanged_and_can_lower_its_variance(how: str) -> None:
    theta = row(0.3, -0.4, 0.1, 0.7).reshape(2, 2).requires_grad_()
    first, second = theta.softmax(dim=-1)
    # paid at once 1 or 2; half of what comes after: 2 for arm 1, and 3 more after arm 1
    expected_return = 1.0 + first[1] + 0.5 * (2.0 * second[1] + 3.0 * first[1])
    (true,) = torch.autograd.grad(expected_return, theta)
    plain, square = expected_gradient(theta, (0.0, 0.0), how)
    torch.testing.assert_close(plain, true)
    for baseline in ((5.0, 0.0), (0.0, -7.0), (2.0, 3.0)):
        torch.testing.assert_close(expected_gradient(theta, baseline, how)[0], true)
    good = expected_gradient(theta, (2.4, 2.5), how)[1]  # near what the states are worth
    assert (good.sum() - true.square().sum()) < 0.5 * (square.sum() - true.square().sum())
