"""From a histogram to the range that integers cover."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.ranges.histogram import Histogram

__all__ = ["Method", "choose_range"]

Method = Literal["minmax", "percentile", "mse", "entropy"]
Floats = NDArray[np.float64]

_CANDIDATES = 256
_OCTAVES = 9
_MAX_MAGNITUDES = 8192


def choose_range(
    histogram: Histogram,
    method: Method,
    *,
    levels: int,
    symmetric: bool,
    percentile: float = 99.99,
) -> tuple[float, float]:
    """Choose the least and the greatest value that integers stand for.

    Args:
        histogram: What the tensor was seen to hold.
        method: ``"minmax"`` clips nothing; ``"percentile"`` keeps that share of the values;
            ``"mse"`` minimizes the mean squared error of rounding and clipping; ``"entropy"``
            minimizes the Kullback-Leibler divergence between the values before and after.
        levels: Number of integers, 256 for 8 bits.
        symmetric: True for a zero point of 0: the range is ``(-t, t)``.
        percentile: For that method, in percent.

    Returns:
        Low and high. They lie within what was seen; symmetric ranges reach as far to both sides.

    Source: arXiv:2004.09602, section 3.2 (the calibration methods); the error of rounding is
    that of a uniform quantizer, step² / 12.
    """
    if _reach(histogram) == 0:
        return 0.0, 0.0
    low, high = histogram.low, histogram.high
    if method == "percentile":
        low, high = _percentile(histogram, percentile, symmetric)
    elif method == "mse":
        low, high = _least_error(histogram, levels, symmetric)
    elif method == "entropy":
        low, high = _least_divergence(histogram, levels, symmetric)
    if symmetric:
        high = max(abs(low), abs(high))
        low = -high
    return low, high


def _percentile(histogram: Histogram, percentile: float, symmetric: bool) -> tuple[float, float]:
    kept = percentile / 100
    counts, edges = histogram.counts.astype(np.float64), histogram.edges
    tail = (1 - kept) / 2
    if not symmetric:
        limits = _quantile(counts, edges, tail), _quantile(counts, edges, 1 - tail)
    elif histogram.low >= 0:
        limits = 0.0, _quantile(counts, edges, kept)
    elif histogram.high <= 0:
        limits = _quantile(counts, edges, 1 - kept), 0.0
    else:
        magnitudes, width = _magnitudes(histogram)
        limit = _quantile(magnitudes, np.arange(len(magnitudes) + 1.0) * width, kept)
        limits = -limit, limit
    low, high = max(limits[0], histogram.low), min(limits[1], histogram.high)
    return min(low, histogram.high), max(high, histogram.low)


def _quantile(counts: Floats, edges: Floats, share: float) -> float:
    """The value below which a share of the counts lies, linear within a bin."""
    return float(np.interp(share * counts.sum(), np.concatenate([[0.0], counts.cumsum()]), edges))


def _least_error(histogram: Histogram, levels: int, symmetric: bool) -> tuple[float, float]:
    counts, centers = histogram.counts.astype(np.float64), histogram.centers
    if 0 <= -histogram.first < len(counts):
        # Zero is exact whatever the range; the other values of its bin are not.
        counts[-histogram.first] -= histogram.zeros
    error = _Error(counts, centers, histogram.width)
    if symmetric:
        # The least integer has no opposite and stays unused.
        highs = _thresholds(_reach(histogram))
        best = float(highs[np.argmin(error.at(-highs, highs, levels - 1))])
        return -best, best
    # A range of integers holds zero, whatever the values are.
    highs = _thresholds(max(histogram.high, 0.0))
    lows = -_thresholds(max(-histogram.low, 0.0))
    estimates = error.estimate(lows[:, None], highs[None], levels)
    row, column = np.unravel_index(int(np.argmin(estimates)), estimates.shape)
    for _ in range(2):
        column = np.argmin(error.at(np.broadcast_to(lows[row], highs.shape), highs, levels))
        row = np.argmin(error.at(lows, np.broadcast_to(highs[column], lows.shape), levels))
    return float(lows[row]), float(highs[column])


class _Error:
    """Sum of squared errors of integers that cover a range.

    Attributes:
        counts: ``(bins,)`` values per bin.
        centers: ``(bins,)`` ascending, what they stand for.
        width: Width of a bin.
    """

    def __init__(self, counts: Floats, centers: Floats, width: float) -> None:
        self.counts, self.centers, self.width = counts, centers, width
        # Prefix sums of the moments 0, 1 and 2 give the error of clipping at any limit at once.
        self._moments = [np.append(0.0, (counts * centers**k).cumsum()) for k in range(3)]

    def estimate(self, lows: Floats, highs: Floats, levels: int) -> Floats:
        """Clipping exactly, rounding as that of values that are even within a step."""
        below = np.searchsorted(self.centers, lows, side="left")
        above = np.searchsorted(self.centers, highs, side="right")
        clipped = np.zeros(np.broadcast_shapes(lows.shape, highs.shape))
        for limits, parts in (
            (lows, [moment[below] for moment in self._moments]),
            (highs, [moment[-1] - moment[above] for moment in self._moments]),
        ):
            clipped = clipped + np.maximum(
                parts[2] - 2 * limits * parts[1] + limits**2 * parts[0], 0.0
            )
        inside = np.maximum(self._moments[0][above] - self._moments[0][below], 0.0)
        errors: Floats = clipped + inside * ((highs - lows) / (levels - 1)) ** 2 / 12
        return errors

    def at(self, lows: Floats, highs: Floats, levels: int) -> Floats:
        """Rounding each bin where steps are wider than bins, else the estimate; ``(k,)`` each."""
        errors = self.estimate(lows, highs, levels)
        steps = (highs - lows) / (levels - 1)
        for k in np.flatnonzero(steps >= 4 * self.width):
            zero = np.round(-lows[k] / steps[k])
            integers = np.round(self.centers / steps[k]) + zero
            np.clip(integers, 0, levels - 1, out=integers)
            difference = (integers - zero) * steps[k] - self.centers
            errors[k] = float(self.counts @ difference**2)
        return errors


def _thresholds(reach: float) -> Floats:
    """Limits to try on one side, the widest first: of two equally good ones it wins."""
    if reach == 0:
        return np.zeros(1)
    # A single outlier may lie far out, so the steps are relative: 2.5 %.
    return reach * np.exp2(-np.arange(_CANDIDATES) * _OCTAVES / _CANDIDATES)


def _least_divergence(histogram: Histogram, levels: int, symmetric: bool) -> tuple[float, float]:
    magnitudes, width = _magnitudes(histogram)
    # The peak at exact zero, which rounding keeps, would drown everything else.
    magnitudes[0] -= min(magnitudes[0], histogram.zeros)
    reach, bins = _reach(histogram), len(magnitudes)
    best, least = reach, np.inf
    stops = np.unique(np.linspace(1, bins, min(bins, _CANDIDATES)).round().astype(int))
    for stop in stops[::-1]:
        limit = min(stop * width, reach)
        low, high = max(histogram.low, -limit), min(histogram.high, limit)
        low, high = (-limit, limit) if symmetric else (min(low, 0.0), max(high, 0.0))
        # So many of the levels fall on one side of zero, or on the longer one.
        on_this_side = round(levels * limit / (high - low))
        if stop < on_this_side:
            break
        divergence = _divergence(magnitudes, int(stop), on_this_side)
        if divergence < least:
            best, least = limit, divergence
    return max(histogram.low, -float(best)), min(histogram.high, float(best))


def _divergence(magnitudes: Floats, stop: int, levels: int) -> float:
    """KL divergence of clipping at bin ``stop`` and merging what is below into levels."""
    inside = magnitudes[:stop]
    total = magnitudes.sum()
    if inside.sum() == 0 or total == 0:
        return np.inf
    reference = inside.copy()
    reference[-1] += magnitudes[stop:].sum()
    level = np.arange(stop) * levels // stop
    occupied = inside > 0
    sums = np.bincount(level, weights=inside, minlength=levels)
    shares = np.bincount(level, weights=occupied, minlength=levels)
    merged = np.where(occupied, (sums / np.maximum(shares, 1))[level], 0.0)
    # A bin that only holds what was clipped has no counterpart: it gets a small probability.
    p = reference / total
    q = (merged / merged.sum() + 1e-4 / stop) / (1 + 1e-4)
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))


def _magnitudes(histogram: Histogram) -> tuple[Floats, float]:
    """Counts of absolute values, in bins from zero on, and the width of those bins."""
    numbers = histogram.first + np.arange(len(histogram.counts))
    folded = np.where(numbers < 0, -numbers - 1, numbers)
    # Values far from zero that vary little would need a bin for all that lies between.
    shift = max(0, int(folded.max()).bit_length() - _MAX_MAGNITUDES.bit_length() + 1)
    counts = np.bincount(folded >> shift, weights=histogram.counts)
    return counts.astype(np.float64), histogram.width * 2**shift


def _reach(histogram: Histogram) -> float:
    return max(abs(histogram.low), abs(histogram.high))
