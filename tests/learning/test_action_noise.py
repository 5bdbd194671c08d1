"""Noise for sampled actions: of the right distribution, each member's its own, and continued to the very draw."""

import copy

import pytest
import torch

from rlab.learning.exploration import AHEAD, NOISE, ActionNoise
from rlab.networks.heads import STOCHASTIC_HEADS, head_class

EULER = 0.5772156649
# kind -> mean, variance, and the share of draws that is above 1
MOMENTS = {
    "gumbel": (EULER, torch.pi**2 / 6, 0.307799),  # 1 - exp(-exp(-1))
    "logistic": (0.0, torch.pi**2 / 3, 0.268941),  # 1 / (1 + e)
    "normal": (0.0, 1.0, 0.158655),
}


def draws(noise: ActionNoise, steps: int, num_envs: int = 3) -> torch.Tensor:
    """`[steps, S, N, width]`, copied: what `next` gives may be memory that is used again."""
    return torch.stack([noise.next(num_envs).clone() for _ in range(steps)])


def test_every_kind_has_moments_here_and_every_head_asks_for_a_kind() -> None:
    assert MOMENTS.keys() == NOISE.keys()
    assert {head_class(kind).noise for kind in STOCHASTIC_HEADS} <= NOISE.keys()


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_mean_variance_and_tail_are_those_of_the_distribution(kind: str) -> None:
    drawn = draws(ActionNoise(kind, 4, seeds=(1, 2)), 1000, num_envs=10).double()  # 40 000 for each member
    mean, variance, tail = MOMENTS[kind]
    for member in range(2):
        of_member = drawn[:, member]
        assert of_member.mean().item() == pytest.approx(mean, abs=0.04)  # 4 standard errors of the widest, 1.81 / 200
        assert of_member.var().item() == pytest.approx(variance, rel=0.07)
        assert (of_member > 1.0).double().mean().item() == pytest.approx(tail, abs=0.01)


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_noise_comes_as_float32_for_every_member_env_and_output(kind: str) -> None:
    first = ActionNoise(kind, 5, seeds=(1, 2)).next(3)
    assert first.shape == (2, 3, 5)
    assert first.dtype == torch.float32
    assert first.unique().numel() == 30  # no two share a draw


def test_a_member_draws_the_same_again_and_beside_any_others() -> None:
    steps = AHEAD + 5
    beside, alone = draws(ActionNoise("normal", 2, (1, 7, 9)), steps), draws(ActionNoise("normal", 2, (7,)), steps)
    assert torch.equal(beside[:, 1:2], alone)
    assert torch.equal(draws(ActionNoise("normal", 2, (7,)), steps), alone)
    assert not (beside[:, 0] == beside[:, 1]).any()
    assert alone.unique().numel() == alone.numel()  # nor do the steps drawn at once come twice


@pytest.mark.parametrize("steps", [0, 1, AHEAD - 1, AHEAD, AHEAD + 7])
@pytest.mark.parametrize("kind", sorted(NOISE))
def test_noise_goes_on_from_its_state_with_the_very_next_draw(kind: str, steps: int) -> None:
    one, other = ActionNoise(kind, 2, (3, 4)), ActionNoise(kind, 2, (3, 4))
    for _ in range(steps):
        one.next(3)
    draws(other, 11)  # whatever it has drawn before
    other.load_state(copy.deepcopy(one.state()))
    assert torch.equal(draws(one, AHEAD + 3), draws(other, AHEAD + 3))


def test_a_state_taken_twice_is_the_same_and_taking_it_draws_nothing() -> None:
    watched, plain = ActionNoise("gumbel", 2, (3,)), ActionNoise("gumbel", 2, (3,))
    for _ in range(AHEAD + 2):
        assert watched.state() == watched.state()
        assert torch.equal(watched.next(1), plain.next(1))


def test_noise_of_another_use_draws_other_numbers() -> None:
    first, again, other = (
        ActionNoise("normal", 2, (0, 1), use=use).next(3) for use in ("actions", "actions", "targets")
    )
    assert torch.equal(first, again)
    assert not (first == other).any()
