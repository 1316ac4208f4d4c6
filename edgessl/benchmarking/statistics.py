"""Percentiles of latencies and confidence intervals of paired ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "balanced_orders", "paired_ratio", "student_t_quantile"]


class Interval(NamedTuple):
    """An estimate and its confidence limits."""

    estimate: float
    low: float
    high: float


def paired_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """Geometric mean of the ratios of paired blocks, with Student's t interval of its logarithm.

    Blocks of one round lie close together in time, so that slow drift of the machine cancels.

    Args:
        numerator: One figure per round, positive.
        denominator: The other arm's figures of the same rounds, positive.
        confidence: Two-sided coverage.

    Returns:
        The ratio; with a single round the limits are 0 and infinity.
    """
    logs = np.log(np.asarray(numerator, np.float64)) - np.log(np.asarray(denominator, np.float64))
    mean = float(logs.mean())
    if len(logs) < 2:
        return Interval(math.exp(mean), 0.0, math.inf)
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    reach = student_t_quantile((1 + confidence) / 2, len(logs) - 1) * error
    return Interval(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))


def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution by bisection of its exact distribution function.

    Source: Abramowitz & Stegun, 26.7.3 and 26.7.4.

    Args:
        probability: In (0.5, 1).
        degrees: Degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while _student_t_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if _student_t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_t_cdf(t: float, degrees: int) -> float:
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2 == 1
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    central = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + central / 2


def balanced_orders(arms: int, rounds: int, *, seed: int) -> NDArray[np.int64]:
    """The order of the arms in each round.

    Each run of ``arms`` rounds is a Latin square with shuffled rows, so that every arm stands
    equally often at every place.

    Returns:
        ``(rounds, arms)`` int64.
    """
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    while len(rows) < rounds:
        first = rng.permutation(arms)
        rows += [np.roll(first, -int(shift)) for shift in rng.permutation(arms)]
    return np.array(rows[:rounds], dtype=np.int64).reshape(rounds, arms)
