"""`rlab.search`: the best compressed policy within a bound, by trials and finalists, with a table and a plot."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from rlab.compression.distil import student_of
from rlab.compression.quantized_layers import CompressedLayer
from rlab.compression.report import Report
from rlab.compression.search import (
    LATENCY_NOISE,
    Bounds,
    Candidate,
    Size,
    Trial,
    best,
    candidates,
    finalists,
    heads_of,
    hidden_widths,
    hopeful,
    on_front,
    outdone,
    spread,
)
from rlab.compression.trials import EPISODES, FIRST_SCREENING_SEED, Trials
from rlab.envs import EnvLike
from rlab.errors import RlabError, UsageError
from rlab.evaluation.charts.files import save_chart
from rlab.evaluation.charts.front import Choice, Words, front_chart
from rlab.evaluation.charts.png import check_png
from rlab.evaluation.stats import Interval
from rlab.jobs.compress import (
    MIN_RETURN_RATIO,
    Compressed,
    CompressionRequest,
    compression_request,
    judge,
    name_of,
    save_compressed,
)
from rlab.jobs.observing import Observed
from rlab.jobs.progress import line_writer
from rlab.learning.runtime import own_surroundings
from rlab.networks.own import check_layers
from rlab.runs import files
from rlab.trust import Trust

CANDIDATES = 24  # that are trained: about two minutes for ten members on CartPole-v1
FINALISTS = 8
TABLE, PLOT = "search.json", "search.png"
Write = Callable[[str], None]


@dataclass(frozen=True)
class Finalist:
    """A candidate that was judged as `rlab compress` judges."""

    candidate: Candidate
    report: Report = field(repr=False)
    observed: Observed = field(repr=False)
    latency_us: float  # median of one decision, timed in turn with the parent and the other finalists
    on_front: bool = False  # no other finalist that fits takes no more and returns more
    chosen: bool = False

    @property
    def size(self) -> Size:
        """What it was measured to take."""
        return Size(self.report.child.weight_bytes, self.latency_us)

    @property
    def kept(self) -> Interval:
        """The return ratio, or the difference of the mean returns where there is no ratio."""
        return self.report.difference if self.report.ratio is None else self.report.ratio


@dataclass(frozen=True)
class Searched:
    """What a search found, and the policy of it that is on the disk."""

    compressed: Compressed
    bounds: Bounds
    counts: dict[str, int]  # candidates there were, within the bounds, not outdone
    parent_us: float  # median of one decision of the parent
    trials: tuple[Trial, ...] = field(repr=False)
    finalists: tuple[Finalist, ...] = field(repr=False)

    @property
    def success(self) -> bool:
        """Whether the chosen policy keeps as much of the return as was asked for."""
        return self.compressed.success

    def to_json(self) -> dict[str, Any]:
        """The one object that `rlab compress --search --json` prints: that of the chosen policy, and the search."""
        return {**self.compressed.to_json(), "search": self.table()}

    def table(self) -> dict[str, Any]:
        """The search as plain data, as `search.json` has it."""
        judged = {each.candidate for each in self.finalists}
        return {
            "bounds": asdict(self.bounds),
            "candidates": self.counts,
            "screening": {"first_seed": FIRST_SCREENING_SEED, "episodes": EPISODES},
            "parent_latency_us": self.parent_us,
            "trials": [{**_trial(each), "finalist": each.candidate in judged} for each in self.trials],
            "finalists": [self._finalist(each) for each in self.finalists],
        }

    def _finalist(self, each: Finalist) -> dict[str, Any]:
        report = each.report
        return {
            "steps": list(map(str, each.candidate.steps)),
            "weight_bytes": each.size.weight_bytes,
            "parameters": report.child.parameters,
            "multiply_adds": report.child.multiply_adds,
            "latency_us": each.size.latency_us,
            "runtime": report.child.runtime,
            "ratio": None if report.ratio is None else asdict(report.ratio),
            "difference": asdict(report.difference),
            "agreement": float(np.mean(report.agreement)),
            "success": report.success(self.compressed.min_return_ratio),
            "fits": self.bounds.fits(each.size),
            "fits_within_noise": self.bounds.fits(each.size, LATENCY_NOISE),
            "front": each.on_front,
            "chosen": each.chosen,
        }

    def summary(self) -> str:
        """The result for people."""
        lines = [*self._rows(), f"F: on the {_front_name(self.bounds)}; *: chosen, by the highest lower end"]
        lines += self._warnings()
        if len(self.finalists) > 1:
            how = f"rlab eval {self.compressed.path} --seed 0 judges it on others"
            lines.append(f"(the best of {len(self.finalists)} on the same episodes; {how})")
        return "\n".join([*lines, "", self.compressed.summary(), f"table and plot: {self.compressed.path / PLOT}"])

    def _warnings(self) -> list[str]:
        """What must be known of the chosen one before it is used."""
        (chosen,) = [each for each in self.finalists if each.chosen]
        lines = []
        if not self.bounds.fits(chosen.size):
            lines.append(
                f"No finalist was measured within {self.bounds}: the chosen one took {chosen.latency_us:.1f} us, "
                f"which is more by less than latencies vary ({LATENCY_NOISE:.0%})."
            )
        if not self.success:
            ratio = self.compressed.min_return_ratio
            lines.append(f"NO SUCCESS: no finalist that fits {self.bounds} keeps {ratio:g} of the return for certain.")
        return lines

    def _rows(self) -> list[str]:
        names = ["parent", *(str(each.candidate) for each in self.finalists)]
        wide = max(map(len, names))
        parent, what = self.finalists[0].report.parent, self.finalists[0].report
        kind = "return difference" if what.ratio is None else "return ratio"
        agreement = "agreement" if what.measure == "same_action" else "action difference"
        rows = [
            f"{'steps':<{wide}} {'bytes':>8} {'parameters':>10} {'multiply-adds':>13} {'p50 us':>7} {kind:>24} "
            f"{agreement:>9} success"
        ]
        sides = [parent, *(each.report.child for each in self.finalists)]
        times = [self.parent_us, *(each.latency_us for each in self.finalists)]
        sizes = [
            f"{name:<{wide}} {side.weight_bytes:>8} {side.parameters:>10} {side.multiply_adds:>13} {us:>7.1f}"
            for name, side, us in zip(names, sides, times, strict=True)
        ]
        rows.append(sizes[0])
        for size, each in zip(sizes[1:], self.finalists, strict=True):
            success = "yes" if each.report.success(self.compressed.min_return_ratio) else "no"
            success = success if self.bounds.fits(each.size, LATENCY_NOISE) else _too_much(each.size, self.bounds)
            marks = f"{'F' if each.on_front else ' '}{'*' if each.chosen else ' '}"
            rows.append(f"{size} {f'{each.kept:.3f}':>24} {np.mean(each.report.agreement):>9.4f} {success:<7} {marks}")
        return [row.rstrip() for row in rows]


def search_compression(
    run: str | PathLike[str],
    *,
    max_bytes: int | None = None,
    max_latency_us: float | None = None,
    candidates: int = CANDIDATES,
    out: str | Path | None = None,
    episodes: int = 100,
    min_return_ratio: float = MIN_RETURN_RATIO,
    member: int | None = None,
    updates: int | None = None,
    envs: int | None = None,
    env: EnvLike | None = None,
    trust: Trust = False,
    progress: bool = False,
) -> Searched:
    """Try widths, sparsity and bits for the policy of a run or policy folder, and keep the best one within the bounds.

    One list of steps is chosen for all members. Candidates are screened on few episodes of their own; those that look
    best for their size are judged as `compress` does.

    Args:
        max_bytes: of one member's weights as a safetensors file.
        max_latency_us: median of one decision, in the runtime that the report judges by.
        candidates: the most that are trained.
        out, episodes, min_return_ratio, member, updates, envs, env, trust: as for `compress`.
        progress: write a line for every candidate that is tried.

    Raises:
        UsageError: anything in the request that cannot be, or matplotlib is missing; nothing is on the disk then.
        RlabError: nothing fits the bounds, the folder is broken, or an episode failed.
    """
    bounds = Bounds(max_bytes, max_latency_us)
    _check(bounds, candidates)
    request = compression_request(run, out, episodes, min_return_ratio, member, updates, trust, env, envs)
    check_layers(request.parent.network, "--search cannot be done")
    if request.parent.has_memory:
        student_of(request.parent, hidden_widths(request.parent.spec.network))
    check_png()
    write = line_writer(progress)
    with own_surroundings(threads=1):
        trials = Trials(request.parent, request.saved.make_episodes, request.settings)
        worth, counts = _worth_trying(trials, bounds, candidates, write)
        tried = _screened(trials, worth, bounds, candidates, request, write)
        judged, parent_us = _judged(trials, tried, bounds, request, write)
    (winner,) = [each for each in judged if each.chosen]
    found: list[Searched] = []

    def write_more(path: Path, done: Compressed) -> None:
        found.append(Searched(done, bounds, counts, parent_us, tried, judged))
        files.write_json(path / TABLE, found[0].table())
        _draw(path / PLOT, found[0], name_of(request.saved), float(trials.returns.mean()))

    child, outcome = trials.made(winner.candidate), (winner.report, winner.observed)
    save_compressed(request, winner.candidate.steps, child, outcome, write_more)
    return found[0]


def _check(bounds: Bounds, most: int) -> None:
    if bounds.max_bytes is None and bounds.max_latency_us is None:
        raise UsageError("a search needs a bound: give max_bytes, max_latency_us or both.")
    if bounds.max_bytes is not None and bounds.max_bytes < 1:
        raise UsageError(f"max_bytes {bounds.max_bytes} must be 1 or more.")
    if bounds.max_latency_us is not None and not 0.0 < bounds.max_latency_us < math.inf:
        raise UsageError(f"max_latency_us {bounds.max_latency_us:g} must be a number above 0.")
    if most < 2:
        raise UsageError(f"a search needs 2 candidates or more, not {most}.")


def _worth_trying(
    trials: Trials, bounds: Bounds, most: int, write: Write
) -> tuple[dict[Candidate, Size], dict[str, int]]:
    """The candidates that may fit and that no other one of their widths outdoes, by what they take untrained."""
    network = trials.parent.network
    rounded = any(isinstance(layer, CompressedLayer) for layer in network.modules())
    spec = trials.parent.spec.network
    every = candidates(hidden_widths(spec), rounded, heads_of(spec))
    if not every:
        raise UsageError("the weights of this policy are rounded and its layers as narrow as can be: nothing to try.")
    sizes = trials.expected(every, bounds.max_latency_us is not None)
    fitting = {each: size for each, size in sizes.items() if bounds.fits(size, LATENCY_NOISE)}
    if not fitting:
        raise _nothing_fits(list(sizes.items()), bounds, "candidates")
    needless = outdone(fitting, bounds)
    worth = {each: size for each, size in fitting.items() if each not in needless}
    counts = {"all": len(every), "within_bounds": len(fitting), "worth_trying": len(worth), "most_trained": most}
    write(
        f"{len(every)} candidates, {len(fitting)} within {bounds}, {len(worth)} of these not outdone by another one; "
        f"at most {most} are trained{_bases(worth)}"
    )
    return worth, counts


def _bases(worth: Iterable[Candidate]) -> str:
    """What else counts as trained: students that are too large themselves, as the beginning of others."""
    above = {each.student for each in worth if each.widths is not None} - set(worth)
    if not above:
        return ""
    students = "1 student above the bound" if len(above) == 1 else f"{len(above)} students above the bound"
    return f", and to these count the networks that others begin with: up to {students}"


def _screened(
    trials: Trials, worth: dict[Candidate, Size], bounds: Bounds, most: int, request: CompressionRequest, write: Write
) -> tuple[Trial, ...]:
    """At most `most` trials: first the students in float, then zeros and bits on those of them that are good enough."""

    def tried(candidate: Candidate) -> Trial:
        trial = trials.screened(candidate, worth[candidate].latency_us if candidate in worth else None)
        latency = "" if trial.size.latency_us is None else f", {trial.size.latency_us:.1f} us"
        write(
            f"screened {candidate}: {trial.size.weight_bytes} bytes{latency}, mean return {trial.mean_return:.1f} "
            f"({trial.difference.estimate:+.1f}), {'agreement' if trials.same_action else 'action difference'} "
            f"{abs(trial.likeness):.4f}"
        )
        return trial

    by_cost = sorted(worth, key=lambda each: bounds.cost(worth[each]))
    students = [tried(each) for each in spread(sorted({each.student for each in by_cost}, key=_wideness), most // 2)]
    may_lose = (1.0 - request.min_return_ratio) * abs(float(trials.returns.mean()))
    going_on = {trial.candidate for trial in hopeful(students, may_lose)}
    for trial in students:
        if trial.candidate not in going_on:
            write(f"{trial.candidate} loses too much already: nothing is tried on it")
    further = [each for each in by_cost if each.student in going_on and each != each.student]
    others = [tried(each) for each in spread(further, most - len(students))]
    found = [trial for trial in (*students, *others) if trial.candidate.steps]  # not the parent itself
    return tuple(found if bounds.max_latency_us is None else trials.timed_in_turn(found))


def _wideness(student: Candidate) -> tuple[float, ...]:
    return (math.inf,) if student.widths is None else student.widths


def _judged(
    trials: Trials, tried: Sequence[Trial], bounds: Bounds, request: CompressionRequest, write: Write
) -> tuple[tuple[Finalist, ...], float]:
    """The finalists, judged on the episodes of every report, with the one that is chosen; the parent's latency."""
    fitting = [trial for trial in tried if bounds.fits(trial.size, LATENCY_NOISE)]
    if not fitting:
        raise _nothing_fits([(trial.candidate, trial.size) for trial in tried], bounds, "candidates that were trained")
    last = [(trial.candidate, trials.made(trial.candidate)) for trial in finalists(fitting, bounds, FINALISTS)]
    parent_us, *latencies = trials.medians(
        [policy.member() for policy in (request.parent, *(each[1] for each in last))]
    )
    found = []
    for (candidate, child), latency_us in zip(last, latencies, strict=True):
        found.append(Finalist(candidate, *judge(request, child), latency_us))
        write(f"judged {candidate}: {found[-1].size.weight_bytes} bytes, return kept {found[-1].kept:.3f}")
    kept, sizes = [each.kept for each in found], [each.size for each in found]
    chosen = best(kept, sizes, bounds)
    if chosen is None:
        raise _nothing_fits([(each.candidate, each.size) for each in found], bounds, "finalists, measured again")
    marked = enumerate(zip(found, on_front(kept, sizes, bounds), strict=True))
    return tuple(replace(each, on_front=on, chosen=i == chosen) for i, (each, on) in marked), parent_us


def _nothing_fits(sizes: Sequence[tuple[Candidate, Size]], bounds: Bounds, what: str) -> RlabError:
    """The error that names the smallest one, or the fastest one where only latency is above its bound."""
    small = [each for each in sizes if bounds.max_bytes is None or each[1].weight_bytes <= bounds.max_bytes]
    latency_fails = bool(small) and bounds.max_latency_us is not None
    candidate, size = min(small if latency_fails else sizes, key=lambda each: _least(each[1], latency_fails))
    among = f"{len(small)} {what}" if latency_fails else f"{len(sizes)} {what}"
    enough = f" within {bounds.max_bytes} bytes" if latency_fails and len(small) < len(sizes) else ""
    latency = "" if size.latency_us is None or bounds.max_latency_us is None else f" and {size.latency_us:.1f} us"
    return RlabError(
        f"nothing fits {bounds}: the {'fastest' if latency_fails else 'smallest'} of {among}{enough}, {candidate}, "
        f"takes {size.weight_bytes} bytes{latency}."
    )


def _least(size: Size, by_latency: bool) -> float:
    return size.latency_us if by_latency and size.latency_us is not None else float(size.weight_bytes)


def _too_much(size: Size, bounds: Bounds) -> str:
    return "too slow" if Bounds(bounds.max_bytes).fits(size) else "too large"


def _front_name(bounds: Bounds) -> str:
    return f"front of return against {'latency' if bounds.max_bytes is None else 'size'}"


def _draw(path: Path, found: Searched, name: str, parent_mean: float) -> None:
    judged, bounds = found.finalists, found.bounds
    has_ratio = judged[0].report.ratio is not None
    by_bytes = bounds.max_bytes is not None
    points = [
        Choice(str(each.candidate), bounds.cost(each.size), each.kept, each.on_front, each.chosen) for each in judged
    ]
    others = [
        (bounds.cost(trial.size), 1.0 + gap / (abs(parent_mean) or math.inf) if has_ratio else gap)
        for trial in found.trials
        if trial.candidate not in {each.candidate for each in judged} and bounds.fits(trial.size, LATENCY_NOISE)
        for gap in [trial.difference.estimate]
    ]
    words = Words(
        "weights of one member, bytes" if by_bytes else f"one decision, us, {judged[0].report.child.runtime}",
        "return ratio, 95 %" if has_ratio else "difference of the mean returns, 95 %",
        _front_name(bounds),
        f"screened on {EPISODES} other episodes",
    )
    limits = (bounds.max_bytes if by_bytes else bounds.max_latency_us, found.compressed.min_return_ratio)
    limits = limits if has_ratio else (limits[0], 0.0)
    save_chart(path, front_chart(points, others, limits, words, f"{name}, within {bounds}"))


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "steps": list(map(str, trial.candidate.steps)),
        "weight_bytes": trial.size.weight_bytes,
        "latency_us": trial.size.latency_us,
        "mean_return": trial.mean_return,
        "difference": asdict(trial.difference),
        "agreement": abs(trial.likeness),
    }
