"""Which lists of steps to try for a bound on bytes or latency, and which of them to keep: arithmetic, no network.

Candidates are widths x sparsity x bits. What fits no bound, and what another candidate outdoes in every respect, goes
before anything is trained; of the rest as many are tried as were asked for, evenly spread over their sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from rlab.compression.steps import Step
from rlab.evaluation.stats import Interval
from rlab.networks.lora import merged_spec, named_layers
from rlab.networks.spec import NetworkSpec

T = TypeVar("T")
FIRST_RUNG = 4
# Weights of 8 bits are rounded after training, those of 4 and 2 in it: rounding alone costs these too much.
BITS = {"float32": 32, "int8": 8, "qat4": 4, "qat2": 2}
SHARES = (0.0, 0.5, 0.8, 0.9)  # of the weights that become 0
# Latencies that differ by less are the same: medians of one network vary so from one measurement to the next.
LATENCY_NOISE = 0.05
DECIMALS = 3  # of what is kept of the return: what no table shows is no reason for more bytes


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
    """How a candidate did in the screening, on episodes and states that nothing else is judged by."""

    candidate: Candidate
    size: Size
    mean_return: float  # over members and episodes
    difference: Interval  # of the mean returns, this less the parent's, paired
    likeness: float  # of its decisions to the parent's: share of equal actions, or less the difference of actions


def hidden_widths(spec: NetworkSpec) -> tuple[int, ...]:
    """The widths of the hidden linear layers; of a dueling network's streams those of the advantage."""
    named = named_layers(merged_spec(spec))
    widths = [layer.args["out_features"] for name, layer in named if ".value." not in name and _has_width(layer.args)]
    return tuple(widths[:-1])


def _has_width(args: Mapping[str, object]) -> bool:
    return "out_features" in args


def ladder(hidden: Sequence[int]) -> list[tuple[int, ...]]:
    """Narrower and narrower networks of as many hidden layers: 4, 6, 8, 12, 16, 24, ... below the widest of `hidden`,
    and no layer wider than it was."""
    rungs, rung = [], FIRST_RUNG
    while hidden and rung < max(hidden):
        rungs.append(rung)
        rung += rung // 2 if rung & (rung - 1) == 0 else rung // 3
    return [tuple(min(rung, width) for width in hidden) for rung in rungs]


def candidates(hidden: Sequence[int], rounded: bool = False) -> tuple[Candidate, ...]:
    """Every combination of widths, zeros and bits but the parent itself.

    Args:
        hidden: the widths of the parent's hidden layers.
        rounded: the parent's weights are rounded already, so that only students can be made of it.
    """
    widths: list[tuple[int, ...] | None] = [*ladder(hidden)]
    every = [Candidate(*each) for each in product(widths if rounded else [*widths, None], SHARES, BITS)]
    return tuple(each for each in every if each.steps)


def outdone(sizes: Mapping[Candidate, Size], bounds: Bounds) -> set[Candidate]:
    """Candidates that need no trial: another one of the same widths is as dense and as precise, and takes no more.

    That is what becomes of bits and zeros where they save nothing: the scales of a few weights take more than these.
    """
    return {each for each in sizes if any(_outdoes(other, each, sizes, bounds) for other in sizes)}


def _outdoes(other: Candidate, each: Candidate, sizes: Mapping[Candidate, Size], bounds: Bounds) -> bool:
    if other == each or other.widths != each.widths:
        return False
    has_all = other.share <= each.share and BITS[other.word] >= BITS[each.word]
    return has_all and _takes_no_more(sizes[other], sizes[each], bounds)


def _takes_no_more(one: Size, other: Size, bounds: Bounds) -> bool:
    if bounds.max_bytes is not None and one.weight_bytes > other.weight_bytes:
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

    Both only lose, so that a student which loses more than `may_lose` of the mean return, by the best that its interval
    allows, is left as it is; where all do, the one of the highest return goes on.
    """
    found = [trial for trial in students if trial.difference.high >= -may_lose]
    return found or sorted(students, key=lambda trial: trial.mean_return)[-1:]


def front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points `(cost, value, ...)` no other one beats: by costing no more and being as good in every value, and
    better in one of these. Of equal points all are on the front; values count to `DECIMALS`."""
    points = [(point[0], *(round(value, DECIMALS) for value in point[1:])) for point in points]
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and one[0] <= other[0] and all(a >= b for a, b in zip(one[1:], other[1:], strict=True))


def finalists(trials: Sequence[Trial], bounds: Bounds, most: int) -> list[Trial]:
    """At most so many of the trials, by cost: those on the front of return against cost, then those on the front of
    return and likeness, since few episodes hide damage that decisions show."""
    ordered = sorted(trials, key=lambda trial: (bounds.cost(trial.size), -trial.mean_return))
    costs = [bounds.cost(trial.size) for trial in ordered]
    by_return = front([(cost, trial.mean_return) for cost, trial in zip(costs, ordered, strict=True)])
    by_both = front([(cost, t.mean_return, t.likeness) for cost, t in zip(costs, ordered, strict=True)])
    first = spread([trial for trial, on in zip(ordered, by_return, strict=True) if on], most)
    others = [trial for trial, on in zip(ordered, by_both, strict=True) if on and trial not in first]
    taken = [*first, *spread(others, most - len(first))]
    return [trial for trial in ordered if trial in taken]


def best(lows: Sequence[float], sizes: Sequence[Size], bounds: Bounds) -> int | None:
    """The number of the candidate to keep: of those that fit, the one whose return's interval has the highest lower
    end; of equals (to `DECIMALS`) the one of fewest bytes. None where none fits."""
    fitting = [i for i, size in enumerate(sizes) if bounds.fits(size)]
    return max(fitting, key=lambda i: (round(lows[i], DECIMALS), -sizes[i].weight_bytes), default=None)
