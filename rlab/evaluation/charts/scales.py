"""From values to pixels: ticks, numbers as people write them, the width of texts, labels that keep apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
_NARROW, _WIDE = frozenset("fijlrtI.,:;!|'`()[]{} /\\-"), frozenset("mwMW@%&QOGDHNU" + MINUS)


@dataclass(frozen=True)
class Scale:
    """A linear map from values `low .. high` to pixels `start .. end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class LogScale(Scale):
    """The same for the logarithms of values, which are above 0."""

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def padded(values: Sequence[float], share: float = 0.05) -> tuple[float, float]:
    """The lowest and highest of finite values with some room on both sides; a range of its own where all are equal."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    room = (high - low) * share or abs(high) * 0.05 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round values within the range: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    least = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 30) -> list[float]:
    """Round values of a logarithmic axis: 1, 2 and 5 times powers of ten, or all round values of a short range; of more
    than `most` some powers of ten."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1.0, 2.0, 5.0)]
    inside = [value for value in found if low <= value <= high]
    if len(inside) <= 2:
        return ticks(low, high, 5)
    tens = [value for value in found[::3] if low <= value <= high]
    return inside if len(inside) <= most else tens[:: math.ceil(len(tens) / most)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """All with the same unit and as many decimals as the finest needs: `0`, `25k`, `50k`."""
    largest = max(map(abs, values), default=0.0)
    unit, letter = next(((u, s) for u, s in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if largest >= u), (1.0, ""))
    unit = 1e3 if letter == "k" else unit
    scaled = [value / unit for value in values]
    error = 1e-9 * max(1.0, largest / unit)
    decimals = next((d for d in range(9) if all(abs(v - round(v, d)) < error for v in scaled)), 9)
    return [number(value, decimals) + letter if value else "0" for value in scaled]


def number(value: float, decimals: int) -> str:
    """A number with a true minus sign, and none before a zero."""
    text = f"{value:,.{decimals}f}".replace("-", MINUS)
    return text.lstrip(MINUS) if not any(c in "123456789" for c in text) else text


def whole(value: float) -> str:
    """A count, such as of env steps: `1,000,000`."""
    return number(value, 0)


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is in DejaVu Sans, the widest of the usual sans-serif fonts and that of PNG files."""
    units = sum(0.38 if c in _NARROW else 0.88 if c in _WIDE else 1.0 if ord(c) > 0x2E80 else 0.635 for c in text)
    return units * size * (1.13 if bold else 1.0)


def shortened(text: str, room: float, size: float, bold: bool = False) -> str:
    """The text, with its middle left out where it is too wide: names of runs often differ at their end."""
    if text_width(text, size, bold) <= room:
        return text
    kept = len(text)
    while kept > 2:
        kept -= 1
        short = text[: math.ceil(kept / 2)] + "\N{HORIZONTAL ELLIPSIS}" + text[len(text) - kept // 2 :]
        if text_width(short, size, bold) <= room:
            return short
    return text[:1] + "\N{HORIZONTAL ELLIPSIS}"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved as little as possible (least squares) so that they are `gap` apart, in the order that they have,
    and within `low .. high` where there is room for all of them.

    Those that are too close become a block around their common mean, which is what pooling adjacent violators does.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[float]] = []  # [sum of wanted places of the first label, count]
    for rank, index in enumerate(order):
        blocks.append([places[index] - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    firsts = [block[0] / block[1] for block in blocks for _ in range(int(block[1]))]
    top = max(low, high - (len(places) - 1) * gap)  # of a place without its rank
    moved = [0.0] * len(places)
    for rank, index in enumerate(order):
        moved[index] = min(max(firsts[rank], low), top) + rank * gap
    return moved
