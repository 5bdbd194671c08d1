"""Noise by name: at every step it is standard normal; how steps resemble each other is the kind's."""

import pytest
import torch

from rlab.learning.exploration_noise import NOISES, ExplorationNoise

STEPS = 4_000
KINDS = pytest.mark.parametrize("kind", NOISES)


def series(kind: str, steps: int = STEPS, seeds: tuple[int, ...] = (3, 5), width: int = 2) -> torch.Tensor:
    """`[steps, S, N, width]` of 20 envs."""
    noise = ExplorationNoise(kind, width, seeds)
    return torch.stack([noise.next(20) for _ in range(steps)])


@KINDS
def test_every_kind_is_standard_normal_at_any_step(kind: str) -> None:
    seeds = tuple(range(250))
    noise = ExplorationNoise(kind, 2, seeds)
    for step in range(40):
        values = noise.next(20)
        if step in (0, 7, 39):  # 10 000 numbers: a mean is 0.01 off, a deviation 0.007, four times that once in 16 000
            assert values.shape == (250, 20, 2)
            assert abs(values.mean().item()) < 0.04
            assert abs(values.std().item() - 1.0) < 0.028
            assert abs((values.abs() < 1.0).float().mean().item() - 0.6827) < 0.02


@pytest.mark.parametrize(("kind", "lag", "expected"), [("normal", 1, 0.0), ("ornstein_uhlenbeck", 1, 0.85)])
def test_how_a_step_resembles_the_one_before(kind: str, lag: int, expected: float) -> None:
    values = series(kind)
    found = (values[lag:] * values[:-lag]).mean().item()
    assert found == pytest.approx(expected, abs=0.03)  # (1 - rate)^lag; 80 lanes of 4 000 steps


def test_ornstein_uhlenbeck_noise_of_one_lane_follows_its_formula() -> None:
    values, fresh = series("ornstein_uhlenbeck", 5), series("normal", 5)
    expected = fresh[0]
    for step in range(1, 5):
        expected = 0.85 * expected + (1 - 0.85**2) ** 0.5 * fresh[step]
        torch.testing.assert_close(values[step], expected, rtol=1e-5, atol=1e-6)


def test_the_power_of_pink_noise_falls_as_one_over_the_frequency() -> None:
    power = torch.fft.rfft(series("pink"), dim=0).abs().square().mean(dim=(1, 2, 3))  # 80 lanes
    # octaves of periods from 8 to 512 steps; 1/f is a slope of -1, white noise 0, a random walk -2
    octaves = [power[STEPS // period : 2 * STEPS // period].mean().log2() for period in (512, 256, 128, 64, 32, 16, 8)]
    slope = (octaves[-1] - octaves[0]) / 6
    assert slope.item() == pytest.approx(-1.0, abs=0.15)


@KINDS
def test_it_goes_on_where_it_was_saved_and_a_member_s_does_not_depend_on_others(kind: str) -> None:
    one, alone = ExplorationNoise(kind, 3, (3, 5)), ExplorationNoise(kind, 3, (5,))
    for _ in range(3):
        assert torch.equal(one.next(4)[1:], alone.next(4))
    other = ExplorationNoise(kind, 3, (3, 5))
    other.next(4)
    other.load_state(one.state())
    for _ in range(300):  # beyond what is worked out ahead
        assert torch.equal(one.next(4), other.next(4))
