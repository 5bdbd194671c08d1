"""Which lists of steps to try for a bound on bytes or latency, and which of them to keep: arithmetic, no network.

Candidates are widths x sparsity x bits. Those outside the bounds, and those that another candidate dominates, are
dropped before anything is trained; of the rest as many are tried as were requested, evenly spread over their sizes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from rlab.compression.distil import memory_of
from rlab.compression.steps import Step
from rlab.evaluation.stats import Interval
from rlab.networks.memory_bodies import HEADS
from rlab.networks.merging import merged_spec, named_layers
from rlab.networks.spec import LayerSpec, NetworkSpec

T = TypeVar("T")
FIRST_RUNG = 4
# Weights of 8 bits are rounded after training, those of 4 and 2 in it: rounding alone costs these too much.
BITS = {"float32": 32, "int8": 8, "qat4": 4, "qat2": 2}
SHARES = (0.0, 0.5, 0.8, 0.9)  # of the weights that become 0
# Latencies that differ by less are the same: medians of one network vary so from one measurement to the next.
LATENCY_NOISE = 0.05
DECIMALS = 3  # of the return ratio: a difference that no table shows does not justify more bytes


@dataclass(frozen=True)
class Candidate:
    """One list of steps, as what it makes of the parent."""

    widths: tuple[int, ...] | None  # of the student's hidden layers; None: the network as it is
    share: float = 0.0  # of the weights that become 0
    word: str = "float32"  # what `BITS` calls the weights' bits

    @property
    def steps(self) -> tuple[Step, ...]:
        """Student, zeros, bits: in the order in which they must be done; none at all is the parent itself."""
        steps = [] if self.widths is None else [Step("distil", self.widths)]
        steps += [Step("sparse", self.share)] if self.share else []
        return (*steps, *([] if self.word == "float32" else [Step(self.word)]))

    @property
    def student(self) -> "Candidate":
        """The same network with all of its weights, in float: what the other candidates of these widths begin with."""
        return Candidate(self.widths)

    def __str__(self) -> str:
        return ",".join(map(str, self.steps)) or "as it is"


@dataclass(frozen=True)
class Size:
    """What one member takes."""

    weight_bytes: int  # of the weights as a safetensors file
    latency_us: float | None = None  # median of one decision; None: nobody asks


@dataclass(frozen=True)
class Bounds:
    """What a candidate may take at most; None: any amount."""

    max_bytes: int | None = None
    max_latency_us: float | None = None

    def fits(self, size: Size, slack: float = 0.0) -> bool:
        """Whether both bounds are kept, that of the latency up to this share more."""
        if self.max_bytes is not None and size.weight_bytes > self.max_bytes:
            return False
        return self.max_latency_us is None or (
            size.latency_us is not None and size.latency_us <= self.max_latency_us * (1.0 + slack)
        )

    def cost(self, size: Size) -> float:
        """The size that candidates are ordered by: bytes, or the latency where that alone is bounded."""
        if self.max_bytes is None and size.latency_us is not None:
            return size.latency_us
        return float(size.weight_bytes)

    def __str__(self) -> str:
        words = [] if self.max_bytes is None else [f"{self.max_bytes} bytes"]
        return " and ".join([*words, *([] if self.max_latency_us is None else [f"{self.max_latency_us:g} us"])])


@dataclass(frozen=True)
class Trial:
    """A candidate's results in the screening, on episodes and states of its own."""

    candidate: Candidate
    size: Size
    mean_return: float  # over members and episodes
    difference: Interval  # of the mean returns, this less the parent's, paired
    likeness: float  # of its actions to the parent's: share of equal ones, or minus their difference


def hidden_widths(spec: NetworkSpec) -> tuple[int, ...]:
    """The widths of the hidden linear layers; of a dueling network those of the advantage stream, without the branches
    of an observation in parts and the embedding of quantiles. With memory its width is the last, behind those of the
    layers before it."""
    if (found := memory_of(spec)) is not None:
        before = NetworkSpec(spec.layers[: found[0]])
        return (*(layer.args["out_features"] for layer in _hidden(before)), found[1].size)
    return tuple(layer.args["out_features"] for layer in _hidden(spec))[:-1]


def heads_of(spec: NetworkSpec) -> int:
    """What the last of the hidden widths is a multiple of."""
    found = memory_of(spec)
    return HEADS if found is not None and found[1].kind == "transformer" else 1


def _hidden(spec: NetworkSpec) -> list[LayerSpec]:
    """The linear layers, those beside the main line left out."""
    beside = (".value.", ".branches.", ".embedding.")
    named = [(name, layer) for name, layer in named_layers(merged_spec(spec)) if not any(x in name for x in beside)]
    return [layer for _, layer in named if "out_features" in layer.args]


def ladder(hidden: Sequence[int], last: int = 1) -> list[tuple[int, ...]]:
    """Networks of as many hidden layers, ever wider: 4, 6, 8, 12, 16, 24, ... below the widest of `hidden`,
    and no layer wider than it was; the last one is a multiple of `last`, 4 at most."""
    rungs, rung = [], FIRST_RUNG
    while hidden and rung < max(hidden):
        rungs.append(rung)
        rung += rung // 2 if rung & (rung - 1) == 0 else rung // 3
    found = [[min(rung, width) for width in hidden] for rung in rungs]
    return list(dict.fromkeys((*each[:-1], each[-1] - each[-1] % last) for each in found))


def candidates(hidden: Sequence[int], rounded: bool = False, last: int = 1) -> tuple[Candidate, ...]:
    """Every combination of widths, zeros and bits but the parent itself.

    Args:
        hidden: the widths of the parent's hidden layers.
        last: what the width of the last one is a multiple of.
        rounded: the parent's weights are rounded already, so that only students can be made from it.
    """
    widths: list[tuple[int, ...] | None] = [*ladder(hidden, last)]
    every = [Candidate(*each) for each in product(widths if rounded else [*widths, None], SHARES, BITS)]
    return tuple(each for each in every if each.steps)


def outdone(sizes: Mapping[Candidate, Size], bounds: Bounds) -> set[Candidate]:
    """Candidates that need no trial: another one of the same widths is as dense and as precise, and takes no more bytes
    nor, where latency is bounded, more time than the noise explains.

    Bits and zeros may save nothing: the scales of a few weights take more bytes than those save, and rounded weights
    are not faster where the runtime computes in float. Fewer bytes count even without a bound on them: of equally fast
    policies the smaller one is tried.
    """
    return {each for each in sizes if any(_outdoes(other, each, sizes, bounds) for other in sizes)}


def _outdoes(other: Candidate, each: Candidate, sizes: Mapping[Candidate, Size], bounds: Bounds) -> bool:
    if other == each or other.widths != each.widths:
        return False
    has_all = other.share <= each.share and BITS[other.word] >= BITS[each.word]
    return has_all and _takes_no_more(sizes[other], sizes[each], bounds)


def _takes_no_more(one: Size, other: Size, bounds: Bounds) -> bool:
    if one.weight_bytes > other.weight_bytes:
        return False
    if bounds.max_latency_us is None or one.latency_us is None or other.latency_us is None:
        return True
    return one.latency_us <= other.latency_us * (1.0 + LATENCY_NOISE)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spread, the last one among them, and from two on the first one too."""
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[-1:])[:most]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def hopeful(students: Sequence[Trial], may_lose: float) -> list[Trial]:
    """The students that zeros and rounding may be tried on.

    Both only lose return. A student that loses more than `may_lose` of the mean return even at the upper end of its
    interval is not compressed further; where all do, the one with the highest return is.
    """
    found = [trial for trial in students if trial.difference.high >= -may_lose]
    return found or sorted(students, key=lambda trial: trial.mean_return)[-1:]


def costs(sizes: Sequence[Size], bounds: Bounds) -> list[float]:
    """The cost of each by `Bounds.cost`, where latencies that differ by noise alone are the same.

    Starting with the fastest, all that take up to `LATENCY_NOISE` more are given its latency; the next one starts a new
    level. So being equal is transitive, and the front is well defined.
    """
    found = [bounds.cost(size) for size in sizes]
    if bounds.max_bytes is not None:
        return found
    level, levels = -math.inf, {}
    for cost in sorted(found):
        level = level if cost <= level * (1.0 + LATENCY_NOISE) else cost
        levels[cost] = level
    return [levels[cost] for cost in found]


def front(points: Sequence[tuple[float, ...]], weight_bytes: Sequence[int] | None = None) -> list[bool]:
    """Which points `(cost, value, ...)` no other one beats: by costing no more and being as good in every value, and
    better in one of these; of equal points, by fewer bytes. Values count to `DECIMALS`."""
    rounded = [(point[0], *(round(value, DECIMALS) for value in point[1:])) for point in points]
    all_points = list(zip(rounded, weight_bytes or [0] * len(points), strict=True))
    return [not any(_beats(other, point) for other in all_points) for point in all_points]


def _beats(one: tuple[tuple[float, ...], int], other: tuple[tuple[float, ...], int]) -> bool:
    if one[0] == other[0]:
        return one[1] < other[1]
    return one[0][0] <= other[0][0] and all(a >= b for a, b in zip(one[0][1:], other[0][1:], strict=True))


def finalists(trials: Sequence[Trial], bounds: Bounds, most: int) -> list[Trial]:
    """At most so many of the trials, by cost: those on the front of return against cost, then those on the front of
    return and likeness, since few episodes hide damage that decisions show.

    Where latency is bounded the smallest student in float is always among them: what was timed as faster by chance may
    not fit when it is timed again, and nothing is more likely to fit than that one.
    """
    cost_of = dict(zip((t.candidate for t in trials), costs([t.size for t in trials], bounds), strict=True))
    ordered = sorted(trials, key=lambda t: (cost_of[t.candidate], -t.mean_return, t.size.weight_bytes, -_bits(t)))
    sizes = [trial.size.weight_bytes for trial in ordered]
    by_return = front([(cost_of[t.candidate], t.mean_return) for t in ordered], sizes)
    by_both = front([(cost_of[t.candidate], t.mean_return, t.likeness) for t in ordered], sizes)
    students = [] if bounds.max_latency_us is None else [t for t in trials if t.candidate == t.candidate.student]
    safe = sorted(students, key=lambda t: t.size.weight_bytes)[:1][: most - 1]
    best_for_cost = [trial for trial, on in zip(ordered, by_return, strict=True) if on and trial not in safe]
    first = [*safe, *spread(best_for_cost, most - len(safe))]
    others = [trial for trial, on in zip(ordered, by_both, strict=True) if on and trial not in first]
    taken = [*first, *spread(others, most - len(first))]
    return [trial for trial in ordered if trial in taken]


def _bits(trial: Trial) -> int:
    return BITS[trial.candidate.word]


def fitting_ones(sizes: Sequence[Size], bounds: Bounds) -> list[int]:
    """The numbers of those that fit; where none does, of those that fit but for what latencies vary by."""
    fitting = [i for i, size in enumerate(sizes) if bounds.fits(size)]
    return fitting or [i for i, size in enumerate(sizes) if bounds.fits(size, LATENCY_NOISE)]


def on_front(kept: Sequence[Interval], sizes: Sequence[Size], bounds: Bounds) -> list[bool]:
    """Which of the candidates fit (`fitting_ones`) and are beaten by no other that does, in what is known of the
    return, the estimate and its lower end, against cost; of equals the one of fewest bytes."""
    fitting = fitting_ones(sizes, bounds)
    cost = costs([sizes[i] for i in fitting], bounds)
    points = [(each, kept[i].estimate, kept[i].low) for each, i in zip(cost, fitting, strict=True)]
    on = dict(zip(fitting, front(points, [sizes[i].weight_bytes for i in fitting]), strict=True))
    return [on.get(i, False) for i in range(len(sizes))]


def best(kept: Sequence[Interval], sizes: Sequence[Size], bounds: Bounds) -> int | None:
    """The number of the candidate to keep: of those that fit (`fitting_ones`) the one whose return's interval has the
    highest lower end; of equals (to `DECIMALS`) the one of the highest estimate, then the cheapest (`costs`), then that
    of fewest bytes. None where none fits. It is always `on_front`."""
    fitting = fitting_ones(sizes, bounds)
    cost = dict(zip(fitting, costs([sizes[i] for i in fitting], bounds), strict=True))

    def merit(i: int) -> tuple[float, ...]:
        return round(kept[i].low, DECIMALS), round(kept[i].estimate, DECIMALS), -cost[i], -sizes[i].weight_bytes

    return max(fitting, key=merit, default=None)
