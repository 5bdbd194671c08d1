"""`observed.json` in a policy folder: what a policy observed in the episodes that it was judged by.

A server compares with it what it is asked about. The file names the weights that it belongs to: once these are replaced
it is void.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rlab import door
from rlab.errors import RlabError
from rlab.networks.obs_features import MOST_FEATURES
from rlab.runs import files
from rlab.runs.folder import MANIFEST, check_against_manifest
from rlab.runs.policy_folder import OBSERVED, POLICY, announced, vouched_by

EDGES = 33  # quantiles: of 0, 1/32, 2/32 ... 1
LEAST_EPISODES = 5  # fewer say nothing about how much episodes differ
MOST_COMPARED = 4  # features by which observations are compared
MOST_WINDOWS = 64  # lengths of windows, each twice as long as the one before
MOST_COUNT = 10**15
LOWER_TAIL = -1.645  # of the standard normal distribution, 5 %


@dataclass(frozen=True, eq=False)
class Closeness:
    """How close two observations are, from 0 to 1: the features that move least from step to step, K of them, are
    compared in steps. It tells observations of one episode that lie close in time from those of others."""

    features: np.ndarray  # [K] their places
    steps: np.ndarray  # [K] how far each moves in a step, root mean square
    of_strangers: float  # mean closeness of observations of different episodes
    of_neighbours: float  # of those of one episode that are one or two steps apart
    variance: float  # of the closeness of strangers
    row_variance: float  # of how close one observation is to strangers on average

    def __call__(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """`[...]` of features `[..., F]`, each of the one with each of the other."""
        squares = np.zeros(np.broadcast_shapes(rows.shape[:-1], others.shape[:-1]))
        for place, step in zip(self.features, self.steps, strict=True):
            squares += np.square((rows[..., place] - others[..., place]) / (2.0 * step))
        return np.exp(-0.5 * squares)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "features": self.features.tolist(), "steps": self.steps.tolist()}


@dataclass(frozen=True, eq=False)
class ObsReference:
    """What one member observed: F features (`rlab.networks.obs_features`) over consecutive env steps of its episodes.

    Drift is told by **ranks**, which are bounded whatever the feature is: `ranks` gives two numbers for each feature,
    how high it lies among the quantiles and how far from the median. Consecutive observations resemble each other, so
    that the mean of a window of them varies more than that of as many independent ones; `variance` says how much.
    """

    seed: int  # training seed of the member
    features: tuple[str, ...]  # their names
    episodes: int  # E
    observations: int  # of them, in env steps
    longest: int  # env steps of the longest episode
    mean: np.ndarray  # [F]
    std: np.ndarray  # [F]
    quantiles: np.ndarray  # [F, EDGES], values that were observed
    rank_mean: np.ndarray  # [2 F] of `ranks`
    windows: tuple[int, ...]  # lengths of windows of consecutive observations, env steps, each twice the one before
    window_variance: np.ndarray  # [W, 2 F] of the mean rank in windows of these lengths
    window_excess: np.ndarray  # [W, 2 F] excess kurtosis of these means, 0 where it is negative
    long_run_variance: np.ndarray  # [2 F] env steps: of the mean rank of n observations of whole episodes, times n
    closeness: Closeness

    def ranks(self, features: np.ndarray) -> np.ndarray:
        """`[R, F]` to `[R, 2 F]` in [0, 1]: the share of quantiles below (those that are equal count half), and for
        each feature twice its distance from 1/2."""
        twice = [
            np.searchsorted(edges, own) + np.searchsorted(edges, own, side="right")
            for edges, own in zip(self.quantiles, features.T, strict=True)
        ]
        rank = np.stack(twice, axis=-1) / (2.0 * EDGES)
        return np.concatenate([rank, np.abs(2.0 * rank - 1.0)], axis=-1)

    def variance(self, lengths: np.ndarray) -> np.ndarray:
        """`[L, 2 F]`: the variance to expect of the mean rank over windows of consecutive observations of these
        lengths `[L]`.

        That of the recorded windows up to the longest, then falling as 1 / length. Both are taken at the upper end of
        what E episodes allow (a chi-squared bound), and with an episode added that is like none of the E, as long as
        the longest and at the far end of every feature: those appear in up to 1 of E + 1 episodes.
        """
        last = np.maximum(self.window_variance[-1] * self.windows[-1], self.long_run_variance)
        recorded = self._of_windows(self.window_variance, last, lengths)
        return recorded * self._uncertainty + self._unseen * np.minimum(1.0, self.longest / lengths[:, None])

    def excess(self, lengths: np.ndarray) -> np.ndarray:
        """`[L, 2 F]`: by how much the kurtosis of these means exceeds that of a normal distribution; it falls as 1 /
        length behind the longest recorded windows, as that of a mean of independent ones does."""
        return self._of_windows(self.window_excess, self.window_excess[-1] * self.windows[-1], lengths)

    def _of_windows(self, recorded: np.ndarray, last: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What is `recorded [W, 2 F]` for the windows of these lengths or the next shorter ones, and `last / length`
        behind them."""
        place = np.clip(np.log2(lengths / self.windows[0]), 0, len(self.windows) - 1).astype(np.int64)
        lengths = lengths[:, None]
        return np.where(lengths > self.windows[-1], last / lengths, recorded[place])

    @cached_property
    def mean_variance(self) -> np.ndarray:
        """`[2 F]`: how sure `rank_mean` itself is."""
        found: np.ndarray = self.variance(np.array([self.observations]))[0]
        return found

    @cached_property
    def _uncertainty(self) -> float:
        """How much larger a variance may be than the one found in E episodes, at 95 %: (E - 1) over a quantile of chi
        squared, approximated as of Wilson and Hilferty (1931)."""
        ninths = 2.0 / (9.0 * (self.episodes - 1))
        return float((1.0 - ninths + LOWER_TAIL * np.sqrt(ninths)) ** -3)

    @cached_property
    def _unseen(self) -> np.ndarray:
        """What an episode unlike all others adds to the variance of short windows, `[2 F]`."""
        share = self.longest / (self.observations + self.longest)
        return share * np.square(np.maximum(self.rank_mean, 1.0 - self.rank_mean))

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the names of the features."""
        return {
            "seed": self.seed,
            "episodes": self.episodes,
            "observations": self.observations,
            "longest_episode": self.longest,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "quantiles": self.quantiles.tolist(),
            "rank_mean": _rounded(self.rank_mean),
            "windows": list(self.windows),
            "window_variance": _rounded(self.window_variance),
            "window_excess": _rounded(self.window_excess),
            "long_run_variance": _rounded(self.long_run_variance),
            "closeness": self.closeness.to_json(),
        }


def save_observed(folder: Path, references: Sequence[ObsReference]) -> None:
    """Put what the members of a policy observed beside it, in `policy/` or `best/` of a run, or in any policy folder;
    nothing where there is no reference.

    Raises:
        DiskError: the disk refuses.
        RlabError: there is no policy in the folder.
    """
    if not references:
        return
    members, features = [each.to_json() for each in references], list(references[0].features)
    data = {"weights_sha256": _weights_sha256(folder), "features": features, "members": members}
    content = files.to_json(data, folder / OBSERVED)
    with announced(folder, {OBSERVED: files.sha256(content)}, beside=True):
        files.write_bytes(folder / OBSERVED, content)


def load_observed(folder: Path) -> dict[int, ObsReference]:
    """What each member of the policy in a policy folder observed, by training seed; empty where that is not recorded of
    these weights.

    Raises:
        RlabError: the file is damaged or changed.
    """
    vouched, path = vouched_by(folder), folder / OBSERVED
    watched = (path, folder / POLICY, *([] if vouched is None else [vouched[0] / MANIFEST]))

    def read() -> dict[int, ObsReference]:
        if not path.exists():
            return {}
        content = files.read_bytes(path, door.MOST_JSON)
        data = files.parse_json(content, path)
        if data.get("weights_sha256") != _weights_sha256(folder):
            return {}
        if vouched is not None:
            check_against_manifest(vouched[0], f"{vouched[1]}{OBSERVED}", content)
        return _from_json(data, path)

    return files.settled(read, lambda: [files.identity(each) for each in watched])


def _weights_sha256(folder: Path) -> Any:
    weights = files.read_json(folder / POLICY).get("weights")
    return weights.get("sha256") if isinstance(weights, dict) else None


def _rounded(array: np.ndarray) -> list[Any]:
    """Statistics with six digits, which is more than they are sure of."""
    values = [float(f"{value:.6g}") for value in array.ravel()]
    return np.array(values).reshape(array.shape).tolist()


def _from_json(data: Mapping[str, Any], path: Path) -> dict[int, ObsReference]:
    names, members = data.get("features"), data.get("members")
    if not isinstance(names, list) or not 0 < len(names) <= MOST_FEATURES or not all(type(n) is str for n in names):
        raise RlabError(f"{path}: 'features' must be a list of 1 to {MOST_FEATURES} names. Was it edited?")
    if not isinstance(members, list):
        raise RlabError(f"{path}: 'members' must be a list. Was it edited?")
    found = [_member(tuple(names), each, path) for each in members]
    return {each.seed: each for each in found}


def _member(names: tuple[str, ...], data: Any, path: Path) -> ObsReference:
    if not isinstance(data, dict):
        raise RlabError(f"{path}: a member must be an object, not {door.clean(repr(data)):.80}")
    counts: dict[str, Any] = {name: data.get(name) for name in ("seed", "episodes", "observations", "longest_episode")}
    door.check_counts(path, MOST_COUNT, **counts)
    windows = data.get("windows")
    if not isinstance(windows, list) or not 0 < len(windows) <= MOST_WINDOWS:
        raise RlabError(f"{path}: 'windows' must be a list of lengths. Was it edited?")
    door.check_counts(path, MOST_COUNT, **{f"windows[{place}]": each for place, each in enumerate(windows)})
    sizes: dict[str, tuple[int, ...]] = {"mean": (), "std": (), "quantiles": (EDGES,)}
    arrays: dict[str, Any] = {
        name: _numbers(data.get(name), (len(names), *size), f"{path}: {name!r}") for name, size in sizes.items()
    }
    twice: dict[str, tuple[int, ...]] = {"rank_mean": (), "long_run_variance": ()}
    twice |= {name: (len(windows),) for name in ("window_variance", "window_excess")}
    for name, size in twice.items():
        arrays[name] = _numbers(data.get(name), (*size, 2 * len(names)), f"{path}: {name!r}")
    sound = (
        counts["episodes"] >= LEAST_EPISODES
        and 0 < counts["longest_episode"] <= counts["observations"]
        and all(longer == 2 * shorter > 0 for shorter, longer in pairwise(windows))
        and windows[0] > 0
        and all((arrays[name] >= 0).all() for name in ("std", *twice))
        and (arrays["rank_mean"] <= 1).all()
        and (np.diff(arrays["quantiles"], axis=1) >= 0).all()
    )
    if not sound:
        raise RlabError(
            f"{path}: the statistics of seed {counts['seed']} are not those of observations. Was it edited?"
        )
    own = counts["seed"], names, counts["episodes"], counts["observations"], counts["longest_episode"]
    closeness = _closeness(data.get("closeness"), len(names), f"{path}: 'closeness'")
    return ObsReference(*own, windows=tuple(windows), closeness=closeness, **arrays)


def _closeness(data: Any, features: int, where: str) -> Closeness:
    data = data if isinstance(data, dict) else {}
    places = data.get("features")
    known = isinstance(places, list) and all(type(place) is int and 0 <= place < features for place in places)
    if not known or len(places) > MOST_COMPARED:
        raise RlabError(f"{where} must name up to {MOST_COMPARED} features by their places. Was it edited?")
    steps = _numbers(data.get("steps"), (len(places),), f"{where}: 'steps'")
    names = ("of_strangers", "of_neighbours", "variance", "row_variance")
    numbers = [float(_numbers(data.get(name), (), f"{where}: {name!r}")) for name in names]
    if not (steps > 0).all() or not all(0 <= number <= 1 for number in numbers):
        raise RlabError(f"{where}: steps must be above 0, and the rest from 0 to 1. Was it edited?")
    return Closeness(np.array(places, np.int64), steps, *numbers)


def _numbers(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != shape or not np.isfinite(array).all():
        raise RlabError(f"{where} must be finite numbers of shape {list(shape)}. Was it edited?")
    return array
