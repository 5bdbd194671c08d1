"""What a policy observes while it is judged, as the reference by which a server tells drift."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlab.evaluation.episode_driver import EpisodeStep
from rlab.networks.obs_features import ObsFeatures, can_be_watched
from rlab.networks.spaces import Space
from rlab.runs.observed import EDGES, LEAST_EPISODES, MOST_COMPARED, Closeness, ObsReference

MOST_NUMBERS = 2_000_000  # that are kept while episodes are played; beyond, every second step of them is dropped
MOST_REFERENCES = 20_000  # features times members in one file; beyond, the first members have a reference
COMPARED = 300  # observations that are compared with each other
LEAST_WINDOWS = 16  # of one length, for a variance over them
Observed = dict[int, ObsReference]  # by the place of the member in the stack that was judged


class _Kept(NamedTuple):
    """The rows of one vector step, R of them."""

    time: int  # within the episodes
    member: np.ndarray  # [R] place in the stack
    episode: np.ndarray  # [R]
    features: np.ndarray  # [R, F]


class ObsRecorder:
    """Hears every step of an evaluation, as its `on_step`, and keeps the features of what was observed.

    Where they are too many, steps at regular distances are kept: `stride` of them apart, of every episode. Nothing is
    kept of observations with more features than can be watched.
    """

    def __init__(self, space: Space, seeds: Sequence[int]) -> None:
        self._features = ObsFeatures(space) if can_be_watched(space) else None
        most = 0 if self._features is None else max(1, MOST_REFERENCES // len(self._features.names))
        self._seeds = tuple(seeds[:most])
        self._kept: list[_Kept] = []
        self._stride, self._numbers = 1, 0
        self._block, self._time = (-1, -1), 0

    def __call__(self, playing: np.ndarray, first_episode: int, step: EpisodeStep) -> None:
        """The next step of the block whose rows are the members `playing [P]` and whose columns are the episodes from
        `first_episode` on; a block is over when the next one begins."""
        block = int(playing[0]), first_episode
        self._time = self._time + 1 if block == self._block else 0
        self._block = block
        if self._features is None or self._time % self._stride:
            return
        row, column = np.nonzero(step.active & (playing < len(self._seeds))[:, None])
        if not len(row):
            return
        features = self._features(step.obs[row, column])
        self._kept.append(_Kept(self._time, playing[row], first_episode + column, features))
        self._numbers += features.size
        while self._numbers > MOST_NUMBERS:
            self._stride *= 2
            self._kept = [each for each in self._kept if each.time % self._stride == 0]
            self._numbers = sum(each.features.size for each in self._kept)

    def references(self) -> Observed:
        """Those of the members that played enough episodes."""
        if self._features is None or not self._kept:
            return {}
        member, episode = (np.concatenate([getattr(each, name) for each in self._kept]) for name in _Kept._fields[1:3])
        time = np.repeat([each.time for each in self._kept], [len(each.member) for each in self._kept])
        features = np.concatenate([each.features for each in self._kept])
        order = np.lexsort((time, episode, member))
        ends = np.searchsorted(member[order], np.arange(len(self._seeds) + 1))
        found: Observed = {}
        for place, seed in enumerate(self._seeds):
            own = order[ends[place] : ends[place + 1]]
            _, lengths = np.unique(episode[own], return_counts=True)
            if len(lengths) >= LEAST_EPISODES:
                found[place] = reference(seed, self._features.names, features[own], lengths, self._stride)
        return found


def reference(
    seed: int, names: tuple[str, ...], features: np.ndarray, lengths: np.ndarray, stride: int = 1
) -> ObsReference:
    """The statistics of whole episodes, one behind the other.

    Args:
        features: `[n, F]`, every `stride`-th step of them.
        lengths: `[E]` of the episodes, in rows of `features`.
    """
    edges = np.quantile(features, np.linspace(0.0, 1.0, EDGES), axis=0, method="inverted_cdf").T  # [F, EDGES]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    nothing = np.zeros(2 * len(names))
    fields = (seed, names, len(lengths), stride * len(features), stride * int(lengths.max()))
    moments = features.mean(axis=0), features.std(axis=0), edges
    alike = closeness(features, moments[1], ends)
    whole = ObsReference(*fields, *moments, nothing, (1,), nothing, nothing, nothing, alike)
    ranks = whole.ranks(features)  # [n, 2 F]
    rank_mean = ranks.mean(axis=0)
    sums = np.concatenate([np.zeros((1, ranks.shape[1])), np.cumsum(ranks - rank_mean, axis=0)])
    # Renewal-reward theorem: the variance of the sum over an episode, per env step of one.
    long_run = stride * np.square(np.diff(sums[ends], axis=0)).sum(axis=0) / len(features)
    long_run *= len(lengths) / (len(lengths) - 1)
    sizes = [1]
    while 2 * sizes[-1] * LEAST_WINDOWS <= len(features):
        sizes.append(2 * sizes[-1])
    moments_of_means = [_moments_of_means(sums, size) for size in sizes]
    variances, excesses = (np.stack(each) for each in zip(*moments_of_means, strict=True))
    windows = tuple(stride * size for size in sizes)
    return ObsReference(*fields, *moments, rank_mean, windows, variances, excesses, long_run, alike)


def _moments_of_means(sums: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The variance of the means in all windows of `size` rows, which overlap, about the mean of all rows, and the
    excess of their kurtosis, if any; from cumulated sums."""
    squares = np.square((sums[size:] - sums[:-size]) / size)
    variance = squares.mean(axis=0)
    kurtosis = np.square(squares).mean(axis=0) / np.maximum(np.square(variance), 1e-30)
    return variance, np.maximum(kurtosis - 3.0, 0.0)


def closeness(features: np.ndarray, std: np.ndarray, ends: np.ndarray) -> Closeness:
    """How close observations `[n, F]` of the episodes that begin and end at `ends [E + 1]` are to each other."""
    episode = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    goes_on = episode[:-1] == episode[1:]
    moves = np.diff(features, axis=0)[goes_on]
    steps = np.sqrt(np.square(moves).mean(axis=0)) if len(moves) else np.zeros(len(std))
    moving = np.flatnonzero((steps > 0) & (steps < std))  # others differ from one step to the next as strangers do
    slowest = moving[np.argsort(steps[moving] / std[moving], kind="stable")][:MOST_COMPARED]
    alike = Closeness(slowest, steps[slowest], 0.0, 0.0, 0.0, 0.0)
    neighbours = []
    for distance in (1, 2):
        same = np.flatnonzero(episode[:-distance] == episode[distance:])
        some = same[np.linspace(0, len(same) - 1, COMPARED).astype(np.int64)] if len(same) else same
        neighbours.append(alike(features[some], features[some + distance]))
    places = np.linspace(0, len(features) - 1, min(len(features), COMPARED)).astype(np.int64)
    strange = episode[places, None] != episode[places]
    found = alike(features[places, None], features[places])
    rows = (found * strange).sum(axis=1) / strange.sum(axis=1)
    return Closeness(
        slowest,
        steps[slowest],
        float(found[strange].mean()),
        float(np.concatenate(neighbours).mean()) if len(moves) else 0.0,
        float(found[strange].var()),
        float(rows.var()),
    )
