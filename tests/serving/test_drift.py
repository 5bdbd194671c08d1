"""Drift is told within a thousand observations, and nothing is told of observations like those on record."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest

from rlab.jobs.observing import reference
from rlab.runs.observed import ObsReference
from rlab.serving.drift import BLOCK, LAGS, DriftDetector, by_lag, interleaved

Episodes = list[np.ndarray]  # [T, F] each
NAMES = ("x", "y", "noise", "touch")


def wandering(seed: int, count: int, steps: int = 200) -> Episodes:
    """Episodes of four features: two slow walks, each about a place of the episode's own, noise with long tails, and a
    flag that is seldom up."""
    rng = np.random.default_rng(seed)
    walks = np.zeros((count, steps, 2))
    walks[:, 0] = home = rng.normal(size=(count, 2))
    for t in range(1, steps):
        walks[:, t] = walks[:, t - 1] + 0.05 * (home - walks[:, t - 1]) + 0.1 * rng.normal(size=home.shape)
    rest = rng.standard_t(3, size=(count, steps)), walks[..., 0] > 1.2
    return list(np.concatenate([walks, np.stack(rest, axis=-1)], axis=-1))


def recorded(episodes: Episodes, names: tuple[str, ...] = NAMES) -> ObsReference:
    return reference(0, names, np.concatenate(episodes), np.array(list(map(len, episodes))))


def mixed(episodes: Episodes, at_once: int, rng: np.random.Generator) -> np.ndarray:
    """Observations of episodes of which so many go on at once, whose requests come in any order."""
    waiting = list(range(len(episodes)))
    going = [[waiting.pop(0), int(rng.integers(len(episodes[0])))] for _ in range(at_once)]
    found = []
    while waiting:
        one = going[rng.integers(at_once)]
        if one[1] >= len(episodes[one[0]]):
            one[:] = [waiting.pop(0), 0]
        found.append(episodes[one[0]][one[1]])
        one[1] += 1
    return np.array(found)


def watched(record: ObsReference, observations: np.ndarray, together: int = 20) -> DriftDetector:
    """A detector that was asked about these, so many at a time."""
    detector = DriftDetector(record)
    for first in range(0, len(observations), together):
        detector.add(observations[first : first + together])
    return detector


def found_after(record: ObsReference, observations: np.ndarray) -> int | None:
    """After how many observations there was an alarm."""
    detector = DriftDetector(record)
    for first in range(0, len(observations), 8):
        detector.add(observations[first : first + 8])
        if detector.alarms:
            return first + 8
    return None


def in_step(episodes: Episodes, at_once: int) -> np.ndarray:
    """Observations of so many envs that begin together and act in turn, as vector envs do."""
    waiting = iter(episodes)
    going = [[next(waiting), 0] for _ in range(at_once)]
    found = []
    while True:
        for one in going:
            if one[1] >= len(one[0]):
                following = next(waiting, None)
                if following is None:
                    return np.array(found)
                one[:] = [following, 0]
            found.append(one[0][one[1]])
            one[1] += 1


@pytest.fixture(scope="module")
def record() -> ObsReference:
    return recorded(wandering(0, 200))


def independent(episodes: Episodes, count: int, seed: int = 0) -> np.ndarray:
    rows = np.concatenate(episodes)
    return rows[np.random.default_rng(seed).integers(len(rows), size=count)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("feature", range(len(NAMES)))
def test_a_shift_of_one_standard_deviation_in_one_feature_is_told_within_1000(
    record: ObsReference, feature: int, sign: float
) -> None:
    observations = independent(wandering(1, 200), 1000)
    observations[:, feature] += sign * record.std[feature]
    detector = watched(record, observations)
    assert detector.drifting[feature]
    assert detector.drifting.sum() == 1
    told = detector.features()[feature]
    assert told.drifting
    if feature != 2:  # a standard deviation of long tails is more than most of the values
        assert told.shift == pytest.approx(sign, abs=0.5)


def test_a_shift_that_begins_in_the_middle_is_told_within_1000(record: ObsReference) -> None:
    detector = watched(record, independent(wandering(2, 200), 3000))
    assert detector.alarms == 0
    shifted = independent(wandering(1, 200), 1000)
    shifted[:, 0] += record.std[0]
    detector.add(shifted)
    assert detector.drifting.tolist() == [True, False, False, False]


def test_where_few_episodes_send_requests_in_turn_a_shift_takes_longer(record: ObsReference) -> None:
    for at_once, most in ((1, 16_000), (4, 40_000)):
        observations = mixed(wandering(2, 260), at_once, np.random.default_rng(0))[:most]
        observations[:, 0] += 2.0 * record.std[0]
        assert (found_after(record, observations) or 10**6) <= most


@pytest.mark.parametrize("at_once", [0, 1, 2, 8, 40])
def test_nothing_is_told_of_observations_like_those_on_record(record: ObsReference, at_once: int) -> None:
    episodes = wandering(3, 120)
    rng = np.random.default_rng(at_once)
    observations = mixed(episodes, at_once, rng) if at_once else independent(episodes, 16_000)
    detector = watched(record, observations)
    assert detector.observations >= 12_000
    assert detector.alarms == 0


@pytest.mark.parametrize("at_once", [2, 16, 48, 120])
def test_nothing_is_told_of_envs_that_begin_together_and_act_in_turn(record: ObsReference, at_once: int) -> None:
    episodes = [episode[:100] for episode in wandering(3, 340)]
    for episode in episodes:
        episode[:, 2] = np.linspace(-1, 1, 100)  # all are in the same phase
    assert watched(recorded(episodes[:100]), in_step(episodes[100:], at_once)).alarms == 0


def test_nothing_is_told_where_many_episodes_become_one_and_many_again(record: ObsReference) -> None:
    many, one = independent(wandering(4, 60), 3000), np.concatenate(wandering(5, 10))
    detector = watched(record, np.concatenate([many, one, many, one[:500], many]))
    assert detector.alarms == 0


def test_another_spread_and_a_sensor_that_stands_still_are_told(record: ObsReference) -> None:
    wider = independent(wandering(6, 50), 1000)
    wider[:, 2] *= 3.0
    told = watched(record, wider).features()[2]
    assert (told.drifting, told.what) == (True, "spread")
    still = independent(wandering(6, 50), 1000)
    still[:, 2] = 0.0
    told = watched(record, still).features()[2]
    assert (told.drifting, told.what) == (True, "spread")


def test_an_alarm_is_counted_once_and_ends_when_observations_are_again_as_on_record(record: ObsReference) -> None:
    usual, shifted = independent(wandering(7, 60), 12_000), independent(wandering(8, 60), 2000)
    shifted[:, 0] += 2.0
    detector = watched(record, np.concatenate([usual[:1000], shifted]))
    assert (detector.alarms, detector.drifting.tolist()) == (1, [True, False, False, False])
    for _ in range(4):
        detector.add(usual)
    assert (detector.alarms, detector.drifting.any()) == (1, False)


def test_the_size_of_batches_makes_no_difference(record: ObsReference) -> None:
    observations = independent(wandering(9, 60), 2000)
    observations[:, 0] += 0.5
    whole, single = (watched(record, observations, size) for size in (2000, 1))
    assert whole.features() == single.features()
    assert (whole.observations, whole.alarms) == (single.observations, single.alarms)


@pytest.mark.parametrize("at_once", [1, 2, 4, 8, 16, 32, 64])
def test_how_many_episodes_go_on_at_once_shows_in_the_observations(record: ObsReference, at_once: int) -> None:
    observations = mixed(wandering(10, 300), at_once, np.random.default_rng(1))[: 200 * BLOCK]
    blocks = [observations[i : i + BLOCK] for i in range(0, len(observations), BLOCK)]
    before = [np.concatenate(blocks[max(0, i - 2) : i] or [observations[:0]]) for i in range(len(blocks))]
    close = [by_lag(record.closeness, *pair) for pair in zip(blocks, before, strict=True)]
    found = [interleaved(record.closeness, close[i - 16 : i])[0] for i in range(16, len(close))]
    assert at_once / 2 <= np.median(found) <= 1.2 * at_once  # it errs on the side of few


def test_pairs_are_counted_by_how_far_they_are_apart() -> None:
    record = recorded([np.arange(10.0)[:, None]] * 6, ("x",))
    # A block of 3 behind 2: at lag 1 there are three pairs, a step apart each; at lag 4 one.
    sums, pairs = by_lag(record.closeness, np.array([[2.0], [3.0], [4.0]]), np.array([[0.0], [1.0]]))
    assert pairs.tolist() == [3, 3, 2, 1] + [0] * (LAGS - 4)
    close = [np.exp(-0.5 * (lag / 2) ** 2) for lag in (1, 2, 3, 4)]  # steps of 1, compared in twice that
    assert sums[:4] == pytest.approx(np.array(close) * [3, 3, 2, 1])


def test_where_observations_are_noise_it_makes_no_difference_how_many_episodes_there_are() -> None:
    noise = [np.random.default_rng(seed).normal(size=(50, 1)) for seed in range(40)]
    record = recorded(noise, ("x",))
    assert interleaved(record.closeness, [np.ones((2, LAGS))]) == (1.0, False)
    shifted = np.concatenate(noise) + 1.0
    assert (found_after(record, shifted[:1000]) or 10_000) <= 1000


def test_features_that_never_move_are_told_when_they_do() -> None:
    episodes = [np.concatenate([part, np.full((len(part), 1), 3.0)], axis=1) for part in wandering(11, 100)]
    record = recorded(episodes, (*NAMES, "still"))
    rows = independent(episodes, 2000)
    detector = watched(record, rows)
    assert detector.alarms == 0
    assert [each.shift for each in detector.features()][-1] == 0.0
    rows[:, -1] = 3.1
    assert watched(record, rows).drifting.tolist() == [False] * 4 + [True]


def played(env: gym.Env, act: Callable[[np.ndarray], int], seed: int, steps: int) -> Episodes:
    episodes: Episodes = []
    while sum(map(len, episodes)) < steps:
        obs, _ = env.reset(seed=seed + len(episodes))
        rows, over = [], False
        while not over:
            rows.append(np.array(obs, np.float64))
            obs, _, terminated, truncated, _ = env.step(act(obs))
            over = terminated or truncated
        episodes.append(np.array(rows))
    return episodes


@pytest.mark.prove
@pytest.mark.parametrize("name", ["CartPole-v1", "LunarLander-v3"])
def test_in_100_000_observations_of_real_episodes_there_is_no_alarm_and_a_shift_is_told_within_1000(name: str) -> None:
    if name == "CartPole-v1":
        gains = np.array([0.1, 0.5, 1.0, 1.0])
        env, act = gym.make(name), lambda obs: int(obs @ gains > 0)
    else:
        lander = pytest.importorskip("gymnasium.envs.box2d.lunar_lander", reason="Box2D is not installed")
        env = gym.make(name)
        act = lambda obs: lander.heuristic(env.unwrapped, obs)  # noqa: E731
    first, later = played(env, act, 100_000, 1), played(env, act, 5000, 100_000)
    first = [episode for seed in range(100) for episode in played(env, act, 100_000 + seed, 1)]
    record = recorded(first, tuple(f"obs[{i}]" for i in range(first[0].shape[1])))
    rng = np.random.default_rng(0)
    streams = {"independent": independent(later, 100_000), "consecutive": np.concatenate(later)[:100_000]}
    streams |= {f"{at_once} in any order": mixed(later, at_once, rng)[:100_000] for at_once in (2, 8, 32)}
    streams |= {f"{at_once} in step": in_step(later, at_once)[:100_000] for at_once in (16, 100)}
    for stream, observations in streams.items():
        assert watched(record, observations).alarms == 0, stream
    for feature in range(len(record.features)):
        for sign in (1.0, -1.0):
            shifted = independent(later, 1000, seed=feature)
            shifted[:, feature] += sign * record.std[feature]
            assert (found_after(record, shifted) or 10_000) <= 1000, (feature, sign)
