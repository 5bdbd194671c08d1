"""Who is better: numbers worked on paper, simulated truth, and the recorded results split in halves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import rlab.experiments
from rlab.errors import RlabError, UsageError
from rlab.evaluation.comparison import (
    BETTER,
    EPISODES,
    NO_DIFFERENCE,
    SEEDS,
    WORSE,
    Side,
    level_of_each,
    pair,
)
from rlab.evaluation.differences import difference_spread
from rlab.evaluation.quantiles import student_t

RECORDED = sorted(Path(str(rlab.experiments.__file__)).parent.glob("*-v*.result.json"))


def side(name: str, returns: object) -> Side:
    table = np.array(returns, np.float64)
    return Side(name, tuple(range(len(table))), table)


def test_members_without_shared_episodes_are_welch_s_test() -> None:
    """Rows that do not vary over episodes: means 1 2 3 and 5 9, so that the interval is the textbook's."""
    a, b = side("a", [[1.0] * 4, [2.0] * 4, [3.0] * 4]), side("b", [[5.0] * 4, [9.0] * 4])
    spread = difference_spread(a.returns, b.returns)
    assert spread is not None
    # variances of the means: 1 / 3 and 8 / 2; Satterthwaite: (13/3)^2 / ((1/3)^2 / 2 + 4^2 / 1)
    assert (spread.of_seeds, spread.of_episodes) == (pytest.approx(13 / 3), 0.0)
    assert spread.freedom == pytest.approx((13 / 3) ** 2 / (1 / 18 + 16))
    found = pair(a, b)
    assert found.difference is not None
    assert found.difference.estimate == -5.0
    assert found.difference.high == pytest.approx(-5.0 + student_t(0.95, spread.freedom) * math.sqrt(13 / 3))
    assert (found.verdict, found.about, found.identical) == (NO_DIFFERENCE, SEEDS, False)


def test_single_policies_are_compared_over_episodes_alone_and_say_so() -> None:
    """Gaps 1 2 3 4: mean 2.5, standard error sqrt(5/3 / 4); an easy episode gives 100 to both and cancels."""
    found = pair(side("a", [[101.0, 3.0, 5.0, 7.0]]), side("b", [[100.0, 1.0, 2.0, 3.0]]))
    half = 3.18244630528 * math.sqrt(5 / 12)
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))
    assert (found.verdict, found.about, found.improvement) == (BETTER, EPISODES, None)
    assert found.lines()[0] == "a is better than b, by 2.50 [0.45, 4.55], 95 % interval for other episodes"
    assert found.lines()[-1] == (
        "a and b have one training seed each: nothing is shown about other seeds; train more, for example --seeds 10"
    )


def test_the_same_members_before_and_after_are_compared_member_by_member() -> None:
    """Members 0, 100 and 200 lose 1, 2 and 3: mean 2, error sqrt(1 / 3), which their own differences would drown."""
    before = np.array([[0.0] * 5, [100.0] * 5, [200.0] * 5])
    after = before - np.array([[1.0], [2.0], [3.0]])
    apart = pair(side("after", after), side("before", before))
    paired = pair(side("after", after), side("before", before), same_members=True)
    assert (apart.verdict, paired.verdict) == (NO_DIFFERENCE, NO_DIFFERENCE)
    assert paired.difference is not None
    assert paired.difference.high == pytest.approx(-2.0 + 4.30265272991 / math.sqrt(3))
    assert paired.smallest == pytest.approx((4.30265272991 + 1.06066017178) / math.sqrt(3))  # t of 0.6 at 2: 1.0607
    assert paired.improvement is None
    ten = np.arange(10.0)[:, None] * np.ones(5)
    lost = pair(side("after", 2 * ten - 20), side("before", 2 * ten), same_members=True)
    assert lost.verdict == WORSE
    assert lost.lines()[0].startswith("after is worse than before, by 20.00 [20.00, 20.00]")


def test_episodes_that_are_shared_do_not_count_twice() -> None:
    """Seed effects -1 and 1 on both sides, an episode effect of the gap of -3 and 3: no residual at all."""
    seeds, gap = np.array([[-1.0], [1.0]]), np.array([[-3.0, 3.0]])
    spread = difference_spread(seeds + gap, seeds + 0 * gap)
    assert spread is not None
    assert spread.of_seeds == pytest.approx(2 / 2 + 2 / 2)
    assert spread.of_episodes == pytest.approx(18 / 2)


def test_what_neither_seed_nor_episode_explains_counts_once() -> None:
    """The variance of the mean of all returns is that of one return over their number, where nothing else varies."""
    rng = np.random.default_rng(0)
    totals = []
    for _ in range(400):
        spread = difference_spread(rng.normal(size=(8, 16)), rng.normal(size=(8, 16)))
        assert spread is not None
        totals.append(spread.of_seeds + spread.of_episodes)
    assert np.mean(totals) == pytest.approx(2 / (8 * 16), rel=0.25)  # counted twice it would be 2.0 of that


def test_a_side_compared_with_itself_is_no_different() -> None:
    returns = [[1.0, 5.0], [2.0, 9.0]]
    found = pair(side("a", returns), side("a (2)", returns))
    assert (found.identical, found.verdict) == (True, NO_DIFFERENCE)
    assert found.lines() == ["no difference: a and a (2) return the same in every episode"]


def test_one_episode_of_one_policy_shows_nothing() -> None:
    found = pair(side("a", [[1.0]]), side("b", [[5.0]]))
    assert (found.verdict, found.difference) == (NO_DIFFERENCE, None)
    assert found.lines() == ["a and b cannot be told apart by one episode; give --episodes 100"]


def test_one_episode_of_several_seeds_shows_something_about_seeds() -> None:
    found = pair(side("a", [[1.0], [2.0], [3.0]]), side("b", [[11.0], [12.0], [13.0]]))
    assert (found.verdict, found.about) == (WORSE, SEEDS)


def test_what_few_seeds_cannot_show_is_said() -> None:
    found = pair(side("a", [[100.0, 101.0], [300.0, 302.0]]), side("b", [[150.0, 160.0], [280.0, 270.0]]))
    assert found.verdict == NO_DIFFERENCE
    assert found.smallest is not None
    lines = found.lines()
    assert f"a difference of {found.smallest:.1f} or more would have been found in 4 of 5 such comparisons" in lines
    assert lines[-1].startswith("2 training seeds: the interval takes their returns to be spread about normally")


def test_how_many_seeds_would_settle_it_is_said() -> None:
    """Means 0 to 4 and 1 to 5: a gap of 1 at a variance of 2.5 needs 2 x 2.5 x (1.96 + 0.84)^2 = 39 seeds each."""
    a, b = np.arange(5.0)[:, None] * np.ones(4), np.arange(1.0, 6.0)[:, None] * np.ones(4)
    found = pair(side("a", a), side("b", b))
    assert found.seeds_to_settle == pytest.approx(41, abs=3)
    assert not found.more_episodes
    said = f"about {found.seeds_to_settle} training seeds each would settle a difference of the size measured here"
    assert said in found.lines()
    close = pair(side("a", a), side("b", a + np.array([[0.001], [-0.0004], [0.0], [0.0], [0.0]])))
    said = "more than 1,000 training seeds each would settle a difference of the size measured here"
    assert said in close.lines()


def test_a_small_difference_has_the_decimals_to_be_seen() -> None:
    """Gaps of 0.01, 0.01 and 0.04 at returns of 500: a mean of 0.02, a standard error of 0.01 and t of 4.303."""
    a = np.full((3, 4), 500.0)
    found = pair(side("a", a), side("b", a - np.array([[0.01], [0.01], [0.04]])), same_members=True)
    assert (found.digits, f"{found.difference:.{found.digits}f}") == (3, "0.020 [-0.023, 0.063]")
    assert "no difference in mean return is shown between a and b: 0.020 [-0.023, 0.063]" in found.lines()[0]


def test_where_episodes_decide_more_of_them_are_asked_for() -> None:
    gap = np.array([-9.0, 10.0, -8.0, 9.5])
    found = pair(side("a", np.array([[0.0], [1.0], [2.0]]) + gap), side("b", np.array([[0.5], [1.0], [1.5]]) + 0 * gap))
    assert found.more_episodes
    assert any("training seeds each and more episodes would settle" in line for line in found.lines())


def test_a_mean_that_a_few_seeds_decide_is_said() -> None:
    """Forty seeds: all at 100 against thirty at 101 and ten at 0, which the IQM leaves out."""
    found = pair(side("steady", np.full((40, 4), 100.0)), side("lost", [[101.0] * 4] * 30 + [[0.0] * 4] * 10))
    assert (found.means, found.iqms) == ((100.0, 75.75), (100.0, 101.0))
    assert found.verdict == BETTER
    said = "their IQMs say otherwise (100.0 against 101.0): a few training seeds decide the means"
    assert said in found.lines()


def test_several_pairs_hold_all_at_once() -> None:
    assert level_of_each(2) == 0.95
    assert level_of_each(4) == pytest.approx(1 - 0.05 / 6)


def test_what_does_not_belong_together_is_refused() -> None:
    a, b = side("a", [[1.0, 2.0]]), side("b", [[1.0, 2.0, 3.0]])
    with pytest.raises(UsageError, match="a and b should be compared on the same episodes, not on 2 and 3"):
        pair(a, b)
    other = Side("b", (7,), a.returns)
    with pytest.raises(UsageError, match="a and b should have the same members, not"):
        pair(a, other, same_members=True)
    with pytest.raises(RlabError, match="a return of b is not finite"):
        pair(a, side("b", [[1.0, math.nan]]))


@pytest.mark.parametrize("members", [3, 10])
@pytest.mark.parametrize("kind", ["normal", "skewed", "bounded", "bimodal"])
def test_two_simulated_runs_of_one_setting_are_no_different_in_95_of_100_tries(kind: str, members: int) -> None:
    rng = np.random.default_rng(members)
    draw = {
        "normal": lambda n: rng.normal(size=n),
        "skewed": lambda n: rng.lognormal(size=n),
        "bounded": lambda n: rng.beta(5.0, 0.5, size=n),
        "bimodal": lambda n: (rng.random(n) < 0.7).astype(float),
    }[kind]
    tries, told_apart = 300, 0
    for _ in range(tries):
        episodes = rng.normal(size=10)  # the same for both
        a, b = (draw(members)[:, None] + episodes + rng.normal(size=(members, 10)) for _ in range(2))
        spread = difference_spread(a, b)
        assert spread is not None
        told_apart += abs(a.mean() - b.mean()) > student_t(0.95, spread.freedom) * spread.error
    assert told_apart / tries <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


def test_halves_of_recorded_results_are_no_different_in_95_of_100_tries() -> None:
    """Twenty seeds of one setting, split at random: real returns with their ceilings and lost seeds."""
    rng, told_apart, tries = np.random.default_rng(0), 0, 0
    for path in RECORDED:
        rows = json.loads(path.read_text())["evaluation"]["per_seed"]
        returns = np.array([row["returns"] for row in rows])
        for _ in range(20):
            order = rng.permutation(len(returns))
            a, b = returns[order[: len(order) // 2]], returns[order[len(order) // 2 :]]
            spread = difference_spread(a, b)
            assert spread is not None
            told_apart += abs(a.mean() - b.mean()) > student_t(0.95, spread.freedom) * spread.error + 1e-9
            tries += 1
    assert told_apart / tries <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


def test_a_difference_that_there_is_is_found_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six seeds each, one standard deviation of 1: the smallest difference that is found in 4 of 5 cases."""
    monkeypatch.setattr("rlab.evaluation.comparison.probability_of_improvement", lambda x, y, level: None)  # slow
    rng, found, tries = np.random.default_rng(1), 0, 200
    smallest = []
    for _ in range(tries):
        a, b = rng.normal(1.8, 1.0, size=(6, 1)), rng.normal(size=(6, 1))
        result = pair(Side("a", tuple(range(6)), a), Side("b", tuple(range(6)), b))
        assert result.smallest is not None
        found += result.verdict == BETTER
        smallest.append(result.smallest)
    assert np.mean(smallest) == pytest.approx(1.8, rel=0.06)  # (2.23 + 0.88) sqrt(2 / 6)
    assert found / tries == pytest.approx(0.8, abs=0.1)
