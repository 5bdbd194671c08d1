"""Who is better, by how much, and how sure that is: two populations on the same episodes.

The difference of the mean returns has two sources of chance, the training seeds and the episodes. Both are estimated as
the variance components of a crossed design (members x episodes), so that what an easy episode gives to both sides
cancels. The interval is Student's with Satterthwaite's degrees of freedom (Welch 1947): it stays honest for few runs,
where a percentile bootstrap is too narrow.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.evaluation.differences import difference_spread, probability_of_improvement, seeds_to_settle
from rlab.evaluation.quantiles import student_t
from rlab.evaluation.stats import LEVEL, Interval, iqm, shown_digits, small_digits

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference"
SEEDS, EPISODES = "training seeds", "episodes"  # what a difference is about: others of them
POWER = 0.8  # how often a difference should be found that there is; what studies are usually planned with
MOST_SEEDS = 1_000  # that anybody would train to settle a difference
FEW = 5  # training seeds below which nothing shows how returns are spread


@dataclass(frozen=True, eq=False)
class Side:
    """One of the populations that are compared."""

    name: str
    seeds: tuple[int, ...]  # training seeds, or numbers of runs where several were put together
    returns: np.ndarray  # [S, E]; column k is the same episode for every side


@dataclass(frozen=True)
class Pair:
    """Two sides; everything is `a` less `b`."""

    a: str
    b: str
    verdict: str  # a is BETTER, WORSE, or there is NO_DIFFERENCE that the data show
    identical: bool  # the same returns, member by member and episode by episode
    about: str  # SEEDS: other training seeds and episodes; EPISODES: these policies in other episodes
    same_members: bool  # row i of both is one member, such as before and after compression
    members: tuple[int, int]
    means: tuple[float, float]  # of the returns
    iqms: tuple[float, float]  # of the members' means
    difference: Interval | None  # of the mean returns; None: one episode shows nothing about others
    smallest: float | None  # difference that such a comparison would find in 80 of 100 cases
    seeds_to_settle: int | None  # of each side, for a difference of the size that was measured; None: of no other seeds
    more_episodes: bool  # seeds alone would not settle it
    improvement: Interval | None  # how likely a run of `a` beats one of `b`; None without several seeds of both

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "difference": _ends(self.difference), "improvement": _ends(self.improvement)}

    @property
    def digits(self) -> int:
        """Decimals for people: those of the means, and more where the difference is too small to be seen in them."""
        digits, shown = shown_digits(*self.means), self.difference
        return digits if shown is None else max(digits, small_digits(shown.estimate, shown.low, shown.high))

    def lines(self) -> list[str]:
        """The result for people, a sentence each."""
        if self.identical:
            return [f"no difference: {self.a} and {self.b} return the same in every episode"]
        others = "other training seeds and episodes" if self.about == SEEDS else "other episodes"
        if self.difference is None:
            return [f"{self.a} and {self.b} cannot be told apart by one episode; give --episodes 100"]
        digits, level = self.digits, 100 * self.difference.level
        shown = -self.difference if self.verdict == WORSE else self.difference  # "worse, by 20 [10, 30]"
        sure = f"{shown:z.{digits}f}, {level:.3g} % interval for {others}"
        if self.verdict == NO_DIFFERENCE:
            lines = [f"no difference in mean return is shown between {self.a} and {self.b}: {sure}"]
        else:
            lines = [f"{self.a} is {self.verdict} than {self.b}, by {sure}"]
        if self.improvement is not None:
            each = self.improvement
            lines.append(
                f"a run of {self.a} beats one of {self.b} in {100 * each.estimate:.0f} % of pairs "
                f"[{100 * each.low:.0f}, {100 * each.high:.0f}]"
            )
        if self.verdict != NO_DIFFERENCE and (self.iqms[0] - self.iqms[1]) * (self.means[0] - self.means[1]) < 0:
            ours, theirs = (f"{value:.{digits}f}" for value in self.iqms)
            lines.append(f"their IQMs say otherwise ({ours} against {theirs}): a few training seeds decide the means")
        return lines + self._limits()

    def _limits(self) -> list[str]:
        """What the data cannot show."""
        lines = []
        if self.about == EPISODES:
            alone = [name for name, count in zip((self.a, self.b), self.members, strict=True) if count == 1]
            who = " and ".join(alone) + (
                " has one training seed" if len(alone) == 1 else " have one training seed each"
            )
            if alone:
                lines.append(f"{who}: nothing is shown about other seeds; train more, for example --seeds 10")
        if self.verdict == NO_DIFFERENCE and self.smallest is not None:
            least = f"{self.smallest:.{self.digits}f}"
            lines.append(f"a difference of {least} or more would have been found in 4 of 5 such comparisons")
        if self.seeds_to_settle is not None:
            count = (
                f"about {self.seeds_to_settle}" if self.seeds_to_settle <= MOST_SEEDS else f"more than {MOST_SEEDS:,}"
            )
            also = " and more episodes" if self.more_episodes else ""
            lines.append(f"{count} training seeds each{also} would settle a difference of the size measured here")
        if self.about == SEEDS and min(self.members) < FEW:
            lines.append(
                f"{min(self.members)} training seeds: the interval takes their returns to be spread about normally, "
                "which so few cannot show"
            )
        return lines


def pair(a: Side, b: Side, level: float = LEVEL, same_members: bool = False) -> Pair:
    """Compare two sides on their shared episodes.

    Args:
        level: of the intervals, two-sided.
        same_members: row i of both is one member, so that rows are paired, too.

    Raises:
        UsageError: they have different episodes, or different members that should be the same.
        RlabError: a return is not finite.
    """
    _check(a, b, same_members)
    members = len(a.returns), len(b.returns)
    about = SEEDS if min(members) > 1 else EPISODES
    means = float(a.returns.mean()), float(b.returns.mean())
    gap = means[0] - means[1]
    spread = difference_spread(a.returns, b.returns, same_members)
    difference = smallest = improvement = None
    verdict = NO_DIFFERENCE
    if spread is not None:
        half = student_t(level, spread.freedom) * spread.error
        difference = Interval(gap, gap - half, gap + half, level)
        smallest = half + student_t(2 * POWER - 1, spread.freedom) * spread.error
        verdict = BETTER if difference.low > 0 else WORSE if difference.high < 0 else NO_DIFFERENCE
    if about == SEEDS and not same_members:
        improvement = probability_of_improvement(a.returns.mean(axis=1), b.returns.mean(axis=1), level=level)
    needed, more_episodes = None, False
    if spread is not None and about == SEEDS and verdict == NO_DIFFERENCE:
        per_seed = a.returns.mean(axis=1), b.returns.mean(axis=1)
        needed = seeds_to_settle(*per_seed, np.mean, POWER, level, paired=same_members)
        more_episodes = abs(gap) < student_t(level, a.returns.shape[1]) * math.sqrt(spread.of_episodes)
    identical = a.returns.shape == b.returns.shape and bool((a.returns == b.returns).all())
    return Pair(
        a=a.name,
        b=b.name,
        verdict=verdict,
        identical=identical,
        about=about,
        same_members=same_members,
        members=members,
        means=means,
        iqms=(iqm(a.returns.mean(axis=1)), iqm(b.returns.mean(axis=1))),
        difference=difference,
        smallest=smallest or None,
        seeds_to_settle=needed,
        more_episodes=more_episodes,
        improvement=improvement,
    )


def level_of_each(sides: int, level: float = LEVEL) -> float:
    """The level of each of the intervals between so many sides, so that all of them hold at once with `level`
    (Bonferroni)."""
    return 1 - (1 - level) / math.comb(sides, 2)


def _check(a: Side, b: Side, same_members: bool) -> None:
    if a.returns.shape[1] != b.returns.shape[1]:
        episodes = f"{a.returns.shape[1]} and {b.returns.shape[1]}"
        raise UsageError(f"{a.name} and {b.name} should be compared on the same episodes, not on {episodes}")
    if same_members and a.seeds != b.seeds:
        raise UsageError(f"{a.name} and {b.name} should have the same members, not {a.seeds} and {b.seeds}")
    for side in (a, b):
        if not np.isfinite(side.returns).all():
            raise RlabError(f"a return of {side.name} is not finite, and no comparison with it would be true")


def _ends(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "level": interval.level}
