"""The states that policies visit: students learn from them, neurons are ranked and ranges measured on them.

Their episodes start from seeds `FIRST_VISIT_SEED` up to `END_OF_VISIT_SEEDS`. `rlab eval` plays seeds from 100 000,
`rlab collect` records from 200 000 and training chooses its best weights by seeds from 500 000, so that nothing learns
from the episodes that it is evaluated on. Learning uses the lower half of the range: reports compare actions on states
from 400 000, and `rlab compress --search` screens on states and episodes from 450 000.
"""

from collections.abc import Callable, Sequence
from itertools import count, product
from typing import Protocol

import numpy as np
import torch

from rlab.compression.sequences import Visits
from rlab.errors import UsageError
from rlab.evaluation.episode_driver import Act, EpisodeEnvs, PolicyActor, limits_of, member_streams, play
from rlab.networks.policy import Policy
from rlab.randomness import stream

FIRST_VISIT_SEED = 300_000
END_OF_VISIT_SEEDS = 500_000
WIDTH = 10  # episodes at once per member; the same for any number of members, so that none depends on the others


def visited(
    policy: Policy,
    make_envs: Callable[[int], EpisodeEnvs],
    rows: int,
    first_seed: int = FIRST_VISIT_SEED,
    sampled: float = 0.0,
) -> np.ndarray:
    """As `visits`: a uniform sample of the states of each member, `[S, rows, *obs]` in array form."""
    return visits(policy, make_envs, rows, first_seed, sampled, in_order=False).obs.numpy()


def visits(
    policy: Policy,
    make_envs: Callable[[int], EpisodeEnvs],
    rows: int,
    first_seed: int = FIRST_VISIT_SEED,
    sampled: float = 0.0,
    in_order: bool | None = None,
) -> Visits:
    """States that each member visits, `rows` of each.

    All members play whole episodes side by side, `WIDTH` each at a time, until they have seen `rows` states; a member
    with enough of them rests. A uniform sample of all that it saw is kept, or some of the episodes in random order, the
    last one cut where there are enough states. Episode k starts from seed `first_seed + k`, the same for every member;
    there are at most `seeds_needed(rows)` of them.

    Args:
        make_envs: makes n envs that do not reset themselves; they are closed at the end. Where it limits how many live
            at once (`LimitsEnvs.most`), the episodes are played one part after the other.
        rows: states per member.
        sampled: share of the episodes, rounded to a whole number of `WIDTH`, in which actions are sampled as in
            training; in the others they are greedy. Q values sample with the epsilon that their head records.
        in_order: keep episodes; None: where the policy has memory.

    Raises:
        UsageError: no rows, a share outside [0, 1], or seeds that are not for visits.
        RlabError: an episode does not end; the message names its seed.
    """
    _check(rows, first_seed, sampled)
    members = len(policy.seeds)
    in_order = policy.has_memory if in_order is None else in_order
    streams = [stream(seed, f"visits from {first_seed}") for seed in policy.seeds]
    samples = [_Episodes(rows, rng, first_seed) if in_order else _Sample(rows, rng) for rng in streams]
    limits = limits_of(make_envs)
    most = None if limits is None else limits.most
    if most is not None and most < 1:
        raise UsageError(f"visits need one env or more, not {most}.")
    together = members if most is None else min(members, most)  # members that play at once
    width = WIDTH if most is None else min(WIDTH, most // together)
    envs = make_envs(together * width)
    try:
        for start in count(first_seed, WIDTH):
            lacking = np.array([sample.seen < rows for sample in samples])
            if not lacking.any():
                break
            for first, column in product(range(0, members, together), range(0, WIDTH, width)):
                numbers = np.arange(first, first + together), np.arange(column, column + width)
                _play_part(policy, envs, start, numbers, lacking, round(sampled * WIDTH), samples)
    finally:
        envs.close()
    obs, begins = zip(*(sample.rows() for sample in samples), strict=True)
    return Visits(torch.from_numpy(np.stack(obs)), torch.from_numpy(np.stack(begins)))


def seeds_needed(rows: int) -> int:
    """The most episode seeds that `visited` may use, since an episode shows one state or more."""
    return -(-rows // WIDTH) * WIDTH


class _Kept(Protocol):
    """What is kept of the states that one member visits."""

    seen: int

    def add(self, rows: np.ndarray, episodes: np.ndarray) -> None:
        """Look at `rows [n, *obs]`, which become its own, of the episodes with these seeds `[n]`."""
        ...


class _Sample:
    """A uniform sample of all rows seen so far, without repetition, in the order in which they came.

    Every row gets a random number, and those with the smallest numbers stay: a reservoir (Vitter 1985) that takes
    many rows at once.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.seen, self._rng = size, 0, rng
        self._rows: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._held = 0

    def add(self, rows: np.ndarray, episodes: np.ndarray) -> None:
        self._rows.append(rows)
        self._keys.append(self._rng.random(len(rows)))
        self.seen += len(rows)
        self._held += len(rows)
        if self._held > 4 * self.size:
            self._thin_out()

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """`[size, *obs]`, or as many as were seen; each stands by itself `[size]`."""
        self._thin_out()
        return self._rows[0], np.ones(len(self._rows[0]), bool)

    def _thin_out(self) -> None:
        rows, keys = np.concatenate(self._rows), np.concatenate(self._keys)
        stay = np.sort(np.argsort(keys)[: self.size])
        self._rows, self._keys, self._held = [rows[stay]], [keys[stay]], len(stay)


class _Episodes:
    """The first `size` rows of whole episodes, one behind the other; the `WIDTH` that were played together come in
    random order. What is too late in that order is not held."""

    def __init__(self, size: int, rng: np.random.Generator, first_seed: int) -> None:
        self.size, self.seen, self._rng, self._first_seed = size, 0, rng, first_seed
        self._places: dict[int, int] = {}  # seed of an episode -> its place in the order
        self._held: dict[int, list[np.ndarray]] = {}  # place -> rows
        self._last: float = np.inf  # place

    def add(self, rows: np.ndarray, episodes: np.ndarray) -> None:
        self.seen += len(rows)
        for row, episode in zip(rows, episodes.tolist(), strict=True):
            if (place := self._place(episode)) <= self._last:
                self._held.setdefault(place, []).append(row.copy())  # a view would hold all rows
        if self.seen >= self.size:
            self._leave_out()

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """`[size, *obs]`, and which begin an episode `[size]`."""
        episodes = [self._held[place] for place in sorted(self._held)]
        begins = np.concatenate([np.arange(len(episode)) == 0 for episode in episodes])
        return np.stack([row for episode in episodes for row in episode][: self.size]), begins[: self.size]

    def _place(self, episode: int) -> int:
        if episode not in self._places:
            first = episode - (episode - self._first_seed) % WIDTH
            order = len(self._places) + self._rng.permutation(WIDTH)
            self._places |= {first + i: int(place) for i, place in enumerate(order)}
        return self._places[episode]

    def _leave_out(self) -> None:
        """Forget the episodes behind those that have rows enough already: episodes become longer, never shorter."""
        rows = 0
        for place in sorted(self._held):
            if rows >= self.size:
                del self._held[place]
            else:
                rows, last = rows + len(self._held[place]), place
        if rows >= self.size:
            self._last = last


def _play_part(
    policy: Policy,
    envs: EpisodeEnvs,
    first_seed: int,
    numbers: tuple[np.ndarray, np.ndarray],
    playing: np.ndarray,
    sampled: int,
    samples: Sequence[_Kept],
) -> None:
    """One episode in each env, for those of the members `numbers[0] [P]` that are `playing [S]`: of the `WIDTH` from
    `first_seed` on those with `numbers[1] [W]`, of which the last `sampled` of all are not greedy.

    Numbers beyond the last one stand for nothing: their envs repeat another and are never stepped.
    """
    stack = len(playing)
    member, column = np.minimum(numbers[0], stack - 1), np.minimum(numbers[1], WIDTH - 1)
    active = (playing[member] & (numbers[0] < stack))[:, None] & (numbers[1] < WIDTH)  # [P, W]
    sampled = int((column >= WIDTH - sampled).sum())
    act = _acting(policy, member, len(column), sampled, f"visits from {first_seed + numbers[1][0]}")
    seeds = np.tile(first_seed + column, (len(member), 1))
    for step in play(envs, act, seeds, active, [policy.seeds[i] for i in member]):
        for i in np.flatnonzero(step.active.any(axis=1)).tolist():
            samples[member[i]].add(step.obs[i, step.active[i]], seeds[i, step.active[i]])


def _acting(policy: Policy, member: np.ndarray, width: int, sampled: int, use: str) -> Act:
    """Greedy actions of the members `[P]`; in the last `sampled` of all `width` columns sampled ones.

    The policy is called with all columns, those that are over included: the draws of one depend on no other.
    """
    greedy, first = PolicyActor(policy, member, width), width - sampled
    sampling = PolicyActor(policy, member, sampled, member_streams(policy, policy.seeds, use))

    def act(obs: np.ndarray, active: np.ndarray) -> np.ndarray:
        everything = np.ones_like(active)
        action = greedy(obs, everything)
        if sampled:
            action[:, first:] = sampling(obs[:, first:], everything[:, first:])
        return action

    return act


def _check(rows: int, first_seed: int, sampled: float) -> None:
    if rows < 1:
        raise UsageError(f"visits need one row or more, not {rows}.")
    if not 0.0 <= sampled <= 1.0:
        raise UsageError(f"the share of episodes with sampled actions must be in [0, 1], not {sampled}.")
    if not FIRST_VISIT_SEED <= first_seed <= END_OF_VISIT_SEEDS - seeds_needed(rows):
        raise UsageError(
            f"{rows} visited states from episode seed {first_seed} may need seeds up to "
            f"{first_seed + seeds_needed(rows) - 1}; those for visits are {FIRST_VISIT_SEED} to "
            f"{END_OF_VISIT_SEEDS - 1}, which evaluation never uses."
        )
