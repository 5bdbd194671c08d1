"""What a report is made of. Nothing here knows of files or runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rlab.evaluation.comparison import Pair
from rlab.evaluation.stats import Interval, iqm, stratified_bootstrap

MOST_PAIRS = 6  # that are shown where all are


@dataclass(frozen=True, eq=False)
class Side:
    """One population: a run, a policy, an exported file or a recorded result."""

    name: str  # short, and told apart from those of the other sides
    path: str  # as it was named
    agent: str
    seeds: tuple[int, ...]  # training seeds
    returns: np.ndarray | None = None  # [S, E] of the final weights; None: not judged (yet)
    curve: tuple[np.ndarray, np.ndarray] | None = None  # evaluations during training: when [T] and [S, T]
    training: tuple[np.ndarray, np.ndarray] | None = None  # what episodes of training returned, as `curve`
    unit: str = "env steps"  # of `when`, `time` and `budget`; or updates
    time: int | None = None  # how far it was trained, per member
    budget: int | None = None  # how far it is to be trained
    status: str | None = None  # of a run: `running`, `finished` ...
    settings: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    made_by: str | None = None  # the command
    notes: Sequence[str] = ()  # what a reader should know, such as members that were dropped
    film: bytes | None = None  # a GIF
    film_of: str = ""  # member and episode

    @cached_property
    def means(self) -> np.ndarray:
        """Each member's mean return `[S]`, of the final weights or, before they are judged, of the last evaluation
        during training; empty where there is neither."""
        if self.returns is not None:
            return np.asarray(self.returns.mean(axis=1))
        if self.curve is not None and self.curve[1].shape[1]:
            last = self.curve[1][:, -1]
            return np.asarray(last[np.isfinite(last)])
        return np.empty(0)

    @cached_property
    def score(self) -> Interval | float | None:
        """The IQM over seeds with its 95 % interval for other seeds; a plain mean return of a single seed; None where
        nothing was evaluated yet."""
        if not len(self.means):
            return None
        return stratified_bootstrap(self.means) if len(self.means) > 1 else iqm(self.means)

    @property
    def is_final(self) -> bool:
        """Whether `means` are those of the final weights."""
        return self.returns is not None


@dataclass(frozen=True)
class Task:
    """Sides that were judged in the same env in the same way."""

    label: str  # of the env, with its wrappers
    protocol: str  # how its sides were judged, in words; "": not judged yet
    sides: Sequence[Side]
    pairs: Sequence[Pair] = ()  # of those that are judged
    notes: Sequence[str] = ()  # what a reader of the pairs should know
    compared_by: str = ""  # the command
    threshold: float | None = None  # the return from which on the env counts as solved, where its maker says so

    @property
    def shown_pairs(self) -> list[Pair]:
        """All pairs of a few sides; of many those with the first."""
        first = self.sides[0].name
        few = len(self.pairs) <= MOST_PAIRS
        return [pair for pair in self.pairs if few or first in (pair.a, pair.b)]

    def index_of(self, name: str) -> int:
        """The side of that name."""
        return next(index for index, side in enumerate(self.sides) if side.name == name)


@dataclass(frozen=True)
class Trial:
    """One trial of a study."""

    number: int
    value: float | None  # of the objective; None: failed, or under way
    whole: bool  # whether it ran to its end
    state: str  # in words: `done`, `pruned`, `failed` ...
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, trained again with fresh seeds."""

    number: int
    searched: float  # its value in the search
    fresh: Interval | float  # and with the fresh seeds
    chosen: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Lineage:
    """How the settings of a population changed while it trained. Paths are pairs of a time and the settings from then
    on."""

    unit: str  # of times, such as env steps
    until: int  # the time at which training ended
    exploits: int  # how often a member took over another one
    scales: Mapping[str, str]  # of each setting: linear, log or one_minus
    members: Sequence[Sequence[tuple[int, Mapping[str, float]]]]  # of each member, whomever it took over
    best: Sequence[tuple[int, Mapping[str, float]]]  # of the best member's weights, through all that they came from


@dataclass(frozen=True)
class Study:
    """A search for settings."""

    name: str
    objective: str  # what `value` is, such as `IQM over 3 seeds`
    trials: Sequence[Trial]
    importance: Mapping[str, float]  # setting -> its share in being among the best trials
    facts: Mapping[str, str]  # method, storage ...
    finalists: Sequence[Finalist] = ()
    winner: str = ""  # what became of the best settings, in words
    made_by: str | None = None  # the command
    used_by: str = ""  # the command that trains with what was found
    lineage: Lineage | None = None  # where it was one population, which has no trials


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str  # "": from the tasks
    tasks: Sequence[Task]
    studies: Sequence[Study] = ()
    notes: Sequence[str] = ()  # what could not be reported
    made_by: str = ""  # the command of the report itself
    version: str = ""  # of rlab
    live_every: float | None = None  # seconds between two looks of a live page; None: it stands still
