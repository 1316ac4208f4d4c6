"""A histogram of a stream whose range is not known beforehand, filled in one pass.

Bins are ``[k w, (k + 1) w)`` for integers k, with ``w`` a power of two. When the range outgrows
the bins, w doubles and pairs of bins merge. Because every edge is a multiple of w, merging is
exact: the result depends on the values alone, neither on their order nor on how they came in
blocks, and zero is always an edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histogram", "HistogramBuilder"]

BINS = 4096
"""Most bins of a histogram; at least half of them lie within the range of the values."""

# Bin numbers stay exact, and so does the scale as a float32.
_MAX_INDEX_BITS = 40
_MIN_EXPONENT, _MAX_EXPONENT = -120, 120
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Histogram:
    """What one tensor was seen to hold.

    Attributes:
        low: Least finite value; 0 if there was none.
        high: Greatest finite value; 0 if there was none.
        zeros: Values that are exactly zero.
        nonfinite: Values that are NaN or infinite; they are in no bin.
        exponent: The width of a bin is ``2 ** exponent``.
        first: The first bin starts at ``first * width``.
        counts: ``(bins,)`` int64, values per bin.
    """

    low: float
    high: float
    zeros: int
    nonfinite: int
    exponent: int
    first: int
    counts: NDArray[np.int64]

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def count(self) -> int:
        """Finite values."""
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """``(bins + 1,)`` float64, where bins start and end."""
        numbers = np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64)
        return numbers * self.width

    @property
    def centers(self) -> NDArray[np.float64]:
        """``(bins,)`` float64, the middle of each bin, moved inside ``[low, high]``."""
        edges = self.edges
        middles: NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2
        return np.clip(middles, self.low, self.high)


class HistogramBuilder:
    """Collects a `Histogram` block by block."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._zeros = self._nonfinite = 0
        self._exponent, self._first = _MIN_EXPONENT, 0
        self._counts = np.zeros(0, np.int64)

    def add(self, values: NDArray[np.floating]) -> None:
        """Count all elements of an array of any shape; float16 is read as float32."""
        flat = np.ascontiguousarray(values).reshape(-1)
        if flat.dtype == np.float16:
            flat = flat.astype(np.float32)
        if flat.size == 0:
            return
        low, high = flat.min(), flat.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self._nonfinite += flat.size - finite.size
            if finite.size == 0:
                return
            flat, low, high = finite, finite.min(), finite.max()
        self._zeros += flat.size - int(np.count_nonzero(flat))
        self._low, self._high = min(self._low, float(low)), max(self._high, float(high))
        self._widen(flat.dtype.type)
        self._count(flat)

    def result(self) -> Histogram:
        """What was added so far."""
        empty = self._counts.size == 0
        return Histogram(
            low=0.0 if empty else self._low,
            high=0.0 if empty else self._high,
            zeros=self._zeros,
            nonfinite=self._nonfinite,
            exponent=self._exponent,
            first=self._first,
            counts=self._counts.copy(),
        )

    def _widen(self, kind: type[np.floating]) -> None:
        exponent = max(self._exponent, _exponent(self._low, self._high))
        counts, first = self._counts, self._first
        shift = exponent - self._exponent
        if counts.size and shift:
            numbers = (first + np.arange(counts.size, dtype=np.int64)) >> min(shift, 62)
            first = int(numbers[0])
            merged = np.zeros(int(numbers[-1]) - first + 1, np.int64)
            np.add.at(merged, numbers - first, counts)
            counts = merged
        scale = kind(math.ldexp(1.0, -exponent))
        start, stop = (int(np.floor(kind(x) * scale)) for x in (self._low, self._high))
        grown = np.zeros(stop - start + 1, np.int64)
        if counts.size:
            grown[first - start : first - start + counts.size] = counts
        self._counts, self._first, self._exponent = grown, start, exponent

    def _count(self, flat: NDArray[np.floating]) -> None:
        scale = flat.dtype.type(math.ldexp(1.0, -self._exponent))
        for start in range(0, flat.size, _BLOCK):
            scaled = flat[start : start + _BLOCK] * scale
            numbers = np.floor(scaled, out=scaled).astype(np.int64)
            numbers -= self._first
            self._counts += np.bincount(numbers, minlength=self._counts.size)


def _exponent(low: float, high: float) -> int:
    """The least power of two that covers a range with `BINS` bins."""
    magnitude = max(abs(low), abs(high))
    least = max(_MIN_EXPONENT, math.frexp(magnitude)[1] - _MAX_INDEX_BITS)
    exponent = max(least, math.frexp((high - low) / BINS)[1] - 1)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return min(exponent, _MAX_EXPONENT)
