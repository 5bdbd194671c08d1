"""The distributions that intervals are read from, without SciPy: Student's t, the normal and the binomial."""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def normal_tail(z: float) -> float:
    """The share of a normal distribution that lies more than `z` standard deviations above its mean."""
    return math.erfc(z / math.sqrt(2)) / 2


@lru_cache
def student_t(level: float, freedom: float) -> float:
    """The `t` for which Student's t with 1 degree of freedom or more lies within `-t .. t` with probability `level`.

    With `t = tan(x) sqrt(freedom)` the density is in proportion to `cos(x) ** (freedom - 1)`, whose integral on the way
    to x a quadrature of Gauss and Legendre gives to a millionth; x is bisected. From ten million degrees of freedom on
    the normal distribution is as close, and the difference of the two logarithms below no longer is.
    """
    if freedom > 1e7:
        return NormalDist().inv_cdf((1 + level) / 2)
    half = 0.5 * math.sqrt(math.pi) * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))  # to pi / 2
    low, high = 0.0, math.pi / 2 if freedom < 50 else math.atan(40.0 / math.sqrt(freedom))  # so far out nothing is left
    while low < (x := (low + high) / 2) < high:  # until no number lies between the two
        below = x / 2 * float((_WEIGHTS * np.cos(x / 2 * (_NODES + 1)) ** (freedom - 1)).sum())
        low, high = (x, high) if below < level * half else (low, x)
    return math.tan(x) * math.sqrt(freedom)


def binomial_tail(k: int, n: int, p: float) -> float:
    """The probability of `k` or more successes in `n` trials that succeed with probability `p`."""
    if k <= 0:
        return 1.0
    if p in (0.0, 1.0):
        return p
    counts, log_factorial = np.arange(k, n + 1), _log_factorials(n)
    log_choose = log_factorial[n] - log_factorial[counts] - log_factorial[n - counts]
    return float(np.exp(log_choose + counts * np.log(p) + (n - counts) * np.log1p(-p)).sum())


@lru_cache(maxsize=8)
def _log_factorials(most: int) -> np.ndarray:
    """The logarithms of 0!, 1!, ... `most`!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
