"""`rlab.compare`: populations judged on the same episodes, side by side, with what each of them is made of."""

import functools
import glob
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import Any

import numpy as np

from rlab.envs import EnvLike, EnvSpec, env_spec
from rlab.envs.watch import ENV_TIMEOUT
from rlab.errors import UsageError
from rlab.evaluation.comparison import NO_DIFFERENCE, Pair, Side, level_of_each, pair
from rlab.evaluation.evaluate import Evaluation
from rlab.evaluation.stats import LEVEL, shown_digits
from rlab.jobs.aliases import answering
from rlab.jobs.comparable import check_one_setting, common_env, common_protocol, in_words, notes_of, recorded
from rlab.jobs.evaluate import evaluate, open_judged
from rlab.jobs.evidence import WHAT, Evidence, Protocol, read_evidence, to_json
from rlab.jobs.lineage import paired_seeds
from rlab.jobs.progress import line_writer
from rlab.runs.folder import path_of
from rlab.trust import Trust

Source = str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Compared:
    """One side: what it is made of, and what it returned in the shared episodes."""

    name: str
    made_of: tuple[Evidence, ...]  # several where runs of one setting count as one side
    judged: tuple[str, ...]  # of these, the paths that were judged for this comparison
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = self.evaluation
        return {
            "name": self.name,
            "made_of": [to_json(each) for each in self.made_of],
            "judged_now": list(self.judged),
            "training_seeds": list(found.seeds),
            "iqm": found.iqm,
            "ci95": list(found.ci95) if found.ci95 else None,
            "return_mean": float(found.returns.mean()),
            "per_seed_mean": found.per_seed_mean.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """All sides, and every pair of them."""

    env: EnvSpec
    protocol: Protocol
    sides: tuple[Compared, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]  # what a reader should know of the sides: lineage, budgets, settings that differ

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab compare --json` prints."""
        return {
            "format": 1,
            "env": self.env.to_json(),
            "protocol": asdict(self.protocol),
            "sides": [side.to_json() for side in self.sides],
            "pairs": [each.to_json() for each in self.pairs],
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The result for people: a line per side, what every pair shows, then what else there is to know."""
        width = max(len(side.name) for side in self.sides)
        rows = [f"{self.env.label}: {self.protocol}, the same for all"]
        rows.append(
            f"{'':<{width}}  {'agent':<12} {'trained for':>20} {'seeds':>6} {'worst seed':>11}  IQM, 95 % interval"
        )
        for side in self.sides:
            first, means = side.made_of[0], side.evaluation.per_seed_mean
            trained = "" if first.time is None else f"{first.time:,} {in_words(first.unit)}"
            digits = shown_digits(float(means.min()), float(means.max()))
            iqm, ends = side.evaluation.iqm, side.evaluation.ci95
            interval = "" if ends is None else f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
            rows.append(
                f"{side.name:<{width}}  {first.agent:<12} {trained:>20} {len(means):>6} {means.min():>11.{digits}f}  "
                f"{iqm:.{digits}f}{interval}"
            )
        for each in self.pairs:
            rows += ["", *each.lines()]
        if len(self.pairs) > 1:
            level = 100 * level_of_each(len(self.sides))
            rows += [
                "",
                f"{len(self.pairs)} pairs: each at {level:.3g} %, so that all hold at once with {100 * LEVEL:g} %",
            ]
            rows.append(self._best())
        return "\n".join([*rows, *([""] if self.notes else []), *(f"note: {note}" for note in self.notes)])

    def _best(self) -> str:
        """Which side leads, and which cannot be told from it."""
        means = [float(side.evaluation.returns.mean()) for side in self.sides]
        best = self.sides[int(np.argmax(means))].name
        level = [
            each.b if each.a == best else each.a
            for each in self.pairs
            if best in (each.a, each.b) and each.verdict == NO_DIFFERENCE
        ]
        return f"best: {best}, not told apart from {', '.join(level)}" if level else f"best: {best}"


@answering
def compare(
    *runs: Source | Mapping[str, Source | Sequence[Source]],
    episodes: int | None = None,
    seed: int | None = None,
    env: EnvLike | None = None,
    env_kwargs: Mapping[str, Any] | Sequence[str] | None = None,
    wrappers: Sequence[str] | None = None,
    max_episode_steps: int | None = None,
    envs: int | None = None,
    env_timeout: float = ENV_TIMEOUT,
    trust: Trust = False,
    progress: bool = False,
) -> Comparison:
    """Who is better, by how much, and how sure that is, on the same episodes for all.

    What was judged on these episodes already is taken as it is on record; the rest is judged now.

    Args:
        runs: two or more run or policy folders, exported files and recorded results. `"mine=runs/a,runs/b-*"`, or
            `{"mine": ["runs/a", "runs/b"]}`, counts runs of one setting with other training seeds as one side.
        episodes: per member; None: as many as all of them were judged by, else 100.
        seed: of the first episode; episode k has `seed + k`. None: that of the record, else 100 000.
        env: that all of them are judged in; None: the one on record, which must be the same.
        env_kwargs, wrappers, max_episode_steps: of that env in place of its own; None keeps them.
        envs, env_timeout: as for `evaluate`.
        trust: as for `evaluate`, for all of them.
        progress: write a line where something is judged.

    Raises:
        UsageError: fewer than two sides, or sides whose envs, wrappers or protocols differ; the message says how.
        RlabError: something is broken, or an episode failed.
    """
    sources = [named for each in runs for named in _named(each)]
    if len(sources) < 2:
        raise UsageError(f"a comparison needs two sides or more, not {len(sources)}: rlab compare RUN RUN")
    found = [tuple(read_evidence(path, trust) for path in paths) for _, paths in sources]
    everything = [each for side in found for each in side]
    if env is None and env_kwargs is None and wrappers is None and max_episode_steps is None:
        spec = common_env(everything)
    else:
        base = everything[0].env if env is None else env_spec(env)
        spec = base.changed(env_kwargs, wrappers, max_episode_steps)
    protocol = common_protocol(everything, episodes, seed)
    write = line_writer(progress)

    @functools.cache  # by path: a run may be compared with itself
    def judged(path: str) -> Evaluation:
        write(f"judging {path}: {protocol}")
        saved = replace(open_judged(path, trust), env=spec)
        count, first = protocol.episodes, protocol.first_seed
        return evaluate(saved, episodes=count, seed=first, envs=envs, env_timeout=env_timeout)

    named = zip(_unique_names(sources, found), found, strict=True)
    sides = [
        _side(name, made_of, [recorded(each, spec, protocol) for each in made_of], judged) for name, made_of in named
    ]
    return comparison_of(spec, protocol, sides)


def _side(
    name: str,
    made_of: tuple[Evidence, ...],
    on_record: Sequence[Evaluation | None],
    judged: Callable[[str], Evaluation],
) -> Compared:
    """One side, with what is not on record judged now."""
    check_one_setting(name, made_of)
    both = list(zip(made_of, on_record, strict=True))
    returns = [judged(each.path) if known is None else known for each, known in both]
    return Compared(name, made_of, tuple(each.path for each, known in both if known is None), _together(returns))


def comparison_of(env: EnvSpec, protocol: Protocol, sides: Sequence[Compared]) -> Comparison:
    """All pairs of the sides."""
    compared = [_pair(a, b, level_of_each(len(sides))) for a, b in itertools.combinations(sides, 2)]
    notes = [*notes_of({side.name: side.made_of for side in sides}), *(note for _, found in compared for note in found)]
    return Comparison(env, protocol, tuple(sides), tuple(each for each, _ in compared), tuple(notes))


def _named(given: Source | Mapping[str, Source | Sequence[Source]]) -> list[tuple[str | None, list[str]]]:
    """The sides in one argument of `compare`: their names, where they have any, and their paths."""
    if isinstance(given, Mapping):
        several = {name: [what] if isinstance(what, str | PathLike) else list(what) for name, what in given.items()}
        return [(name, [path_of(each, WHAT) for each in what]) for name, what in several.items()]
    path = path_of(given, WHAT)
    name, equals, rest = path.partition("=")
    if not equals or os.path.exists(path):
        return [(None, [path])]
    if not (name and all(rest.split(","))):
        raise UsageError(f"{path!r:.200} does not name a side and its runs: NAME=RUN,RUN.")
    paths = [found for word in rest.split(",") for found in (sorted(glob.glob(word)) or [word])]
    return [(name, paths)]


def _unique_names(
    sources: Sequence[tuple[str | None, Sequence[str]]], found: Sequence[Sequence[Evidence]]
) -> list[str]:
    """A name for each side: the given one, or that of its run or file; its path where two have the same."""
    names = [name or of[0].name for (name, _), of in zip(sources, found, strict=True)]
    if len(set(names)) < len(names):
        names = [name or paths[0] for name, paths in sources]
    return [name if name not in names[:i] else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]


def _together(judged: Sequence[Evaluation]) -> Evaluation:
    """Several populations on the same episodes as one."""
    if len(judged) == 1:
        return judged[0]
    seeds = tuple(seed for each in judged for seed in each.seeds)
    returns, lengths = (np.concatenate(parts) for parts in zip(*((e.returns, e.lengths) for e in judged), strict=True))
    return Evaluation(seeds, judged[0].first_seed, returns, lengths, judged[0].greedy)


def _pair(a: Compared, b: Compared, level: float) -> tuple[Pair, list[str]]:
    """Two sides, and what to say of the members that were compared: the same ones, where one side descends from the
    other."""
    alone = len(a.made_of) == len(b.made_of) == 1
    shared = paired_seeds(a.made_of[0], b.made_of[0]) if alone else ()
    notes = [
        f"of {side.name} the members with training seeds {', '.join(map(str, shared))} are compared"
        for side in (a, b)
        if shared and side.evaluation.seeds != shared
    ]
    return pair(_members(a, shared), _members(b, shared), level, same_members=bool(shared)), notes


def _members(side: Compared, chosen: tuple[int, ...]) -> Side:
    """The members with the chosen training seeds; of none, all."""
    seeds, returns = side.evaluation.seeds, side.evaluation.returns
    if not chosen:
        return Side(side.name, seeds, returns)
    return Side(side.name, chosen, returns[[seeds.index(seed) for seed in chosen]])
