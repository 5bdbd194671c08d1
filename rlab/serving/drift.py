"""Whether the observations that a policy is asked about still look like those of the episodes that it was judged by.

Every feature is watched by the mean of its ranks among the quantiles on record (where it lies) and of their distance
from the median (how far it spreads), in windows of 64, 128 ... of the newest observations. A window's mean raises an
alarm where it is `SURE` standard deviations away from the mean on record.

What a standard deviation is depends on how the observations hang together. Consecutive ones of an episode resemble each
other, so that a window of them is like few independent ones; the record says how much. But requests of many episodes
mix, and then neighbours come from different ones. How many episodes they come from in turn shows in the requests
themselves: by how often one of the last observations is as close as only the step before it in its own episode is.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rlab.runs.observed import EDGES, Closeness, ObsReference

BLOCK = 64  # observations between two looks
SCALES = 10  # lengths of windows: BLOCK times 1, 2, 4 ... 512
LENGTHS = BLOCK * 2.0 ** np.arange(SCALES)
LONGEST = 2 ** (SCALES - 1)  # blocks
SURE = 4.5  # standard deviations, which 7e-6 of normal values are beyond; variances are taken at their upper ends
NEWEST = 16  # blocks that are drawn, and by which it is found how many episodes mix
RECENT = 4  # the newest of them alone, so that a change from many episodes to one shows in time
LAGS = 128  # how far back an observation is compared with others
OVER = 0.8  # drift has ended once scores have been below this for `NEWEST` blocks
NOT_CHANCE = 4.5  # standard deviations of a mean closeness or of an autocorrelation
TURN = 0.6  # share of the closeness of neighbours, above which those at one lag are of one episode
LEAST_LIKENESS = 0.05  # how much closer neighbours must be than strangers, to be told apart
BARS = 16  # of the drawn histograms, each with as many observations on record


@dataclass(frozen=True)
class FeatureDrift:
    """One feature of the newest observations beside those on record."""

    name: str
    drifting: bool
    score: float  # the largest distance of a window, in `SURE` standard deviations: from 1 on it is drift
    what: str  # `mean` or `spread`, whichever is further away
    window: int  # observations of that window
    mean: float  # of the feature in that window
    reference_mean: float
    shift: float  # how far the mean has moved, in standard deviations of the record; 0 where that has none
    shares: tuple[float, ...]  # of the newest observations in the `BARS` ranges
    reference_shares: tuple[float, ...]  # of those on record
    quantiles: tuple[float, float, float]  # the least, the median and the largest on record


class DriftDetector:
    """Watches the observations of one served policy, in the order in which they arrive."""

    def __init__(self, reference: ObsReference) -> None:
        self.reference = reference
        self.observations = 0
        self.alarms = 0  # how often a feature began to drift
        count = len(reference.features)
        self.drifting = np.zeros(count, bool)  # [F]
        self._calm = np.zeros(count, np.int64)  # blocks with a low score, [F]
        self._waiting: list[np.ndarray] = []
        self._before = np.empty((0, count))  # the newest observations, `LAGS` of them
        self._covariance: deque[np.ndarray] = deque(maxlen=NEWEST)  # of each block, see `autocovariance`
        self._close: deque[np.ndarray] = deque(maxlen=NEWEST)  # of each block: sums of closeness, pairs; [2, LAGS]
        self._bars: deque[np.ndarray] = deque(maxlen=NEWEST)  # of each block: observations in each range, [F, BARS]
        self._std = np.where(reference.std > 0, reference.std, 1.0)
        self._std = np.where(reference.std > 0, reference.std, 1.0)
        self._sums = np.zeros((LONGEST + 1, 3 * count))  # see `_means`; cumulated over blocks, a ring
        self._blocks = 0
        self._mixed = (0.0, False)  # how many episodes send requests, and whether that was seen, as of the last look
        self._allowed = np.empty(0)  # as of `_mixed`
        self._scores = np.zeros((SCALES, 2 * count))

    def add(self, features: np.ndarray) -> None:
        """Take the next observations, as features `[R, F]`."""
        self.observations += len(features)
        self._waiting.append(features)
        if sum(map(len, self._waiting)) < BLOCK:
            return
        rows = np.concatenate(self._waiting)
        whole = len(rows) - len(rows) % BLOCK
        self._waiting = [rows[whole:]]
        for first in range(0, whole, BLOCK):
            self._look(rows[first : first + BLOCK])

    def _look(self, block: np.ndarray) -> None:
        """Take a block, and compare all windows that end with it."""
        count, ring, reference = len(self.drifting), len(self._sums), self.reference
        ranks = reference.ranks(block)
        self._bars.append(_bars(ranks[:, :count]))
        self._close.append(by_lag(reference.closeness, block, self._before))
        self._covariance.append(autocovariance(block[:, reference.closeness.features]))
        self._before = np.concatenate([self._before, block])[-LAGS:]
        scaled = (block - reference.mean) / self._std
        sums = np.concatenate([ranks, scaled], axis=1).sum(axis=0)
        self._sums[(self._blocks + 1) % ring] = self._sums[self._blocks % ring] + sums
        self._blocks += 1
        whole = min(SCALES, self._blocks.bit_length())  # windows that there are enough blocks for
        if self._blocks < RECENT:
            return  # it is too early to tell of how many episodes these are
        self._expect()
        away = np.abs(self._means(whole)[:, : 2 * count] - reference.rank_mean)
        self._scores[:whole] = away / self._allowed[:whole]
        score = self._scores.max(axis=0).reshape(2, count).max(axis=0)
        self._calm = np.where(score >= OVER, 0, self._calm + 1)
        drifting = (score >= 1.0) | (self.drifting & (self._calm < NEWEST))
        self.alarms += int((drifting & ~self.drifting).sum())
        self.drifting = drifting

    def _means(self, scales: int) -> np.ndarray:
        """`[scales, 3 F]`, in the newest windows of the first lengths: of ranks, and of features less the mean on
        record in its standard deviations."""
        begins = (self._blocks - 2 ** np.arange(scales)) % len(self._sums)
        means: np.ndarray = self._sums[self._blocks % len(self._sums)] - self._sums[begins]
        return means / LENGTHS[:scales, None]

    def _expect(self) -> None:
        """Find anew how far windows may be away, where requests mix otherwise than at the last look."""
        episodes, seen = interleaved(self.reference.closeness, list(self._close))
        covariance = list(self._covariance)
        smooth = min(smoothly(covariance[-RECENT:]), smoothly(covariance))
        mixed = min(episodes, smooth), seen or smooth <= episodes
        if mixed != self._mixed:
            self._mixed, self._allowed = mixed, allowed(self.reference, *mixed)

    def features(self) -> list[FeatureDrift]:
        """What can be said of each feature now; nothing before `RECENT` blocks of observations."""
        if self._blocks < RECENT:
            return []
        reference, count = self.reference, len(self.drifting)
        place = self._scores.argmax(axis=0)  # [2 F], the scale of the largest score
        largest = self._scores.max(axis=0).reshape(2, count)
        shifts = self._means(SCALES)[:, 2 * count :]
        means = reference.mean + self._std * shifts
        shares = np.sum(self._bars, axis=0) / (BLOCK * len(self._bars))
        of_record = _bars(reference.ranks(reference.quantiles[:, :-1].T)[:, :count]) / (EDGES - 1)
        shifts = np.where(reference.std > 0, shifts, 0.0)
        found = []
        for feature, name in enumerate(reference.features):
            kind = int(largest[1, feature] > largest[0, feature])
            scale = int(place[kind * count + feature])
            found.append(
                FeatureDrift(
                    name,
                    bool(self.drifting[feature]),
                    float(largest[kind, feature]),
                    ("mean", "spread")[kind],
                    BLOCK * 2**scale,
                    float(means[scale, feature]),
                    float(reference.mean[feature]),
                    float(shifts[scale, feature]),
                    tuple(shares[feature].tolist()),
                    tuple(of_record[feature].tolist()),
                    tuple(reference.quantiles[feature, [0, EDGES // 2, -1]].tolist()),
                )
            )
        return found


def allowed(reference: ObsReference, episodes: float, seen: bool) -> np.ndarray:
    """`[SCALES, 2 F]`: how far the mean ranks of windows may be from those on record.

    Args:
        episodes: in turn, from which the observations are.
        seen: whether that is known of them, so that they may have begun together, as those of vector envs do: then all
            are in the same phase, and more of them are no more independent than one, until windows cover several
            whole episodes. Else observations of so many episodes are the least independent that they may be.
    """
    episodes_of = np.minimum(episodes, LENGTHS)
    lengths = LENGTHS / episodes_of  # of the part of a window that is of one episode after the other
    one, single = reference.variance(lengths), reference.variance(np.ones(1))
    variance = np.maximum(one / episodes_of[:, None], single / LENGTHS[:, None])
    excess = reference.excess(lengths)
    if seen:
        in_phase = single * np.minimum(1.0, np.square(reference.longest / lengths))[:, None]
        variance = np.minimum(one, variance + in_phase)
    else:
        excess = excess / episodes_of[:, None]
    # Cornish and Fisher (1938): how much further out the tail of a distribution with longer tails is
    sure = SURE + (SURE**3 - 3.0 * SURE) / 24.0 * excess
    found: np.ndarray = sure * np.sqrt(variance + reference.mean_variance)
    return found


def by_lag(closeness: Closeness, block: np.ndarray, before: np.ndarray) -> np.ndarray:
    """`[2, LAGS]`: how close the observations of a block are to those that came 1, 2 ... before each of them, summed
    over the block; and the number of these pairs."""
    close = closeness(block[:, None], np.concatenate([before, block]))
    taken, lags = _lags(len(block), len(before))
    return np.stack([np.bincount(lags, close[taken], LAGS), np.bincount(lags, minlength=LAGS)])


@cache
def _lags(block: int, before: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the pairs `[block, before + block]` are 1 to `LAGS` apart, and how far these are, less 1."""
    lag = before + np.arange(block)[:, None] - np.arange(before + block)
    taken = (lag > 0) & (lag <= LAGS)
    return taken, lag[taken] - 1


def interleaved(closeness: Closeness, blocks: Sequence[np.ndarray]) -> tuple[float, bool]:
    """Of how many episodes the observations in these blocks (of `by_lag`), and in the newest of them, are in turn: the
    least number that is not to be ruled out; and whether observations of one episode were seen at all.

    Of m episodes in any order, two observations up to m apart are of the same one with probability 1 / m; then they are
    as close as neighbours are, else as strangers are. m is ruled out where they are surely not that close; how close m
    strangers are on average varies, too (Hoeffding 1948, the variance of a U-statistic).
    """
    likeness = closeness.of_neighbours - closeness.of_strangers
    if likeness < LEAST_LIKENESS:
        return 1.0, False  # it makes no difference: what follows tells nothing of what came before
    episodes = np.arange(1.0, LAGS + 1.0)
    found, seen = float(LAGS), False
    for newest in (blocks[-RECENT:], blocks):
        sums, pairs = np.cumsum(np.sum(newest, axis=0), axis=1)  # [LAGS], up to each lag
        excess = sums / pairs - closeness.of_strangers
        variance = 4.0 * closeness.row_variance / episodes + closeness.variance / pairs
        possible = excess + 2.0 * np.sqrt(variance) >= likeness / episodes
        if possible.any():
            found = min(found, float(episodes[possible.argmax()]))
        # Less closeness may come of a small store of observations, from which somebody draws.
        rows = 4.0 * closeness.row_variance / (BLOCK * len(newest))
        chance = NOT_CHANCE * np.sqrt(rows + closeness.variance / pairs)
        seen |= bool((excess > np.maximum(chance, 2.0 * likeness / LAGS)).any())
    # In a fixed order all the closeness is at one lag; strangers that are in the same phase are a little close, too.
    sums, pairs = np.sum(blocks, axis=0)
    at_lag = sums / np.maximum(pairs, 1.0) - closeness.of_strangers > TURN * likeness
    return (float(episodes[at_lag.argmax()]), True) if at_lag.any() else (found, seen)


def autocovariance(block: np.ndarray) -> np.ndarray:
    """`[BLOCK / 2 + 1, K]`: sums over a block `[BLOCK, K]` of the products of rows that are 0, 1 ... apart, less the
    mean of the block: where observations drift at once, they do not resemble each other more."""
    power = np.square(np.abs(np.fft.rfft(block - block.mean(axis=0), 2 * BLOCK, axis=0)))
    found: np.ndarray = np.fft.irfft(power, axis=0)[: BLOCK // 2 + 1]
    return found


def smoothly(blocks: Sequence[np.ndarray]) -> float:
    """Of how many episodes the rows of these blocks (of `autocovariance`) are in turn, as far as they move smoothly,
    however fast: they do where rows that are k apart resemble each other in every feature; infinity where that may be
    chance.
    """
    covariance = np.sum(blocks, axis=0)
    if not covariance.size:
        return np.inf
    varies = covariance[0] > 0
    if not varies.any():
        return 1.0  # nothing moves, which one episode that stands still does
    lags = np.arange(1, len(covariance))
    pairs = 1.0 - lags / BLOCK  # as a share of the rows
    correlation = (covariance[1:, varies] / covariance[0, varies]).min(axis=1) / pairs
    told = correlation > NOT_CHANCE / np.sqrt(BLOCK * len(blocks) * pairs)
    return float((lags[told] / correlation[told]).min()) if told.any() else np.inf


def _bars(ranks: np.ndarray) -> np.ndarray:
    """`[F, BARS]`: how many of the ranks `[R, F]` lie between every second quantile on record."""
    place = np.clip((ranks * EDGES - 0.5) * BARS / (EDGES - 1), 0, BARS - 1).astype(np.int64)
    place += BARS * np.arange(ranks.shape[1])
    return np.bincount(place.ravel(), minlength=BARS * ranks.shape[1]).reshape(-1, BARS)
