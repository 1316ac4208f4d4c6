"""Confidence limits of ratios, and fair orders of turns."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "balanced_orders", "student_t_quantile", "trimmed_t_interval"]


class Interval(NamedTuple):
    """Means and their confidence limits."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def trimmed_t_interval(
    values: NDArray[np.float64], *, confidence: float, trimmed: int = 0
) -> Interval:
    """Student's t interval of a trimmed mean, along the last axis.

    mean ± t((1 + confidence) / 2, h − 1) · √(S / (h (h − 1))): the mean is of the h = n − 2·trimmed
    values in the middle, S the sum of squared deviations from their own mean after each trimmed
    value has taken that of its nearest neighbour left. Without trimming it is the usual t interval.

    Source: J. W. Tukey and D. H. McLaughlin, Less vulnerable confidence and significance procedures
    for location based on a single sample, Sankhyā A 25 (1963), 331-352.

    Args:
        values: ``(..., n)`` float64, symmetric about what is estimated.
        confidence: Of both limits together, in (0, 1).
        trimmed: Values left out at each end, fewer than half.

    Returns:
        ``(...)`` float64 each; with h = 1 the limits are infinite.
    """
    count = values.shape[-1]
    kept = count - 2 * trimmed
    ordered = np.sort(values, axis=-1)
    mean = ordered[..., trimmed : count - trimmed].mean(axis=-1)
    if kept < 2:
        return Interval(mean, np.full_like(mean, -np.inf), np.full_like(mean, np.inf))
    lowest, highest = ordered[..., trimmed, None], ordered[..., count - trimmed - 1, None]
    variance = np.clip(ordered, lowest, highest).var(axis=-1) * count / (kept * (kept - 1))
    reach = student_t_quantile((1 + confidence) / 2, kept - 1) * np.sqrt(variance)
    return Interval(mean, mean - reach, mean + reach)


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
